"""hypercorn's WebSocket, with bounds that hold.

Stock hypercorn 0.18 has these ways of going wrong with a client that means ill or is merely slow. Behind a message over
the limit it says 1009 and reads on, keeping all of it, while the app does not hear that nothing it sends arrives any
more. It counts letters, not bytes. It takes compressed messages, a kilobyte of which inflates to a megabyte before
anybody counts. When an app has closed, it closes the socket at once: a client that was still sending gets a reset, and
never sees the code that says why. When an app has returned, what the client sends fills a queue that nobody reads, and
the connection's task waits for ever. Each is a method here. Its pings have no deadline: ours are in `hypercorn_road`.

Imported with `hypercorn_road`, when the first connection needs it.
"""

from __future__ import annotations

from typing import Any

import trio
from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

PING = b"\x89\x00"  # a whole frame (RFC 6455, 5.5.2): final, opcode 9, no payload

__all__ = ["PING", "GuardedSocket", "is_open", "upgrade"]


class GuardedSocket(WSStream):
    """One connection. hypercorn calls `handle` with what the client sends, `app_send` with what the app does."""

    def __init__(self, *arguments: Any, message_bytes_max: int, linger_seconds: float) -> None:
        super().__init__(*arguments)
        self._message_bytes_max = message_bytes_max
        self._linger_seconds = linger_seconds
        self._parts: list[str | bytes] = []
        self._size_bytes = 0
        self._deaf = False  # what the client sends is not looked at any more
        self._ended = trio.Event()  # the client has closed, or its connection is gone
        self._app_over = False
        self._queue: Any = None  # the app's, with hypercorn's bound
        self._queueing = trio.CancelScope()

    async def handle(self, event: Event) -> None:
        """Take what the client did."""
        if isinstance(event, StreamClosed):
            self._ended.set()
        if isinstance(event, Body | Data) and self._deaf:
            return
        await super().handle(event)
        if isinstance(event, Request) and self._queue is None and self.app_put is not None:
            self._queue, self.app_put = self.app_put, self._put

    async def app_send(self, message: Any) -> None:
        """Take what the app sends; None when it has returned."""
        if message is None and not self._app_over:
            self._app_over = True
            self._queueing.cancel()
            if self.state is ASGIWebsocketState.CLOSED or self._deaf:
                with trio.move_on_after(self._linger_seconds):
                    await self._ended.wait()
        elif message is not None and self.closed:
            raise BrokenPipeError("the client has closed the connection")  # as ASGI 2.4 says; else it would succeed
        await super().app_send(message)

    async def _put(self, message: Any) -> None:
        """Queue something for the app, unless it is over: then nobody reads, and nobody is to wait for that."""
        if not self._app_over:
            with trio.CancelScope() as self._queueing:
                await self._queue(message)

    async def _accept(self, message: Any) -> None:
        self.handshake.extensions = None  # no compression
        await super()._accept(message)

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if self._deaf:
                return
            if isinstance(event, TextMessage | BytesMessage):
                await self._take_part(event)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                await self._take_close(event)

    async def _take_part(self, part: TextMessage | BytesMessage) -> None:
        data = part.data
        self._size_bytes += len(data) if not isinstance(data, str) or data.isascii() else len(data.encode())
        if self._size_bytes > self._message_bytes_max:
            await self._refuse_large()
            return
        self._parts.append(data if isinstance(data, str) else bytes(data))
        if not part.message_finished:
            return
        parts, self._parts, self._size_bytes = self._parts, [], 0
        text = "".join(parts) if isinstance(data, str) else None  # type: ignore[arg-type]
        binary = b"".join(parts) if text is None else None  # type: ignore[arg-type]
        await self._put({"type": "websocket.receive", "text": text, "bytes": binary})

    async def _refuse_large(self) -> None:
        """Say so, tell the app that it is over, and look at nothing more."""
        self._deaf = True
        self._parts = []
        reason = f"a message has at most {self._message_bytes_max} bytes"
        await self._send_wsproto_event(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG, reason=reason))
        await self._put({"type": "websocket.disconnect", "code": int(CloseReason.MESSAGE_TOO_BIG)})

    async def _take_close(self, event: CloseConnection) -> None:
        self._deaf = True
        if self.connection.state is ConnectionState.REMOTE_CLOSING:
            await self._send_wsproto_event(event.response())
        elif self.connection.state is ConnectionState.OPEN:  # it broke the protocol: wsproto says with which code
            await self._send_wsproto_event(event)
        await self.send(StreamClosed(stream_id=self.stream_id))


def is_open(protocol: object) -> bool:
    """Whether hypercorn's protocol object carries a WebSocket that was accepted and not closed from our side."""
    stream = protocol.stream if isinstance(protocol, H11Protocol) else None
    return isinstance(stream, WSStream) and stream.state is ASGIWebsocketState.CONNECTED and not stream.closed


async def upgrade(protocol: H11Protocol, request: Any, *, message_bytes_max: int, linger_seconds: float) -> None:
    """Have hypercorn serve this upgrade request with a `GuardedSocket`; what it does by itself, with its own class."""
    protocol.stream = GuardedSocket(
        *(protocol.app, protocol.config, protocol.context, protocol.task_group, protocol.ssl),
        *(protocol.client, protocol.server, protocol.stream_send, STREAM_ID),
        message_bytes_max=message_bytes_max,
        linger_seconds=linger_seconds,
    )
    protocol.connection = H11WSConnection(protocol.connection)  # type: ignore[arg-type]
    await protocol.stream.handle(
        Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method="GET",
            raw_path=request.target,
            state=protocol.connection_state,
        )
    )
    protocol.keep_alive_requests += 1
