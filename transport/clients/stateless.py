"""MCP 2026-07-28 for clients: every POST stands for itself, is relayed, and leaves nothing behind.

No session is looked for or made, nothing is stored and nothing is cached, so no answer can reach anybody but who asked.
A call is answered as JSON if its answer comes first, else as an event stream that ends with it. Closing the connection
is how a client cancels: the server is told at once. A broken stream can not be resumed; its client asks again, or not:
that is for the client to know, and never done here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import attrs
import trio

from actors import jsonrpc
from actors.analytics import ServerUsage
from actors.ids import Principal
from actors.jsonrpc import Message, RequestId
from actors.link import Failure
from actors.own_tools import CALL, LIST, OwnTools
from transport import modern, sse
from transport.exchange import ClientGone, Exchange, Headers
from transport.handler import JSON_HEADERS
from transport.mcp import Rejection
from transport.modern import ModernRequest
from transport.upstreams.era import Era, EraUnknown
from transport.upstreams.stateless import Answer, NoAnswer, ServerUnavailable, StatelessCall, StatelessUpstream

RETRY_AFTER_SECONDS = 1
# Most calls are over by then. To watch for the client's end meanwhile would cost each of them a task.
_FIRST_LOOK_SECONDS = 0.05
_PING = sse.encode_comment("ping")
_RESTARTING = "the gateway is restarting; try again in a moment"
_QUIET_POLL_SECONDS = 0.05  # a stop may take this much longer; watching every call for it would cost each call


@attrs.frozen
class StatelessOptions:
    """Bounds of one server's face; counts are of requests in flight."""

    calls_max: int = 1024  # more: 503. Each may hold one connection to the server, or a place on its one wire
    listening_max: int = 8192  # `subscriptions/listen`, one for each client that listens; more: 503
    call_seconds_max: float = 3600.0  # without a word about a call; then it is cancelled, and ends with an error
    keepalive_comment_seconds: float = 15.0


