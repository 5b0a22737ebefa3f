"""Handles: requests, events and reading by cursor, as applications and transports use them."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors import messages as say
from actors.event_log import CursorLost
from actors.handle import CommandRejected, Event, SessionHandle, SessionUnavailable
from actors.ids import EventId, InvalidEventId
from actors.registry import SessionNotFound
from actors.state import Limits
from persistence.memory import MemoryStore
from persistence.store import StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_session, open_world, problem, send


async def collect(session: SessionHandle, count: int, after: str | None = None) -> list[Event]:
    """Take so many events."""
    with trio.fail_after(10.0):
        async with aclosing(session.events(after)) as events:
            return [await anext(events) for _ in range(count)]


def names(events: list[Event]) -> list[str]:
    return [event.message.method for event in events]


# ---- requests ----


async def test_request_gives_the_result(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)

        assert await session.request("echo", {"a": [1, None, "x"]}) == {"a": [1, None, "x"]}


async def test_request_that_takes_long_gives_the_result_too(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        session = await open_session(world)
        got: list[object] = []

        async def ask() -> None:
            got.append(await session.request("hold", id="mine"))

        nursery.start_soon(ask)
        await trio.sleep(10.0)
        world.link.say("notifications/progress", about="mine")
        world.link.answer("mine", "at last")
        await wait_all_tasks_blocked()
        assert got == ["at last"]


async def test_request_goes_on_where_its_session_left_memory_meanwhile(autojump_clock: MockClock) -> None:
    """A crash while the answer's stream is read: a resumable call goes on, and its caller gets the answer."""
    async with open_world() as world, trio.open_nursery() as nursery:
        session = await open_session(world)
        got: list[object] = []

        async def ask() -> None:
            got.append(await session.request("hold", id="mine"))

        nursery.start_soon(ask)
        await trio.sleep(1.0)
        world.link.say("notifications/progress", about="mine", cursor="c1")
        await wait_all_tasks_blocked()
        session.actor().tell("no such command")  # type: ignore[arg-type]
        await trio.sleep(1.0)
        assert len(world.upstream.links) == 2
        world.link.answer("mine", "after all")
        await wait_all_tasks_blocked()
        assert got == ["after all"]


