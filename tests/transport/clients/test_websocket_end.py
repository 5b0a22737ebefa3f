"""How connections over WebSocket end, and by which code a client knows why. In virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS, Principal
from actors.state import Limits
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_session, open_world
from tests.transport.clients.socket_bed import (
    INITIALIZE,
    WELCOME,
    answer,
    back,
    code_of,
    error_codes,
    face_of,
    opened,
    request,
    served,
)
from tests.transport.fake_socket import FakeSocket
from transport.clients.socket_frames import WITH_IDS
from transport.clients.websocket import WebSocketFace


async def test_unknown_session_has_its_code(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        assert await code_of(face_of(world), back("made-up")) == 4404


async def test_connection_ends_with_its_credential_and_the_session_goes_on(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        socket = FakeSocket()
        nursery.start_soon(face_of(world).serve, socket, ANONYMOUS, trio.current_time() + 60)
        socket.say(INITIALIZE)
        assert await socket.wait_closed() == 4401
        assert trio.current_time() == pytest.approx(60)
        async with served(face_of(world), back(socket.headers["mcp-session-id"])) as again:
            assert (await again.told(1))[0]["in_progress"] == []


async def test_session_of_another_principal_or_server_does_not_exist(autojump_clock: MockClock) -> None:
    stranger = Principal("issuer", "client", "somebody else")
    async with open_world() as world, opened(face_of(world)) as socket:
        session_id = socket.headers["mcp-session-id"]
        assert await code_of(face_of(world), back(session_id), stranger) == 4404
        elsewhere = WebSocketFace(world.runtime, "files", upstream_transport="stdio")
        assert await code_of(elsewhere, back(session_id)) == 4404
        assert socket.closed is None, "whoever may not have it does not take it over"


async def test_session_of_another_transport_is_not_gone_on_with_here(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        assert await code_of(face_of(world), back(session.id)) == 4404


async def test_event_id_of_another_session_has_its_code(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as one, opened(face, WITH_IDS) as other:
            event_id = other.messages[0]["event_id"]
            assert await code_of(face, back(one.messages[0]["session_id"], event_id)) == 4400
            assert one.closed is None


async def test_events_that_are_no_longer_kept_have_their_code(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    limits = Limits(events_per_session_max=5)
    async with open_world(disk=disk, limits=limits) as world, opened(face_of(world), WITH_IDS) as socket:
        greeting = socket.messages[0]
        for _ in range(20):
            world.link.say("note")
        await socket.told(22)
    async with open_world(disk=disk, limits=limits) as world:  # in memory there may be a few more
        assert await code_of(face_of(world), back(greeting["session_id"], greeting["event_id"])) == 4410


async def test_end_of_the_session_ends_its_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        await world.runtime.session(socket.headers["mcp-session-id"]).close()
        assert await socket.wait_closed() == 4404


async def test_failure_of_the_session_ends_the_connection_of_one_who_only_listens(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    async with open_world(upstream) as world, opened(face_of(world)) as socket:
        upstream.forget()
        upstream.rejects = ("upstream_rejected", "as scripted")
        world.link.lose()
        assert await socket.wait_closed() == 4404


async def test_draining_ends_idle_connections_at_once_and_busy_ones_behind_their_answer(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face) as idle, opened(face) as busy, served(face, FakeSocket()) as unopened:
            busy.say(request(1, "held"))
            await trio.sleep(1.0)
            world.runtime.registry.drain()
            face.drain()
            assert [await idle.wait_closed(), await unopened.wait_closed()] == [1012, 1012]
            busy.say(request(2))
            messages = await busy.told(2)
            assert error_codes(messages[1:]) == [(2, jsonrpc.UPSTREAM_UNAVAILABLE)]
            world.upstream.links[-1].answer(1)
            assert await busy.wait_closed() == 1012
            assert busy.messages[-1] == answer(1)
            late = FakeSocket()
            await face.serve(late, ANONYMOUS)
            assert late.status == 503


async def test_draining_waits_for_the_answer_to_an_opening(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.connect_seconds = 2.0
    async with open_world(upstream) as world:
        face = face_of(world)
        async with served(face, FakeSocket()) as socket:
            socket.say(INITIALIZE)
            await trio.sleep(1.0)
            world.runtime.registry.drain()
            face.drain()
            assert await socket.wait_closed() == 1012
            assert socket.messages == [WELCOME], "the session is there to come back to"


async def test_opening_that_outlasts_the_grace_is_refused_before_its_connection_ends(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.connect_seconds = 20.0
    async with open_world(upstream) as world:
        face = face_of(world)
        async with served(face, FakeSocket()) as socket:
            socket.say(INITIALIZE)
            await trio.sleep(1.0)
            face.drain()
            await world.runtime.registry.stop_actors()
            assert await socket.wait_closed() == 1012
            assert error_codes(socket.messages) == [(0, jsonrpc.UPSTREAM_UNAVAILABLE)]


async def test_client_that_goes_away_ends_its_connection_and_never_its_call(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world), WITH_IDS) as socket:
        socket.say(request(1, "held"))
        await wait_all_tasks_blocked()
        socket.leave()
        await trio.sleep(1.0)
        assert world.link.cancelled == []
        world.link.answer(1)
        async with served(face_of(world), back(socket.messages[0]["session_id"])) as again:
            assert (await again.told(2))[1]["message"] == answer(1)