class Stateless:
    """Serves one MCP endpoint, in front of one server. Implements `transport.face.Face`."""

    def __init__(
        self,
        upstream: StatelessUpstream,
        options: StatelessOptions = StatelessOptions(),
        *,
        server_id: str = "",
        own_tools: OwnTools | None = None,
        usage: ServerUsage | None = None,
    ) -> None:
        """
        Args:
          server_id: which server this is, for `own_tools`.
          own_tools: what is answered here and not by the server; None: nothing.
          usage: where requests are counted when they have ended; None: for nobody.
        """
        self._upstream = upstream
        self._usage = usage or ServerUsage()
        self._server_id = server_id
        self._own_tools = own_tools
        self._options = options
        self._draining = False
        self._calls: set[_Call] = set()
        self._listening: set[_Call] = set()

    async def handle(
        self,
        exchange: Exchange,
        principal: Principal,
        extra_headers: Headers = (),
        deadline: float = math.inf,
    ) -> None:
        """Answer one request, as `Face` says. Nothing here depends on the principal, since nothing is kept.

        At the deadline, listening ends in order. A call goes on: it was allowed when it was made, and its answer could
        not be had later.
        """
        if exchange.head.method != "POST":
            await _reject(exchange, modern.METHOD_NOT_ALLOWED, extra_headers)
            return
        route = modern.classify(exchange.head.headers, await exchange.body())
        if isinstance(route, ModernRequest):
            await self._relay(exchange, route, extra_headers, deadline)
        elif isinstance(route, Rejection):
            await _reject(exchange, route, extra_headers)
        else:
            await exchange.respond(202, extra_headers, b"")

    async def _relay(self, exchange: Exchange, request: ModernRequest, extra: Headers, deadline: float) -> None:
        refusal = self._refusal(request)
        if refusal is not None:
            await _reject(exchange, refusal, extra)
            return
        call = _Call(request, exchange, extra, self._options, deadline)
        group = self._listening if request.listens else self._calls
        group.add(call)
        began = trio.current_time()
        try:
            await self._ask(call)
        finally:
            group.discard(call)
            if not request.listens:  # that lasts as long as its client likes
                is_tool = request.message.method == "tools/call"
                self._usage.note(trio.current_time() - began, failed=call.failed, tool=is_tool)

    def _refusal(self, request: ModernRequest) -> Rejection | None:
        if self._draining:
            return _unavailable(_RESTARTING, request.id)
        if request.listens:
            count, bound, what = len(self._listening), self._options.listening_max, "clients listen"
        else:
            count, bound, what = len(self._calls), self._options.calls_max, "requests are in flight"
        if count < bound:
            return None
        return _unavailable(f"{count} {what} already", request.id, jsonrpc.OVERLOADED)

    async def _ask(self, call: _Call) -> None:
        era = self._upstream.era
        try:
            if (era.known or await era.find()) is not Era.MODERN:
                await call.reject(modern.not_spoken(call.request.id))
                return
            if await self._answered_ourselves(call):
                return
            call.way = await self._upstream.send(call.request)
        except (EraUnknown, ServerUnavailable) as error:
            await call.reject(_unavailable(str(error), call.request.id))
            return
        try:
            if self._draining and call.request.listens:
                call.end_listening()
            await call.carry()
        finally:
            call.way.cancel()

    async def _answered_ourselves(self, call: _Call) -> bool:
        """Answer a call that is for us; and have the server's list of tools get ours."""
        own_tools, message = self._own_tools, call.request.message
        if own_tools is None:
            return False
        if message.method == LIST:
            call.amend = functools.partial(own_tools.listed, self._server_id)
            return False
        if message.method != CALL or not own_tools.answers(self._server_id, call.request.name):
            return False
        await call.answer(await own_tools.answer(message, self._server_id, None))
        return True

    def end_standalone_streams(self) -> None:
        """Take no new requests, and end what clients listen to in order (basic/patterns/subscriptions)."""
        self._draining = True
        for call in tuple(self._listening):
            call.end_listening()

    async def wait_quiet(self) -> None:
        """Wait until nobody waits for an answer any more. Cancellation: safe."""
        while self._calls or self._listening:  # noqa: ASYNC110
            await trio.sleep(_QUIET_POLL_SECONDS)

    def cut(self) -> None:
        """Answer every call that is still in flight by an error: the gateway can not wait any longer."""
        for call in tuple(self._calls):
            call.give_up()