async def test_error_answer_is_raised(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.answers["bad"] = lambda message: jsonrpc.error(message.id, -5, "no good")
    async with open_world(upstream) as world:
        session = await open_session(world)
        with pytest.raises(jsonrpc.RequestFailed) as failed:
            await session.request("bad")

        assert failed.value.code == -5


async def test_duplicate_is_rejected_and_too_much_is_unavailable(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(calls_in_flight_max=1)) as world:
        session = await open_session(world)
        send(session, 1, "hold")
        with pytest.raises(CommandRejected, match="id 1 is in progress"):
            await session.request("echo", id=1)
        with pytest.raises(SessionUnavailable, match="1 requests are in progress"):
            await session.request("echo", id=2)


async def test_full_mailbox_is_an_outcome(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        for _ in range(world.runtime.registry.shared.mailbox_max):
            session.actor().ask(say.Look)

        assert problem(await session.ask(say.Look)) is say.Problem.OVERLOADED
        await wait_all_tasks_blocked()
        assert await session.ask(say.Look) == say.Accepted()


async def test_cancelled_request_is_done_all_the_same(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        with trio.move_on_after(0.1):
            await session.request("hold", id=1)
        assert len(world.upstream.sent("hold")) == 1
        world.link.answer(1)

        assert await session.request("echo", 2) == 2


async def test_notification_returns_when_it_is_delivered(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.confirms = False
    async with open_world(upstream) as world:
        session = await open_session(world)
        with trio.move_on_after(1.0) as early:
            await session.notify("note")
        assert early.cancelled_caught
        assert upstream.methods[-1] == "note"


# ---- events ----


async def test_events_are_kept_first_then_live(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        session = await open_session(world)
        await session.emit("one")
        got: list[Event] = []

        async def read() -> None:
            got.extend(await collect(session, 3))

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await session.emit("two")
        world.link.say("three")
        await trio.sleep(1.0)
        assert names(got) == ["one", "two", "three"]


async def test_events_go_on_behind_an_id_across_a_restart(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        for name in ("one", "two", "three"):
            await session.emit(name)
        seen = await collect(session, 3)
        world.kill()
    async with open_world(upstream, disk) as world:
        again = world.runtime.session(session.id)
        await again.emit("four")

        assert names(await collect(again, 3, seen[0].id)) == ["two", "three", "four"]
        assert [event.id for event in await collect(again, 3)] == [event.id for event in seen]


async def test_trimmed_cursor_is_lost_and_says_so(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, limits=Limits(events_per_session_max=5)) as world:
        session = await open_session(world)
        await session.emit("first")
        (first,) = await collect(session, 1)
        for number in range(10):
            await session.emit(f"event {number}")
        assert world.runtime.log_counts.left_logs == 6, "of eleven, five are kept"
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)
        with pytest.raises(CursorLost):
            await collect(again, 1, first.id)
        assert world.runtime.log_counts.cursors_lost == 1

        assert names(await collect(again, 2)) == ["event 5", "event 6"], "without a cursor: from the earliest kept"


async def test_cursors_that_never_were_are_refused(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session, other = await open_session(world), await open_session(world)
        await session.emit("event")
        (event,) = await collect(session, 1)
        epoch = (await session.state()).log.epoch
        with pytest.raises(InvalidEventId):
            await collect(other, 1, event.id)
        for never in (EventId(0, epoch, 2), EventId(0, epoch + 1, 1), EventId(9, epoch, 1)):
            with pytest.raises(CursorLost):
                await collect(session, 1, never.write(session.id))


async def test_newest_reader_takes_over_and_the_older_ends(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        session = await open_session(world)
        ended: list[int] = []

        async def read() -> None:
            count = 0
            async for _ in session.events():
                count += 1
            ended.append(count)

        nursery.start_soon(read)
        await session.emit("one")
        await wait_all_tasks_blocked()
        assert names(await collect(session, 1)) == ["one"]
        await wait_all_tasks_blocked()
        assert ended == [1]


async def test_client_without_a_cursor_begins_behind_what_was_shown(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        for name in ("one", "two"):
            await session.emit(name)
        reading = await session.read(None, unshown=True)
        page = await reading.next_page()
        reading.shown(page[0].offset)
        reading.close()
    async with open_world(disk=disk) as world:
        reading = await world.runtime.session(session.id).read(None, unshown=True)

        assert [jsonrpc.parse(entry.body).method for entry in await reading.next_page()] == ["two"]


async def test_listening_lets_the_upstream_speak_and_again_after_a_restart(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        assert world.link.listens == 0
        (await session.read(None)).close()
        assert world.link.listens == 1
    async with open_world(upstream, disk) as world:
        await world.runtime.session(session.id).state()
        await wait_all_tasks_blocked()

        assert upstream.link.listens == 1
        assert len(upstream.links) == 2


async def test_session_that_failed_is_not_found(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        await session.close()
        with pytest.raises(SessionNotFound):
            await session.state()
        with pytest.raises(SessionNotFound):
            await session.emit("more")


async def test_values_tell_only_what_is_durable(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await world.runtime.create()
        session.actor().ask(lambda ticket: say.Update(ticket, {"step": 1}, 10))
        await trio.sleep(0.5)
        began = trio.current_time()

        assert await session.values() == {"step": 1}
        assert trio.current_time() > began, "it waited for the commit"


async def test_events_of_a_store_that_does_not_answer_are_unavailable_and_come_when_it_does(
    autojump_clock: MockClock,
) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await session.emit("first")
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)
        await again.state()
        world.store.begin_outage(StoreUnavailable("no route"))
        with pytest.raises(SessionUnavailable, match="the stream cannot be read: no route"):
            await collect(again, 1)
        world.store.end_outage()
        assert names(await collect(again, 1)) == ["first"]
