"""Coming back to a session over WebSocket: what is missed, who is heard, and who takes over. In virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_world
from tests.transport.clients.socket_bed import (
    WELCOME,
    answer,
    back,
    error_codes,
    face_of,
    opened,
    request,
    served,
)
from tests.transport.fake_socket import FakeSocket
from transport.clients.socket_conversation import Conversations
from transport.clients.socket_frames import WITH_IDS


async def test_ids_are_told_with_each_event(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world), WITH_IDS) as socket:
        assert socket.subprotocol == WITH_IDS
        greeting, welcome = socket.messages
        assert greeting["session_id"] == socket.headers["mcp-session-id"]
        assert (greeting["in_progress"], greeting["unanswered"]) == ([], [])
        assert greeting["event_id"] == greeting["last_event_id"]
        assert welcome == {"message": WELCOME}
        socket.say(request(1))
        frame = (await socket.told(3))[2]
        assert frame["message"] == answer(1, {})
        assert frame["event_id"] not in ("", greeting["event_id"])


async def test_client_that_comes_back_gets_exactly_what_it_missed_and_goes_on_live(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as socket:
            for number in range(3):
                world.link.say("note", {"number": number})
            frames = await socket.told(5)
            socket.leave()
            await wait_all_tasks_blocked()
        for number in range(3, 6):
            world.link.say("note", {"number": number})
        second = frames[3]["event_id"]
        async with served(face, back(frames[0]["session_id"], second)) as again:
            greeting, *missed = await again.told(5)
            assert greeting["event_id"] == second
            assert greeting["last_event_id"] == missed[-1]["event_id"]
            world.link.say("note", {"number": 6})
            *missed, _ = (await again.told(6))[1:]
            live = again.messages[-1]
        assert [frame["message"]["params"]["number"] for frame in [*missed, live]] == [2, 3, 4, 5, 6]


async def test_greeting_says_what_is_in_progress_and_unanswered(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as socket:
            socket.say(request("long", "held"))
            await wait_all_tasks_blocked()
            world.link.ask("q", about="long")
            await socket.told(3)
            socket.leave()
        async with served(face, back(socket.messages[0]["session_id"])) as again:
            (greeting,) = await again.told(1)
            assert greeting["in_progress"] == ["long"]
            assert greeting["unanswered"] == ["q"]


async def test_plain_client_goes_on_behind_what_was_last_put_on_a_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face) as socket:
            world.link.say("seen")
            await socket.told(2)
            socket.leave()
            await wait_all_tasks_blocked()
        world.link.say("missed")
        headers = {"mcp-session-id": socket.headers["mcp-session-id"]}
        async with served(face, FakeSocket(headers=headers)) as again:
            assert [message["method"] for message in await again.told(1)] == ["missed"]


async def test_newest_connection_takes_over_and_the_older_is_heard_no_more(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as older:
            async with served(face, back(older.messages[0]["session_id"])) as newer:
                await newer.told(1)
                assert await older.wait_closed() == 4409
                older.say(request("late"))
                world.link.say("note")
                assert (await newer.told(2))[1]["message"]["method"] == "note"
                await wait_all_tasks_blocked()
            assert not world.upstream.sent("echo")
            assert len(older.sent) == 2


async def test_reader_over_http_takes_the_stream_over_too(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        await world.runtime.session(socket.headers["mcp-session-id"]).read(None)
        assert await socket.wait_closed() == 4409


async def test_call_in_progress_at_a_kill_ends_with_an_error_on_the_next_connection(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    upstream = FakeUpstream()
    async with open_world(upstream, disk) as world, opened(face_of(world), WITH_IDS) as socket:
        socket.say(request("long", "held"))
        await trio.sleep(1.0)
        world.kill()
        session_id, event_id = socket.messages[0]["session_id"], socket.messages[0]["event_id"]
    async with open_world(upstream, disk) as world, served(face_of(world), back(session_id, event_id)) as again:
        frames = await again.told(2)
        assert error_codes([frames[1]["message"]]) == [("long", jsonrpc.OUTCOME_UNKNOWN)]
        assert len(upstream.sent("held")) == 1


async def test_greeting_names_events_by_the_ids_that_they_were_given_whichever_process_gave_them(
    autojump_clock: MockClock,
) -> None:
    # Over such a store each process gives ids of its own epoch; those of what was durable stay good.
    disk = MemoryStore()
    async with open_world(disk=disk, store_outage="degrade") as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as socket:
            world.link.say("seen")
            seen = (await socket.told(3))[2]["event_id"]
            session_id = socket.messages[0]["session_id"]
            socket.leave()
            await wait_all_tasks_blocked()
        world.link.say("missed")
        await wait_all_tasks_blocked()
    async with open_world(disk=disk, store_outage="degrade") as world:
        face = face_of(world)
        async with served(face, back(session_id, seen)) as again:
            greeting, missed = await again.told(2)
            assert greeting["event_id"] == seen
            assert greeting["last_event_id"] == missed["event_id"]
        async with served(face, back(session_id, greeting["last_event_id"])) as once_more:
            await wait_all_tasks_blocked()
            assert len(once_more.sent) == 1, "the greeting alone: it has all that there is"


async def test_crash_of_the_session_is_not_felt_by_its_client(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world), WITH_IDS) as socket:
        session_id = socket.messages[0]["session_id"]
        world.link.say("before")
        await socket.told(3)
        world.runtime.session(session_id).actor().stop("interrupted by the test")
        await wait_all_tasks_blocked()
        await trio.sleep(1.0)
        socket.say(request(1))
        frames = await socket.told(4)
        assert [frame["message"].get("id") for frame in frames[2:]] == [None, 1]
        assert socket.closed is None


async def test_older_connection_that_does_not_read_is_heard_no_more_either(autojump_clock: MockClock) -> None:
    """Half a connection, as a network that breaks leaves it: it can be heard, and notices nothing."""
    async with open_world() as world:
        await speak_on_after_a_take_over(world)
        assert not world.upstream.sent("echo")


async def test_control_without_the_take_over_the_older_connection_is_still_heard(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the newer was told of calls in progress is overtaken: its client would take this one for lost."""
    monkeypatch.setattr(Conversations, "take_over", lambda self, session_id, conversation: None)
    async with open_world() as world:
        greeting = await speak_on_after_a_take_over(world)
        assert greeting["in_progress"] == []
        assert [message.id for message in world.upstream.sent("echo")] == ["late"]


