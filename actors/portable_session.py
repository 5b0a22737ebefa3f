"""Portable session <-> records: what of a session goes into its line of the document, and how it comes back.

Lossless: a session that was written and read again has an equal snapshot and log, hence the same id, the same event ids
and the same place in every stream. What a hand-written session leaves out gets the value that a new one would have.
What contradicts itself is refused with the path of the field, before anything is stored: a record that no actor can
live with would crash it at each use.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from actors import portable_schema as schema
from actors.call_history import HistoryState
from actors.ids import STANDALONE_STREAM, Principal, SessionId
from actors.keeping import Unkeepable, keep
from actors.portable_checks import Misfit, check_session, explain
from actors.portable_history import to_history, to_portable_history
from actors.snapshots import from_snapshot, history_of, to_snapshot
from actors.state import NOTHING, Ask, Call, Handshake, LogState, Metrics, SessionState, SetupChange, Stream
from persistence.portable import SessionRecords
from persistence.portable_values import NotPortable, from_json_value, to_json_value
from persistence.records import HISTORY_STREAM, LogEntry, Snapshot

# Since 1973 there were more milliseconds, and until 5138 there will be fewer seconds: documents of programs that count
# milliseconds can be told by their numbers.
_MILLISECONDS_FROM = 1e11

WITHOUT_HANDSHAKE = "no_handshake"
UNINITIALIZED = "uninitialized"  # a document says so, and not why

T = TypeVar("T")


@attrs.frozen
class Defaults:
    """What a session gets that its document does not say."""

    now_unix_s: float
    ttl_seconds: float
    draw_epoch: Callable[[], int]  # of a log: at most 32 random bits


def to_portable(snapshot: Snapshot, entries: Sequence[LogEntry]) -> schema.PortableSession:
    """Give the portable form of what is kept of a session."""
    state = from_snapshot(snapshot)
    return schema.PortableSession(
        id=state.session_id,
        server_id=state.server_id,
        created_at=state.created_unix_s,
        last_activity=state.last_active_unix_s,
        is_initialized=state.initialized,
        client_transport_type=state.client_transport,
        transport_capabilities=schema.TransportCapabilities(state.client_transport, state.upstream_transport),
        metrics=schema.PortableMetrics(state.metrics.requests, state.metrics.tool_calls, state.metrics.errors),
        config=schema.Config(state.server_id, None if math.isinf(state.ttl_seconds) else state.ttl_seconds),
        values=to_json_value(state.values),
        context=to_json_value(state.context),
        metadata=to_json_value(state.metadata),
        opened=state.opened,
        failure=_failure_of(state),
        principal=schema.PortablePrincipal(state.principal.issuer, state.principal.client, state.principal.subject),
        revision=state.revision,
        handshake=_handshake_of(state),
        setup=tuple(schema.PortableSetup(key, _text(raw)) for key, raw in state.setup.items()),
        calls=tuple(_call_of(call) for call in state.calls.values() if call.stream is not None),
        asks=tuple(schema.PortableAsk(*attrs.astuple(ask)) for ask in state.asks.values()),
        standalone_cursor=state.standalone_cursor,
        shown_offset=state.shown_offset,
        listening=state.listening,
        streams=tuple(
            schema.PortableStream(stream.id, stream.request_id, stream.next_offset, stream.ended, stream.former_epochs)
            for stream in state.streams.values()
        ),
        next_stream=state.next_stream,
        history=to_portable_history(history_of(snapshot), entries),
        log=schema.PortableLog(
            state.log.epoch,
            state.log.next_sequence,
            state.log.trimmed_through,
            tuple(
                schema.PortableEntry(entry.sequence, entry.stream, entry.offset, entry.at_unix_s, _text(entry.body))
                for entry in entries
                if entry.stream != HISTORY_STREAM
            ),
            state.log.segments,
        ),
    )


def read_portable(text: bytes) -> schema.PortableSession:
    """Read one session's line.

    Raises:
      Misfit: it is no JSON, or a field is not as it must be; with the field's path within the session.
    """
    try:
        session: schema.PortableSession = schema.decode_session(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error, text) from None
    return session


def to_records(session: schema.PortableSession, defaults: Defaults) -> SessionRecords:
    """Give what is to be kept of a session.

    Args:
      session: as it was read.
      defaults: for what it does not say.

    Raises:
      Misfit: it contradicts itself, or a store cannot hold it; with the path of the field.
    """
    check_session(session)
    state = _state(session, defaults)
    entries = tuple(
        LogEntry(session.id, entry.sequence, entry.stream, entry.offset, entry.at, _bytes(entry.message, path))
        for entry, path in _with_paths(session.log.entries, "log.entries", "message")
    )
    history, pages = to_history(session)
    return SessionRecords(to_snapshot(state, history), (*entries, *pages))


def in_place_of(records: SessionRecords, former: Snapshot) -> SessionRecords:
    """Give records such that one commit puts them in the place of what is stored.

    A snapshot is written only over an older revision, and an entry only where none is. So the revision rises, and the
    log goes on behind the former one's, which is trimmed in the same commit. (A tombstone would make room, too, but an
    ended id never comes back.) If the former session had gone further, its clients may hold ids of events that the
    new one will give to others: then the log gets a new epoch, in which no old id is good.

    Args:
      records: what was read from a document.
      former: the snapshot that is stored.
    """
    state, known = from_snapshot(records.snapshot), from_snapshot(former)
    known_history = history_of(former) or HistoryState()
    gone_further = known.revision > state.revision or known.log.next_sequence > state.log.next_sequence
    epoch = max(known.log.epoch, state.log.epoch) + 1 if gone_further else state.log.epoch
    behind = _Behind(known.log.next_sequence - 1, known_history.next_number - 1)
    return _moved(records, state, behind, above=known.revision, epoch=epoch)


# Further than any log gets (a million events a second for twelve days), and far from what a column holds.
_BEHIND_ANYTHING = 1 << 40


def in_place_of_unreadable(records: SessionRecords, revision: int) -> SessionRecords:
    """Give records such that one commit puts them in the place of a session whose stored record cannot be read.

    How far that one had gone is not known: the log goes on far behind, under a new epoch.

    Args:
      records: what was read from a document.
      revision: the stored one, which the index knows.
    """
    state = from_snapshot(records.snapshot)
    behind = _Behind(_BEHIND_ANYTHING, _BEHIND_ANYTHING)
    return _moved(records, state, behind, above=revision, epoch=state.log.epoch + 1)


@attrs.frozen
class _Behind:
    """How far the logs go that others are to go on behind."""

    events: int
    calls: int


def _moved(records: SessionRecords, state: SessionState, behind: _Behind, *, above: int, epoch: int) -> SessionRecords:
    segments = tuple((last_sequence + behind.events, size) for last_sequence, size in state.log.segments)
    streams = state.streams
    if epoch != state.log.epoch:  # in which no old id is good
        streams = {name: attrs.evolve(stream, former_epochs=()) for name, stream in streams.items()}
    log = LogState(epoch, state.log.next_sequence + behind.events, state.log.trimmed_through + behind.events, segments)
    moved = replace(state, revision=max(state.revision, above + 1), log=log, streams=streams)
    entries = tuple(_moved_entry(entry, behind) for entry in records.entries)
    history = _moved_history(history_of(records.snapshot), behind.calls)
    history_trim_through = HISTORY_STREAM + behind.calls if behind.calls else 0
    return SessionRecords(to_snapshot(moved, history), entries, behind.events, history_trim_through)


def _moved_entry(entry: LogEntry, behind: _Behind) -> LogEntry:
    if entry.stream != HISTORY_STREAM:
        return attrs.evolve(entry, sequence=entry.sequence + behind.events)
    return attrs.evolve(entry, sequence=entry.sequence + behind.calls, offset=entry.offset + behind.calls)


def _moved_history(history: HistoryState | None, behind: int) -> HistoryState | None:
    if history is None:
        return HistoryState(behind + 1, behind) if behind else None
    segments = tuple((last + behind, size) for last, size in history.segments)
    return HistoryState(history.next_number + behind, history.trimmed_through + behind, segments)


def kept_streams(snapshot: Snapshot) -> tuple[list[int], int]:
    """Give the streams whose events can still be asked for, and the log's last sequence."""
    state = from_snapshot(snapshot)
    return [stream.id for stream in state.streams.values() if stream.next_offset > 1], state.log.next_sequence - 1


