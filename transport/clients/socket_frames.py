"""What a WebSocket says beside JSON-RPC: subprotocols, how a client names what it resumes, frames. Pure.

WebSocket is in no revision of MCP. What is spoken under the name `mcp` is what the SDKs speak: each text message is one
JSON-RPC message, both ways, and nothing else. That leaves no room for event ids, so a client of `mcp` cannot say what
it has. `mcp.outlast.v1` is our extension for those who want to miss nothing: what the gateway sends is wrapped, what
the client sends is not. docs/protocol.md describes both for authors of clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import attrs
import msgspec

from actors.epochs import epoch_at
from actors.ids import STANDALONE_STREAM, EventId
from actors.state import SessionState
from transport.exchange import RequestHead
from transport.mcp import CURSOR_HEADER, SESSION_HEADER

PLAIN = "mcp"
WITH_IDS = "mcp.outlast.v1"

_PARAMETERS_MAX = 16  # of a query: two mean something

_to_json = msgspec.json.Encoder().encode


class InvalidResume(ValueError):
    """The upgrade request contradicts itself about what is to be resumed."""


@attrs.frozen
class Resume:
    """A client comes back to a session."""

    session_id: str
    last_event_id: str | None  # None: it does not know what it has


def choose_subprotocol(offered: Sequence[str]) -> str | None:
    """Choose ours before the plain one, wherever the client puts it: who offers it can speak it. None: neither."""
    return next((name for name in (WITH_IDS, PLAIN) if name in offered), None)


def read_resume(head: RequestHead) -> Resume | None:
    """Read what a client comes back to, from headers, or from the query, since pages can set no headers.

    Returns:
      None: it opens a session.

    Raises:
      InvalidResume
    """
    try:
        pairs = parse_qsl(head.query, max_num_fields=_PARAMETERS_MAX, keep_blank_values=True)
    except ValueError:
        raise InvalidResume(f"the query has more than {_PARAMETERS_MAX} parameters") from None
    session_id = _one(head, pairs, SESSION_HEADER, "session_id")
    last_event_id = _one(head, pairs, CURSOR_HEADER, "last_event_id")
    if session_id is not None:
        return Resume(session_id, last_event_id)
    if last_event_id is not None:
        raise InvalidResume("an event id needs its session: give session_id (or Mcp-Session-Id) as well")
    return None


def _one(head: RequestHead, pairs: Sequence[tuple[str, str]], header: str, parameter: str) -> str | None:
    values = [value for name, value in pairs if name == parameter]
    if header in head.headers:
        values.append(head.headers[header])
    if len(values) > 1:
        raise InvalidResume(f"{parameter} is there more than once (the header {header} counts)")
    return values[0] if values else None


def event_frame(event_id: str, message: bytes) -> str:
    """Wrap a message of the session's stream; the message's bytes stay as they are."""
    return f'{{"event_id":"{event_id}","message":{message.decode()}}}'


def message_frame(message: bytes) -> str:
    """Wrap a message that is on no stream, and is not sent again."""
    return f'{{"message":{message.decode()}}}'


def greeting_frame(state: SessionState, after: int) -> str:
    """Say where things stand: the first frame of a connection in a session.

    Args:
      after: the offset behind which the stream is sent from now on.
    """
    stream = state.streams.get(STANDALONE_STREAM)
    greeting: dict[str, Any] = {
        "session_id": state.session_id,
        "event_id": _event_id(state, after),
        "last_event_id": _event_id(state, stream.last_offset if stream is not None else 0),
        "in_progress": list(state.calls),
        "unanswered": [ask.client_id for ask in state.asks.values() if not ask.withdrawn],
    }
    return _to_json(greeting).decode()


def _event_id(state: SessionState, offset: int) -> str:
    """Name an event as it was named when it was logged, which an earlier process may have done."""
    stream = state.streams.get(STANDALONE_STREAM)
    epoch = state.log.epoch if stream is None else epoch_at(stream, offset, state.log.epoch)
    return EventId(STANDALONE_STREAM, epoch, offset).write(state.session_id)
