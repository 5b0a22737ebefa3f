"""A connection dies alone: whatever it raises, and however long it holds on."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from tests.transport.serving import JSON, connected, echo, get, post, serving, until
from transport.asgi import asgi_app
from transport.exchange import ClientGone, Exchange, RequestHead
from transport.handler import HttpLimits
from transport.hypercorn_road import HypercornRoad
from transport.server import HttpServer, open_listeners

BOTH_ROADS = pytest.mark.parametrize("hot", [True, False], ids=["hot", "hypercorn"])


def poisoned(head: RequestHead) -> bool:
    """Tell hot requests; stands for any bug in what a connection runs through."""
    if head.path == "/bug":
        raise ZeroDivisionError("a bug outside of any handler")
    if head.path == "/bugs":
        raise ExceptionGroup("several", [ZeroDivisionError(), ExceptionGroup("deeper", [KeyError("a")])])
    return True


class Unisolated(HttpServer):
    """The server without its isolation: what trio's and hypercorn's own accept loops do."""

    async def _serve_isolated(self, client: socket.socket, peer: str) -> None:
        try:
            await self._serve(client, peer)
        finally:
            client.close()


@pytest.mark.parametrize("path", ["/bug", "/bugs"])
async def test_exception_of_one_connection_ends_that_connection_only(path: str) -> None:
    failures: list[BaseException] = []
    options: dict[str, Any] = {"is_hot": poisoned, "report": lambda head, error: failures.append(error)}
    async with serving(**options) as server, connected(server) as other:
        await other.ask(post())
        async with connected(server) as bad:
            await bad.stream.send_all(get(path))
            assert await bad.ended() == b""
        assert (await other.ask(post(b"still here"))).body == b"still here"
        async with connected(server) as later:
            assert (await later.ask(post(b"and here"))).body == b"and here"
        assert server.statistics().connections_failed == 1
    assert len(failures) == 1


async def test_without_isolation_it_ends_the_server() -> None:
    """The negative control."""
    server = Unisolated(await open_listeners("127.0.0.1", 0), echo, asgi_app=asgi_app(echo), is_hot=poisoned)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - one scenario
        async with trio.open_nursery() as nursery:
            await nursery.start(_run(server))
            async with connected(server) as bad:
                await bad.stream.send_all(get("/bug"))
                await bad.ended()
            await trio.sleep_forever()
    assert caught.group_contains(ZeroDivisionError)


def _run(server: HttpServer) -> Callable[..., Awaitable[None]]:
    async def run(*, task_status: trio.TaskStatus[HttpServer]) -> None:
        await server.run(task_status=task_status)

    return run


@BOTH_ROADS
async def test_failing_handler_does_not_disturb_its_neighbours(hot: bool) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.head.path == "/bug":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_raise)
                await trio.sleep_forever()
        await echo(exchange)

    failures: list[RequestHead | None] = []
    options: dict[str, Any] = {"report": lambda head, error: failures.append(head)}
    async with serving(handler, hot=hot, **options) as server, connected(server) as other:
        await other.ask(post())
        async with connected(server) as bad:
            assert (await bad.ask(get("/bug"))).status == 500
        assert (await other.ask(post(b"still here"))).body == b"still here"
    assert [head.path for head in failures if head is not None] == ["/bug"]


async def _raise() -> None:
    raise ZeroDivisionError


@BOTH_ROADS
async def test_cancellation_passes_through_a_connection(hot: bool) -> None:
    """Isolation must not swallow what ends the server; even when a handler mixes it with an exception."""
    entered = trio.Event()

    async def handler(exchange: Exchange) -> None:
        try:
            entered.set()
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async with serving(handler, hot=hot, report=lambda head, error: None) as server, connected(server) as client:
        await client.stream.send_all(get())
        await entered.wait()
        server.abort()
        await client.ended()
        await until(lambda: server.statistics().connections_open == 0)


# Readers that do not read

# Small enough to wait for in a test over real sockets; the order of events is what is asserted.
IMPATIENT = HttpLimits(write_seconds=0.2, linger_seconds=0.05)


async def _flood(exchange: Exchange) -> None:
    await exchange.start_stream(200, JSON)
    while True:
        await exchange.send(b"x" * 100_000)


@BOTH_ROADS
async def test_stalled_reader_does_not_hold_the_stop(hot: bool) -> None:
    async with serving(_flood, hot=hot, limits=IMPATIENT) as server, connected(server) as client:
        await client.stream.send_all(get())
        await client.stream.receive_some(1)
        server.stop()
        await until(lambda: server.statistics().connections_open == 0)


@BOTH_ROADS
async def test_stalled_reader_does_not_hold_the_abort(hot: bool) -> None:
    """With a write deadline of a minute, only the abort can be what ends it."""
    blocked = trio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        for _ in range(1000):
            with trio.move_on_after(0.05, shield=False) as scope:
                await exchange.send(b"x" * 100_000)
            if scope.cancelled_caught:
                break
        blocked.set()
        await exchange.send(b"x" * 10_000_000)

    limits = attrs.evolve(IMPATIENT, write_seconds=60)
    async with serving(handler, hot=hot, limits=limits) as server, connected(server) as client:
        await client.stream.send_all(get())
        await client.stream.receive_some(1)
        if hot:
            await blocked.wait()
        server.abort()
        await until(lambda: server.statistics().connections_open == 0)


class StuckStream(trio.abc.HalfCloseableStream):
    """A client that sends one request and then neither reads nor writes; `release` lets a test end."""

    def __init__(self, socket_below: Any) -> None:
        self.socket = socket_below
        self.released = trio.Event()
        self._request = get()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        request, self._request = self._request, b""
        if not request:
            await self.released.wait()
        return request

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.released.wait()

    async def wait_send_all_might_not_block(self) -> None:
        await self.released.wait()

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None: ...


async def _end_under_cancellation(serve: Callable[[Any], Awaitable[None]]) -> float:
    """Cancel a connection whose client is stuck; tell when it ended, or infinity if not within an hour."""
    near, far = socket.socketpair()
    with near, far:
        stream = StuckStream(trio.socket.from_stdlib_socket(far))
        ended = float("inf")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                nonlocal ended
                with trio.CancelScope(deadline=trio.current_time() + 1):
                    await serve(stream)
                ended = min(ended, trio.current_time())

            await trio.sleep(3600)
            outcome = ended
            stream.released.set()
    return outcome


async def test_guarded_write_ends_by_its_deadline_under_cancellation(autojump_clock: trio.testing.MockClock) -> None:
    road = HypercornRoad(asgi_app(echo), HttpLimits(write_seconds=10))
    assert await _end_under_cancellation(lambda stream: road.serve(stream, b"")) < 30


async def test_stock_write_never_ends_under_cancellation(autojump_clock: trio.testing.MockClock) -> None:
    """The negative control."""

    async def serve(stream: Any) -> None:
        app: Any = asgi_app(echo)
        await TCPServer(ASGIWrapper(app), Config(), WorkerContext(None), ConnectionState({}), stream).run()

    assert await _end_under_cancellation(serve) == float("inf")


@BOTH_ROADS
async def test_stalled_reader_is_told_to_its_handler(hot: bool) -> None:
    outcome: list[type[BaseException]] = []

    async def handler(exchange: Exchange) -> None:
        try:
            await _flood(exchange)
        except ClientGone as error:
            outcome.append(type(error))
            raise

    async with serving(handler, hot=hot, limits=IMPATIENT) as server, connected(server) as client:
        await client.stream.send_all(get())
        await client.stream.receive_some(1)
        await until(lambda: bool(outcome))
        await until(lambda: server.statistics().connections_open == 0)
        assert server.statistics().connections_failed == 0
