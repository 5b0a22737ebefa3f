"""A socket to an HTTP upstream, plain or TLS, that is written to without waiting.

`trio.SocketStream` and `trio.SSLStream` write in async methods, so the task that has something to send must be woken
to send it. Here whoever has a request writes it at once, and the connection's own task sleeps until the answer is
there: one task switch per call instead of two. What the kernel does not take at once is written by `drain`.
"""

from __future__ import annotations

import socket
import ssl

import trio

from transport.upstreams.forward_proxy import ForwardProxy
from transport.upstreams.tls_stream import TlsStream
from transport.upstreams.tunnel import open_stream

_READ_BYTES = 64 * 1024
# A peer that vanished without a word is noticed after 30 + 3 * 10 s, on connections that may rightly be silent.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


class PlainWire:
    """A connected TCP socket."""

    __slots__ = ("_socket", "_unsent")

    def __init__(self, connected: socket.socket) -> None:
        """Args:
        connected: non-blocking; closed by `close`.
        """
        self._socket = connected
        self._unsent = memoryview(b"")

    @property
    def flushed(self) -> bool:
        """Everything written was taken by the kernel."""
        return not self._unsent

    def still_open(self) -> bool:
        """Look whether the idle other side has closed, or says something nobody asked for."""
        try:
            return self.read() is None
        except OSError:
            return False

    def write(self, data: bytes) -> bool:
        """Send as much as the kernel takes now. Returns whether that was all; if not, run `drain`.

        Raises:
          OSError: nothing was sent.
        """
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._unsent = memoryview(data)[sent:]
        return False

    async def drain(self) -> None:
        """Send what is left of the last write.

        Raises:
          OSError, trio.ClosedResourceError
        """
        while self._unsent:
            await trio.lowlevel.wait_writable(self._socket)
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                continue
            self._unsent = self._unsent[sent:]

    async def wait_readable(self) -> None:
        """Wait until `read` may have something.

        Raises:
          trio.ClosedResourceError: `close` was called.
        """
        await trio.lowlevel.wait_readable(self._socket)

    def read(self) -> bytes | None:
        """Give what has arrived: None for nothing yet, b"" when the other side has closed.

        Raises:
          OSError: the connection broke.
        """
        try:
            return self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close at once; whoever waits here gets `trio.ClosedResourceError`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TlsWire(PlainWire):
    """The same over TLS, with the bytes in memory between the two."""

    __slots__ = ("_closed_by_peer", "_incoming", "_outgoing", "_tls")

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(connected)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._closed_by_peer = False

    async def handshake(self) -> None:
        """Agree on keys and verify the other side's certificate.

        Raises:
          OSError: among them `ssl.SSLCertVerificationError`.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            else:
                await self._flush()
                return
            await trio.lowlevel.wait_readable(self._socket)
            data = super().read()
            if data == b"":
                raise ConnectionResetError("closed during the TLS handshake")
            if data:
                self._incoming.write(data)

    def write(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:  # one call takes one TLS record, 16 KiB
            rest = rest[self._tls.write(rest) :]
        return super().write(self._outgoing.read())

    def read(self) -> bytes | None:
        if self._closed_by_peer:
            return b""
        data = super().read()
        if not data:
            # An end without close_notify is taken as one: HTTP's own framing tells whether the answer is whole.
            return data
        self._incoming.write(data)
        chunks = []
        try:
            while chunk := self._tls.read(_READ_BYTES):
                chunks.append(chunk)
            self._closed_by_peer = True
        except ssl.SSLWantReadError:  # a session ticket or a key update, say, carries no data
            pass
        except ssl.SSLZeroReturnError:
            self._closed_by_peer = True
        if chunks:
            return b"".join(chunks)
        return b"" if self._closed_by_peer else None

    async def _flush(self) -> None:
        if self._outgoing.pending and not super().write(self._outgoing.read()):
            await self.drain()


async def open_wire(
    host: str, port: int, context: ssl.SSLContext | None, proxy: ForwardProxy | None = None
) -> PlainWire:
    """Connect, and do the TLS handshake if there is a `context`.

    Args:
      proxy: makes a tunnel, if the host is its to carry; TLS is with the host all the same.

    Raises:
      OSError: no such host, refused, unreachable, no tunnel, or TLS failed.

    Cancellation: what was opened is closed.
    """
    connected = _taken_from(await open_stream(host, port, proxy))
    for level, option, value in _KEEPALIVE:
        connected.setsockopt(level, option, value)
    if context is None:
        return PlainWire(connected)
    wire = TlsWire(connected, context, host)
    try:
        await wire.handshake()
    except BaseException:  # cancelled, too
        wire.close()
        raise
    return wire


def _taken_from(stream: trio.SocketStream | TlsStream) -> socket.socket:
    """Take a stream's socket over."""
    if isinstance(stream, TlsStream):  # to a proxy; it does as a plain one does
        return stream.socket
    connected = socket.socket(fileno=stream.socket.detach())
    connected.setblocking(False)
    return connected
