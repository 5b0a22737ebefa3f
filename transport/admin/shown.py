"""What of sessions is shown to operators: a state as it may be seen. Pure.

What is a secret is decided in one place, `actors/portable_redaction.py`: a session is made portable, redacted there,
and what is left is shown, or a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from actors.administration import Listed, Page, Record
from actors.analytics import AnalyticsReport
from actors.call_history import CallPage, CallRecord
from actors.ids import short_form
from actors.listing import tags_of
from actors.portable_redaction import redact, without_contents, without_credentials
from actors.portable_session import to_portable
from actors.registry import RegistryStatistics
from actors.snapshots import to_snapshot
from actors.state import SessionState
from persistence.degrading import Degraded
from persistence.writer import WriterStatistics
from transport.admin import shapes


def page(found: Page) -> shapes.SessionList:
    """Show a part of the list."""
    return shapes.SessionList(
        sessions=[shapes.SessionSummary(**_summary(listed)) for listed in found.sessions],
        next=None if found.next is None else found.next.write(),
        examined=found.examined,
        cut_short=found.cut_short,
    )


def record(found: Record) -> shapes.SessionShown:
    """Show one session."""
    details = None if found.state is None else _details(found.state)
    return shapes.SessionShown(**_summary(found), details=details, unreadable=without_credentials(found.unreadable))


def _summary(found: Listed | Record) -> dict[str, Any]:
    header, state = found.header, found.state
    return {
        "reference": found.reference,
        "id": short_form(header.session_id),
        "server": header.server_id,
        "state": "uninitialized" if header.failure else "initialized",
        "reason": header.failure,
        "revision": header.revision,
        "last_active": header.last_active_unix_s,
        "expires": header.expires_unix_s if math.isfinite(header.expires_unix_s) else None,
        "resident": found.resident,
        "record": None if state is None else _record_summary(state),
    }


def _record_summary(state: SessionState) -> shapes.RecordSummary:
    metrics = state.metrics
    return shapes.RecordSummary(
        created=state.created_unix_s,
        subject=state.principal.subject,
        tags=[without_credentials(tag) for tag in tags_of(state)],
        requests=metrics.requests,
        tool_calls=metrics.tool_calls,
        errors=metrics.errors,
    )


def _details(state: SessionState) -> shapes.SessionDetails:
    clean: Any = redact(to_portable(to_snapshot(state), []))
    metrics, principal = state.metrics, state.principal
    return shapes.SessionDetails(
        created=state.created_unix_s,
        principal=shapes.PrincipalShown(issuer=principal.issuer, client=principal.client, subject=principal.subject),
        client_transport=state.client_transport,
        upstream_transport=state.upstream_transport,
        tags=[without_credentials(tag) for tag in tags_of(state)],
        requests=metrics.requests,
        tool_calls=metrics.tool_calls,
        errors=metrics.errors,
        failure_detail=without_credentials(state.failure_detail),
        listening=state.listening,
        link=shapes.LinkShown(phase=state.link.value, detail=without_credentials(state.link_detail)),
        calls=[
            shapes.CallInProgress(method=call.method, tool=call.label, started=call.started_unix_s)
            for call in state.calls.values()
        ],
        questions=sum(not ask.withdrawn for ask in state.asks.values()),
        streams=len(state.streams),
        setup=[kept.key for kept in clean.setup],
        metadata=_named(clean.metadata),
        context=_named(clean.context),
        values=_named(clean.values),
    )


def _named(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def history(found: CallPage) -> shapes.History:
    """Show a part of a session's call history."""
    return shapes.History(calls=[_past_call(call) for call in found.calls], next=found.before)


def _past_call(call: CallRecord) -> shapes.PastCall:
    return shapes.PastCall(
        number=call.number,
        tool=call.tool,
        started=call.started_at,
        seconds=call.seconds,
        outcome=call.outcome,
        code=call.code,
        arguments=without_contents(call.arguments),
        result=without_contents(call.result),
    )


def analytics(
    report: AnalyticsReport,
    *,
    at_unix_s: float,
    sessions: RegistryStatistics,
    writer: WriterStatistics,
    degraded: Degraded | None,
    upstreams: Sequence[shapes.UpstreamShown],
) -> shapes.AnalyticsShown:
    """Show what sessions are used for."""
    return shapes.AnalyticsShown(
        at=at_unix_s,
        sessions=shapes.SessionCounts(
            known=report.sessions,
            active=report.sessions_active,
            resident=sessions.resident,
            uninitialized=sessions.uninitialized,
            ended=report.sessions_ended,
            turned_away=sessions.turned_away,
            mean_seconds=report.session_mean_seconds,
        ),
        calls=shapes.CallCounts(
            requests=report.requests,
            errors=report.errors,
            error_rate=report.error_rate,
            p50_seconds=report.tools_p50_seconds,
            p95_seconds=report.tools_p95_seconds,
        ),
        tools=[
            shapes.ToolShown(
                server=tool.server_id,
                tool=tool.tool,
                calls=tool.calls,
                errors=tool.errors,
                error_rate=tool.error_rate,
                mean_seconds=tool.mean_seconds,
                p50_seconds=tool.p50_seconds,
                p95_seconds=tool.p95_seconds,
            )
            for tool in report.tools
        ],
        store=shapes.StoreShown(
            lag_seconds=writer.oldest_seconds,
            backlog_rows=writer.backlog_rows,
            commits=writer.commits,
            outage_seconds=writer.outage_seconds,
            facts_at_risk=0 if degraded is None else degraded.facts,
        ),
        upstreams=list(upstreams),
    )