class _Call:
    """One request, from its arrival to its answer."""

    __slots__ = (
        "_answered_by_us",
        "_exchange",
        "_extra",
        "_listens_until",
        "_options",
        "_streaming",
        "amend",
        "request",
        "way",
    )

    def __init__(
        self, request: ModernRequest, exchange: Exchange, extra: Headers, options: StatelessOptions, deadline: float
    ) -> None:
        self.request = request
        self._listens_until = deadline if request.listens else math.inf
        self.way: StatelessCall | None = None  # once it was sent
        self.amend: Callable[[Message], Message] | None = None  # what is to be done to its answer, if anything
        self._answered_by_us = False
        self._exchange = exchange
        self._extra = extra
        self._options = options
        self._streaming = False

    def end_listening(self) -> None:
        if self.way is not None:
            self.way.finish(Answer(modern.listening_ended(self.request.id), 200))

    def give_up(self) -> None:
        if self.way is not None:
            self.way.finish(NoAnswer(Failure.OUTCOME_UNKNOWN, _RESTARTING))

    @property
    def failed(self) -> bool:
        """Whether it got no answer, or an error; cancelling it is no failure."""
        end = None if self.way is None else self.way.end
        if self.way is None:
            return not self._answered_by_us
        if isinstance(end, NoAnswer):
            return True
        return isinstance(end, Answer) and end.message.is_error

    async def answer(self, message: Message) -> None:
        """Give an answer of our own."""
        self._answered_by_us = True
        await self._answer_whole(Answer(message, 200))

    async def reject(self, rejection: Rejection) -> None:
        await _reject(self._exchange, rejection, self._extra)

    async def carry(self) -> None:
        """Pass on what comes back, until its end or until the client has gone."""
        way = self.way
        assert way is not None
        with trio.move_on_after(_FIRST_LOOK_SECONDS):
            await way.wait()
        if way.end is not None and not way.has_messages:
            await self._answer_whole(way.end)
            return
        gone = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            await self._carry_on(way)
            gone = False
            nursery.cancel_scope.cancel()
        if gone:
            raise ClientGone("the client has closed the connection, which cancels its request")

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        await self._exchange.wait_gone()
        scope.cancel()

    async def _carry_on(self, way: StatelessCall) -> None:
        heard_at = trio.current_time()
        patience_seconds = math.inf if self.request.listens else self._options.call_seconds_max
        while True:
            comment_at = trio.current_time() + self._options.keepalive_comment_seconds
            with trio.move_on_at(min(comment_at, heard_at + patience_seconds, self._listens_until)):
                await way.wait()
            if trio.current_time() >= self._listens_until:  # the client comes back with a fresh credential
                self.end_listening()
            messages, end = way.take(), way.end
            if messages:
                heard_at = trio.current_time()
                await self._send([sse.encode_message(raw) for raw in messages])
            if end is not None and not way.has_messages:
                await self._end(end)
                return
            if not messages and trio.current_time() - heard_at >= patience_seconds:
                await self._end(Answer(_timed_out(self.request.id, patience_seconds), 200))
                return
            if not messages:  # a stream cannot have the answer's status any more, which matters less than to last
                await self._send([_PING])

    async def _end(self, end: Answer | NoAnswer) -> None:
        if not self._streaming:
            await self._answer_whole(end)
        elif isinstance(end, Answer):
            await self._finish(self._amended(end.message))
        else:
            _, code = _STATUSES[end.failure]
            await self._finish(jsonrpc.error(self.request.id, code, end.detail))

    def _amended(self, message: Message) -> Message:
        return message if self.amend is None else self.amend(message)

    async def _send(self, frames: list[bytes]) -> None:
        if not self._streaming:
            self._streaming = True
            await self._exchange.start_stream(200, (*sse.STREAM_HEADERS, *self._extra))
        await self._exchange.send(b"".join(frames))

    async def _finish(self, last: Message) -> None:
        await self._send([sse.encode_message(last.raw)])
        await self._exchange.finish()

    async def _answer_whole(self, end: Answer | NoAnswer) -> None:
        if isinstance(end, Answer):
            raw = self._amended(end.message).raw
            await self._exchange.respond(end.status, (*JSON_HEADERS, *self._extra), raw)
            return
        status, code = _STATUSES[end.failure]
        if status == 503:
            await self.reject(_unavailable(end.detail, self.request.id))
        else:
            await self.reject(Rejection(status, code, end.detail, self.request.id))


# As sessions say it. An answer that is lost or cannot be read is told with 200: proxies may send again what failed with
# a 502.
_STATUSES = {
    Failure.NOT_SENT: (503, jsonrpc.UPSTREAM_UNAVAILABLE),
    Failure.OUTCOME_UNKNOWN: (200, jsonrpc.OUTCOME_UNKNOWN),
    Failure.REFUSED: (502, jsonrpc.INTERNAL_ERROR),
    Failure.UNREADABLE: (200, jsonrpc.UNREADABLE_ANSWER),
    Failure.SESSION_LOST: (502, jsonrpc.INTERNAL_ERROR),  # cannot be: there are no sessions
}


def _timed_out(request_id: RequestId, seconds: float) -> Message:
    reason = f"nothing was heard of it for {seconds:g} s; the server was told to cancel it"
    return jsonrpc.error(request_id, jsonrpc.REQUEST_TIMED_OUT, reason)


def _unavailable(reason: str, request_id: RequestId, code: int = jsonrpc.UPSTREAM_UNAVAILABLE) -> Rejection:
    return Rejection(503, code, reason, request_id, ((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),))


async def _reject(exchange: Exchange, rejection: Rejection, extra: Headers) -> None:
    await exchange.respond(rejection.status, (*JSON_HEADERS, *rejection.headers, *extra), rejection.body)