def kept_history(snapshot: Snapshot) -> tuple[list[int], int]:
    """Give the stream of the session's call history, if it has one, and the last sequence there."""
    history = history_of(snapshot)
    return ([], 0) if history is None else ([HISTORY_STREAM], HISTORY_STREAM + history.next_number - 1)


def _failure_of(state: SessionState) -> schema.PortableFailure | None:
    if not (state.failure or state.failure_detail or state.failed_unix_s):
        return None
    return schema.PortableFailure(state.failure, state.failure_detail, state.failed_unix_s)


def _handshake_of(state: SessionState) -> schema.PortableHandshake | None:
    kept = state.handshake
    if kept is None:
        return None
    return schema.PortableHandshake(_text(kept.request), _text(kept.result), kept.upstream_session_id, kept.ready)


def _call_of(call: Call) -> schema.PortableCall:
    assert call.stream is not None
    return schema.PortableCall(
        call.request_id,
        call.method,
        call.stream,
        call.label,
        call.started_unix_s,
        call.cancelled_unix_s,
        None if call.setup is None else schema.PortableSetupChange(call.setup.key, call.setup.keep),
        call.upstream_cursor,
    )


def _state(session: schema.PortableSession, defaults: Defaults) -> SessionState:
    capabilities = session.transport_capabilities
    client_transport = _first(session.client_transport_type, capabilities.client_transport, "embedded")
    failure = _failure(session, client_transport)
    created_unix_s, last_active_unix_s = _times(session, defaults.now_unix_s)
    streams = _streams(session)
    return SessionState(
        session_id=SessionId(session.id),
        revision=session.revision,
        server_id=_first(session.server_id, session.config.server_id, ""),
        principal=Principal(session.principal.issuer, session.principal.client, session.principal.subject),
        created_unix_s=created_unix_s,
        last_active_unix_s=last_active_unix_s,
        ttl_seconds=_ttl_seconds(session, last_active_unix_s, defaults.ttl_seconds),
        opened=session.opened,
        failure=failure.reason,
        failure_detail=failure.detail,
        failed_unix_s=failure.failed_at,
        client_transport=client_transport,
        upstream_transport=_first(capabilities.upstream_transport, "embedded"),
        handshake=_handshake(session.handshake),
        setup={kept.key: _bytes(kept.message, path) for kept, path in _with_paths(session.setup, "setup", "message")},
        streams=streams,
        next_stream=session.next_stream,
        log=LogState(
            defaults.draw_epoch() if isinstance(session.log.epoch, UnsetType) else session.log.epoch,
            session.log.next_sequence,
            session.log.trimmed_through,
            session.log.segments,
        ),
        calls={call.id: _call(call, ticket=-1 - index) for index, call in enumerate(session.calls)},
        asks={
            ask.client_id: Ask(ask.client_id, ask.upstream_id, ask.method, ask.stream, ask.withdrawn)
            for ask in session.asks
        },
        standalone_cursor=session.standalone_cursor,
        shown_offset=session.shown_offset,
        listening=session.listening,
        metrics=Metrics(session.metrics.requests, session.metrics.tool_calls, session.metrics.errors),
        values=_map(_first(session.values, session.state, NOTHING), "values" if session.state is UNSET else "state"),
        context=_map(_first(session.context, NOTHING), "context"),
        metadata=_map(_first(session.metadata, NOTHING), "metadata"),
    )