async def speak_on_after_a_take_over(world: World) -> Any:
    """Have a client come back while its older connection is stuck, and that one speak; give the newer's greeting."""
    face = face_of(world)
    async with opened(face, WITH_IDS) as older:
        older.stop_reading()
        world.link.say("note")
        await wait_all_tasks_blocked()
        async with served(face, back(older.messages[0]["session_id"])) as newer:
            greeting, _ = await newer.told(2)
            older.say(request("late"))
            await trio.sleep(1.0)
            return greeting


async def test_control_without_an_event_id_what_was_on_its_way_is_lost(autojump_clock: MockClock) -> None:
    """All five were put on the connection; the client has seen two when it breaks."""
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as socket:
            for number in range(5):
                world.link.say("note", {"number": number})
            greeting, _, *notes = await socket.told(7)
            socket.leave()
            await wait_all_tasks_blocked()
        world.link.say("note", {"number": 5})
        found = []
        for seen in (None, notes[1]["event_id"]):
            async with served(face, back(greeting["session_id"], seen)) as again:
                await again.told(2)
                await wait_all_tasks_blocked()
                found.append([frame["message"]["params"]["number"] for frame in again.messages[1:]])
        assert found == [[5], [2, 3, 4, 5]]


@pytest.mark.parametrize("gate_open_always", [False, True])
async def test_answer_that_was_told_is_there_after_a_kill_and_without_the_gate_it_is_not(
    gate_open_always: bool, autojump_clock: MockClock
) -> None:
    """With the negative control: where the gate stands open, a client comes back behind an event that never was."""
    disk = MemoryStore()
    async with open_world(disk=disk) as world, opened(face_of(world), WITH_IDS) as socket:
        session_id, seen = socket.messages[0]["session_id"], socket.messages[0]["event_id"]
    async with (
        open_world(disk=disk, commit_seconds=1.0, gate_open_always=gate_open_always) as world,
        served(face_of(world), back(session_id, seen)) as socket,
    ):
        await trio.sleep(3.0)
        socket.say(request(1))
        await trio.sleep(0.5 if gate_open_always else 1.5)  # a commit takes 1.0
        assert socket.messages[-1]["message"] == answer(1, {})
        world.kill()
    async with open_world(disk=disk) as world, served(face_of(world), back(session_id, seen)) as again:
        await again.told(1)
        await trio.sleep(1.0)
        told = [frame["message"] for frame in again.messages[1:]]
        assert (answer(1, {}) in told) is not gate_open_always
