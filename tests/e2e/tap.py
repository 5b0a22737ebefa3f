"""A tap on the wire between the gateway and an upstream: passes everything on, and keeps what the gateway sent."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import urlsplit

import trio

_BYTES = 65536
_HEAD = re.compile(rb"(?:GET|POST|DELETE) [^\r]+ HTTP/1\.1\r\n(?:[^\r]+\r\n)*\r\n")


class Tap:
    """Listens on a port of its own while its nursery runs."""

    def __init__(self, url: str) -> None:
        """
        Args:
          url: of the upstream.
        """
        self._upstream = urlsplit(url)
        self._port = 0
        self._sent: list[bytearray] = []  # by connection

    async def open(self, nursery: trio.Nursery) -> None:
        """Begin to listen."""
        listeners = await nursery.start(partial(trio.serve_tcp, self._pass_on, 0, host="127.0.0.1"))
        self._port = listeners[0].socket.getsockname()[1]

    @property
    def url(self) -> str:
        """The upstream's URL, by way of the tap."""
        return self._upstream._replace(netloc=f"127.0.0.1:{self._port}").geturl()

    @property
    def sent(self) -> bytes:
        """All that the gateway has sent."""
        return b"\n".join(map(bytes, self._sent))

    def heads(self) -> list[bytes]:
        """The heads of all requests."""
        return _HEAD.findall(self.sent)

    async def _pass_on(self, gateway: trio.SocketStream) -> None:
        kept = bytearray()
        self._sent.append(kept)
        async with (
            await trio.open_tcp_stream(self._upstream.hostname or "", self._upstream.port or 80) as upstream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._copy, upstream, gateway, bytearray(), nursery.cancel_scope)
            nursery.start_soon(self._copy, gateway, upstream, kept, nursery.cancel_scope)

    async def _copy(
        self, source: trio.SocketStream, target: trio.SocketStream, kept: bytearray, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                kept += data
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either side may break off
        scope.cancel()