def _first(*choices: Any) -> Any:
    """Give the first that was said; the last is the default."""
    return next(choice for choice in choices if choice is not UNSET)


def _failure(session: schema.PortableSession, client_transport: str) -> schema.PortableFailure:
    if session.failure is not None:
        return session.failure
    if session.is_initialized is False and session.opened:
        return schema.PortableFailure(UNINITIALIZED, "it was not initialized when it was exported")
    if session.handshake is UNSET and client_transport != "embedded":
        # Its server would have to be told again what was agreed, and nobody knows.
        return schema.PortableFailure(WITHOUT_HANDSHAKE, "its document has no handshake: its client opens a new one")
    return schema.PortableFailure("")


def _times(session: schema.PortableSession, now_unix_s: float) -> tuple[float, float]:
    created = _unix_s(_first(session.created_at, session.last_activity, now_unix_s))
    return created, _unix_s(_first(session.last_activity, created))


def _unix_s(number: float) -> float:
    return number / 1000 if number >= _MILLISECONDS_FROM else number


def _ttl_seconds(session: schema.PortableSession, last_active_unix_s: float, default: float) -> float:
    said = session.config.ttl_seconds
    if said is None:
        return math.inf
    if not isinstance(said, UnsetType):
        return said
    if not isinstance(session.expires_at, UnsetType):
        return max(0.0, _unix_s(session.expires_at) - last_active_unix_s)
    return default


