"""TLS in front of a server that speaks none, with certificates for names of a test's own."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.certificates import Authority


def shown_by(directory: Path, authority: Authority, *names: str) -> ssl.SSLContext:
    """Give what a server with a certificate for these names shows."""
    authority.issue(directory / "chain.pem", directory / "key.pem", names=names)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    return context


def tls_before(port: int, context: ssl.SSLContext) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Make what serves a connection by TLS, and passes what is inside on to a port of this machine."""

    async def serve(plain: trio.SocketStream) -> None:
        stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
                nursery.start_soon(_copy, stream, server, nursery.cancel_scope)
                nursery.start_soon(_copy, server, stream, nursery.cancel_scope)
        finally:
            await trio.aclose_forcefully(plain)

    return serve


async def _copy(source: trio.abc.ReceiveStream, target: trio.abc.SendStream, scope: trio.CancelScope) -> None:
    try:
        async for data in source:
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # either side may break off
    scope.cancel()
