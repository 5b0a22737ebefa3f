"""HTTP+SSE for clients: the transport of revision 2024-11-05, with sessions that outlive their stream.

    GET  .../sse                          an event stream; its first event, `endpoint`, says where to post
    POST .../messages?session_id=...      one message; 202, and whatever comes of it is on the stream

Everything for the client goes over the one stream, so all of it is logged on the session's own stream and durable
before it is sent; that costs each call a commit, which the short calls of Streamable HTTP do without.

The protocol lets a session die with its stream. Ours does not: each event has an id, `SESSION.CURSOR`, and a client
that asks for the stream again with it as `Last-Event-ID` (every browser's EventSource does) gets the same session and
exactly what it missed. One that kept no event id asks with `?session_id=...`, and is sent what was not yet sent to
anybody. Both are proof enough: a session id has 192 random bits, the cursor a MAC keyed by it, and the principal is
compared as ever. What names a session that does not exist is answered with 404, never with another session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil

import trio

from actors import jsonrpc
from actors import messages as say
from actors.event_log import CursorLost, ReaderEnded, SessionLeft
from actors.handle import Reading, SessionHandle, SessionUnavailable
from actors.ids import STANDALONE_STREAM, EventId, InvalidEventId, Principal, SessionId
from actors.registry import Draining, SessionNotFound
from actors.runtime import Runtime
from persistence.records import LogEntry
from persistence.store import StoreUnavailable
from transport import mcp, sse
from transport.clients.sse_front import (
    RESTARTING,
    LegacySseOptions,
    Opening,
    SseAnswering,
    SseFront,
    session_of_query,
)
from transport.clients.sse_messages import SseMessage
from transport.clients.streamable_http import CURSOR_LOST_STATUS
from transport.exchange import Exchange, Headers
from transport.upstreams.breaker import Breaker

STREAM_PATH = "sse"  # last segments of the two paths
MESSAGES_PATH = "messages"

_COME_BACK_TRIES = 10  # to find a session that was interrupted, while its client waits on an open stream
_COME_BACK_SECONDS = 0.5  # between them
_ONLY_GET = mcp.Rejection(405, jsonrpc.INVALID_REQUEST, "use GET for the stream", headers=((b"allow", b"GET"),))


class LegacySse:
    """Implements `Face` for the two paths of one server."""

    def __init__(
        self,
        runtime: Runtime,
        server_id: str,
        *,
        upstream_transport: str,
        options: LegacySseOptions = LegacySseOptions(),
        breaker: Breaker | None = None,
    ) -> None:
        """
        Args:
          breaker: of that server; while it is open, no session is opened, and those that are there can be gone on with.
            None: it never is.
        """
        self._front = SseFront(runtime, server_id, upstream_transport, options, breaker or Breaker())

    async def handle(
        self,
        exchange: Exchange,
        principal: Principal,
        extra_headers: Headers = (),
        deadline: float = float("inf"),
    ) -> None:
        """Answer one request, as `Face` says."""
        is_stream = exchange.head.path.endswith(f"/{STREAM_PATH}")
        answering = (_Stream if is_stream else SseMessage)(self._front, exchange, principal, extra_headers, deadline)
        try:
            await answering.run()
        except SessionNotFound:
            await answering.reject(mcp.SESSION_NOT_FOUND)

    def end_standalone_streams(self) -> None:
        """Have clients come back elsewhere, or later. Those that wait for answers keep their streams for as long as
        calls in flight are given, since most clients of this revision do not come back."""
        for reading in list(self._front.readings):
            if not reading.is_awaited:
                reading.end()
        for scope in list(self._front.waiting):
            scope.cancel()


class _Stream(SseAnswering):
    """The GET of a stream, being answered."""

    async def run(self) -> None:
        """Answer a request for the stream: a new one, or that of a session that is there."""
        head = self.exchange.head
        refusal = _ONLY_GET if head.method != "GET" else mcp.classify_sse_get(head.headers)
        if refusal is not None:
            await self.reject(refusal)
            return
        named = session_of_query(head.query)
        session_id, _, cursor = head.headers.get(mcp.CURSOR_HEADER, "").partition(".")
        if named and session_id and named != session_id:
            await self.reject_request("Last-Event-ID is of another session than session_id")
        elif named or session_id:
            opening = self.front.opening(named or session_id, self.principal)
            if opening is not None:
                await self._stream_opening(opening)
            else:
                await self._stream_again(
                    self.front.session(named or session_id, self.principal), bool(session_id), cursor
                )
        elif self.front.runtime.registry.draining:
            await self.not_done(RESTARTING, None)
        elif seconds := self.front.breaker.admit():
            away = say.NotDone(say.Problem.UNAVAILABLE, self.front.breaker.describe())
            await self.not_done(away, None, retry_after_seconds=ceil(seconds))
        else:
            metadata = {name: head.headers[name] for name in ("user-agent", "origin") if name in head.headers}
            await self._stream_opening(Opening(self.front.runtime.draw_session_id(), self.principal, metadata))

    async def _stream_opening(self, opening: Opening) -> None:
        """Stream to a client that opens its session over this stream."""
        front = self.front
        front.openings[opening.session_id] = opening
        opening.streams += 1
        try:
            await self._start_stream(opening.session_id, opening.session_id)
            await self._while_there(partial(self._send_opening, opening))
        finally:
            opening.streams -= 1
            front.forget(opening)

    async def _send_opening(self, opening: Opening) -> None:
        with trio.CancelScope() as waiting:
            self.front.waiting.add(waiting)
            try:
                await self._wait_opened(opening)
            finally:
                self.front.waiting.discard(waiting)
        if opening.opened and not waiting.cancelled_caught:
            session = self.front.session(opening.session_id, self.principal)
            try:
                reading = await session.read(await _start_of(session))
            except (SessionNotFound, SessionUnavailable, CursorLost, Draining):
                return  # it has ended already, or cannot be had now: the client is told when it comes back
            await self._follow(session, reading)

    async def _wait_opened(self, opening: Opening) -> None:
        """Send what comes of handshakes until one has succeeded, or none was begun for too long."""
        options = self.front.options
        idle_until = trio.current_time() + options.opening_seconds_max
        while True:
            while opening.refusals:
                await self.exchange.send(sse.encode_message(opening.refusals.popleft().raw))
                idle_until = trio.current_time() + options.opening_seconds_max
            now = trio.current_time()
            if opening.opened or now >= self.deadline or (not opening.asking and now >= idle_until):
                return
            with trio.move_on_at(min(now + options.keepalive_comment_seconds, self.deadline)) as waited:
                await opening.news.wait()
            if waited.cancelled_caught:
                await self.exchange.send(sse.KEEP_ALIVE)

    async def _stream_again(self, session: SessionHandle, is_resumed: bool, cursor: str) -> None:
        """Stream to a client that comes back to its session.

        Args:
          is_resumed: it came with an event id; else what was not yet sent to anybody is sent.
          cursor: the event behind which it goes on; "": it has seen none.
        """
        try:
            session.actor()  # an unknown session before a bad cursor: 404 tells the client more than 400
            after = await _place(session, cursor) if is_resumed else None
            reading = await session.read(after, unshown=True)
        except InvalidEventId as invalid:
            await self.reject_request(f"Last-Event-ID: {invalid}")
        except CursorLost as lost:
            await self.reject(mcp.Rejection(CURSOR_LOST_STATUS, jsonrpc.INVALID_REQUEST, f"Last-Event-ID: {lost}"))
        except (SessionUnavailable, Draining) as error:
            await self.not_done(say.NotDone(say.Problem.UNAVAILABLE, str(error)), None)
        else:
            try:
                await self._start_stream(session.id, _event_id(session.id, reading.position))
            except BaseException:
                reading.close()
                raise
            await self._while_there(partial(self._follow, session, reading))

    async def _start_stream(self, session_id: SessionId, event_id: str) -> None:
        """Send the head, and where to post: a path of the same origin, which a client resolves against its own URL."""
        options, path = self.front.options, self.exchange.head.path
        endpoint = (
            f"{options.public_path_prefix}{path.removesuffix(STREAM_PATH)}{MESSAGES_PATH}?session_id={session_id}"
        )
        await self.exchange.start_stream(200, (*sse.STREAM_HEADERS, *self.extra))
        # The hint is part of this event: older SDKs would parse the empty data of an event that has nothing else.
        event = sse.Event(endpoint.encode(), event_id, "endpoint", options.reconnect_milliseconds)
        await self.exchange.send(sse.encode(event))

    async def _while_there(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send until there is no more, then end the stream; or until the client has gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            await send()
            nursery.cancel_scope.cancel()
        await self.exchange.finish()

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        await self.exchange.wait_gone()
        scope.cancel()

    async def _follow(self, session: SessionHandle, reading: Reading | None) -> None:
        """Send events as they become durable. A session that is interrupted and comes back is read on: most clients
        of this revision take the end of their stream for the end of their session."""
        while reading is not None:
            self.front.readings.add(reading)
            try:
                await reading.wait_heard(self.front.options.heard_seconds_max)
                await self._send_events(session.id, reading)
                return
            except SessionLeft:
                after = reading.position
            except (ReaderEnded, CursorLost, StoreUnavailable):
                return  # taken over, or out of reach: a client that comes back with its cursor is told then
            finally:
                reading.close()
                self.front.readings.discard(reading)
            reading = await _read_again(session, after)

    async def _send_events(self, session_id: SessionId, reading: Reading) -> None:
        # At the deadline it ends, also where there is always something to send: a client that comes back does so with a
        # fresh credential, and its cursor.
        while trio.current_time() < self.deadline:
            page: tuple[LogEntry, ...] | None = None
            silent_until = trio.current_time() + self.front.options.keepalive_comment_seconds
            with trio.move_on_at(min(silent_until, self.deadline)):
                page = tuple(await reading.next_page())
            if page is None:
                await self.exchange.send(sse.KEEP_ALIVE)
                continue
            if not page:
                return
            frames = [
                sse.encode_message(entry.body, f"{session_id}.{reading.event_id(entry.offset)}") for entry in page
            ]
            await self.exchange.send(b"".join(frames))
            reading.shown(page[-1].offset)


def _event_id(session_id: SessionId, position: EventId) -> str:
    return f"{session_id}.{position.write(session_id)}"


async def _place(session: SessionHandle, cursor: str) -> EventId:
    """Give the event behind which a stream goes on.

    Raises:
      InvalidEventId, SessionNotFound, SessionUnavailable, Draining
    """
    if not cursor:
        return await _start_of(session)
    after = EventId.read(session.id, cursor)
    if after.stream != STANDALONE_STREAM:
        raise InvalidEventId("this event was on another stream of the session")
    return after


async def _start_of(session: SessionHandle) -> EventId:
    """Give the place before a session's first event: who has seen nothing is told when that is no longer kept."""
    return EventId(STANDALONE_STREAM, (await session.state()).log.epoch, 0)


async def _read_again(session: SessionHandle, after: EventId) -> Reading | None:
    """Read on behind an event, once the session is back; None: it does not come back, or not here."""
    for _ in range(_COME_BACK_TRIES):
        try:
            return await session.read(after)
        except SessionUnavailable:
            await trio.sleep(_COME_BACK_SECONDS)
        except (SessionNotFound, CursorLost, Draining):
            return None
    return None
