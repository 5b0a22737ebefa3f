"""The wide road: everything that is not hot is served by hypercorn, behind a guard.

Stock hypercorn on trio is not meant to face a network alone: writes to a client that does not read are shielded
without an end, closed idle connections keep their descriptor until a timeout, HTTP/2 is spoken to whoever asks on a
clear port, and an exception of one connection ends the server. The guard here is a stream that bounds reads and
writes and lets only strict HTTP/1.1 pass (`request_filter.py`), and a subclass that ends the idle task with its
connection. The server's own accept loop isolates what is raised.

Imported only when the first connection needs it: hypercorn costs a tenth of a second at start-up.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from transport.answer import answer_head
from transport.handler import JSON_HEADERS, BadRequest, HttpLimits
from transport.hypercorn_socket import PING, is_open, upgrade
from transport.request_filter import RequestFilter, asks_for_websocket
from transport.wire import PROGRESS_BYTES, RECEIVE_BYTES

if TYPE_CHECKING:
    import h11

_LINGER_BYTES_MAX = 1024 * 1024


class HypercornRoad:
    """Serves connections with one ASGI app, until it is told to stop."""

    def __init__(self, asgi_app: Any, limits: HttpLimits) -> None:
        self._app = ASGIWrapper(asgi_app)
        self._limits = limits
        self._config = _make_config(limits)
        self._context = WorkerContext(None)
        self._streams: set[GuardedStream] = set()

    async def serve(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], received: bytes) -> None:
        """Serve one connection to its end.

        Args:
          stream: takes responsibility for closing it.
          received: bytes that have been read from it already.

        Raises:
          Exception, ExceptionGroup: whatever this one connection made hypercorn stumble over; isolate it.

        Cancellation: a write under way holds it for `write_seconds`, unless `break_off` is called.
        """
        guarded = (GuardedTlsStream if isinstance(stream, trio.SSLStream) else GuardedStream)(
            stream, received, self._limits
        )
        self._streams.add(guarded)
        try:
            server = GuardedServer(self._app, self._config, self._context, ConnectionState({}), cast(Any, guarded))
            server.limits = self._limits
            guarded.ping = server.ping
            await server.run()
        finally:
            self._streams.discard(guarded)
            guarded.break_off()

    async def stop(self) -> None:
        """Close idle connections, and the others behind their current answer, which says so."""
        self._config.keep_alive_max_requests = 0  # makes hypercorn add "connection: close"
        await self._context.terminated.set()

    def break_off(self) -> None:
        """Close every connection now, whatever is being written."""
        for stream in list(self._streams):
            stream.break_off()


class GuardedStream(trio.abc.HalfCloseableStream):
    """A client's stream as hypercorn gets it: strict, bounded in time, and beginning with what was read before."""

    def __init__(
        self,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        received: bytes,
        limits: HttpLimits,
    ) -> None:
        self._stream = stream
        self._received = received
        self._limits = limits
        self._filter = RequestFilter(limits)
        self._head_deadline = trio.current_time() + limits.head_seconds
        self._ended = False
        self.busy = False  # an answer is under way
        self.ping: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint  # asks a WebSocket's client for a sign

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket below: hypercorn asks it for the addresses."""
        below = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        return below.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes that may pass; b"" at the end, also when the client was refused."""
        while not self._ended:
            try:
                data = b"" if self._filter.has_refused else self._received or await self._receive()
                self._received = b""
                passed = self._filter.feed(data)
            except BadRequest as refusal:
                await self._refuse(refusal)
                break
            if not self._filter.in_head:
                self._head_deadline = inf
            elif self._head_deadline == inf:
                self._head_deadline = trio.current_time() + self._limits.head_seconds
            if passed or not data:
                return passed
        self._ended = True
        return b""

    async def _receive(self) -> bytes:
        """Read, within the deadline for heads while one is under way (or the first is still to begin)."""
        if self._filter.has_upgraded:
            return await self._receive_or_ping()
        with trio.CancelScope(deadline=self._head_deadline) as scope:
            data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        if scope.cancelled_caught:
            if self._filter.in_head:
                raise BadRequest(408, "the request's head did not arrive in time")
            return b""
        return data

    async def _receive_or_ping(self) -> bytes:
        """Read from a WebSocket's client; one that was silent is asked for a sign, and taken for gone without it."""
        with trio.move_on_after(self._limits.ping_seconds):
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        await self.ping()
        with trio.move_on_after(self._limits.pong_seconds):
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        return b""

    async def _refuse(self, refusal: BadRequest) -> None:
        """Answer what hypercorn must not see, if no other answer is under way; then give the client time to read."""
        self._ended = True
        if self.busy:
            return
        body = refusal.body
        head = answer_head(refusal.status, JSON_HEADERS, closes=True, body_length=len(body))
        received_bytes = 0
        try:
            await self.send_all(head + body)
            await self.send_eof()
            with trio.move_on_after(self._limits.linger_seconds):
                while received_bytes < _LINGER_BYTES_MAX:
                    data = await self._stream.receive_some(RECEIVE_BYTES)
                    if not data:
                        break
                    received_bytes += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # nobody to tell

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it, if the client takes each 16 KiB within `write_seconds`.

        hypercorn shields its writes from cancellation without a bound; this bound ends the shield.

        Raises:
          trio.BrokenResourceError: also for a client that does not read; it is dropped.
        """
        view = memoryview(data)
        for start in range(0, len(view), PROGRESS_BYTES):
            with trio.move_on_after(self._limits.write_seconds) as scope:
                await self._stream.send_all(view[start : start + PROGRESS_BYTES])
            if scope.cancelled_caught:
                self.break_off()
                raise trio.BrokenResourceError(f"the client did not read for {self._limits.write_seconds:g} s")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until sending may work; part of trio's interface, not used by hypercorn."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent, where the stream can say it (TLS cannot)."""
        if isinstance(self._stream, trio.SocketStream):
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close, without waiting for the client."""
        self.break_off()
        await trio.lowlevel.checkpoint()

    def break_off(self) -> None:
        """Close the socket now: whoever waits on the stream gets ClosedResourceError."""
        self.socket.close()


class GuardedTlsStream(GuardedStream):
    """The same over TLS, with what hypercorn looks for to know that it is TLS; the handshake is done already."""

    async def do_handshake(self) -> None:
        """Nothing is left to do."""

    def selected_alpn_protocol(self) -> str:
        """HTTP/1.1, whatever was offered: HTTP/2 is left to a proxy in front."""
        return "http/1.1"

    @property
    def transport_stream(self) -> trio.SocketStream:
        """The stream below TLS."""
        return cast("trio.SSLStream[trio.SocketStream]", self._stream).transport_stream


class GuardedServer(TCPServer):
    """hypercorn's connection, without HTTP/2 on request, and without an idle task that outlives its client."""

    stream: Any
    limits: HttpLimits

    @property
    def protocol(self) -> ProtocolWrapper:
        """hypercorn's protocol object of this connection."""
        return self._protocol

    @protocol.setter
    def protocol(self, wrapper: ProtocolWrapper) -> None:
        # TCPServer.run makes it and gives no hook; an instance attribute overrides the method that would switch
        # to HTTP/2. Asking for it is not an error: RFC 9110, 7.8 lets a server ignore any Upgrade.
        inner = wrapper.protocol
        if isinstance(inner, H11Protocol):
            inner._check_protocol = _ignore_upgrade  # type: ignore[method-assign]
            inner._create_stream = partial(self._create_stream, inner)  # type: ignore[method-assign]
        self._protocol = wrapper

    async def _create_stream(self, inner: H11Protocol, request: h11.Request) -> None:
        """Have a request served: by hypercorn's own class, or a WebSocket by ours."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        if not asks_for_websocket(request.method.decode(), headers):
            await H11Protocol._create_stream(inner, request)
            return
        await upgrade(
            inner,
            request,
            message_bytes_max=self.limits.message_bytes_max,
            linger_seconds=self.limits.linger_seconds,
        )

    async def ping(self) -> None:
        """Ask the client of an open WebSocket for a sign of life."""
        if is_open(self._protocol.protocol):
            await self.protocol_send(RawData(data=PING))

    async def protocol_send(self, event: Event) -> None:
        """Send for the protocol; notes on the way whether an answer is under way."""
        if isinstance(event, Updated):
            self.stream.busy = not event.idle
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()  # otherwise the closed connection waits for its keep-alive timeout


async def _ignore_upgrade(event: object) -> None:
    pass


def _make_config(limits: HttpLimits) -> Config:
    config = Config()
    config.alpn_protocols = ["http/1.1"]
    config.keep_alive_timeout = limits.idle_seconds
    config.keep_alive_max_requests = 1_000_000_000  # the default (1000) closes busy connections for no gain here
    config.h11_max_incomplete_size = 2 * limits.head_bytes_max  # the filter decides; this must not be stricter
    config.include_server_header = False
    config.websocket_max_message_size = limits.message_bytes_max  # which its own class does not keep to
    config.max_app_queue_size = 2  # WebSocket messages or parts of a body that an app has not taken (default 10)
    config.websocket_ping_interval = None  # its task outlives the connection, and waits for no answer; see `ping`
    config.errorlog = logging.getLogger("outlast.http")
    return config
