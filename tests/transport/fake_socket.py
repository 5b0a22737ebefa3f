"""A WebSocket without a connection: what the client says is given, what it is told is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import trio

from transport.exchange import Headers, RequestHead
from transport.socket_exchange import SocketGone


class FakeSocket:
    """Implements `transport.socket_exchange.SocketExchange`."""

    def __init__(
        self,
        *,
        path: str = "/ws",
        query: str = "",
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = ("mcp",),
    ) -> None:
        self.head = RequestHead("GET", path, query, {"host": "localhost", **(headers or {})}, "peer")
        self.subprotocols = tuple(subprotocols)
        self.status = 0  # of the answer to the upgrade; 101: accepted
        self.headers: dict[str, str] = {}
        self.body = b""
        self.subprotocol = ""
        self.sent: list[str] = []
        self.closed: tuple[int, str] | None = None
        self.reads = trio.Event()  # cleared by `stop_reading`: what is sent then waits
        self.reads.set()
        self._say, self._heard = trio.open_memory_channel[str | bytes](inf)
        self._gone = False
        self._changed = trio.Event()

    # ---- for the test: what the client does ----

    def say(self, message: object) -> None:
        """Send a message; what is neither text nor bytes goes as JSON."""
        self._say.send_nowait(message if isinstance(message, str | bytes) else json.dumps(message))

    def leave(self) -> None:
        """Close the connection."""
        self._gone = True
        self._say.close()

    def stop_reading(self) -> None:
        """Take nothing more, until `reads` is set."""
        self.reads = trio.Event()

    @property
    def unread(self) -> int:
        """How many messages of the client nobody has received."""
        return self._heard.statistics().current_buffer_used

    @property
    def messages(self) -> list[Any]:
        """What was sent to the client."""
        return [json.loads(text) for text in self.sent]

    async def told(self, count: int) -> list[Any]:
        """Wait until the client was sent so many messages; give them."""
        with trio.fail_after(60):
            while len(self.sent) < count:
                await self._change()
        return self.messages

    async def wait_closed(self) -> int:
        """Wait for the end; give its code."""
        with trio.fail_after(120):
            while self.closed is None:
                await self._change()
        return self.closed[0]

    async def _change(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()

    # ---- SocketExchange ----

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert not self.status, "a connection has one answer"
        self.status, self.body = status, body
        self.headers = {name.decode(): value.decode() for name, value in headers}

    async def accept(self, subprotocol: str, headers: Headers = ()) -> None:
        await self.refuse(101, headers, b"")
        self.subprotocol = subprotocol

    async def receive(self) -> str | bytes:
        try:
            return await self._heard.receive()
        except trio.EndOfChannel:
            raise SocketGone("the client has closed the connection") from None

    async def send(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        await self.reads.wait()
        if self._gone or self.closed is not None:
            raise SocketGone("the client has closed the connection")
        self.sent.append(text)
        self._changed.set()

    async def close(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed is None:
            self.closed = (code, reason)
            self._changed.set()
