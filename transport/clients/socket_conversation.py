"""One WebSocket connection of a client: a conversation in one session, and who speaks in which session now.

A conversation has two tasks. One takes the client's messages and puts each into the session's mailbox before it
receives the next, so they stay in order. The other pulls the session's stream by cursor and sends it. A message that
was not done is answered at once, beside the stream; everything else that the client hears is an event.

An older conversation in the same session takes no more messages from the instant in which a newer one takes over. So
what the newer one is told of the session (`greeting_frame`) is not overtaken by what the older one had still in hand.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NoReturn

import attrs
import trio

from actors import jsonrpc
from actors import messages as say
from actors.event_log import CursorLost, ReaderEnded, SessionLeft
from actors.handle import Reading, SessionHandle, SessionUnavailable
from actors.ids import (
    SESSION_ID_RANDOM_BYTES,
    STANDALONE_STREAM,
    EventId,
    InvalidEventId,
    Principal,
    SessionId,
    mint_session_id,
)
from actors.jsonrpc import Kind, Message
from actors.mailbox import MailboxFull, OneShot
from actors.registry import Draining, SessionNotFound, TooManySessions
from actors.runtime import Runtime
from actors.state import SessionState
from persistence.records import LogEntry
from persistence.store import StoreUnavailable
from transport import mcp
from transport.clients import socket_frames as frames
from transport.socket_exchange import (
    NORMAL,
    SERVICE_RESTART,
    TRY_AGAIN_LATER,
    UNSUPPORTED_DATA,
    SocketExchange,
    SocketGone,
)
from transport.upstreams.breaker import Breaker

TRANSPORT = "websocket"  # as sessions keep it

# Close codes of our own (RFC 6455, 7.4.2 leaves 4000 to 4999 to applications); the HTTP statuses they remind of.
BAD_EVENT_ID = 4400
CREDENTIAL_EXPIRED = 4401
SESSION_GONE = 4404
NOT_INITIALIZED = 4408
TAKEN_OVER = 4409
EVENTS_GONE = 4410

RESTARTING = "the gateway is restarting; come back in a moment"

_RETURN_POLL_SECONDS = 0.25


@attrs.frozen
class WebSocketOptions:
    """Bounds of one connection; what happens beyond each is named with it."""

    initialize_seconds_max: float = 30.0  # for the first message; closed with 4408
    messages_in_hand_max: int = 128  # taken and not settled (a session takes 96); more: the client is not read
    heard_seconds_max: float = 1.0  # for the server's own stream; until then the second message is not taken
    look_seconds: float = 15.0  # how often a connection on which nothing happens looks whether its session is well
    return_seconds_max: float = 10.0  # for a session that left memory to come back; closed with 1013


class Conversations:
    """All conversations with clients of one server."""

    def __init__(
        self, runtime: Runtime, server_id: str, upstream_transport: str, options: WebSocketOptions, breaker: Breaker
    ) -> None:
        self.breaker = breaker
        self.runtime = runtime
        self.server_id = server_id
        self.upstream_transport = upstream_transport
        self.options = options
        self.draining = False
        self._open: set[Conversation] = set()
        self._by_session: dict[str, Conversation] = {}

    def join(self, conversation: Conversation) -> None:
        """Note that a conversation has begun."""
        self._open.add(conversation)

    def take_over(self, session_id: str, conversation: Conversation) -> None:
        """Note who speaks in this session now; whoever did so before takes no more messages, from this instant."""
        older = self._by_session.get(session_id)
        self._by_session[session_id] = conversation
        if older is not None:
            older.end(TAKEN_OVER, "a newer connection has taken over")

    def leave(self, session_id: str, conversation: Conversation) -> None:
        """Forget a conversation that is over; `session_id` is "" where it had no session."""
        self._open.discard(conversation)
        if self._by_session.get(session_id) is conversation:
            del self._by_session[session_id]

    def drain(self) -> None:
        """Let those that wait for nothing end now, and the others behind their last answer."""
        self.draining = True
        for conversation in list(self._open):
            conversation.end_if_drained()


class Conversation:
    """One connection. A task takes the client's messages, another sends the session's stream."""

    def __init__(
        self,
        all_of_them: Conversations,
        socket: SocketExchange,
        principal: Principal,
        deadline: float,
        *,
        with_ids: bool,
    ) -> None:
        self._all = all_of_them
        self._socket = socket
        self._principal = principal
        self._with_ids = with_ids
        self._scope = trio.CancelScope(deadline=deadline)
        self._closing: tuple[int, str] | None = None
        self._is_opening = False
        self._session: SessionHandle | None = None
        self._reading: Reading | None = None
        self._cursor: EventId | None = None  # behind which to read; None: behind what was last shown to a client
        self._sent_offset = 0
        self._in_hand = trio.Semaphore(all_of_them.options.messages_in_hand_max)

    async def run(self, subprotocol: str, resume: frames.Resume | None) -> None:
        """Talk until one side has enough.

        Raises:
          SocketGone
        """
        session_id = mint_session_id(secrets.token_bytes(SESSION_ID_RANDOM_BYTES))
        told = () if resume is not None else ((mcp.SESSION_HEADER.encode(), session_id.encode()),)
        await self._socket.accept(subprotocol, told)
        self._all.join(self)
        try:
            with self._scope:
                if resume is not None:
                    await self._return_to(resume)
                else:
                    await self._open(session_id)
                await self._talk(resumed=resume is not None)
        except* SocketGone:
            pass
        finally:
            self._all.leave("" if self._session is None else self._session.id, self)
            if self._reading is not None:
                self._reading.close()
        if self._scope.cancelled_caught:
            expired = (CREDENTIAL_EXPIRED, "the credential has expired; come back with a fresh one")
            await self._socket.close(*(self._closing or expired))

    def end(self, code: int, reason: str) -> None:
        """Take and send nothing more, and close; of several reasons the first is the one that is said."""
        if self._closing is None:
            self._closing = (code, reason)
            self._scope.cancel()

    def end_if_drained(self) -> None:
        """Where the gateway stops: close if the client waits for nothing, and has been sent all that there is.

        An opening has an answer like any other request: the session, or why there is none.
        """
        if not self._all.draining or self._is_opening:
            return
        actor = None if self._session is None else self._all.runtime.registry.resident(self._session.id)
        if actor is not None and actor.is_loaded:
            stream = actor.stream(STANDALONE_STREAM)
            if actor.state.calls or (stream is not None and stream.last_offset > self._sent_offset):
                return
        self.end(SERVICE_RESTART, RESTARTING)

    async def _stop(self, code: int, reason: str) -> NoReturn:
        self.end(code, reason)
        await trio.sleep_forever()  # until the cancellation comes: at once
        raise AssertionError("a conversation that has ended went on")

    # ---- beginning ----

    async def _open(self, session_id: SessionId) -> None:
        """Wait for the client's `initialize`, and open a session with it."""
        seconds = self._all.options.initialize_seconds_max
        route: mcp.Initialize | None = None
        with trio.move_on_after(seconds):
            route = await self._initialize()
        if route is None:
            await self._stop(NOT_INITIALIZED, f"no initialize within {seconds:g} s")
        self._is_opening = True
        outcome = await self._ask_to_open(session_id, route.message)
        if isinstance(outcome, say.NotDone):
            await self._send(_refusal(route.message, outcome))
            await self._stop(self._later, "the session could not be opened now")
        assert isinstance(outcome, say.Answered), "an opening is answered or refused"
        if outcome.message.is_error:
            await self._send(outcome.message.raw)
            await self._stop(NORMAL, "the session was not opened")
        self._session = self._all.runtime.session(session_id, principal=self._principal)
        self._all.take_over(session_id, self)
        if self._with_ids:
            await self._socket.send(frames.greeting_frame(await self._state(self._session), 0))
        await self._send(outcome.message.raw)
        self._is_opening = False
        self.end_if_drained()

    async def _initialize(self) -> mcp.Initialize:
        while True:
            route = mcp.classify_socket_message(await self._receive(), "")
            if isinstance(route, mcp.Initialize):
                return route
            assert isinstance(route, mcp.Rejection), "nothing else is let through before"
            await self._send(route.body)

    async def _ask_to_open(self, session_id: SessionId, message: Message) -> say.Outcome:
        everyone, headers = self._all, self._socket.head.headers
        if everyone.breaker.blocked_seconds():  # it has opened since the upgrade, which was the trial, if one was due
            return say.NotDone(say.Problem.UNAVAILABLE, everyone.breaker.describe())
        try:
            beginning = everyone.runtime.begin(
                server_id=everyone.server_id,
                principal=self._principal,
                client_transport=TRANSPORT,
                upstream_transport=everyone.upstream_transport,
                metadata={name: headers[name] for name in ("user-agent", "origin") if name in headers},
                session_id=session_id,
            )
        except (TooManySessions, Draining) as full:
            return say.NotDone(say.Problem.OVERLOADED, str(full))
        asked: OneShot[say.Outcome] = beginning.ask(lambda ticket: say.SendRequest(ticket, message, opens=True))
        return await asked.wait()

    async def _return_to(self, resume: frames.Resume) -> None:
        """Find the session that the client names, and take it over."""
        everyone = self._all
        session = everyone.runtime.session(resume.session_id, principal=self._principal, server_id=everyone.server_id)
        try:
            session.actor()  # an unknown session before a bad event id, as over HTTP
            cursor = None if resume.last_event_id is None else EventId.read(session.id, resume.last_event_id)
        except SessionNotFound:
            await self._stop(SESSION_GONE, "no such session")
        except InvalidEventId as invalid:
            await self._stop(BAD_EVENT_ID, f"last_event_id: {invalid}")
        except Draining as later:
            await self._stop(self._later, str(later))
        state = await self._state(session)
        if state.client_transport != TRANSPORT:
            await self._stop(SESSION_GONE, f"this session was opened over {state.client_transport}: go on there")
        if cursor is not None and cursor.stream != STANDALONE_STREAM:
            await self._stop(BAD_EVENT_ID, "last_event_id: not an event of the session's own stream")
        self._session, self._cursor = session, cursor
        everyone.take_over(session.id, self)

    async def _state(self, session: SessionHandle) -> SessionState:
        try:
            return await session.state()
        except SessionNotFound:
            await self._stop(SESSION_GONE, "the session has ended")
        except (SessionUnavailable, Draining) as later:
            await self._stop(self._later, str(later))

    @property
    def _later(self) -> int:
        return SERVICE_RESTART if self._all.draining else TRY_AGAIN_LATER

    # ---- what the client says ----

    async def _talk(self, *, resumed: bool) -> None:
        async with trio.open_nursery() as nursery:
            if resumed:
                nursery.start_soon(self._send_stream, True)
            await self._take_one(nursery)
            if not resumed:
                # Behind the client's confirmation, which the upstream is to hear before it is asked to speak; before
                # all the rest, what the upstream says of which is to be heard.
                await nursery.start(self._send_stream, False)
            while True:
                await self._take_one(nursery)

    async def _receive(self) -> bytes:
        message = await self._socket.receive()
        if isinstance(message, bytes):
            self.end(UNSUPPORTED_DATA, "MCP is spoken in text messages")
        if self._closing is not None or isinstance(message, bytes):
            await trio.sleep_forever()  # not to be taken any more: the cancellation comes at once
        assert isinstance(message, str)
        return message.encode()

    async def _take_one(self, nursery: trio.Nursery) -> None:
        """Take one message: put it into the session's mailbox before the next is received."""
        raw = await self._receive()
        await self._in_hand.acquire()
        assert self._session is not None
        route = mcp.classify_socket_message(raw, self._session.id)
        if isinstance(route, mcp.Rejection):
            self._in_hand.release()
            await self._send(route.body)
            return
        assert not isinstance(route, mcp.Initialize), "one session for each connection"
        nursery.start_soon(self._settle, route.message, self._ask(self._session, route))

    def _ask(
        self, session: SessionHandle, route: mcp.Request | mcp.Notification | mcp.Answer
    ) -> OneShot[say.Outcome] | say.NotDone:
        if self._closing is not None:  # taken over while it waited for its turn
            return say.NotDone(say.Problem.UNAVAILABLE, "the connection is closing")
        if self._all.draining and isinstance(route, mcp.Request):
            return say.NotDone(say.Problem.UNAVAILABLE, RESTARTING)
        try:
            return session.actor().ask(lambda ticket: _command(route, ticket))
        except MailboxFull as full:
            return say.NotDone(say.Problem.OVERLOADED, str(full))
        except SessionNotFound:
            return say.NotDone(say.Problem.UNINITIALIZED, "the session has ended")
        except Draining as later:
            return say.NotDone(say.Problem.UNAVAILABLE, str(later))

    async def _settle(self, message: Message, reply: OneShot[say.Outcome] | say.NotDone) -> None:
        """Wait for what became of a message; a client hears of it only if it was not done."""
        try:
            outcome = reply if isinstance(reply, say.NotDone) else await reply.wait()
            if not isinstance(outcome, say.NotDone):
                return
            if outcome.problem is say.Problem.UNINITIALIZED:
                await self._stop(SESSION_GONE, outcome.detail)
            await self._send(_refusal(message, outcome))
        finally:
            self._in_hand.release()

    # ---- what the client is sent ----

    async def _send(self, message: bytes) -> None:
        """Send a message that is no event: it is not kept, and not sent again."""
        await self._socket.send(frames.message_frame(message) if self._with_ids else message.decode())

    async def _send_stream(
        self, greets: bool, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Send the session's stream: what is kept, then each event as it becomes durable."""
        assert self._session is not None
        while True:
            reading = self._reading = await self._attach(self._session, self._cursor)
            self._sent_offset = reading.position.offset
            await reading.wait_heard(self._all.options.heard_seconds_max)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            if greets and self._with_ids:
                state = await self._state(self._session)
                await self._socket.send(frames.greeting_frame(state, self._sent_offset))
            greets = False
            try:
                await self._send_pages(reading)
            except SessionLeft:  # a crash, or the gateway stops: the client need not notice the former
                self._cursor = reading.position if self._sent_offset else self._cursor
            finally:
                reading.close()

    async def _attach(self, session: SessionHandle, cursor: EventId | None) -> Reading:  # noqa: RET503 - `_stop` never returns
        with trio.move_on_after(self._all.options.return_seconds_max):
            while True:
                try:
                    return await session.read(cursor, unshown=True)
                except SessionUnavailable:
                    await trio.sleep(_RETURN_POLL_SECONDS)
                except SessionNotFound:
                    await self._stop(SESSION_GONE, "the session has ended")
                except CursorLost as lost:
                    await self._stop(EVENTS_GONE, f"last_event_id: {lost}")
                except Draining as later:
                    await self._stop(self._later, str(later))
        await self._stop(TRY_AGAIN_LATER, "the session cannot be read now")

    async def _send_pages(self, reading: Reading) -> None:
        try:
            while True:
                page: Sequence[LogEntry] | None = None
                with trio.move_on_after(self._all.options.look_seconds):
                    page = await reading.next_page()
                if page is None:
                    await self._check_alive()
                elif page:
                    await self._send_page(reading, page)
                    self.end_if_drained()
                else:
                    await self._stop(SESSION_GONE, "the session has ended")
        except SessionLeft:
            raise
        except ReaderEnded:
            await self._stop(TAKEN_OVER, "another connection reads this session's stream now")
        except CursorLost as lost:
            await self._stop(EVENTS_GONE, str(lost))
        except StoreUnavailable as error:
            await self._stop(TRY_AGAIN_LATER, f"the stream cannot be read: {error}")

    async def _send_page(self, reading: Reading, page: Sequence[LogEntry]) -> None:
        try:
            for entry in page:
                text = entry.body.decode()
                if self._with_ids:
                    text = frames.event_frame(reading.event_id(entry.offset), entry.body)
                await self._socket.send(text)
                self._sent_offset = entry.offset
        finally:
            reading.shown(self._sent_offset)

    async def _check_alive(self) -> None:
        """Close where the session has failed: nobody would say so to a client that only listens."""
        assert self._session is not None
        actor = self._all.runtime.registry.resident(self._session.id)
        if actor is not None and actor.is_loaded and actor.state.failure:
            await self._stop(SESSION_GONE, f"the session cannot go on ({actor.state.failure})")


def _command(route: mcp.Request | mcp.Notification | mcp.Answer, ticket: int) -> say.Command:
    match route:
        case mcp.Request(message=message, label=label, setup=setup):
            return say.SendRequest(ticket, message, label, setup, on_standalone=True)
        case mcp.Notification(message=message, cancels=cancels, confirms=confirms):
            return say.SendNotification(ticket, message, cancels, confirms)
        case mcp.Answer(message=message):
            return say.SendAnswer(ticket, message)


def _refusal(message: Message, outcome: say.NotDone) -> bytes:
    """Say that a message was not passed on: to its id, or to none where it asked for no answer."""
    request_id = message.id if message.kind is Kind.REQUEST else None
    return jsonrpc.error(request_id, _CODES[outcome.problem], outcome.detail).raw


_CODES = {
    say.Problem.UNAVAILABLE: jsonrpc.UPSTREAM_UNAVAILABLE,
    say.Problem.OVERLOADED: jsonrpc.OVERLOADED,
    say.Problem.DUPLICATE: jsonrpc.INVALID_REQUEST,
    say.Problem.UNINITIALIZED: jsonrpc.SESSION_NOT_FOUND,
    say.Problem.REFUSED: jsonrpc.INTERNAL_ERROR,
    say.Problem.LOST: jsonrpc.OUTCOME_UNKNOWN,
}
