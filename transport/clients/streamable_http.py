"""Streamable HTTP for clients: revisions 2025-03-26, 2025-06-18 and 2025-11-25 (and what 2024-11-05 clients send
here).

A call is answered as plain JSON if its answer comes first and soon; the session turns any other into a stream,
whose events are durable before they are sent. This file knows HTTP and sessions, not how sessions live: it asks a
handle, and carries outcomes. A client that goes away ends its connection, never its call.
"""

from __future__ import annotations

import functools
import math

import attrs
import trio

from actors import jsonrpc
from actors import messages as say
from actors.event_log import CursorLost, ReaderEnded
from actors.handle import Reading, SessionHandle, SessionUnavailable
from actors.ids import EventId, InvalidEventId, Principal
from actors.jsonrpc import RequestId
from actors.registry import Draining, SessionNotFound, TooManySessions
from actors.runtime import Runtime
from persistence.records import LogEntry
from persistence.store import StoreUnavailable
from transport import mcp, sse
from transport.exchange import Exchange, Headers
from transport.handler import JSON_HEADERS
from transport.revisions import BATCH_REVISION, REVISION_WITHOUT_HEADER, negotiated_revision, wants_priming
from transport.upstreams.breaker import Breaker

RETRY_AFTER_SECONDS = 1  # what waits briefly comes back soon; a client's own backoff does the rest
CURSOR_LOST_STATUS = 410  # gone for good: another try with this cursor is of no use


@attrs.frozen
class StreamableHttpOptions:
    keepalive_comment_seconds: float = 15.0
    # What clients are told to wait before they reconnect. The SDKs give up after two failures in a row: twice this is
    # how long a restart may take before they do.
    reconnect_milliseconds: int = 2000
    # A client whose GET has its head can rely on being told what its server says: so the head waits for the server's
    # own, for so long. Servers that hold theirs back until there is an event would never let their own clients have it.
    listen_head_seconds_max: float = 5.0


class StreamableHttp:
    """Serves one MCP endpoint, in front of one server."""

    def __init__(
        self,
        runtime: Runtime,
        server_id: str,
        *,
        upstream_transport: str,
        options: StreamableHttpOptions = StreamableHttpOptions(),
        breaker: Breaker | None = None,
    ) -> None:
        """
        Args:
          breaker: of that server; while it is open, what would go there is refused at once. None: it never is.
        """
        self._breaker = breaker or Breaker()
        self._runtime = runtime
        self._server_id = server_id
        self._upstream_transport = upstream_transport
        self._options = options
        self._standalone: set[Reading] = set()

    async def handle(
        self,
        exchange: Exchange,
        principal: Principal,
        extra_headers: Headers = (),
        deadline: float = float("inf"),
    ) -> None:
        """Answer one request, as `Face` says."""
        await _Answering(self, exchange, extra_headers, principal, deadline).run()

    def end_standalone_streams(self) -> None:
        """Have clients that only listen reconnect elsewhere, or later."""
        for reading in list(self._standalone):
            reading.end()


