"""SessionState <-> Snapshot: what of a state is kept, under which names, in one place.

The names are those of the stored record, not of the attributes: an attribute may be renamed, a kept name may not. A new
field comes with an upcaster (`persistence/codec.py`), which gives it to older records. What is not listed here is
forgotten by a restart.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from actors.call_history import HistoryState
from actors.ids import SessionId
from actors.jsonrpc import RequestId
from actors.sharing import shared, shared_principal
from actors.state import NOTHING, Ask, Call, Handshake, LogState, Metrics, SessionState, SetupChange, Stream
from persistence.records import Snapshot, SnapshotHeader


def to_header(state: SessionState) -> SnapshotHeader:
    """Give what the index knows of a session."""
    return SnapshotHeader(
        session_id=state.session_id,
        revision=state.revision,
        server_id=state.server_id,
        owner=state.principal.digest,
        failure=state.failure,
        last_active_unix_s=state.last_active_unix_s,
        expires_unix_s=state.expires_unix_s,
    )


def to_snapshot(state: SessionState, history: HistoryState | None = None) -> Snapshot:
    """Give the record of a state, and of where the session's call history stands, if there is one."""
    principal, log, metrics, handshake = state.principal, state.log, state.metrics, state.handshake
    fields: dict[str, object] = {
        "principal": [principal.issuer, principal.client, principal.subject],
        "created": state.created_unix_s,
        "last_active": state.last_active_unix_s,
        "ttl": state.ttl_seconds,
        "opened": state.opened,
        "failure": [state.failure, state.failure_detail, state.failed_unix_s],
        "transports": [state.client_transport, state.upstream_transport],
        "handshake": None if handshake is None else list(attrs.astuple(handshake)),
        "setup": dict(state.setup),
        "streams": [[s.id, s.request_id, s.next_offset, s.ended] for s in state.streams.values()],
        "next_stream": state.next_stream,
        "log": [log.epoch, log.next_sequence, log.trimmed_through, [list(segment) for segment in log.segments]],
        "calls": [_call_fields(call) for call in state.calls.values() if call.stream is not None],
        "asks": [[a.client_id, a.upstream_id, a.method, a.stream, a.withdrawn] for a in state.asks.values()],
        "standalone_cursor": state.standalone_cursor,
        "shown": state.shown_offset,
        "listening": state.listening,
        "metrics": [metrics.requests, metrics.tool_calls, metrics.errors],
        "values": state.values,
        "context": state.context,
        "metadata": state.metadata,
    }
    former = [[s.id, *one] for s in state.streams.values() for one in s.former_epochs]
    if former:
        fields["former_epochs"] = former
    if history is not None:
        fields["history"] = [
            history.next_number,
            history.trimmed_through,
            [list(segment) for segment in history.segments],
        ]
    return Snapshot(to_header(state), fields)


def history_of(snapshot: Snapshot) -> HistoryState | None:
    """Give where the session's call history stands; None if no call of it was ever noted.

    Without an upcaster: records without it are as good as new ones, and versions that do not know it can read it.
    """
    kept: Any = snapshot.fields.get("history")
    if kept is None:
        return None
    next_number, trimmed_through, segments = kept
    return HistoryState(next_number, trimmed_through, tuple([(last, size) for last, size in segments]))


def _call_fields(call: Call) -> list[object]:
    setup = None if call.setup is None else [call.setup.key, call.setup.keep]
    return [
        call.request_id,
        call.method,
        call.label,
        call.started_unix_s,
        setup,
        call.stream,
        call.cancelled_unix_s,
        call.upstream_cursor,
    ]


def from_snapshot(snapshot: Snapshot) -> SessionState:
    """Give the state of a record.

    Calls that had not become streams are not kept: nobody can ask for their answers any more.
    """
    fields: Mapping[str, Any] = snapshot.fields
    header = snapshot.header
    handshake = fields["handshake"]
    failure, failure_detail, failed_unix_s = fields["failure"]
    client_transport, upstream_transport = fields["transports"]
    return SessionState(
        session_id=SessionId(header.session_id),
        revision=header.revision,
        server_id=sys.intern(header.server_id),
        principal=shared_principal(*fields["principal"]),
        created_unix_s=fields["created"],
        last_active_unix_s=fields["last_active"],
        ttl_seconds=fields["ttl"],
        opened=fields["opened"],
        failure=failure,
        failure_detail=failure_detail,
        failed_unix_s=failed_unix_s,
        client_transport=sys.intern(client_transport),
        upstream_transport=sys.intern(upstream_transport),
        handshake=None if handshake is None else Handshake(*map(_shared, handshake)),
        setup=fields["setup"] or NOTHING,
        streams=_streams(fields["streams"], fields.get("former_epochs", ())),
        next_stream=fields["next_stream"],
        log=_log(*fields["log"]),
        calls={row[0]: _call(row, ticket=-1 - index) for index, row in enumerate(fields["calls"])} or NOTHING,
        asks={row[0]: Ask(*row) for row in fields["asks"]} or NOTHING,
        standalone_cursor=fields["standalone_cursor"],
        shown_offset=fields["shown"],
        listening=fields["listening"],
        metrics=Metrics(*fields["metrics"]),
        values=fields["values"] or NOTHING,
        context=fields["context"] or NOTHING,
        metadata=fields["metadata"],
    )


def _streams(rows: Sequence[Sequence[Any]], former_epochs: Sequence[tuple[int, int, int]]) -> Mapping[int, Stream]:
    former: dict[int, tuple[tuple[int, int], ...]] = {}
    for stream, epoch, last_offset in former_epochs:
        former[stream] = (*former.get(stream, ()), (epoch, last_offset))
    return {row[0]: Stream(row[0], row[1], row[2], row[3], former.get(row[0], ())) for row in rows}


def _log(epoch: int, next_sequence: int, trimmed_through: int, segments: Sequence[Sequence[int]] = ()) -> LogState:
    return LogState(epoch, next_sequence, trimmed_through, tuple((last, size) for last, size in segments))


def _shared(value: Any) -> Any:
    return shared(value) if isinstance(value, bytes) else value


def _call(row: list[Any], *, ticket: int) -> Call:
    """Recovered calls have negative tickets: nobody of this process waits for them."""
    request_id: RequestId = row[0]
    return Call(
        ticket=ticket,
        request_id=request_id,
        method=row[1],
        label=row[2],
        message=None,
        started_unix_s=row[3],
        setup=None if row[4] is None else SetupChange(*row[4]),
        sent=True,
        stream=row[5],
        cancelled_unix_s=row[6],
        upstream_cursor=row[7],
    )
