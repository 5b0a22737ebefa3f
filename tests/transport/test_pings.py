"""Ping deadlines of WebSockets, clients' and servers', in virtual time; and what happens without them.

A network that breaks in the middle tells neither side: nothing comes any more, and nothing fails until something is
sent. So whoever is silent is asked for a sign. What is real about connections is in test_hypercorn_socket.py and in
upstreams/test_websocket.py; here is the arithmetic.
"""

from __future__ import annotations

import math
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.transport.upstreams.recording_inbox import RecordingInbox
from transport.handler import HttpLimits
from transport.hypercorn_road import GuardedStream
from transport.upstreams.websocket import WebSocketConnector, WebSocketLimits, WebSocketLink

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LIMITS = HttpLimits(ping_seconds=25.0, pong_seconds=15.0)
A_DAY = 86_400.0


@attrs.frozen
class Socket:
    """A client's end and ours, upgraded."""

    client: Any
    guarded: GuardedStream
    pings: list[float]  # when one was sent


async def upgraded(limits: HttpLimits) -> Socket:
    client, server = trio.testing.memory_stream_pair()
    guarded = GuardedStream(cast("trio.SocketStream", server), UPGRADE, limits)
    pings: list[float] = []

    async def ping() -> None:
        pings.append(trio.current_time())

    guarded.ping = ping
    assert await guarded.receive_some() == UPGRADE
    return Socket(client, guarded, pings)


async def test_client_that_has_vanished_is_noticed_at_the_deadline(autojump_clock: MockClock) -> None:
    socket = await upgraded(LIMITS)
    began = trio.current_time()
    assert await socket.guarded.receive_some() == b""
    assert socket.pings == [began + 25.0]
    assert trio.current_time() == began + 25.0 + 15.0


@pytest.mark.parametrize("limits", [attrs.evolve(LIMITS, pong_seconds=math.inf), HttpLimits(ping_seconds=math.inf)])
async def test_control_without_the_deadline_a_client_that_has_vanished_is_never_noticed(
    limits: HttpLimits, autojump_clock: MockClock
) -> None:
    socket = await upgraded(limits)
    with trio.move_on_after(A_DAY) as waiting:
        await socket.guarded.receive_some()
    assert waiting.cancelled_caught


async def test_client_that_answers_in_time_is_asked_again_and_again_and_stays(autojump_clock: MockClock) -> None:
    socket = await upgraded(LIMITS)
    began = trio.current_time()
    for _ in range(3):  # 40 s each, less one: the ping after 25, an answer 14 later
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_say_at, socket.client, trio.current_time() + 39.0)
            assert await socket.guarded.receive_some() == b"pong"
    assert socket.pings == [began + 25.0, began + 39.0 + 25.0, began + 78.0 + 25.0]


async def test_client_that_speaks_is_not_asked(autojump_clock: MockClock) -> None:
    socket = await upgraded(LIMITS)
    for _ in range(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_say_at, socket.client, trio.current_time() + 24.0)
            assert await socket.guarded.receive_some() == b"pong"
    assert socket.pings == []


async def _say_at(client: Any, at: float) -> None:
    await trio.sleep_until(at)
    await client.send_all(b"pong")


# ---- servers ----


class Vanished:
    """A server's connection over which nothing comes back."""

    async def ping(self) -> None:
        await trio.sleep_forever()


async def pinging(limits: WebSocketLimits, nursery: trio.Nursery) -> None:
    connector = WebSocketConnector("ws://127.0.0.1/ws", limits=limits)
    await WebSocketLink(connector, RecordingInbox(nursery))._ping(cast("Any", Vanished()))


async def test_server_that_has_vanished_is_lost_at_the_deadline(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        with pytest.raises(Exception, match="answered no ping within 30 s"):
            await pinging(WebSocketLimits(ping_seconds=25.0, pong_seconds=30.0), nursery)
    assert trio.current_time() == began + 25.0 + 30.0


async def test_control_without_the_deadline_a_server_that_has_vanished_is_never_lost(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(A_DAY) as waiting:
            await pinging(WebSocketLimits(ping_seconds=25.0, pong_seconds=math.inf), nursery)
    assert waiting.cancelled_caught
