"""A pool behind a forward proxy, and an upstream whose name only the proxy knows."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from actors.link import Failure
from tests.transport.upstreams.fake_proxy import FakeProxy
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from transport.upstreams.forward_proxy import ForwardProxy
from transport.upstreams.http_pool import HttpPool, PoolLimits, RequestFailed
from transport.upstreams.http_target import HttpTarget

PASSWORD = "hunter2-of-the-proxy"
NAME = "mcp.invalid"  # RFC 6761, 6.4: no resolver knows it
LARGE = bytes(range(256)) * 32_768  # 8 MiB: more than two sockets hold, and many records of TLS
REQUEST = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"


class Resolver(trio.abc.HostnameResolver):
    """Keeps which names were asked for, and knows none."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def getaddrinfo(self, host: bytes | None, *rest: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        self.asked.append((host or b"").decode())
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise AssertionError("nobody asks for the names of addresses")


@contextmanager
def resolving() -> Iterator[Resolver]:
    resolver = Resolver()
    former = trio.socket.set_custom_hostname_resolver(resolver)
    try:
        yield resolver
    finally:
        trio.socket.set_custom_hostname_resolver(former)


async def echo_http(_: SeenRequest, caller: Caller) -> None:
    await caller.answer(200, b"{}")


@attrs.frozen
class Bench:
    proxy: FakeProxy
    upstream: ScriptedUpstream
    pool: HttpPool
    resolver: Resolver
    nursery: trio.Nursery
    forward_proxy: ForwardProxy

    def target(self, scheme: str = "http", port: int = 80) -> HttpTarget:
        """The upstream's endpoint, by the name that only the proxy knows."""
        self.proxy.places[f"{NAME}:{port}"] = urlsplit(self.upstream.url).port or 0
        return HttpTarget.parse(f"{scheme}://{NAME}:{port}/mcp")

    async def ask(self, target: HttpTarget | None = None) -> int:
        head, _ = await self.pool.fetch((target or self.target()).origin, REQUEST, seconds=60)
        return head.status

    async def fail(self, target: HttpTarget | None = None) -> str:
        """Ask, and give why that failed; never was anything sent."""
        with pytest.raises(RequestFailed) as failed:
            await self.ask(target)
        assert failed.value.failure is Failure.NOT_SENT
        assert PASSWORD not in failed.value.detail
        return failed.value.detail


@attrs.frozen
class Way:
    """TLS between gateway and proxy."""

    shown: ssl.SSLContext
    trusted: ssl.SSLContext


@asynccontextmanager
async def bench(
    *, straight: bool = False, tls: ssl.SSLContext | None = None, way: Way | None = None
) -> AsyncIterator[Bench]:
    """A pool behind a proxy; `straight`: without one, the control."""
    with resolving() as resolver:
        async with trio.open_nursery() as nursery:
            proxy, upstream = FakeProxy(None if way is None else way.shown), ScriptedUpstream(echo_http)
            await nursery.start(proxy.run)
            await nursery.start(upstream.run)
            scheme = "http" if way is None else "https"
            by = ForwardProxy.parse(f"{scheme}://ada:{PASSWORD}@{proxy.address}")
            by = attrs.evolve(by, trusted=None if way is None else way.trusted)
            pool = HttpPool(
                limits=PoolLimits(connect_seconds_max=10.0), tls_context=tls, proxy=None if straight else by
            )
            await nursery.start(pool.run)
            yield Bench(proxy, upstream, pool, resolver, nursery, by)
            nursery.cancel_scope.cancel()
