"""Stdio for one client: newline-delimited JSON-RPC in, the same out, and one session of a runtime between.

The other end of `transport/upstreams/stdio.py`: here we are the server that a client has started. All that makes a
session outlast its upstream (retrying, resuming, re-opening, errors for what is in doubt) is the session's; this file
reads lines, asks, and writes what comes of it. Rules:

- Every request of the client gets one answer or one error, whatever happens; but for those that it has withdrawn
  (MCP 2025-11-25, basic/utilities/cancellation).
- Bytes of messages pass unchanged. (Line breaks between tokens become spaces: a line is a message.)
- A message of the client is read when there is room for what it may cause. A client that does not read what it is told
  is not read from; nothing of it is dropped.
- When the input ends, what is in flight has a grace to be answered. Then the session is ended.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import aclosing, suppress

import attrs
import structlog
import trio

from actors import jsonrpc
from actors import messages as say
from actors.event_log import CursorLost
from actors.handle import SessionHandle, SessionUnavailable
from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId
from actors.mailbox import MailboxFull, OneShot
from actors.registry import Draining, SessionNotFound, TooManySessions
from actors.runtime import Runtime
from transport import mcp
from transport.upstreams.lines import LineSplitter, as_line

log = structlog.get_logger("outlast.stdio")

_READ_BYTES = 64 * 1024
_LAST_WORDS_SECONDS = 1.0  # to write the last errors; a client that does not read by then does not read
_CONFIRMATIONS_MAX = 3  # `initialized` changes nothing when it is heard twice, and much when it is not
_RETRY_SECONDS = 1.0  # between two looks at a stream that cannot be read now


class StdioEnd(enum.Enum):
    """Why serving the client has ended."""

    INPUT_ENDED = "input ended"  # as it should be: the client closes our stdin
    CLIENT_GONE = "client gone"  # nobody reads what we write
    STOPPED = "stopped"
    SESSION_LOST = "session lost"  # the session cannot go on; the client was told, and should start anew


@attrs.frozen
class StdioOptions:
    """The bounds of serving a client over stdio."""

    line_bytes_max: int = 16 * 1024 * 1024  # of a message; longer ones are refused
    grace_seconds: float = 10.0  # for calls in flight when the input has ended
    # Messages of the client being dealt with. More than a session takes of calls and posts together, so that a client's
    # answers and cancellations are read however many calls wait; beyond that nothing is read until something is done.
    in_progress_max: int = 512
    heard_seconds_max: float = 1.0  # for the server's own stream; until then nothing behind `initialized` is taken
    close_seconds_max: float = 5.0  # to end the session


class StdioClient:
    """Serves the one client at the other end of two byte streams."""

    def __init__(
        self,
        runtime: Runtime,
        server_id: str,
        source: trio.abc.ReceiveStream,
        sink: trio.abc.SendStream,
        *,
        upstream_transport: str,
        options: StdioOptions = StdioOptions(),
    ) -> None:
        """Args:
        runtime: where the session lives.
        source, sink: what the client writes and reads; they stay open.
        """
        self._runtime = runtime
        self._server_id = server_id
        self._source = source
        self._sink = sink
        self._upstream_transport = upstream_transport
        self._options = options
        self._session: SessionHandle | None = None
        self._is_confirmed = False
        self._end = StdioEnd.INPUT_ENDED
        self._receiving = trio.CancelScope()
        self._finished = False
        self._dealing = trio.CancelScope()
        self._calls: trio.Nursery | None = None
        self._standing: trio.Nursery | None = None
        self._unanswered: dict[RequestId, None] = {}
        self._withdrawn: set[RequestId] = set()
        self._room = trio.Semaphore(options.in_progress_max)
        self._writing = trio.Lock()
        self._may_write = True

    def __repr__(self) -> str:
        return f"<StdioClient with {len(self._unanswered)} requests in flight>"

    async def run(self) -> StdioEnd:
        """Serve until the input ends, the session is lost, or `stop`; then end the session.

        Cancellation: the session is not ended upstream.
        """
        async with trio.open_nursery() as self._standing:
            with self._dealing:
                async with trio.open_nursery() as self._calls:
                    await self._read()
                    self._dealing.deadline = trio.current_time() + self._options.grace_seconds
            self._standing.cancel_scope.cancel()
        with trio.move_on_after(_LAST_WORDS_SECONDS):
            await self._refuse_unanswered()
        await self._close_session()
        return self._end

    def stop(self) -> None:
        """End without a grace: whoever waits is told so."""
        self._finish(StdioEnd.STOPPED)
        self._dealing.cancel()

    def _finish(self, end: StdioEnd) -> None:
        """Receive nothing more; what was received is dealt with. The first cause is the one that counts."""
        if not self._finished:
            self._finished, self._end = True, end
        self._receiving.cancel()

    # ---- reading ----

    async def _read(self) -> None:
        lines, overlong = LineSplitter(self._options.line_bytes_max), 0
        while data := await self._receive():
            for line in lines.feed(data):
                await self._take_line(line)
            if lines.overlong > overlong:
                overlong = lines.overlong
                reason = f"a message is longer than {self._options.line_bytes_max} bytes"
                await self._say(jsonrpc.error(None, jsonrpc.INVALID_REQUEST, reason))
        await self._take_line(lines.rest())

    async def _receive(self) -> bytes:
        """Wait for bytes; none: there is nothing more to be read."""
        if self._finished:
            return b""
        with trio.CancelScope() as self._receiving:
            try:
                return bytes(await self._source.receive_some(_READ_BYTES))
            except trio.BrokenResourceError:
                pass  # a client that died; over a socket pair that is no end of file
        return b""

    async def _take_line(self, line: bytes) -> None:
        line = line.strip()
        if not line:
            return
        try:
            message = jsonrpc.parse(line)
        except InvalidMessage as invalid:
            await self._say(jsonrpc.error(invalid.id, invalid.code, invalid.reason))
            return
        if message.kind is Kind.REQUEST and message.method == "initialize":
            await self._initialize(message)
        elif self._session is None:
            await self._take_early(message)
        else:
            await self._pass_on(self._session, message)

    async def _take_early(self, message: Message) -> None:
        """Answer what comes before the handshake, when only pings are allowed (MCP 2025-11-25, lifecycle)."""
        if message.id is None or message.kind is not Kind.REQUEST:
            log.warning("message_before_the_handshake_dropped", method=message.method)
        elif message.method == "ping":
            await self._say(jsonrpc.result(message.id, {}))
        else:
            await self._say(jsonrpc.error(message.id, jsonrpc.INVALID_REQUEST, "send initialize first"))

    # ---- the handshake ----

    async def _initialize(self, message: Message) -> None:
        """Open the session. What comes behind is read when that is done: it could not be sent before."""
        assert message.id is not None
        if self._session is not None:
            reason = "this session is open already: start another process for another session"
            await self._say(jsonrpc.error(message.id, jsonrpc.INVALID_REQUEST, reason))
            return
        self._unanswered[message.id] = None
        try:
            beginning = self._runtime.begin(
                server_id=self._server_id, client_transport="stdio", upstream_transport=self._upstream_transport
            )
        except (TooManySessions, Draining) as full:
            await self._refuse(message.id, say.NotDone(say.Problem.UNAVAILABLE, str(full)))
            return
        outcome = await beginning.ask(lambda ticket: say.SendRequest(ticket, message, opens=True)).wait()
        if isinstance(outcome, say.Answered):
            if not outcome.message.is_error:
                self._session = beginning.session
            await self._answer(message.id, outcome.message)
        else:
            assert isinstance(outcome, say.NotDone), "an opening is answered or refused"
            await self._refuse(message.id, outcome)

    async def _confirm(self, session: SessionHandle, route: mcp.Notification) -> None:
        """Pass `initialized` on, before anything behind it; then hear what the upstream says unasked."""
        for _ in range(_CONFIRMATIONS_MAX):
            reply = self._ask(session, _command_of(route))
            outcome = await reply.wait()
            if not (isinstance(outcome, say.NotDone) and outcome.problem is say.Problem.LOST):
                break
        self._note_undelivered(route.message, outcome)
        assert self._standing is not None
        if not self._is_confirmed:
            self._is_confirmed = True
            with suppress(SessionNotFound, SessionUnavailable, Draining):  # which are told to what comes next
                await session.listen(self._options.heard_seconds_max)
            self._standing.start_soon(self._relay_unasked, session)

    # ---- messages in a session ----

    async def _pass_on(self, session: SessionHandle, message: Message) -> None:
        """Have the session take a message, in the order in which they came; what comes of it is another task's."""
        assert self._calls is not None
        route = mcp.classify_message(message)
        if isinstance(route, mcp.Notification) and route.confirms:
            await self._confirm(session, route)
            return
        if isinstance(route, mcp.Request) and message.id in self._unanswered:
            # Before the session says so: its refusal must not be taken for the answer to the first one.
            reason = f"a request with id {message.id!r} is in progress"
            await self._say(jsonrpc.error(message.id, jsonrpc.INVALID_REQUEST, reason))
            return
        if isinstance(route, mcp.Request):
            assert message.id is not None
            self._unanswered[message.id] = None
        await self._room.acquire()
        reply = self._ask(session, _command_of(route))
        if isinstance(route, mcp.Request):
            assert message.id is not None
            self._calls.start_soon(self._follow_call, session, message.id, reply)
        else:
            if isinstance(route, mcp.Notification) and route.cancels in self._unanswered:
                assert route.cancels is not None
                self._withdrawn.add(route.cancels)
            self._calls.start_soon(self._follow_post, message, reply)

    def _ask(self, session: SessionHandle, make: Callable[[int], say.Command]) -> OneShot[say.Outcome]:
        try:
            return session.actor().ask(make)
        except MailboxFull as full:
            refusal = say.NotDone(say.Problem.OVERLOADED, str(full))
        except SessionNotFound as gone:
            refusal = say.NotDone(say.Problem.UNINITIALIZED, str(gone))
        except Draining as ending:
            refusal = say.NotDone(say.Problem.UNAVAILABLE, str(ending))
        reply: OneShot[say.Outcome] = OneShot()
        reply.set(refusal)
        return reply

    async def _follow_post(self, message: Message, reply: OneShot[say.Outcome]) -> None:
        try:
            self._note_undelivered(message, await reply.wait())
        finally:
            self._room.release()

    def _note_undelivered(self, message: Message, outcome: say.Outcome) -> None:
        """Log it: over stdio there is nobody to tell what became of a notification."""
        if isinstance(outcome, say.NotDone):
            what = message.method or "answer"
            log.warning("message_not_delivered", what=what, problem=outcome.problem.value, why=outcome.detail)
            self._note_loss(outcome)

    async def _follow_call(self, session: SessionHandle, id: RequestId, reply: OneShot[say.Outcome]) -> None:
        try:
            outcome = await reply.wait()
            if isinstance(outcome, say.Answered):
                await self._answer(id, outcome.message)
            elif isinstance(outcome, say.Streaming):
                await self._relay_call(session, id, outcome.stream)
            elif isinstance(outcome, say.NotDone):
                await self._refuse(id, outcome)
            self._forget(id)  # withdrawn: there is no answer
        finally:
            self._room.release()

    async def _relay_call(self, session: SessionHandle, id: RequestId, stream: int) -> None:
        """Pass on what is said about a call, until it is answered."""
        why = "its stream ended without an answer"
        try:
            async with aclosing(session.events(stream=stream)) as events:
                async for event in events:
                    if event.message.kind is Kind.RESPONSE:
                        await self._answer(id, event.message)
                        return
                    await self._say(event.message)
        except (CursorLost, SessionNotFound, SessionUnavailable, Draining) as error:
            why = str(error)
        if id not in self._withdrawn:
            reason = f"the answer is lost ({why}); the request may have been carried out, and was not run again"
            await self._answer(id, jsonrpc.error(id, jsonrpc.OUTCOME_UNKNOWN, reason))

    async def _relay_unasked(self, session: SessionHandle) -> None:
        """Pass on what the upstream says about no call, for as long as the session lives."""
        after: str | None = None
        while True:
            try:
                async with aclosing(session.events(after)) as events:
                    async for event in events:
                        await self._say(event.message)
                        after = event.id
                return
            except CursorLost:
                log.warning("messages_dropped", why="the client does not read as fast as the upstream speaks")
                after = None  # what is still kept comes behind what was dropped
            except (SessionUnavailable, Draining):
                await trio.sleep(_RETRY_SECONDS)
            except SessionNotFound as gone:
                self._note_loss(say.NotDone(say.Problem.UNINITIALIZED, str(gone)))
                return

    # ---- answers ----

    async def _answer(self, id: RequestId, message: Message) -> None:
        await self._say(message)
        self._forget(id)

    async def _refuse(self, id: RequestId, outcome: say.NotDone) -> None:
        await self._answer(id, jsonrpc.error(id, mcp.PROBLEM_CODES[outcome.problem], outcome.detail))
        self._note_loss(outcome)

    def _forget(self, id: RequestId) -> None:
        self._unanswered.pop(id, None)
        self._withdrawn.discard(id)

    def _note_loss(self, outcome: say.NotDone) -> None:
        """End once the session can do nothing more: only a new one can, and that is the client's to open."""
        if outcome.problem is say.Problem.UNINITIALIZED:
            log.error("session_lost", why=outcome.detail)
            self._finish(StdioEnd.SESSION_LOST)

    async def _say(self, message: Message) -> None:
        """Write a message. One that was cut off is the last: what comes behind it would be read as part of it."""
        async with self._writing:
            if not self._may_write:
                return
            self._may_write = False
            try:
                await self._sink.send_all(as_line(message.raw))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._finish(StdioEnd.CLIENT_GONE)
                self._dealing.cancel()
            else:
                self._may_write = True

    # ---- the end ----

    async def _refuse_unanswered(self) -> None:
        """Tell of what is still in flight: nobody will hear its answer any more."""
        reason = f"{self._end.value} before the answer came; it may have been carried out, and is not run again"
        for id in list(self._unanswered):
            if id not in self._withdrawn:
                await self._answer(id, jsonrpc.error(id, jsonrpc.OUTCOME_UNKNOWN, reason))

    async def _close_session(self) -> None:
        """End the session, here and upstream: it was opened for this client, and no other can go on with it."""
        if self._session is None or self._end is StdioEnd.SESSION_LOST:
            return
        with trio.move_on_after(self._options.close_seconds_max):
            try:
                await self._session.close()
            except (SessionNotFound, SessionUnavailable, Draining) as error:
                log.warning("session_not_ended", why=str(error))


def _command_of(route: mcp.Request | mcp.Notification | mcp.Answer) -> Callable[[int], say.Command]:
    def make(ticket: int) -> say.Command:
        match route:
            case mcp.Request(message=message, label=label, setup=setup):
                return say.SendRequest(ticket, message, label, setup)
            case mcp.Notification(message=message, cancels=cancels, confirms=confirms):
                return say.SendNotification(ticket, message, cancels, confirms)
            case mcp.Answer(message=message):
                return say.SendAnswer(ticket, message)

    return make
