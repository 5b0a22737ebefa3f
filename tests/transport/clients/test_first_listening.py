"""A client that is told that it can be heard is heard: its server's own stream is there first.

A direct client has the head of its GET when the server has its stream, and loses nothing that the server says of what
the client sends then. Behind a gateway that answers the GET at once, what is said before the gateway's own GET has
arrived is lost at a server without an event store.

Method: a scripted server that can be heard when the test says so; and once the whole way, with a socket, to a server
that speaks at the first call to whoever has its stream. All times are virtual.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS
from actors.runtime import RuntimeOptions, open_runtime
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_world
from tests.transport.clients.socket_bed import INITIALIZE, INITIALIZED, served
from tests.transport.clients.socket_bed import face_of as socket_face_of
from tests.transport.clients.test_legacy_sse import Client
from tests.transport.clients.test_legacy_sse import face_of as sse_face_of
from tests.transport.clients.test_stdio import HANDSHAKE, READY, peer_of
from tests.transport.clients.test_streamable_http import opened, request
from tests.transport.fake_exchange import FakeExchange, get, post
from tests.transport.fake_socket import FakeSocket
from tests.transport.upstreams.bed import initialize_result
from tests.transport.upstreams.scripted_upstream import Caller, Script, ScriptedUpstream, SeenRequest
from transport.clients.stdio import StdioOptions
from transport.clients.streamable_http import StreamableHttp, StreamableHttpOptions
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.streamable_http import StreamableHttpConnector

CHANGED = jsonrpc.notification("notifications/tools/list_changed")


def slow_to_hear() -> FakeUpstream:
    upstream = FakeUpstream()
    upstream.listening = trio.Event()
    return upstream


# ---- Streamable HTTP ----


async def test_get_has_its_head_when_the_server_can_be_heard(autojump_clock: MockClock) -> None:
    upstream = slow_to_hear()
    async with open_world(upstream) as world, trio.open_nursery() as nursery:
        face = StreamableHttp(world.runtime, "linear", upstream_transport="fake")
        session_id = await opened(face)
        stream = get(mcp_session_id=session_id)
        nursery.start_soon(face.handle, stream, ANONYMOUS)
        await trio.sleep(2)
        assert stream.status == 0
        assert upstream.link.listens == 1

        call = post(request(1), mcp_session_id=session_id)
        began = trio.current_time()
        await face.handle(call, ANONYMOUS)
        assert call.status == 200
        assert trio.current_time() == began, "calls beside it wait for nothing"

        assert upstream.listening is not None
        upstream.listening.set()
        await wait_all_tasks_blocked()
        assert stream.status == 200

        again = get(mcp_session_id=session_id)
        nursery.start_soon(face.handle, again, ANONYMOUS)
        await wait_all_tasks_blocked()
        assert again.status == 200, "waited for once"
        nursery.cancel_scope.cancel()


async def test_get_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    async with open_world(slow_to_hear()) as world, trio.open_nursery() as nursery:
        face = StreamableHttp(world.runtime, "linear", upstream_transport="fake")
        stream = get(mcp_session_id=await opened(face))
        nursery.start_soon(face.handle, stream, ANONYMOUS)
        await trio.sleep(4.9)
        assert stream.status == 0
        await trio.sleep(0.2)
        assert stream.status == 200
        nursery.cancel_scope.cancel()


async def test_get_waits_no_longer_than_the_link_lives(autojump_clock: MockClock) -> None:
    upstream = slow_to_hear()
    async with open_world(upstream) as world, trio.open_nursery() as nursery:
        face = StreamableHttp(world.runtime, "linear", upstream_transport="fake")
        stream = get(mcp_session_id=await opened(face))
        nursery.start_soon(face.handle, stream, ANONYMOUS)
        await trio.sleep(1)
        upstream.link.lose()
        await trio.sleep(0.1)
        assert stream.status == 200
        nursery.cancel_scope.cancel()


def eager(head_seconds: float, *, status: int = 200) -> Script:
    """A server without an event store: at the first call it says something, to whoever has its stream then."""
    streams: list[Caller] = []

    async def script(seen: SeenRequest, caller: Caller) -> None:
        if seen.method == "GET":
            await trio.sleep(head_seconds)
            if status != 200:
                await caller.answer(status)
                return
            await caller.open_stream()
            streams.append(caller)
            await caller.wait_closed_by_peer()
            return
        message: dict[str, Any] = json.loads(seen.body)
        if message["method"] == "initialize":
            await caller.answer(200, initialize_result(id=message["id"]).raw, {"Mcp-Session-Id": "up-1"})
        else:
            for stream in streams:
                await stream.event(CHANGED.raw)
            await caller.answer(200, jsonrpc.result(message["id"], {}).raw)

    return script


async def heard_of_first_call(
    script: Script, options: StreamableHttpOptions = StreamableHttpOptions()
) -> tuple[list[Any], float]:
    """Ask for the stream, and with its head make a call; give what the stream said, and when it had its head."""
    async with trio.open_nursery() as nursery:
        upstream, pool = ScriptedUpstream(script), HttpPool()
        await nursery.start(upstream.run)
        await nursery.start(pool.run)
        connector = StreamableHttpConnector(pool, HttpTarget.parse(upstream.url))
        async with open_runtime(MemoryStore(), connect=connector, options=RuntimeOptions(restore=False)) as runtime:
            face = StreamableHttp(runtime, "linear", upstream_transport="streamable-http", options=options)
            stream = get(mcp_session_id=await opened(face))
            began = trio.current_time()
            nursery.start_soon(face.handle, stream, ANONYMOUS)
            seconds = await head_of(stream) - began
            await face.handle(post(request(1), mcp_session_id=stream.head.headers["mcp-session-id"]), ANONYMOUS)
            await trio.sleep(1)
            heard = [frame.message for frame in stream.frames]
        nursery.cancel_scope.cancel()
    return heard, seconds


async def head_of(stream: FakeExchange) -> float:
    for _ in range(1000):
        if stream.status:
            return trio.current_time()
        await trio.sleep(0.01)
    raise AssertionError("it has no head")


async def test_what_the_server_says_of_the_first_call_is_heard(autojump_clock: MockClock) -> None:
    heard, seconds = await heard_of_first_call(eager(0.5))
    assert heard == [json.loads(CHANGED.raw)]
    assert 0.5 <= seconds < 0.6


async def test_with_a_head_of_its_own_it_is_lost(autojump_clock: MockClock) -> None:
    heard, seconds = await heard_of_first_call(eager(0.5), StreamableHttpOptions(listen_head_seconds_max=0))
    assert heard == []
    assert seconds < 0.1


async def test_server_without_such_a_stream_is_not_waited_for(autojump_clock: MockClock) -> None:
    heard, seconds = await heard_of_first_call(eager(0, status=405))
    assert heard == []
    assert seconds < 0.1


# ---- clients with one stream for everything: what they say next is taken when the server can be heard ----


@pytest.mark.parametrize("protected", [True, False])
async def test_socket_s_second_message_waits(protected: bool, autojump_clock: MockClock) -> None:
    """Off, it would be at the server before the server can be heard."""
    upstream = slow_to_hear()
    options = {} if protected else {"heard_seconds_max": 0}
    async with open_world(upstream) as world, served(socket_face_of(world, **options), FakeSocket()) as socket:
        for message in (INITIALIZE, INITIALIZED, request(1)):
            socket.say(message)
        await trio.sleep(0.9)
        assert upstream.methods == ["initialize", "notifications/initialized"] + ([] if protected else ["echo"])
        await trio.sleep(0.2)
        assert upstream.methods[-1] == "echo", "it does not wait for ever"


@pytest.mark.parametrize("protected", [True, False])
async def test_what_follows_the_confirmation_over_stdio_waits(protected: bool, autojump_clock: MockClock) -> None:
    upstream = slow_to_hear()
    options = StdioOptions() if protected else StdioOptions(heard_seconds_max=0)
    async with peer_of(upstream, options=options) as peer:
        await peer.say(HANDSHAKE, READY, request(1))
        await trio.sleep(0.9)
        assert upstream.methods == ["initialize", "notifications/initialized"] + ([] if protected else ["echo"])
        await trio.sleep(0.2)
        assert upstream.methods[-1] == "echo"


@pytest.mark.parametrize("protected", [True, False])
async def test_answer_to_the_handshake_over_http_and_sse_waits(protected: bool, autojump_clock: MockClock) -> None:
    """It is what the client waits for before it says anything else."""
    options = {} if protected else {"heard_seconds_max": 0}
    async with open_world(slow_to_hear()) as world, trio.open_nursery() as nursery:
        client = await Client(sse_face_of(world, **options), nursery).open()
        await trio.sleep(0.9)
        assert [frame.name for frame in client.stream.frames] == ["endpoint"] + ([] if protected else ["message"])
        await trio.sleep(0.2)
        assert [frame.name for frame in client.stream.frames] == ["endpoint", "message"]
        nursery.cancel_scope.cancel()
