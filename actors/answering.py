"""A link made of a function: for applications whose sessions talk to code of their own.

    async def answer(method, params):
        return {"total": await price(params["basket"])}

    async with open_runtime(connect=connect_to(answer)) as runtime: ...

Each request of a session is one call of the function, in a task that belongs to the link. What the function is in
the middle of when its process ends is never run again by itself: its caller is told that the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
import trio

from actors import jsonrpc
from actors.jsonrpc import Kind, Message, RequestFailed, RequestId
from actors.link import Connect, Established, Inbox, Link
from actors.reading import reader
from actors.state import SessionState

log = structlog.get_logger("outlast.answering")

Answer = Callable[[str, Any], Awaitable[object]]


def connect_to(answer: Answer) -> Connect:
    """Give a `connect` whose links answer requests by calling a function.

    Args:
      answer: takes a method and its params (builtins; None if there are none), and gives the result (what JSON can
        hold). It may raise `RequestFailed` to answer with an error of its choice; anything else it raises is logged
        and answered as an internal error. Notifications are given to it too; their results are dropped. It is
        cancelled when the request is, and when the session leaves memory.
    """

    async def connect(session: SessionState, inbox: Inbox) -> Link:
        return AnsweringLink(answer, inbox)

    return connect


class AnsweringLink:
    """Implements `actors.link.Link`. Bounded by nature: a session has a bounded number of requests in flight."""

    resumable = True  # there is nothing on the other side that a new link would miss
    established = Established(resumed=True)

    def __init__(self, answer: Answer, inbox: Inbox) -> None:
        self._answer = answer
        self._inbox = inbox
        self._running: dict[RequestId, trio.CancelScope] = {}

    def __repr__(self) -> str:
        return f"<AnsweringLink, {len(self._running)} in flight>"

    def send(self, message: Message, ticket: int) -> None:
        if message.kind is Kind.REQUEST:
            self._inbox.start_soon(self._answer_request, message)
            return
        self._inbox.delivered(ticket)
        if message.kind is Kind.NOTIFICATION:
            self._inbox.start_soon(self._call, message)

    async def _answer_request(self, message: Message) -> None:
        assert message.id is not None
        with trio.CancelScope() as self._running[message.id]:
            try:
                answer = await self._call(message)
            finally:
                del self._running[message.id]
            self._inbox.received(answer, about=message.id)

    async def _call(self, message: Message) -> Message:
        """Call the function, and give its result as an answer to the message."""
        request_id = 0 if message.id is None else message.id
        try:
            params = _decode_params(message.raw).params
            return jsonrpc.result(request_id, await self._answer(message.method, params))
        except RequestFailed as failed:
            return jsonrpc.error(request_id, failed.code, failed.reason, failed.data)
        except Exception as error:
            log.error("answering crashed", method=message.method, exc_info=error)
            return jsonrpc.error(request_id, jsonrpc.INTERNAL_ERROR, f"answering {message.method} crashed: {error!r}")

    def cancel(self, request_id: RequestId, reason: str) -> None:
        scope = self._running.get(request_id)
        if scope is not None:
            scope.cancel()

    def listen(self) -> None:
        """A function has nothing to say unasked."""

    def close(self, *, end_session: bool) -> None:
        """Its tasks end with the inbox."""


class _Params(msgspec.Struct):
    params: Any = None


_decode_params = reader(_Params)
