"""An EventStore for servers built on the public MCP SDK, on top of any of our stores.

For servers that are not behind the gateway. The SDK asks for two methods: `store_event`, called before the bytes of an
event leave, and `replay_events_after`, called when a client comes back with Last-Event-ID. It names streams within one
session (the text of a request's id, or one fixed name) and gives one object to all sessions: keyed by the stream
alone, the second client's request 1 replays the first client's answer. Hence:

- `DurableEventStore` is what the SDK gets. Which session a call is about it learns from the context that
  `DurableEventStore.scoped` sets around the server's ASGI app; without one it refuses. There is no default scope.
- `SessionEvents` is the store of one session, for those who make the SDK's transports themselves.
- An event is durable when `store_event` returns.
- A replay tails: it goes on with what comes, until the request is answered. The SDK would look away between the replay
  and the live stream, and what comes in between would reach nobody.

This is the only file that imports `mcp` (`pip install outlast[mcp]`); it works with mcp 1.x and 2.x.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

try:
    import mcp.types as mcp_types
    from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
except ModuleNotFoundError as missing:
    raise ImportError("DurableEventStore needs the MCP SDK: pip install 'outlast[mcp]'", name=missing.name) from missing

from actors.event_log import CursorLost
from actors.ids import InvalidEventId
from actors.jsonrpc import OUTCOME_UNKNOWN
from actors.registry import SessionNotFound
from outlast.event_history import EventLimits
from outlast.event_journal import EventJournal, OpenStore, Page, open_journal
from outlast.event_scope import (
    ADOPTION_ID,
    CURRENT,
    STANDING_STREAM,
    App,
    Owner,
    ScopedApp,
    authorization_digest,
)
from outlast.trio_thread import TrioThread

__all__ = ["DurableEventStore", "EventLimits", "SessionEvents", "authorization_digest"]

log = logging.getLogger("outlast.event_store")

STORE_SECONDS = 10.0  # an event that is not durable by then is refused: its session is opened anew at the next request
TAIL_SECONDS = 30.0  # one wait of a tail; then it asks again, so that it hears of a loop that has ended

# What a kept event is; the first byte of its body.
_PRIMING = b"p"  # a place in a stream, without a message
_MESSAGE = b"m"
_LEFT_OUT = b"x"  # a notification that was too large to keep: a replay passes over it


class DurableEventStore(EventStore):
    """Keeps the events of all sessions of one server.

    Use it as an async context manager, under asyncio or trio; or give it to `scoped` alone: the app's lifespan opens
    and closes it then.

        events = DurableEventStore("sqlite:./data/events.db")
        app = events.scoped(server.streamable_http_app(event_store=events))

    Args:
      store: a store URL (`memory:`, `sqlite:PATH`), or what opens a store, called on the loop that will use it. One of
        its own: not the gateway's.
      limits: what is kept.
      store_seconds: how long an event may take to become durable.
    """

    def __init__(
        self,
        store: str | OpenStore = "sqlite:./data/events.db",
        *,
        limits: EventLimits = EventLimits(),
        store_seconds: float = STORE_SECONDS,
    ) -> None:
        def journal() -> AbstractAsyncContextManager[EventJournal]:
            return open_journal(store, limits)

        self._thread = TrioThread(journal, name="outlast events")
        self._limits = limits
        self._store_seconds = store_seconds

    def __repr__(self) -> str:
        return f"<DurableEventStore on {self._thread!r}>"

    async def __aenter__(self) -> DurableEventStore:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def is_open(self) -> bool:
        """Whether events can be kept now."""
        return self._thread.is_running

    async def open(self) -> None:
        """Open the store. Once only.

        Raises:
          StoreUrlInvalid, StoreInvalid, StoreInUse, StoreUnavailable
        """
        await self._thread.start()

    async def aclose(self) -> None:
        """Flush and close the store; waits for its thread. Closing twice is fine."""
        await self._thread.aclose()

    def session(self, session_id: str) -> SessionEvents:
        """Give the event store of one session, for a transport that is made by hand. One for each transport.

        Args:
          session_id: unguessable, and never used again once the session has ended.
        """
        return SessionEvents(self._thread, session_id, self._limits, self._store_seconds)

    async def forget(self, session_id: str) -> None:
        """End a session: its events go, and its id does not come back. Durable on return."""
        await self._thread.call(lambda journal: journal.bury(session_id, "ended"), seconds=self._store_seconds)

    def scoped(self, app: App, *, owner: Owner = authorization_digest) -> ScopedApp:
        """Wrap a server's ASGI app so that its sessions have a scope here, and outlast its process.

        Args:
          app: made with this store as its `event_store`.
          owner: tells from a request's ASGI scope who asks; a session is given back after a restart only to whom
            opened it. The default is a digest of the Authorization header, so a client whose token has been renewed
            meanwhile is not known again (404, and it opens a new session): name something that stays, if you can.
        """
        return ScopedApp(app, self, owner)

    async def begin(self, events: SessionEvents, *, owner: str, handshake: bytes) -> None:
        """Keep who opened a session, and with what, for `adopt`; durable on return.

        Raises: as `SessionEvents.store_event`.
        """

        async def begin(journal: EventJournal) -> None:
            await journal.begin(events.session_id, owner=owner, handshake=handshake)

        await self._thread.call(begin, seconds=self._store_seconds)

    async def adopt(self, session_id: str, *, owner: str) -> tuple[SessionEvents, bytes] | None:
        """Begin a new opening of a session that is kept here, if it is that owner's.

        Returns:
          The session's events, and what it was opened with; None if there is no such session.
        """

        async def adopt(journal: EventJournal) -> bytes | None:
            return await journal.adopt(session_id, owner=owner)

        handshake = await self._thread.call(adopt, seconds=self._store_seconds)
        if handshake is None:
            return None
        return SessionEvents(self._thread, session_id, self._limits, self._store_seconds, adopted=True), handshake

    async def stream_of(self, session_id: str, last_event_id: str) -> str:
        """Say which stream an event id is of, if it can be replayed from.

        Raises:
          InvalidEventId: no id of this session.
          CursorLost: what comes next is no longer kept.
          SessionNotFound
        """
        return await self._thread.call(
            lambda journal: journal.check(session_id, last_event_id), seconds=self._store_seconds
        )

    async def store_event(self, stream_id: str, message: Any | None) -> str:
        """Keep an event of the current session; durable on return. See `SessionEvents`."""
        return await _current().store_event(stream_id, message)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Replay a stream of the current session, and tail it. See `SessionEvents`."""
        return await _current().replay_events_after(last_event_id, send_callback)


