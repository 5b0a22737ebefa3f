"""Wire: a byte stream as `http1.py` needs it: send without waiting where that works, and be interrupted.

Two kinds. `SocketWire` goes straight to a non-blocking socket: trio's `SocketStream` adds a checkpoint, a conflict
detector, an error translator and a memoryview to each call, which together cost a quarter of a small request. And
`StreamWire` takes any trio stream: TLS, or memory streams in tests.

`interrupt` is how deadlines work here. One sweeper per server looks over all connections now and then; a cancel
scope around each read and write would cost every request for what almost none of them needs.
"""

from __future__ import annotations

import socket
from typing import Protocol

import trio

# Most requests are far smaller; a recv() allocates its whole buffer first, so a larger one costs each of them.
RECEIVE_BYTES = 16 * 1024
# What a slow reader has to take between two deadlines; also the most a stream wire sends in one go.
PROGRESS_BYTES = 16 * 1024
# A large body takes longer reads; 256 KiB is about what a Linux receive buffer holds when it has grown.
RECEIVE_LARGE_BYTES = 256 * 1024


class Interrupted(Exception):
    """`interrupt` was called while this waited; the wire itself is still good."""


class WireBroken(Exception):
    """The other side has reset the connection, or it has been closed here."""


class Wire(Protocol):
    """A connection's bytes. One task may receive while another sends."""

    async def receive(self, bytes_max: int = RECEIVE_BYTES) -> bytes:
        """Wait for bytes; b"" means that the other side has closed.

        Raises:
          Interrupted, WireBroken
        """
        ...

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send what can be sent without waiting; give the number of bytes taken, maybe 0.

        Raises:
          WireBroken
        """
        ...

    async def send_some(self, data: memoryview) -> int:
        """Wait until something can be sent and send it; give the number of bytes taken.

        Raises:
          Interrupted, WireBroken
        """
        ...

    async def send_end(self) -> None:
        """Say that nothing more will be sent; receiving still works."""
        ...

    def interrupt(self) -> None:
        """Make whoever waits in `receive` and `send_some` raise Interrupted; who does not wait is not touched."""
        ...

    async def aclose(self) -> None:
        """Close at once, without waiting for the other side."""
        ...


class SocketWire:
    """A wire on a non-blocking socket. Takes responsibility for closing it, unless it is handed on."""

    __slots__ = ("socket",)

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    async def receive(self, bytes_max: int = RECEIVE_BYTES) -> bytes:
        # Waiting first and reading then: between requests there is nothing to read yet, so trying first would cost
        # a system call and an exception each time. It is also the point where a busy client yields to others.
        while True:
            try:
                await trio.lowlevel.wait_readable(self.socket)
                return self.socket.recv(bytes_max)
            except (BlockingIOError, InterruptedError):
                continue
            except trio.ClosedResourceError:
                raise self._explain_closed() from None
            except (OSError, ValueError) as error:
                raise WireBroken(str(error)) from None

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise WireBroken(str(error)) from None

    async def send_some(self, data: memoryview) -> int:
        try:
            await trio.lowlevel.wait_writable(self.socket)
        except trio.ClosedResourceError:
            raise self._explain_closed() from None
        except (OSError, ValueError) as error:
            raise WireBroken(str(error)) from None
        return self.send_nowait(data)

    async def send_end(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise WireBroken(str(error)) from None

    def interrupt(self) -> None:
        # The socket is not closing: this only wakes its waiters, who may wait again.
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)

    async def aclose(self) -> None:
        self.interrupt()
        self.socket.close()

    def _explain_closed(self) -> Interrupted | WireBroken:
        return Interrupted() if self.socket.fileno() >= 0 else WireBroken("closed")


class StreamWire:
    """A wire on any trio stream. Takes responsibility for closing it."""

    __slots__ = ("_scopes", "stream")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._scopes: set[trio.CancelScope] = set()  # of the waits under way: at most one each way

    async def receive(self, bytes_max: int = RECEIVE_BYTES) -> bytes:
        data = b""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                data = bytes(await self.stream.receive_some(bytes_max))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise WireBroken(str(error)) from None
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise Interrupted
        return data

    def send_nowait(self, data: bytes | memoryview) -> int:
        return 0  # trio's streams only send by waiting

    async def send_some(self, data: memoryview) -> int:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await self.stream.send_all(data[:PROGRESS_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise WireBroken(str(error)) from None
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise Interrupted
        return min(len(data), PROGRESS_BYTES)

    async def send_end(self) -> None:
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            try:
                await self.stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise WireBroken(str(error)) from None

    def interrupt(self) -> None:
        for scope in self._scopes:
            scope.cancel()

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)