class _Answering:
    """One exchange, being answered."""

    __slots__ = ("_deadline", "_exchange", "_extra", "_face", "_options", "_principal", "_runtime")

    def __init__(
        self,
        face: StreamableHttp,
        exchange: Exchange,
        extra_headers: Headers,
        principal: Principal,
        deadline: float,
    ) -> None:
        self._deadline = deadline
        self._face = face
        self._runtime = face._runtime
        self._options = face._options
        self._exchange = exchange
        self._extra = extra_headers
        self._principal = principal

    async def run(self) -> None:
        method = self._exchange.head.method
        try:
            if method == "POST":
                await self._post()
            elif method == "GET":
                await self._get()
            elif method == "DELETE":
                await self._delete()
            else:
                await self._reject(mcp.METHOD_NOT_ALLOWED)
        except SessionNotFound:
            await self._reject(mcp.SESSION_NOT_FOUND)

    async def _post(self) -> None:
        exchange = self._exchange
        body = await exchange.body()
        route = mcp.classify_post(exchange.head.headers, body)
        if not self._face._breaker.is_closed and await self._turned_away(route):
            return
        if isinstance(route, mcp.Request):
            await self._request(route)
        elif isinstance(route, mcp.Rejection):
            await self._reject(route)
        elif isinstance(route, mcp.Initialize):
            await self._initialize(route)
        elif isinstance(route, mcp.Batch):
            await self._batch(route)
        else:
            await self._pass_on(route)

    async def _turned_away(self, route: mcp.Posted) -> bool:
        """Refuse what would wait in vain for an upstream that is known to be away."""
        if isinstance(route, mcp.Rejection):
            return False
        if isinstance(route, mcp.Request) and self._is_ours(route):
            return False
        try:
            if not isinstance(route, mcp.Initialize):
                self._session(route.session_id).actor()
        except (SessionNotFound, Draining):
            return False  # what is to be said of that is said later; it costs no trial
        breaker = self._face._breaker
        seconds = breaker.admit()
        if not seconds:
            return False
        unavailable = say.NotDone(say.Problem.UNAVAILABLE, breaker.describe())
        asked = route.message if isinstance(route, mcp.Initialize | mcp.Request) else None
        request_id = asked.id if asked is not None else None
        await self._not_done(unavailable, request_id, retry_after_seconds=math.ceil(seconds))
        return True

    def _is_ours(self, route: mcp.Request) -> bool:
        """Whether it is answered here, however the upstream fares."""
        own_tools = self._runtime.own_tools
        return own_tools is not None and own_tools.answers(self._face._server_id, route.label)

    # ---- requests ----

    async def _request(self, route: mcp.Request) -> None:
        session = self._session(route.session_id)
        message = route.message

        def make(ticket: int) -> say.Command:
            return say.SendRequest(ticket, message, route.label, route.setup)

        try:
            outcome = await session.ask(make)
        except SessionNotFound:
            await self._reject(attrs.evolve(mcp.SESSION_NOT_FOUND, id=message.id))
            return
        except Draining as not_now:
            outcome = say.NotDone(say.Problem.UNAVAILABLE, str(not_now))
        if isinstance(outcome, say.Answered):
            await self._respond(200, outcome.message.raw, session.id)
        elif isinstance(outcome, say.Streaming):
            await self._stream_call(session, outcome.stream, message.id)
        elif isinstance(outcome, say.NotDone):
            await self._not_done(outcome, message.id)
        else:  # withdrawn: a cancelled request gets no answer, but its HTTP request needs an end
            await self._respond(202, b"", session.id)

    async def _stream_call(self, session: SessionHandle, stream_id: int, request_id: RequestId | None) -> None:
        try:
            reading = await session.read(None, stream=stream_id)
            primed = wants_priming(self._exchange.head.headers, await _revision(session))
        except (SessionUnavailable, CursorLost, Draining) as error:
            await self._not_done(say.NotDone(say.Problem.UNAVAILABLE, str(error)), request_id)
            return
        await self._stream(session, reading, primed_by=reading.event_id(0) if primed else None)

    async def _initialize(self, route: mcp.Initialize) -> None:
        message, head = route.message, self._exchange.head
        metadata = {name: head.headers[name] for name in ("user-agent", "origin") if name in head.headers}
        try:
            beginning = self._runtime.begin(
                server_id=self._face._server_id,
                principal=self._principal,
                client_transport="streamable-http",
                upstream_transport=self._face._upstream_transport,
                metadata=metadata,
            )
        except (TooManySessions, Draining) as full:
            await self._not_done(say.NotDone(say.Problem.OVERLOADED, str(full)), message.id)
            return
        outcome = await beginning.ask(lambda ticket: say.SendRequest(ticket, message, opens=True)).wait()
        if isinstance(outcome, say.Answered):
            # An id is minted for a session that exists, not for an attempt that the server has refused.
            await self._respond(200, outcome.message.raw, "" if outcome.message.is_error else beginning.session.id)
        else:
            assert isinstance(outcome, say.NotDone), "an opening is answered or refused"
            await self._not_done(outcome, message.id)

    # ---- notifications and answers ----

    async def _pass_on(self, route: mcp.Notification | mcp.Answer) -> None:
        session = self._session(route.session_id)
        try:
            outcome = await session.ask(lambda ticket: _command(route, ticket))
        except Draining as not_now:
            outcome = say.NotDone(say.Problem.UNAVAILABLE, str(not_now))
        await self._passed_on(session, outcome)

    async def _passed_on(self, session: SessionHandle, outcome: say.Outcome) -> None:
        if isinstance(outcome, say.NotDone):
            await self._not_done(outcome, None)
        else:
            await self._respond(202, b"", session.id)

    # ---- batches (2025-03-26) ----

    async def _batch(self, route: mcp.Batch) -> None:
        """Answer a batch: all answers on one stream, or 202 where nothing is to be answered."""
        session = self._session(route.session_id)
        try:
            if not route.revision_told and await _revision(session) != BATCH_REVISION:
                await self._reject(mcp.BATCH_REFUSED)
            elif route.is_answered:
                await self._answer_batch(session, route)
            else:
                makes = [functools.partial(_command, message) for message in route.messages]
                await self._passed_on(session, await session.ask_all(makes))
        except (SessionUnavailable, Draining) as not_now:
            await self._not_done(say.NotDone(say.Problem.UNAVAILABLE, str(not_now)), None)

    async def _answer_batch(self, session: SessionHandle, route: mcp.Batch) -> None:
        def make(ticket: int) -> say.Command:
            items = tuple(_command(message, ticket + n) for n, message in enumerate(route.messages, start=1))
            return say.SendBatch(ticket, items, route.refusals)

        outcome = await session.ask(make, further_tickets=len(route.messages))
        if isinstance(outcome, say.Streaming):
            await self._stream_call(session, outcome.stream, None)
        else:
            assert isinstance(outcome, say.NotDone), "a batch becomes a stream, or is refused"
            await self._not_done(outcome, None)

    # ---- streams ----

    async def _get(self) -> None:
        route = mcp.classify_get(self._exchange.head.headers)
        if isinstance(route, mcp.Rejection):
            await self._reject(route)
            return
        session = self._session(route.session_id)
        try:
            session.actor()  # an unknown session before a bad cursor: 404 tells the client more than 400
            cursor = None if route.last_event_id is None else EventId.read(session.id, route.last_event_id)
            reading = await session.read(cursor, unshown=True)
        except InvalidEventId as invalid:
            await self._reject(mcp.Rejection(400, jsonrpc.INVALID_REQUEST, f"Last-Event-ID: {invalid}"))
        except CursorLost as lost:
            await self._reject(mcp.Rejection(CURSOR_LOST_STATUS, jsonrpc.INVALID_REQUEST, f"Last-Event-ID: {lost}"))
        except (SessionUnavailable, Draining) as error:
            await self._not_done(say.NotDone(say.Problem.UNAVAILABLE, str(error)), None)
        else:
            await self._stream(session, reading, primed_by=None)

    async def _stream(self, session: SessionHandle, reading: Reading, *, primed_by: str | None) -> None:
        """Send a stream: what is kept, then each event as it becomes durable, until it ends or the client goes."""
        if reading.is_standalone:
            self._face._standalone.add(reading)
        try:
            await reading.wait_heard(self._options.listen_head_seconds_max)
            headers = (*sse.STREAM_HEADERS, _session_header(session.id), *self._extra)
            await self._exchange.start_stream(200, headers)
            if primed_by is not None:
                await self._exchange.send(sse.encode_priming(primed_by, self._options.reconnect_milliseconds))
            else:
                await self._exchange.send(sse.encode_retry(self._options.reconnect_milliseconds))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
                await self._send_events(reading)
                nursery.cancel_scope.cancel()
            await self._exchange.finish()
        finally:
            reading.close()
            self._face._standalone.discard(reading)

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        await self._exchange.wait_gone()
        scope.cancel()

    async def _send_events(self, reading: Reading) -> None:
        # Looked at in every round: a stream that always has something to send would else outlast its credential.
        while trio.current_time() < self._deadline:
            page: tuple[LogEntry, ...] | None = None
            silent_until = trio.current_time() + self._options.keepalive_comment_seconds
            try:
                with trio.move_on_at(min(silent_until, self._deadline)):
                    page = tuple(await reading.next_page())
            except (ReaderEnded, CursorLost, StoreUnavailable):
                break
            if page:
                frames = [sse.encode_message(entry.body, reading.event_id(entry.offset)) for entry in page]
                await self._exchange.send(b"".join(frames))
                reading.shown(page[-1].offset)
            elif page is not None:
                return
            elif trio.current_time() < self._deadline:
                await self._exchange.send(sse.KEEP_ALIVE)
        # Taken over, or out of reach for now, or the credential has expired: the client comes back with its cursor, and
        # is told then what there is to tell.
        await self._exchange.send(sse.encode_retry(self._options.reconnect_milliseconds))

    # ---- the end of a session ----

    async def _delete(self) -> None:
        route = mcp.classify_delete(self._exchange.head.headers)
        if isinstance(route, mcp.Rejection):
            await self._reject(route)
            return
        session = self._session(route.session_id)
        try:
            outcome = await session.ask(lambda ticket: say.Close(ticket, "client"))
        except Draining as not_now:
            outcome = say.NotDone(say.Problem.UNAVAILABLE, str(not_now))
        if isinstance(outcome, say.NotDone):
            await self._not_done(outcome, None)
        else:
            await self._exchange.respond(200, self._extra, b"")

    # ---- answers ----

    def _session(self, session_id: str) -> SessionHandle:
        # A session opened at one server's path does not exist at another's.
        return self._runtime.session(session_id, principal=self._principal, server_id=self._face._server_id)

    async def _respond(self, status: int, body: bytes, session_id: str) -> None:
        headers: Headers = (*JSON_HEADERS, *self._extra)
        if session_id:
            headers = (_session_header(session_id), *headers)
        await self._exchange.respond(status, headers, body)

    async def _reject(self, rejection: mcp.Rejection) -> None:
        headers = (*JSON_HEADERS, *rejection.headers, *self._extra)
        await self._exchange.respond(rejection.status, headers, rejection.body)

    async def _not_done(
        self, outcome: say.NotDone, request_id: RequestId | None, *, retry_after_seconds: int = RETRY_AFTER_SECONDS
    ) -> None:
        status, code = STATUSES[outcome.problem], mcp.PROBLEM_CODES[outcome.problem]
        headers: Headers = ((b"retry-after", b"%d" % retry_after_seconds),) if status == 503 else ()
        await self._reject(mcp.Rejection(status, code, outcome.detail, request_id, tuple(headers)))


STATUSES = {
    say.Problem.UNAVAILABLE: 503,
    say.Problem.OVERLOADED: 503,
    say.Problem.DUPLICATE: 400,
    say.Problem.UNINITIALIZED: 404,
    say.Problem.REFUSED: 502,
    say.Problem.LOST: 502,
}


def _command(
    message: mcp.Request | mcp.Notification | mcp.Answer, ticket: int
) -> say.SendRequest | say.SendNotification | say.SendAnswer:
    if isinstance(message, mcp.Request):
        return say.SendRequest(ticket, message.message, message.label, message.setup)
    if isinstance(message, mcp.Notification):
        return say.SendNotification(ticket, message.message, message.cancels, message.confirms)
    return say.SendAnswer(ticket, message.message)


def _session_header(session_id: str) -> tuple[bytes, bytes]:
    return (b"mcp-session-id", session_id.encode())


async def _revision(session: SessionHandle) -> str:
    handshake = (await session.state()).handshake
    return REVISION_WITHOUT_HEADER if handshake is None else negotiated_revision(handshake.result)