class SessionEvents(EventStore):
    """The event store of one session. Made by `DurableEventStore.session`.

    Args:
      adopted: the session's new opening has been told to the journal already.
    """

    def __init__(
        self,
        thread: TrioThread[EventJournal],
        session_id: str,
        limits: EventLimits,
        store_seconds: float,
        *,
        adopted: bool = False,
    ) -> None:
        self.session_id = session_id
        self.is_used = False  # whether anything was to be kept
        self.on_failed: Callable[[], None] = _nothing  # called when an event could not be kept
        self._closed = False
        self._thread = thread
        self._limits = limits
        self._store_seconds = store_seconds
        self._adopted = adopted
        self._tails: dict[str, object] = {}  # the newest tail of each stream

    async def store_event(self, stream_id: str, message: Any | None) -> str:
        """Keep an event; durable on return.

        Args:
          stream_id: the SDK's name for the stream.
          message: None: a priming event, a place to resume from.

        Returns:
          The event's id: good in this session only.

        Raises:
          TimeoutError, StoreFull, WriterBacklogFull, TooManySessions, SessionNotFound, ThreadEnded: it was not kept,
            or it is not known whether it was; the event must not be sent.

        Cancellation: the event may be kept all the same.
        """
        if stream_id == ADOPTION_ID:  # ours, and its answer goes nowhere
            return ADOPTION_ID
        if self._closed:
            raise SessionNotFound("this opening of the session is over")
        self.is_used = True
        body, ends = _body(message, stream_id, self._limits.event_bytes_max)

        async def append(journal: EventJournal) -> str:
            await self._adopt(journal)
            standing = stream_id == STANDING_STREAM
            return await journal.append(self.session_id, stream_id, body, ends=ends and not standing, standing=standing)

        try:
            return await self._thread.call(append, seconds=self._store_seconds)
        except Exception:
            # Whatever it was: the SDK's router of this session ends with it, and nothing is delivered any more. But for
            # priming events, which the SDK answers for itself.
            if message is not None:
                self.on_failed()
            raise

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what came after an event in its stream, then what comes, until the stream's request is answered.

        A stream that an earlier process began and did not end is ended here with an error: its request has been
        interrupted, and is not run again. A newer replay of the same stream takes it over.

        Returns:
          None, always, when nothing more will come: the SDK then closes the connection. Also for ids of other
          sessions, and for what is no longer kept: nothing is sent then.

        Raises:
          TimeoutError, StoreUnavailable, ThreadEnded

        Cancellation: safe.
        """
        cursor, token, stream = last_event_id, object(), None
        try:
            while True:
                page = await self._read(cursor)
                if stream is None:
                    stream = page.stream
                    self._tails[stream] = token
                for event_id, body in page.events:
                    if self._tails.get(stream) is not token:
                        return None
                    if body[:1] == _MESSAGE:
                        await send_callback(EventMessage(_message(body), event_id))
                    cursor = event_id
                if page.ended or self._tails.get(stream) is not token:
                    return None
                if page.interrupted and stream != STANDING_STREAM:
                    await self._end_interrupted(stream, cursor)
        except (InvalidEventId, CursorLost, SessionNotFound) as refusal:
            log.info("nothing to replay: %s", refusal)  # what a client says wrongly is no warning
            return None
        finally:
            if stream is not None and self._tails.get(stream) is token:
                del self._tails[stream]

    def close(self) -> None:
        """Keep nothing more: another opening of the session goes on, or nobody does. What is kept stays."""
        self._closed = True
        self._tails.clear()

    def take_over(self, stream_id: str) -> None:
        """End whatever replay tails this stream, before it sends anything more: another connection has it now."""
        self._tails.pop(stream_id, None)

    async def _read(self, cursor: str) -> Page:
        async def read(journal: EventJournal) -> Page:
            await self._adopt(journal)
            return await journal.read(self.session_id, cursor, wait_seconds=TAIL_SECONDS)

        return await self._thread.call(read, seconds=TAIL_SECONDS + self._store_seconds)

    async def _end_interrupted(self, stream_id: str, cursor: str) -> None:
        body = _error(
            stream_id, OUTCOME_UNKNOWN, "interrupted: it was begun, its outcome is unknown, it is not run again"
        )
        await self._thread.call(
            lambda journal: journal.end_interrupted(self.session_id, cursor, body), seconds=self._store_seconds
        )

    async def _adopt(self, journal: EventJournal) -> None:
        """Tell the journal of this opening before anything else is asked of it; once."""
        if not self._adopted:
            self._adopted = True
            await journal.adopt(self.session_id)


def _nothing() -> None:
    """Do nothing."""


def _current() -> SessionEvents:
    current = CURRENT.get()
    if not isinstance(current, SessionEvents):
        raise RuntimeError("no session: serve the app that DurableEventStore.scoped(app) gives, not the app itself")
    return current


def _body(message: Any | None, stream_id: str, bytes_max: int) -> tuple[bytes, bool]:
    """Give what is kept of a message, and whether it ends its stream."""
    if message is None:
        return _PRIMING, False
    # As the SDK writes it onto the wire: what is replayed is what would have been sent.
    text = message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    # In mcp 1.x the message is wrapped once more.
    answers = isinstance(getattr(message, "root", message), mcp_types.JSONRPCResponse | mcp_types.JSONRPCError)
    if len(text) < bytes_max:
        return _MESSAGE + text, answers
    # It goes out all the same, to whoever is connected. Who is not must hear of it, if it waits for it.
    if answers:
        return _error(stream_id, OUTCOME_UNKNOWN, f"the answer has {len(text)} bytes: too large to be kept"), True
    return _LEFT_OUT, False


def _message(body: bytes) -> Any:
    """Give the message that was kept."""
    types: Any = mcp_types  # which of the two there is depends on the version
    if hasattr(types, "jsonrpc_message_adapter"):
        return types.jsonrpc_message_adapter.validate_json(body[1:])
    return types.JSONRPCMessage.model_validate_json(body[1:])


def _error(stream_id: str, code: int, text: str) -> bytes:
    # The stream's name is the text of the request's id; ids that are texts of digits are not told from numbers, which
    # all clients we know count with. Exactly so: "01" is a text.
    request_id = int(stream_id) if stream_id.isdecimal() and str(int(stream_id)) == stream_id else stream_id
    answer = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}
    return _MESSAGE + json.dumps(answer).encode()
