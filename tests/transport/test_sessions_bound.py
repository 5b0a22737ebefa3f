"""As many sessions as may be: who wants one more is told so over each transport, and nothing of the attempt stays."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_one_way_pair, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import Principal
from tests.actors.worlds import World, open_session, open_world
from tests.transport.clients import socket_bed as websocket
from tests.transport.clients import test_legacy_sse as legacy
from tests.transport.clients.test_streamable_http import face_of, handled
from tests.transport.fake_exchange import post
from tests.transport.fake_socket import FakeSocket
from transport.clients import sse_messages
from transport.clients.stdio import StdioClient
from transport.socket_exchange import TRY_AGAIN_LATER

ANN = Principal("https://issuer.example", "app", "ann")
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}


def left(world: World) -> tuple[int, int]:
    """Count the sessions that exist, and those that were turned away."""
    statistics = world.runtime.registry.statistics()
    return statistics.sessions, statistics.turned_away


async def test_over_streamable_http_it_is_503_with_retry_after(autojump_clock: MockClock) -> None:
    async with open_world(sessions_max=1) as world:
        await open_session(world)
        refused = await handled(face_of(world), post(INITIALIZE))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.json["error"] == {"code": jsonrpc.OVERLOADED, "message": "1 sessions exist already"}
        assert refused.json["id"] == 0
        assert left(world) == (1, 1)


async def test_over_http_and_sse_it_is_said_on_the_stream(autojump_clock: MockClock) -> None:
    async with open_world(sessions_max=1) as world, trio.open_nursery() as nursery:
        await open_session(world)
        client = legacy.Client(legacy.face_of(world), nursery)
        await client.attach()
        assert (await client.post(INITIALIZE)).status == 202
        assert client.errors == [jsonrpc.OVERLOADED]
        assert left(world) == (1, 1)
        nursery.cancel_scope.cancel()


async def test_over_http_and_sse_beyond_what_fits_on_the_stream_it_is_503(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_messages, "_REFUSALS_MAX", 0)
    async with open_world(sessions_max=1) as world, trio.open_nursery() as nursery:
        await open_session(world)
        client = legacy.Client(legacy.face_of(world), nursery)
        await client.attach()
        refused = await client.post(INITIALIZE)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.json["error"]["code"] == jsonrpc.OVERLOADED
        nursery.cancel_scope.cancel()


async def test_over_websocket_it_is_an_error_and_a_close_that_says_later(autojump_clock: MockClock) -> None:
    async with open_world(sessions_max=1) as world:
        await open_session(world)
        socket = FakeSocket()
        async with websocket.served(websocket.face_of(world), socket):
            socket.say(INITIALIZE)
            assert await socket.wait_closed() == TRY_AGAIN_LATER
        assert websocket.error_codes(socket.messages) == [(0, jsonrpc.OVERLOADED)]
        assert left(world) == (1, 1)


async def test_over_stdio_it_is_an_error_line(autojump_clock: MockClock) -> None:
    async with open_world(sessions_max=1) as world, trio.open_nursery() as nursery:
        await open_session(world)
        stdin, source = memory_stream_one_way_pair()
        sink, stdout = memory_stream_one_way_pair()
        client = StdioClient(world.runtime, "far", source, sink, upstream_transport="fake")
        nursery.start_soon(client.run)
        await stdin.send_all(b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}\n')
        await wait_all_tasks_blocked()
        assert b'"1 sessions exist already"' in await stdout.receive_some()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("bound", [{"sessions_max": 2}, {"sessions_per_principal_max": 2}])
async def test_control_with_room_for_it_the_same_request_opens_a_session(
    bound: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with open_world(**bound) as world:
        await open_session(world, principal=ANN)
        assert (await handled(face_of(world), post(INITIALIZE))).status == 200
        assert left(world) == (2, 0)


async def test_a_principal_s_own_bound_is_the_same_answer_in_other_words(autojump_clock: MockClock) -> None:
    async with open_world(sessions_per_principal_max=1) as world:
        await open_session(world, principal=ANN)
        exchange = post(INITIALIZE)
        await face_of(world).handle(exchange, ANN)
        assert (exchange.status, exchange.headers["retry-after"]) == (503, "1")
        assert exchange.json["error"]["message"] == "you have 1 sessions already; end some first"