def _handshake(said: schema.PortableHandshake | UnsetType | None) -> Handshake | None:
    if said is None or isinstance(said, UnsetType):
        return None
    request = _bytes(said.request, "handshake.request")
    return Handshake(request, _bytes(said.result, "handshake.result"), said.upstream_session_id, said.ready)


def _streams(session: schema.PortableSession) -> dict[int, Stream]:
    if isinstance(session.streams, UnsetType):
        return {STANDALONE_STREAM: Stream(STANDALONE_STREAM, None)}
    streams = {s.id: Stream(s.id, s.request_id, s.next_offset, s.ended, s.former_epochs) for s in session.streams}
    if session.opened:  # each that was opened has one of its own, and could say nothing without
        streams.setdefault(STANDALONE_STREAM, Stream(STANDALONE_STREAM, None))
    return streams


def _call(said: schema.PortableCall, *, ticket: int) -> Call:
    return Call(
        ticket=ticket,
        request_id=said.id,
        method=said.method,
        label=said.label,
        message=None,
        started_unix_s=said.started_at,
        setup=None if said.setup is None else SetupChange(said.setup.key, said.setup.keep),
        sent=True,
        stream=said.stream,
        cancelled_unix_s=said.cancelled_at,
        upstream_cursor=said.upstream_cursor,
    )


def _map(said: Any, path: str) -> Any:
    try:
        value, _ = keep(from_json_value(said))
    except (NotPortable, Unkeepable) as error:
        raise Misfit(path, str(error)) from None
    if not isinstance(value, dict):
        raise Misfit(path, "expected an object")
    return value or NOTHING


def _with_paths(parts: Sequence[T], name: str, field: str) -> list[tuple[T, str]]:
    return [(part, f"{name}[{index}].{field}") for index, part in enumerate(parts)]


def _text(data: bytes) -> schema.Text:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return schema.Base64(base64.b64encode(data).decode())


def _bytes(text: schema.Text, path: str) -> bytes:
    if isinstance(text, str):
        return text.encode()
    try:
        return base64.b64decode(text.base64, validate=True)
    except (binascii.Error, ValueError):
        raise Misfit(f"{path}.$base64", "this is no base64") from None
