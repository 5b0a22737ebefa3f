"""The messages of HTTP+SSE: each is a POST, answered with 202; what comes of it goes over the session's stream.

A request that is not taken is answered on the stream, too, wherever that says what happened without doubt: the SDK's
client gives up sending for good when a POST fails, and its caller waits for an answer that never comes. Over HTTP are
told: what names no session (404), what is no message (400, 415), a request whose id is in progress (400: an error on
the stream would answer the one in progress), notifications that could not be passed on, and what was interrupted.
"""

from __future__ import annotations

import attrs

from actors import jsonrpc
from actors import messages as say
from actors.handle import SessionHandle
from actors.jsonrpc import Message
from actors.registry import Draining, SessionNotFound, TooManySessions
from transport import mcp
from transport.clients.sse_front import RESTARTING, Opening, SseAnswering, session_of_query
from transport.exchange import Headers

_TEXT_HEADERS: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)
_REFUSALS_MAX = 8  # of handshakes, on their way to the stream; a client that tries more often is told over HTTP
_ONLY_POST = mcp.Rejection(405, jsonrpc.INVALID_REQUEST, "use POST for messages", headers=((b"allow", b"POST"),))
# What a request comes to that was not taken, and so is neither in progress nor answered otherwise.
_TOLD_ON_THE_STREAM = frozenset({say.Problem.UNAVAILABLE, say.Problem.OVERLOADED, say.Problem.REFUSED})


class SseMessage(SseAnswering):
    """The POST of one message, being answered."""

    async def run(self) -> None:
        """Answer the POST of a message."""
        head = self.exchange.head
        if head.method != "POST":
            await self.reject(_ONLY_POST)
            return
        body = await self.exchange.body()
        session_id = session_of_query(head.query)
        route = mcp.classify_sse_post(head.headers, session_id, body)
        opening = self.front.opening(session_id, self.principal)
        if isinstance(route, mcp.Rejection):
            await self.reject(route)
        elif opening is not None:
            await self._open(opening, route)
        elif isinstance(route, mcp.Notification | mcp.Answer):
            await self._pass_on(route)
        else:
            await self._request(self._session(session_id), route)

    async def _open(self, opening: Opening, route: mcp.Initialize | object) -> None:
        """Open the session with the client's handshake; a refusal, of whatever kind, is told on the stream."""
        if not isinstance(route, mcp.Initialize):
            await self.reject_request("the session is not open yet: send initialize, and wait for its answer")
            return
        if opening.asking:
            await self.reject_request("initialize is in progress in this session", route.message)
            return
        opening.asking = True
        try:
            outcome = await self._initialize(opening, route.message)
            if isinstance(outcome, say.Streaming):
                opening.opened = True
                self.front.openings.pop(opening.session_id, None)
        finally:
            opening.asking = False
            self.front.forget(opening)
            opening.tell()
        if opening.opened or self._tell_refusal(opening, route.message, outcome):
            await self._accepted()
        else:
            await self.not_done(outcome, route.message)

    async def _initialize(self, opening: Opening, message: Message) -> say.Outcome:
        front = self.front
        if front.breaker.blocked_seconds():  # it has opened since the stream, which was the trial, if one was due
            return say.NotDone(say.Problem.UNAVAILABLE, front.breaker.describe())
        try:
            beginning = front.runtime.begin(
                session_id=opening.session_id,
                server_id=front.server_id,
                principal=self.principal,
                ttl_seconds=front.options.away_seconds_max,
                client_transport="sse",
                upstream_transport=front.upstream_transport,
                metadata=opening.metadata,
            )
        except (TooManySessions, Draining) as full:
            return say.NotDone(say.Problem.OVERLOADED, str(full))
        outcome: say.Outcome = await beginning.ask(
            lambda ticket: say.SendRequest(ticket, message, opens=True, on_standalone=True)
        ).wait()
        return outcome

    def _tell_refusal(self, opening: Opening, message: Message, outcome: say.Outcome) -> bool:
        """Put what came of a handshake on the stream; nothing of it is kept, since there is no session."""
        if not opening.streams or len(opening.refusals) >= _REFUSALS_MAX:
            return False
        assert message.id is not None
        if isinstance(outcome, say.Answered):
            opening.refusals.append(outcome.message)
        else:
            assert isinstance(outcome, say.NotDone), "an opening is answered or refused"
            code = mcp.PROBLEM_CODES[outcome.problem]
            opening.refusals.append(jsonrpc.error(message.id, code, outcome.detail))
        opening.tell()
        return True

    async def _request(self, session: SessionHandle, route: mcp.Initialize | mcp.Request) -> None:
        message = route.message
        label, setup = (route.label, route.setup) if isinstance(route, mcp.Request) else ("", None)
        opens = isinstance(route, mcp.Initialize)  # which an open session refuses

        def make(ticket: int) -> say.Command:
            return say.SendRequest(ticket, message, label, setup, opens, on_standalone=True)

        try:
            outcome = await session.ask(make)
        except SessionNotFound:
            await self.reject(attrs.evolve(mcp.SESSION_NOT_FOUND, id=message.id))
            return
        except Draining:
            outcome = RESTARTING
        if isinstance(outcome, say.NotDone) and outcome.problem in _TOLD_ON_THE_STREAM:
            outcome = await self._refuse_on_stream(session, message, outcome)
        if isinstance(outcome, say.NotDone | say.Answered):
            await self.not_done(outcome, message)
        else:
            await self._accepted()

    async def _refuse_on_stream(self, session: SessionHandle, message: Message, refused: say.NotDone) -> say.Outcome:
        """Answer a request that was not taken with an error on the stream."""
        assert message.id is not None
        code = mcp.PROBLEM_CODES[refused.problem]
        error = jsonrpc.error(message.id, code, refused.detail)
        try:
            told = await session.ask(lambda ticket: say.Emit(ticket, error))
        except (SessionNotFound, Draining):
            return refused
        return refused if isinstance(told, say.NotDone) else told

    async def _pass_on(self, route: mcp.Notification | mcp.Answer) -> None:
        session = self._session(route.session_id)

        def make(ticket: int) -> say.Command:
            if isinstance(route, mcp.Answer):
                return say.SendAnswer(ticket, route.message)
            return say.SendNotification(ticket, route.message, route.cancels, route.confirms)

        try:
            outcome = await session.ask(make)
        except Draining:
            outcome = RESTARTING
        if isinstance(outcome, say.NotDone):
            await self.not_done(outcome, None)
        else:
            await self._accepted()

    def _session(self, session_id: str) -> SessionHandle:
        return self.front.session(session_id, self.principal)

    async def _accepted(self) -> None:
        await self.exchange.respond(202, (*_TEXT_HEADERS, *self.extra), b"Accepted")
