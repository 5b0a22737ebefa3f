"""The ASGI app: the same handlers under hypercorn, or any ASGI 3 server that runs on trio.

Limits, statuses and the behaviour when a client goes away are those of `http1.py`. Two habits of ASGI servers shape
this file. `send()` after a disconnect silently succeeds (hypercorn), so a stream would go on into the void: while an
answer is streamed, a task watches `receive()` for the disconnect. And a server may stop reading when nobody takes
the body it has queued, which keeps it from noticing anything: the same task takes away what the handler left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from transport.asgi_scope import AsgiMessage, Receive, Scope, Send, read_scope
from transport.asgi_socket import serve_socket
from transport.exchange import BodyTooLarge, BodyTooSlow, ClientGone, Headers
from transport.handler import (
    JSON_HEADERS,
    BadRequest,
    Handler,
    HttpLimits,
    Report,
    failure_answer,
    is_expected,
    log_failure,
)
from transport.head import ParsedHead
from transport.socket_exchange import SocketHandler

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def asgi_app(
    handler: Handler,
    *,
    limits: HttpLimits | None = None,
    websocket: SocketHandler | None = None,
    report: Report = log_failure,
) -> AsgiApp:
    """Make an ASGI 3 app of a handler.

    Args:
      websocket: serves WebSocket connections, which it is given before they are accepted. None: they are refused.
      report: takes what handlers raise unexpectedly.
    """
    bounds = limits if limits is not None else HttpLimits()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await _serve_http(scope, receive, send, handler, bounds, report)
            case "websocket":
                await serve_socket(scope, receive, send, websocket, bounds, report)
            case "lifespan":
                await _live(receive, send)
            case other:
                raise ValueError(f"ASGI scope {other!r} is not served here")

    return app


async def _serve_http(
    scope: Scope, receive: Receive, send: Send, handler: Handler, limits: HttpLimits, report: Report
) -> None:
    async with trio.open_nursery() as nursery:
        try:
            parsed = read_scope(scope, limits)
            if parsed.body_length > limits.body_bytes_max:
                raise BadRequest(413, f"the body is larger than {limits.body_bytes_max} bytes")
        except BadRequest as refusal:
            nursery.start_soon(_take_away, receive)
            await _send_whole(send, refusal.status, _closing(JSON_HEADERS, scope), refusal.body)
            nursery.cancel_scope.cancel()
            return
        exchange = AsgiExchange(parsed, scope, receive, send, limits, nursery)
        try:
            await handler(exchange)
            if not exchange.answered:
                raise RuntimeError("the handler returned without an answer")
        except Exception as error:  # noqa: BLE001 - isolation, as in http1: told apart, answered and reported here
            if not is_expected(error):
                report(exchange.head, error)
            await exchange.fail(error)
        nursery.cancel_scope.cancel()


async def _live(receive: Receive, send: Send) -> None:
    """Answer the lifespan protocol; the app has nothing to start or stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _take_away(receive: Receive) -> None:
    """Receive until the client is gone; nothing of it is used."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _closing(headers: Headers, scope: Scope) -> Headers:
    """Add `Connection: close`, in the protocol versions that have it."""
    return (*headers, (b"connection", b"close")) if scope["http_version"].startswith("1") else headers


async def _send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    framing = () if status in (204, 304) else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *framing]})
    await send({"type": "http.response.body", "body": body})


class AsgiExchange:
    """One request of an ASGI server: see `transport.exchange.Exchange`."""

    def __init__(
        self,
        parsed: ParsedHead,
        scope: Scope,
        receive: Receive,
        send: Send,
        limits: HttpLimits,
        nursery: trio.Nursery,
    ) -> None:
        self.head = parsed.head
        self.status = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._nursery = nursery
        # Without a length there is no body in HTTP/1.1; in HTTP/2 there may be one.
        has_no_body = parsed.body_length == 0 and scope["http_version"].startswith("1")
        self._body: bytes | None = b"" if has_no_body else None
        self._started = False
        self._streaming = False
        self._watching = False
        self._gone = trio.Event()

    @property
    def answered(self) -> bool:
        """Whether an answer has at least begun."""
        return self._started

    async def body(self) -> bytes:
        """Read the whole body."""
        if self._body is None:
            if self._watching:
                raise RuntimeError("the body was not read before the answer, and is gone")
            try:
                with trio.fail_after(self._limits.body_seconds):
                    self._body = await self._receive_body()
            except trio.TooSlowError:
                raise BodyTooSlow("the request body did not arrive in time") from None
        return self._body

    async def _receive_body(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()
                raise ClientGone("the client closed the connection in the middle of a request")
            piece = message.get("body", b"")
            pieces.append(piece)
            size += len(piece)
            if size > self._limits.body_bytes_max:
                raise BodyTooLarge(f"the body is larger than {self._limits.body_bytes_max} bytes")
            if not message.get("more_body", False):
                return b"".join(pieces)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        headers = self._begin(status, headers)
        try:
            await _send_whole(self._send, status, headers, body)
        except OSError as error:  # what ASGI 2.4 says that send() raises when the client is gone
            raise self._note_gone(error) from None

    async def start_stream(self, status: int, headers: Headers) -> None:
        """Send the head of a streamed answer."""
        headers = self._begin(status, headers)
        self._watch_soon()
        self._streaming = True
        await self._pass({"type": "http.response.start", "status": status, "headers": list(headers)})
        # An ASGI server may hold the head back until there is a body message: an empty one makes it send.
        await self._pass({"type": "http.response.body", "body": b"", "more_body": True})

    async def send(self, chunk: bytes) -> None:
        """Send a bit of the body, now."""
        self._check_streaming()
        await self._pass({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self) -> None:
        """End the streamed body."""
        self._check_streaming()
        self._streaming = False
        await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    async def wait_gone(self) -> None:
        """Wait until the client has closed its side."""
        self._watch_soon()
        await self._gone.wait()

    async def fail(self, error: BaseException) -> None:
        """Answer what the handler let escape; when an answer has begun, leave it unfinished: the server cuts it off."""
        answer = failure_answer(error)
        if answer is None or self._started:
            return
        status, body = answer
        with suppress(ClientGone):
            await self.respond(status, _closing(JSON_HEADERS, self._scope), body)

    def _begin(self, status: int, headers: Headers) -> Headers:
        if self._started:
            raise RuntimeError("this exchange has its answer already")
        for name, value in headers:
            if b"\n" in value or b"\r" in value or b"\0" in value or b"\n" in name or b"\r" in name:
                raise ValueError("a header has a line break or a NUL in it")
        self._started = True
        self.status = status
        if self._body is not None:
            return headers
        self._watch_soon()
        return headers if (b"connection", b"close") in headers else _closing(headers, self._scope)

    async def _pass(self, message: AsgiMessage) -> None:
        if self._gone.is_set():
            raise ClientGone("the client has closed the connection")
        try:
            await self._send(message)
        except OSError as error:
            raise self._note_gone(error) from None
        if self._gone.is_set():
            raise ClientGone("the client has closed the connection")

    def _note_gone(self, error: OSError) -> ClientGone:
        self._gone.set()
        return ClientGone(str(error))

    def _watch_soon(self) -> None:
        if not self._watching:
            self._watching = True
            self._nursery.start_soon(self._watch)

    async def _watch(self) -> None:
        await _take_away(self._receive)
        self._gone.set()

    def _check_streaming(self) -> None:
        if not self._streaming:
            raise RuntimeError("no streamed answer is open")
