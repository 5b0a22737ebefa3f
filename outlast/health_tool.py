"""The tool `session_health_check`: how a session and what it rests on are, for the client that asks, and its user.

Off unless the operator wants it (`expose_health_tool`): it tells clients of the store and its state. It tells of this
session and of this server only, and a session's id in part: answers of tools end up in transcripts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from actors.own_tools import Explanation, OwnTools
from actors.state import SessionState
from outlast import finding
from outlast.finding import Finding, State
from outlast.health_facts import HealthFacts
from outlast.health_report import SURVIVES, area_of, report
from outlast.vitals import Vitals

HEALTH_TOOL = "session_health_check"
_DESCRIPTION = (
    "Check the health of this MCP session: whether it is active, whether it survives restarts, and whether the storage"
    " behind it works. Takes no arguments and changes nothing."
)
_MARKS = {State.HEALTHY: "✅", State.DEGRADED: "⚠️", State.DOWN: "❌"}


def make_health_tool() -> OwnTools:
    """Make the tool; it explains nothing until it is told where to look, with `look_at`."""
    return OwnTools(HEALTH_TOOL, _DESCRIPTION, _starting)


def look_at(tool: OwnTools, vitals: Vitals) -> None:
    """Have the tool explain how this gateway is."""

    async def explain(server_id: str, session: SessionState | None) -> Explanation:
        return explanation(await vitals.probed(), server_id, session, now_unix_s=time.time())

    tool.explain = explain
    vitals.with_tool_of_ours = tool.taken


async def _starting(server_id: str, session: SessionState | None) -> Explanation:
    return Explanation("The gateway is starting; ask again in a moment.", {"status": str(State.DEGRADED)})


def explanation(facts: HealthFacts, server_id: str, session: SessionState | None, *, now_unix_s: float) -> Explanation:
    """Explain how a session is. Pure.

    Args:
      facts: of the gateway.
      server_id: the server that the session talks to.
      session: None where there is none, since the client speaks a revision without.
    """
    findings = [*_of_session(session), *_concerning(facts, server_id)]
    status = finding.worst(findings)
    advice = [f"- {one.about}: {one.said} -> {one.advice or 'see the log'}" for one in findings if one.state]
    lines = [
        f"{_MARKS[status]} Session Health Status: {str(status).upper()}",
        "",
        "Core Information:",
        *_session_lines(session, server_id, now_unix_s),
        "",
        "Storage:",
        *_store_lines(facts),
        *(["", "Recommendations:", *advice] if advice else []),
    ]
    return Explanation("\n".join(lines), _structured(status, findings, facts, session))


def _concerning(facts: HealthFacts, server_id: str) -> Sequence[Finding]:
    """Give what is found of the gateway as far as it concerns the sessions of one server."""
    areas = ("serving", "store", "writer")
    return [one for one in report(facts) if area_of(one) in areas or one.about == f"server {server_id}"]


def _of_session(session: SessionState | None) -> Iterator[Finding]:
    if session is not None and session.failure:
        said = f"it cannot go on: {session.failure}"
        yield Finding("session", State.DOWN, said, "open a new session")


def _session_lines(session: SessionState | None, server_id: str, now_unix_s: float) -> Iterator[str]:
    yield f"- Server: {server_id}"
    if session is None:
        yield "- Session: none (this protocol revision has no sessions; each request stands for itself)"
        return
    yield f"- Session Active: {_yes(session.initialized)}"
    yield f"- Current Session ID: {session.session_id[:6]}… (shortened)"
    yield f"- Link to Server: {session.link.value}"
    yield f"- Age: {_hours(now_unix_s - session.created_unix_s)}"
    yield f"- Expires: {_hours(session.ttl_seconds)} after its last use"
    used = session.metrics
    yield f"- Requests: {used.requests}, tool calls: {used.tool_calls}, errors: {used.errors}"


def _store_lines(facts: HealthFacts) -> Iterator[str]:
    store = facts.store
    kind = store.url.partition(":")[0]
    yield f"- Session Store: {kind}"
    yield f"- Available: {_yes(store.reachable)}"
    yield f"- Using Fallback: {_yes(store.degraded_since_unix_s is not None)}"
    yield f"- Survives: {SURVIVES.get(store.survives, store.survives)}"
    yield f"- Behind by: {facts.writer.lag_seconds * 1000:.0f} ms"
    passed = store.reachable and store.probe_seconds is not None
    took = f" (a durable write and a read took {(store.probe_seconds or 0) * 1000:.1f} ms)" if passed else ""
    yield f"- Storage Test: {'✅ PASS' if passed else '❌ FAIL'}{took}"


def _structured(
    status: State, findings: Sequence[Finding], facts: HealthFacts, session: SessionState | None
) -> dict[str, object]:
    store = facts.store
    return {
        **finding.as_json(findings),
        "status": str(status),
        "sessionActive": session is not None and session.initialized,
        "store": {
            "kind": store.url.partition(":")[0],
            "available": store.reachable,
            "usingFallback": store.degraded_since_unix_s is not None,
            "survives": store.survives,
            "probeSeconds": store.probe_seconds,
            "lagSeconds": facts.writer.lag_seconds,
        },
    }


def _yes(is_so: bool) -> str:
    return "true" if is_so else "false"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
