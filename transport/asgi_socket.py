"""A WebSocket of an ASGI server, as a `SocketExchange`.

ASGI servers let `send()` after a disconnect succeed without a word (hypercorn), or raise OSError (ASGI 2.4). Here
either is `SocketGone`, as soon as somebody has received the disconnect: a message that was put into a void must not
be noted as shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import trio

from transport.asgi_scope import AsgiMessage, Receive, Scope, Send, read_scope
from transport.exchange import Headers, RequestHead
from transport.handler import JSON_HEADERS, BadRequest, HttpLimits, Report, error_body
from transport.socket_exchange import (
    ABNORMAL,
    INTERNAL_ERROR,
    NO_STATUS,
    NORMAL,
    REASON_BYTES_MAX,
    TOO_LARGE,
    SocketGone,
    SocketHandler,
)

_CAN_ANSWER = "websocket.http.response"  # the ASGI extension for refusing with more than 403
_CLOSING = (b"connection", b"close")


async def serve_socket(
    scope: Scope, receive: Receive, send: Send, handler: SocketHandler | None, limits: HttpLimits, report: Report
) -> None:
    """Serve one WebSocket connection.

    Args:
      handler: None: every connection is refused (403).
      report: takes what the handler raises unexpectedly.
    """
    socket = AsgiSocket(scope, receive, send, limits)
    try:
        if handler is None:
            await socket.refuse(403, JSON_HEADERS, error_body("no WebSocket is served here"))
        else:
            socket.read_head()
            await handler(socket)
            await socket.settle()
    except BadRequest as refusal:
        await socket.refuse(refusal.status, JSON_HEADERS, refusal.body)
    except SocketGone:
        pass
    except Exception as error:  # noqa: BLE001 - isolation, as for exchanges: reported, and the server goes on
        report(socket.known_head, error)
        await socket.fail()


class AsgiSocket:
    """One connection of an ASGI server: see `transport.socket_exchange.SocketExchange`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: HttpLimits) -> None:
        self.known_head: RequestHead | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._decided = False
        self._over = ""
        self._code = ABNORMAL  # with which it ended, if it has

    def read_head(self) -> None:
        """Check the head, as strictly as on the hot road.

        Raises:
          BadRequest
        """
        self.known_head = read_scope(self._scope, self._limits).head

    @property
    def head(self) -> RequestHead:
        """What was asked."""
        assert self.known_head is not None, "handlers are given sockets whose head was read"
        return self.known_head

    @property
    def subprotocols(self) -> Sequence[str]:
        """What the client would speak."""
        return tuple(self._scope.get("subprotocols") or ())

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the upgrade with an ordinary response, where the server can; else with 403."""
        await self._decide()
        self._over = "it was refused"
        answer: list[AsgiMessage] = [{"type": "websocket.close", "code": 1008}]  # before an accept: 403
        if _CAN_ANSWER in (self._scope.get("extensions") or {}):
            framed = [*headers, (b"content-length", b"%d" % len(body)), _CLOSING]
            answer = [
                {"type": "websocket.http.response.start", "status": status, "headers": framed},
                {"type": "websocket.http.response.body", "body": body},
            ]
        with suppress(OSError):  # nobody to tell
            for message in answer:
                await self._send(message)

    async def accept(self, subprotocol: str, headers: Headers = ()) -> None:
        """Accept the upgrade."""
        await self._decide()
        await self._pass({"type": "websocket.accept", "subprotocol": subprotocol, "headers": list(headers)})

    async def receive(self) -> str | bytes:
        """Wait for the client's next message."""
        self._check_open()
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._code = message.get("code") or NO_STATUS
            self._over = f"the client has closed the connection ({self._code})"
            raise SocketGone(self._over, self._code)
        text: str | None = message.get("text")
        if text is None:
            return bytes(message.get("bytes") or b"")
        if len(text) > self._limits.message_bytes_max:  # servers other than ours have limits of their own
            await self.close(TOO_LARGE, f"a message has at most {self._limits.message_bytes_max} bytes")
            raise SocketGone("a message was too large", TOO_LARGE)
        return text

    async def send(self, text: str) -> None:
        """Send a text message."""
        self._check_open()
        await self._pass({"type": "websocket.send", "text": text})
        await (
            trio.lowlevel.checkpoint()
        )  # a server's send() may return at once, and whoever hears of an end needs a turn
        self._check_open()

    async def close(self, code: int, reason: str) -> None:
        """End the connection and say why."""
        if self._over:
            return
        self._over, self._code = f"it was closed ({code})", code
        with suppress(OSError):  # nobody to tell
            await self._send({"type": "websocket.close", "code": code, "reason": _cut(reason)})

    async def settle(self) -> None:
        """End a connection whose handler has returned.

        Raises:
          RuntimeError: it neither accepted nor refused it.
        """
        if not self._decided:
            raise RuntimeError("the handler returned without an answer")
        await self.close(NORMAL, "")

    async def fail(self) -> None:
        """End a connection whose handler has failed."""
        if self._decided:
            await self.close(INTERNAL_ERROR, "internal error")
        else:
            await self.refuse(500, JSON_HEADERS, error_body("internal error"))

    async def _decide(self) -> None:
        if self._decided:
            raise RuntimeError("this connection has its answer already")
        self._decided = True
        await self._receive()  # websocket.connect: only then may it be answered

    async def _pass(self, message: AsgiMessage) -> None:
        try:
            await self._send(message)
        except OSError as error:  # what ASGI 2.4 says that send() raises when the client is gone
            self._over = str(error) or "the client has closed the connection"
            raise SocketGone(self._over) from None

    def _check_open(self) -> None:
        if self._over:
            raise SocketGone(self._over, self._code)


def _cut(reason: str) -> str:
    """Cut to what a close frame has room for, between characters."""
    return reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
