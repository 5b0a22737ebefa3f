"""A stream of TLS whose socket can be taken over by who writes without waiting: the way to a proxy that speaks TLS.

`trio.SSLStream` keeps its bytes to itself, and TLS with the upstream goes inside this one. A socket of `ssl` that says
"not now" as plain sockets do can stand below that: `http_wire.PlainWire` and `TlsWire` take it for a plain one. It
reads one record at a time and no further, so what is left stays in the kernel, where waiting sees it.
"""

from __future__ import annotations

import socket
import ssl
from functools import cache
from typing import Any

import trio

_READ_BYTES = 64 * 1024  # more than a record has: what TLS holds back of one, no wait would see


class TlsSocket(ssl.SSLSocket):
    """A socket that raises BlockingIOError whatever TLS waits for. Made by a context; see `open_tls`."""

    def send(self, data: Any, flags: int = 0) -> int:
        """Send all of it, or raise BlockingIOError: then it has to be sent again, from the same byte on."""
        if not len(data):
            return 0  # OpenSSL leaves open what writing nothing means
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Give what has arrived; b"" when the other side has closed."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None


class TlsStream(trio.abc.Stream):
    """A trio stream over such a socket, for one task that reads and one that writes."""

    def __init__(self, connected: TlsSocket) -> None:
        """Args:
        connected: non-blocking, after its handshake; closed by `aclose`, unless whoever took it does that.
        """
        self.socket = connected

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Cancellation: the stream is of no more use."""
        await trio.lowlevel.checkpoint()
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self.socket.send(view[sent:])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)
                except OSError as error:
                    raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes something."""
        await trio.lowlevel.wait_writable(self.socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Give what has arrived; b"" when the other side has closed."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.socket.recv(max_bytes or _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Close at once; whoever waits here gets `trio.ClosedResourceError`."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()


async def open_tls(plain: trio.SocketStream, server_name: str, context: ssl.SSLContext | None) -> TlsStream:
    """Do a handshake on a stream, which is taken over.

    Args:
      context: what to trust, for this use alone; None: what the system does.

    Raises:
      OSError: the handshake failed; `ssl.SSLCertVerificationError` among others.

    Cancellation: the stream is closed.
    """
    connected = socket.socket(fileno=plain.socket.detach())
    connected.setblocking(False)
    trusted = _shared_context() if context is None else context
    trusted.sslsocket_class = TlsSocket
    sealed = trusted.wrap_socket(connected, server_hostname=server_name, do_handshake_on_connect=False)
    assert isinstance(sealed, TlsSocket)
    stream = TlsStream(sealed)
    try:
        await _shake_hands(sealed)
    except BaseException:  # cancelled, too
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _shake_hands(sealed: TlsSocket) -> None:
    while True:
        try:
            sealed.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sealed)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sealed)
        else:
            return


@cache
def _shared_context() -> ssl.SSLContext:
    """One for all: each costs 27 ms and 834 KiB (measured)."""
    return ssl.create_default_context()
