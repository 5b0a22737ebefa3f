"""A server that is known to be away: what clients are told who would open a session there, and when.

Streamable HTTP's own answers are with the breaker (tests/transport/upstreams/test_breaker.py). Here are the transports
whose connection comes before the session: they refuse the connection, since what is opened over it would be in vain.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange, get, post
from tests.transport.fake_socket import FakeSocket
from transport.clients.legacy_sse import LegacySse
from transport.clients.websocket import WebSocketFace
from transport.upstreams.breaker import Breaker, BreakerRules

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
# Open for 4 s x (0.5 + 0.5 x chance 0) = 2 s, then one trial, which may take 1 s.
RULES = BreakerRules(failures_max=3, first_seconds=4.0, trial_seconds=1.0)
SSE = "/servers/linear/sse"


@attrs.frozen
class Away:
    """One server with its breaker, and the two faces in front of it."""

    world: World
    breaker: Breaker
    sockets: WebSocketFace
    streams: LegacySse
    nursery: trio.Nursery

    def open_breaker(self) -> None:
        for _ in range(RULES.failures_max):
            self.breaker.failed("nobody listens there")

    async def connect(self, query: str = "") -> FakeSocket:
        """Begin a connection; it is cut when the test ends."""
        socket = FakeSocket(query=query)
        self.nursery.start_soon(self.sockets.serve, socket, ANONYMOUS)
        await wait_all_tasks_blocked()
        return socket

    async def stream(self, query: str = "") -> FakeExchange:
        """Ask for a stream; it is cut when the test ends."""
        exchange = get(path=f"{SSE}?{query}")
        self.nursery.start_soon(self.streams.handle, exchange, ANONYMOUS)
        await wait_all_tasks_blocked()
        return exchange

    async def initialize(self, stream: FakeExchange) -> FakeExchange:
        exchange = post(INITIALIZE, path=stream.frames[0].data.decode())
        await self.streams.handle(exchange, ANONYMOUS)
        await wait_all_tasks_blocked()
        return exchange


@asynccontextmanager
async def away(*, known: bool = True, upstream: FakeUpstream | None = None) -> AsyncIterator[Away]:
    """
    Args:
      known: the faces are told of the breaker.
    """
    async with open_world(upstream) as world, trio.open_nursery() as nursery:
        breaker = Breaker(RULES, draw_chance=lambda: 0.0)
        told = breaker if known else None
        sockets = WebSocketFace(world.runtime, "linear", upstream_transport="streamable-http", breaker=told)
        streams = LegacySse(world.runtime, "linear", upstream_transport="streamable-http", breaker=told)
        yield Away(world, breaker, sockets, streams, nursery)
        nursery.cancel_scope.cancel()


async def test_socket_that_would_open_a_session_is_refused_before_the_upgrade(autojump_clock: MockClock) -> None:
    async with away() as server:
        server.open_breaker()
        socket = await server.connect()
        assert (socket.status, socket.headers["retry-after"]) == (503, "2")
        error = json.loads(socket.body)["error"]
        assert error["code"] == jsonrpc.UPSTREAM_UNAVAILABLE
        assert "nobody listens there" in error["message"]
        assert server.world.upstream.journal == []


async def test_stream_that_would_open_a_session_is_refused_before_it_begins(autojump_clock: MockClock) -> None:
    async with away() as server:
        server.open_breaker()
        exchange = await server.stream()
        assert (exchange.status, exchange.headers["retry-after"]) == (503, "2")
        assert exchange.json["error"]["code"] == jsonrpc.UPSTREAM_UNAVAILABLE
        assert "nobody listens there" in exchange.json["error"]["message"]
        assert not exchange.is_stream


async def test_one_connection_at_a_time_is_the_trial(autojump_clock: MockClock) -> None:
    async with away() as server:
        server.open_breaker()
        await trio.sleep(2.1)
        assert (await server.connect()).status == 101
        assert (await server.connect()).status == 503
        assert (await server.stream()).status == 503
        await trio.sleep(1.0)  # nobody has told how the trial went
        assert (await server.stream()).status == 200
        assert (await server.connect()).status == 503
        server.breaker.succeeded()
        assert ((await server.connect()).status, (await server.stream()).status) == (101, 200)


async def test_trial_opens_its_session(autojump_clock: MockClock) -> None:
    """The upgrade and the stream took the place of the one trial: their own handshake needs no other."""
    async with away() as server:
        server.open_breaker()
        await trio.sleep(2.1)
        socket = await server.connect()
        socket.say(INITIALIZE)
        assert "result" in (await socket.told(1))[0]
        await trio.sleep(1.0)
        stream = await server.stream()
        assert (await server.initialize(stream)).status == 202
        assert "result" in stream.frames[1].message


async def test_sessions_that_are_there_are_gone_on_with(autojump_clock: MockClock) -> None:
    async with away() as server:
        socket, stream = await server.connect(), await server.stream()
        socket.say(INITIALIZE)
        socket.say(INITIALIZED)
        await socket.told(1)
        await server.initialize(stream)
        session_of_stream = stream.frames[0].data.decode().partition("session_id=")[2]
        server.open_breaker()
        again = await server.connect(query=f"session_id={socket.headers['mcp-session-id']}")
        assert again.status == 101
        assert await socket.wait_closed() == 4409
        assert (await server.stream(query=f"session_id={session_of_stream}")).status == 200


@pytest.mark.parametrize("offered", [{"subprotocols": ["graphql-ws"]}, {"query": "last_event_id=x"}])
async def test_upgrade_that_is_refused_anyway_uses_up_no_trial(
    offered: dict[str, str], autojump_clock: MockClock
) -> None:
    async with away() as server:
        server.open_breaker()
        await trio.sleep(2.1)
        socket = FakeSocket(**offered)  # type: ignore[arg-type]
        await server.sockets.serve(socket, ANONYMOUS)
        assert socket.status == 400
        assert (await server.connect()).status == 101


async def test_handshake_on_a_connection_from_before_is_refused_at_once(autojump_clock: MockClock) -> None:
    async with away() as server:
        socket, stream = await server.connect(), await server.stream()
        server.open_breaker()
        began = trio.current_time()
        socket.say(INITIALIZE)
        assert await socket.wait_closed() == 1013
        assert (await server.initialize(stream)).status == 202
        for refusal in (socket.messages[0], stream.frames[1].message):
            assert (refusal["id"], refusal["error"]["code"]) == (0, jsonrpc.UPSTREAM_UNAVAILABLE)
            assert "nobody listens there" in refusal["error"]["message"]
        assert trio.current_time() == began
        assert server.world.upstream.journal == []


async def test_control_without_the_breaker_clients_wait_to_be_told(autojump_clock: MockClock) -> None:
    """Both are let in, and hear only when connecting has been tried for as long as a request may wait for that."""
    upstream = FakeUpstream()
    upstream.down = "nobody listens there"
    async with away(known=False, upstream=upstream) as server:
        server.open_breaker()
        socket, stream = await server.connect(), await server.stream()
        assert (socket.status, stream.status) == (101, 200)
        began = trio.current_time()
        socket.say(INITIALIZE)
        assert await socket.wait_closed() == 1013
        assert trio.current_time() - began >= 1.0
        began = trio.current_time()
        await server.initialize(stream)
        assert trio.current_time() - began >= 1.0
