"""evolve: fold one event into a session's state. Pure; it records and asserts, and chooses nothing.

Every choice about a session is made in `decide`. What is derived here (the trim line, which ended streams are
forgotten) follows from the event and the limits alone, so folding the same events gives the same state anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
from msgspec.structs import replace

from actors import messages as say
from actors.ids import STANDALONE_STREAM
from actors.log_bounds import extended
from actors.state import NOTHING, Limits, LinkPhase, Metrics, SessionState, Stream

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

SHORT_DETAIL_CHARACTERS = 500  # a reason is for people to read; an upstream's error page is not


def evolve(state: SessionState, event: say.Event, *, limits: Limits) -> SessionState:
    """Give the state after the event.

    Args:
      state: the state before; it stays as it is.
      event: what happened.
      limits: the session's bounds; what falls off a bound is forgotten here.
    """
    changes = _FOLDS[type(event)](state, event, limits)
    return replace(state, revision=state.revision + 1, **changes)


_Changes = dict[str, Any]

# Every session begins with these; shared, since a fold never changes a mapping but makes a new one.
_FIRST_STREAMS: Mapping[int, Stream] = {STANDALONE_STREAM: Stream(STANDALONE_STREAM, None)}


def _created(state: SessionState, event: say.Created, limits: Limits) -> _Changes:
    assert not state.opened
    return {"opened": True, "streams": _FIRST_STREAMS}


def _opened(state: SessionState, event: say.Opened, limits: Limits) -> _Changes:
    assert not state.opened
    return {
        "opened": True,
        "handshake": event.handshake,
        "streams": _FIRST_STREAMS,
    }


def _client_ready(state: SessionState, event: say.ClientReady, limits: Limits) -> _Changes:
    assert state.handshake is not None
    return {"handshake": attrs.evolve(state.handshake, ready=True)}


def _reinitialized(state: SessionState, event: say.Reinitialized, limits: Limits) -> _Changes:
    assert state.handshake is not None
    handshake = attrs.evolve(state.handshake, upstream_session_id=event.upstream_session_id)
    return {"handshake": handshake, "standalone_cursor": "", "tasks": NOTHING}


def _link_changed(state: SessionState, event: say.LinkChanged, limits: Limits) -> _Changes:
    detail = event.detail[:SHORT_DETAIL_CHARACTERS]
    if event.phase is LinkPhase.UP:
        return {"link": event.phase, "link_detail": detail, "begin_anew": False}
    return {"link": event.phase, "link_detail": detail}


def _connect_awaited(state: SessionState, event: say.ConnectAwaited, limits: Limits) -> _Changes:
    return {"connect_tickets": event.tickets}


def _listening_started(state: SessionState, event: say.ListeningStarted, limits: Limits) -> _Changes:
    return {"listening": True}


def _call_started(state: SessionState, event: say.CallStarted, limits: Limits) -> _Changes:
    call = event.call
    assert call.request_id not in state.calls
    metrics = state.metrics
    return {
        "calls": {**state.calls, call.request_id: call},
        "metrics": Metrics(metrics.requests + 1, metrics.tool_calls + event.tool, metrics.errors),
        "last_active_unix_s": max(state.last_active_unix_s, call.started_unix_s),
    }


def _call_changed(state: SessionState, event: say.CallChanged, limits: Limits) -> _Changes:
    assert event.call.request_id in state.calls
    return {"calls": {**state.calls, event.call.request_id: event.call}}


def _call_promised(state: SessionState, event: say.CallPromised, limits: Limits) -> _Changes:
    assert event.call.stream == STANDALONE_STREAM
    assert event.call.request_id in state.calls
    return {"calls": {**state.calls, event.call.request_id: event.call}}


def _call_ended(state: SessionState, event: say.CallEnded, limits: Limits) -> _Changes:
    changes: _Changes = {
        "calls": _without(state.calls, event.request_id),
        "last_active_unix_s": max(state.last_active_unix_s, event.at_unix_s),
    }
    if event.failed:
        changes["metrics"] = replace(state.metrics, errors=state.metrics.errors + 1)
    return changes


def _post_changed(state: SessionState, event: say.PostChanged, limits: Limits) -> _Changes:
    return {"posts": {**state.posts, event.post.ticket: event.post}}


def _post_ended(state: SessionState, event: say.PostEnded, limits: Limits) -> _Changes:
    return {"posts": _without(state.posts, event.ticket)}


def _ask_opened(state: SessionState, event: say.AskOpened, limits: Limits) -> _Changes:
    asks = {**state.asks, event.ask.client_id: event.ask}
    withdrawn = [client_id for client_id, ask in asks.items() if ask.withdrawn]
    for client_id in withdrawn[: max(0, len(asks) - limits.asks_max)]:
        del asks[client_id]
    return {"asks": asks}


def _ask_closed(state: SessionState, event: say.AskClosed, limits: Limits) -> _Changes:
    return {"asks": _without(state.asks, event.client_id)}


def _asks_withdrawn(state: SessionState, event: say.AsksWithdrawn, limits: Limits) -> _Changes:
    return {"asks": {key: attrs.evolve(ask, withdrawn=True) for key, ask in state.asks.items()}}


def _task_heard(state: SessionState, event: say.TaskHeard, limits: Limits) -> _Changes:
    if not event.until_unix_s:
        return {"tasks": _without(state.tasks, event.task_id)}
    tasks = {**state.tasks, event.task_id: event.until_unix_s}
    while len(tasks) > limits.tasks_max:
        del tasks[next(iter(tasks))]
    return {"tasks": tasks}


def _setup_kept(state: SessionState, event: say.SetupKept, limits: Limits) -> _Changes:
    setup = {**_without(state.setup, event.key), event.key: event.raw}
    while len(setup) > limits.setup_max:
        del setup[next(iter(setup))]
    return {"setup": setup}


def _setup_dropped(state: SessionState, event: say.SetupDropped, limits: Limits) -> _Changes:
    return {"setup": _without(state.setup, event.key)}


def _stream_opened(state: SessionState, event: say.StreamOpened, limits: Limits) -> _Changes:
    assert event.stream == state.next_stream
    streams = {**state.streams, event.stream: Stream(event.stream, event.request_id)}
    return {"streams": streams, "next_stream": event.stream + 1}


def _message_logged(state: SessionState, event: say.MessageLogged, limits: Limits) -> _Changes:
    stream = state.streams[event.stream]
    assert event.offset == stream.next_offset
    assert event.sequence == state.log.next_sequence
    return {
        "streams": {**state.streams, stream.id: attrs.evolve(stream, next_offset=event.offset + 1)},
        "log": extended(state.log, len(event.body), limits),
    }


def _stream_ended(state: SessionState, event: say.StreamEnded, limits: Limits) -> _Changes:
    # Those that ended stand in the order in which they did: what ended just now is the last to be forgotten, however
    # long ago it began, since its reader has yet to be given its answer.
    streams = dict(state.streams)
    streams[event.stream] = attrs.evolve(streams.pop(event.stream), ended=True)
    ended = [stream.id for stream in streams.values() if stream.ended]
    for stream_id in ended[: max(0, len(ended) - limits.streams_kept_max)]:
        del streams[stream_id]
    return {"streams": streams}


def _cursor_moved(state: SessionState, event: say.CursorMoved, limits: Limits) -> _Changes:
    return {"standalone_cursor": event.cursor}


def _shown(state: SessionState, event: say.Shown, limits: Limits) -> _Changes:
    return {"shown_offset": event.offset}


def _values_changed(state: SessionState, event: say.ValuesChanged, limits: Limits) -> _Changes:
    return {"values": event.values}


def _metadata_changed(state: SessionState, event: say.MetadataChanged, limits: Limits) -> _Changes:
    return {"metadata": event.metadata}


def _reinitialization_begun(state: SessionState, event: say.ReinitializationBegun, limits: Limits) -> _Changes:
    return {"begin_anew": True, "failure": "", "failure_detail": "", "failed_unix_s": 0.0}


def _touched(state: SessionState, event: say.Touched, limits: Limits) -> _Changes:
    return {"last_active_unix_s": max(state.last_active_unix_s, event.at_unix_s)}


def _failed(state: SessionState, event: say.Failed, limits: Limits) -> _Changes:
    return {
        "failure": event.reason,
        "failure_detail": event.detail[:SHORT_DETAIL_CHARACTERS],
        "failed_unix_s": event.at_unix_s,
        "link": LinkPhase.DOWN,
    }


def _closed(state: SessionState, event: say.Closed, limits: Limits) -> _Changes:
    return {"closed": True, "link": LinkPhase.DOWN}


def _without(mapping: Mapping[_Key, _Value], key: _Key) -> Mapping[_Key, _Value]:
    rest = dict(mapping)
    rest.pop(key, None)
    return rest or NOTHING  # an emptied dict keeps its table, 170 bytes for each idle session


_FOLDS: dict[type, Callable[[SessionState, Any, Limits], _Changes]] = {
    say.Created: _created,
    say.Opened: _opened,
    say.ClientReady: _client_ready,
    say.Reinitialized: _reinitialized,
    say.LinkChanged: _link_changed,
    say.ConnectAwaited: _connect_awaited,
    say.ListeningStarted: _listening_started,
    say.CallStarted: _call_started,
    say.CallChanged: _call_changed,
    say.CallPromised: _call_promised,
    say.CallEnded: _call_ended,
    say.PostChanged: _post_changed,
    say.PostEnded: _post_ended,
    say.AskOpened: _ask_opened,
    say.AskClosed: _ask_closed,
    say.AsksWithdrawn: _asks_withdrawn,
    say.TaskHeard: _task_heard,
    say.SetupKept: _setup_kept,
    say.SetupDropped: _setup_dropped,
    say.StreamOpened: _stream_opened,
    say.MessageLogged: _message_logged,
    say.StreamEnded: _stream_ended,
    say.CursorMoved: _cursor_moved,
    say.Shown: _shown,
    say.ValuesChanged: _values_changed,
    say.MetadataChanged: _metadata_changed,
    say.ReinitializationBegun: _reinitialization_begun,
    say.Touched: _touched,
    say.Failed: _failed,
    say.Closed: _closed,
}
