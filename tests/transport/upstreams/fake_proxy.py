"""A forward proxy on a real loopback socket: it makes tunnels to where a test says its names are, or does as a script
says, down to the bytes."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import trio

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class FakeProxy:
    """Listens on a port of its own. Names are resolved here and nowhere else, as behind a company's proxy."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """
        Args:
          tls: of the way to the proxy; None: it is plain.
        """
        self._tls = tls
        self.places: dict[str, int] = {}  # host:port, as the proxy is asked for it -> a port on this machine
        self.heads: list[bytes] = []  # of all that was asked
        self.answers: list[bytes] = []  # what is said to the next ones instead; then the connection is closed
        self.script: Callable[[trio.abc.Stream], Awaitable[None]] | None = None  # in place of any answer
        self.opened = 0  # tunnels that were made
        self.open = 0  # tunnels that are there now
        self.established = ESTABLISHED
        self._port = 0

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port}"

    @property
    def asked_for(self) -> list[str]:
        """Where tunnels were asked to, one after the other."""
        return [head.split(b" ")[1].decode() for head in self.heads]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, plain: trio.SocketStream) -> None:
        client: trio.abc.Stream = plain
        if self._tls is not None:
            client = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
        try:
            async with client:
                await self._answer(client)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either side may break off

    async def _answer(self, client: trio.abc.Stream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = await client.receive_some()
            if not data:
                return
            head += data
        self.heads.append(head)
        if self.script is not None:
            await self.script(client)
            return
        port = self.places.get(head.split(b" ")[1].decode())
        if self.answers or port is None:
            await client.send_all(self.answers.pop(0) if self.answers else b"HTTP/1.1 502 No such host\r\n\r\n")
            return
        async with await trio.open_tcp_stream("127.0.0.1", port) as upstream:
            await client.send_all(self.established)
            await self._relay(client, upstream)

    async def _relay(self, client: trio.abc.Stream, upstream: trio.SocketStream) -> None:
        self.opened += 1
        self.open += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_copy, client, upstream, nursery.cancel_scope)
                nursery.start_soon(_copy, upstream, client, nursery.cancel_scope)
        finally:
            self.open -= 1


async def _copy(source: trio.abc.Stream, target: trio.abc.Stream, scope: trio.CancelScope) -> None:
    try:
        async for data in source:
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()
