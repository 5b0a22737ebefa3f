"""What the health tool says: of this session and its server, and no secret."""

from __future__ import annotations

import attrs
from msgspec.structs import replace

from actors.ids import SessionId
from actors.state import LogState, Metrics, SessionState
from outlast.health_tool import HEALTH_TOOL, explanation, make_health_tool
from tests.outlast.test_health_report import OPEN, WELL, with_store

NOW = 10_000.0
SESSION = SessionState(
    session_id=SessionId("abcdef0123456789"),
    server_id="linear",
    created_unix_s=NOW - 7200,
    last_active_unix_s=NOW,
    ttl_seconds=86400.0,
    opened=True,
    log=LogState(epoch=1),
    metrics=Metrics(5, 2, 1),
)


def test_a_session_that_is_well_is_told_so() -> None:
    told = explanation(WELL, "linear", SESSION, now_unix_s=NOW)
    for line in (
        "✅ Session Health Status: HEALTHY",
        "- Session Active: true",
        "- Session Store: sqlite",
        "- Available: true",
        "- Using Fallback: false",
        "- Age: 2.0 h",
        "- Requests: 5, tool calls: 2, errors: 1",
        "- Storage Test: ✅ PASS (a durable write and a read took 2.0 ms)",
    ):
        assert line in told.text.splitlines()
    assert told.facts["status"] == "healthy"
    assert "Recommendations" not in told.text


def test_ids_and_other_servers_are_not_told() -> None:
    other = attrs.evolve(OPEN, name="github")
    told = explanation(attrs.evolve(WELL, servers=(*WELL.servers, other)), "linear", SESSION, now_unix_s=NOW)
    assert "abcdef0123456789" not in told.text + repr(told.facts)
    assert "github" not in told.text + repr(told.facts)
    assert told.facts["status"] == "healthy"


def test_what_is_not_well_comes_with_what_to_do() -> None:
    facts = attrs.evolve(with_store(reachable=False, probe_seconds=None, problem="refused"), servers=(OPEN,))
    told = explanation(facts, "linear", SESSION, now_unix_s=NOW)
    assert told.text.startswith("❌ Session Health Status: DOWN")
    assert "- Storage Test: ❌ FAIL" in told.text
    assert "- server linear: away (refused) -> start it" in told.text


def test_going_on_from_memory_is_told_as_fallback() -> None:
    facts = with_store(reachable=False, degraded_since_unix_s=1.0, survives="memory")
    told = explanation(facts, "linear", SESSION, now_unix_s=NOW)
    assert told.text.startswith("⚠️ Session Health Status: DEGRADED")
    assert "- Using Fallback: true" in told.text


def test_a_session_that_cannot_go_on_is_told_to_open_a_new_one() -> None:
    failed = explanation(WELL, "linear", replace(SESSION, failure="upstream_rejected"), now_unix_s=NOW)
    assert failed.facts["status"] == "down"
    assert "open a new session" in failed.text


def test_without_a_session_the_rest_is_told() -> None:
    told = explanation(WELL, "linear", None, now_unix_s=NOW)
    assert "- Session: none" in told.text
    assert told.facts["sessionActive"] is False


async def test_before_there_is_a_gateway_it_says_so() -> None:
    tool = make_health_tool()
    assert tool.name == HEALTH_TOOL
    assert "starting" in (await tool.explain("linear", None)).text
