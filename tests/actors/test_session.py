"""Live sessions: crashes, passivation, links that are lost, and what was in flight meanwhile.

Method: a scripted upstream whose journal shows what reached it, how often; a kill is a disk that takes no more.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors import messages as say
from actors import session as session_module
from actors.handle import SessionHandle
from actors.link import Failure
from actors.reaper import ReaperRules
from actors.registry import SessionNotFound
from actors.state import SetupChange, Stream
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.making import code
from tests.actors.worlds import (
    open_session,
    open_world,
    problem,
    read_rest,
    read_stream,
    send,
)


def crash(session: SessionHandle) -> None:
    """Have the session's actor raise in its next turn: it is told what nobody can decide."""
    session.actor().tell("no such command")  # type: ignore[arg-type]


async def in_flight(session: SessionHandle, id: jsonrpc.RequestId) -> int:
    """Begin a call that the upstream holds, and wait until it is a stream."""
    outcome = await send(session, id, "hold").wait()
    assert isinstance(outcome, say.Streaming)
    return outcome.stream


# ---- crashes ----


async def test_crashed_session_goes_on_from_what_is_durable(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        async with session.update() as values:
            values["step"] = 1
        crash(session)
        await wait_all_tasks_blocked()

        assert await session.values() == {"step": 1}
        assert isinstance(await send(session, 1).wait(), say.Answered)


async def test_whoever_waits_at_a_crash_is_told(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    async with open_world(upstream) as world:
        session = await open_session(world)
        sent = send(session, 1, "hold")
        await wait_all_tasks_blocked()
        upstream.failures["never"] = [Failure.NOT_SENT]
        unsent = send(session, 2, "never")
        await wait_all_tasks_blocked()
        crash(session)
        queued = send(session, 3, "queued")
        told = [await reply.wait() for reply in (sent, unsent, queued)]

        assert isinstance(told[0], say.Answered)
        assert code(told[0].message) == jsonrpc.OUTCOME_UNKNOWN, "it had reached the upstream"
        assert problem(told[1]) is say.Problem.UNAVAILABLE
        assert problem(told[2]) is say.Problem.UNAVAILABLE
        await trio.sleep(10.0)
        assert upstream.methods.count("hold") == 1
        assert "queued" not in upstream.methods, "who is told to try again must not be served as well"


async def test_crash_loop_ends_one_session_and_not_its_neighbours(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session, neighbour = await open_session(world), await open_session(world)
        for _ in range(4):  # three restarts a minute are ordinary
            crash(session)
            await trio.sleep(1.0)
        headers = {header.session_id: header.failure for header in world.runtime.registry.headers()}

        assert headers == {session.id: "crash_loop", neighbour.id: ""}
        assert isinstance(await send(neighbour, 1).wait(), say.Answered)
        with pytest.raises(SessionNotFound):
            session.actor()


async def test_rare_crashes_are_forgiven(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        for _ in range(10):
            crash(session)
            await trio.sleep(30.0)

        assert isinstance(await send(session, 1).wait(), say.Answered)


async def test_readers_go_on_after_a_crash(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        seen: list[object] = []

        async def read() -> None:
            async for event in session.events():
                seen.append(event.message.method)  # noqa: PERF401 - it is to be seen while it grows

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await session.emit("first")
            await wait_all_tasks_blocked()
            crash(session)
            await wait_all_tasks_blocked()
            await session.emit("second")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert seen == ["first", "second"]


async def test_request_whose_session_crashes_has_an_unknown_outcome(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        codes: list[int] = []

        async def ask() -> None:
            try:
                await session.request("hold")
            except jsonrpc.RequestFailed as failed:
                codes.append(failed.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(1.0)  # it is a stream by then
            crash(session)
        assert codes == [jsonrpc.OUTCOME_UNKNOWN]


# ---- passivation ----

QUICK = ReaperRules(sweep_every_seconds=1.0, passivate_after_seconds=10.0)


async def test_session_that_leaves_memory_comes_back_the_same(autojump_clock: MockClock) -> None:
    async with open_world(reaper_rules=QUICK) as world:
        session = await open_session(world)
        async with session.update() as values:
            values["step"] = 1
        await session.emit("event")
        stream = await in_flight(session, 1)
        world.link.answer(1, "done")
        await read_stream(session, stream)
        before = await session.state()
        reading = await session.read(None)
        id_before = reading.event_id(1)
        reading.close()
        await trio.sleep(15.0)
        assert world.runtime.registry.statistics().resident == 0

        after = await session.state()
        assert after.values == before.values
        assert after.streams == before.streams
        assert after.streams[stream] == Stream(stream, 1, 2, True)
        assert (await session.read(None)).event_id(1) == id_before
        assert [m.method for m in await read_now(session)] == ["event"]


async def read_now(session: SessionHandle) -> list[jsonrpc.Message]:
    """Read what the standalone stream has now."""
    reading = await session.read(None)
    page = await reading.next_page()
    reading.close()
    return [jsonrpc.parse(entry.body) for entry in page]


async def test_leaving_memory_leaves_the_upstream_its_session(autojump_clock: MockClock) -> None:
    async with open_world(reaper_rules=QUICK) as world:
        session = await open_session(world)
        await trio.sleep(15.0)
        assert world.upstream.links[0].closed is False
        await send(session, 1).wait()

        assert world.link.established.resumed
        assert len(world.upstream.known) == 1


@pytest.mark.parametrize("use", ["call", "reader", "update"])
async def test_session_in_use_stays_in_memory(use: str, autojump_clock: MockClock) -> None:
    async with open_world(reaper_rules=QUICK) as world, trio.open_nursery() as nursery:
        session = await open_session(world)
        if use == "call":
            send(session, 1, "hold")
        elif use == "reader":
            nursery.start_soon(read_rest, await session.read(None))
        else:
            nursery.start_soon(update_slowly, session)
        await trio.sleep(60.0)

        assert world.runtime.registry.statistics().resident == 1
        nursery.cancel_scope.cancel()


async def update_slowly(session: SessionHandle) -> None:
    async with session.update():
        await trio.sleep(100.0)


async def test_session_whose_upstream_cannot_resume_stays_longer(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.resumable = False
    rules = ReaperRules(sweep_every_seconds=1.0, passivate_after_seconds=10.0, passivate_unresumable_after_seconds=30.0)
    async with open_world(upstream, reaper_rules=rules) as world:
        await open_session(world)
        await trio.sleep(20.0)
        assert world.runtime.registry.statistics().resident == 1
        await trio.sleep(15.0)
        assert world.runtime.registry.statistics().resident == 0


async def test_message_to_a_session_that_is_leaving_is_not_lost(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        session.actor().stop("idle", only_if_idle=True)
        reply = send(session, 1)

        assert isinstance(await reply.wait(), say.Answered)
        session.actor().stop("idle", only_if_idle=True)
        await wait_all_tasks_blocked()
        assert world.runtime.registry.statistics().resident == 0
        assert isinstance(await send(session, 2).wait(), say.Answered)


# ---- what was in flight ----


async def test_call_in_flight_at_a_kill_ends_in_an_error_and_is_never_sent_again(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        stream = await in_flight(session, 1)
        world.kill()
    async with open_world(upstream, disk) as world:
        again = world.runtime.session(session.id)
        (answer,) = await read_stream(again, stream)

        assert code(answer) == jsonrpc.OUTCOME_UNKNOWN
        assert answer.id == 1
        await trio.sleep(60.0)
        assert len(upstream.sent("hold")) == 1


async def test_resumable_call_goes_on_after_a_kill(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        stream = await in_flight(session, 1)
        world.link.say("notifications/progress", about=1, cursor="c1")
        await wait_all_tasks_blocked()
        world.kill()
    async with open_world(upstream, disk) as world:
        again = world.runtime.session(session.id)
        async with trio.open_nursery() as nursery:
            got: list[jsonrpc.Message] = []

            async def read() -> None:
                got.extend(await read_stream(again, stream))

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            assert upstream.connects[-1].calls[1].upstream_cursor == "c1"
            world.link.answer(1, "after all")
        assert [message.method for message in got] == ["notifications/progress", ""]
        assert jsonrpc.result_of(got[-1]) == "after all"
        assert len(upstream.sent("hold")) == 1


async def test_lost_link_is_opened_again_for_what_waits(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.link.lose()
        outcome = await send(session, 1).wait()

        assert isinstance(outcome, say.Answered)
        assert len(world.upstream.links) == 2
        assert world.upstream.links[0].closed is False


async def test_call_on_a_lost_link_is_answered_with_an_unknown_outcome(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        reply = send(session, 1, "hold")
        await wait_all_tasks_blocked()
        world.link.lose()
        outcome = await reply.wait()

        assert isinstance(outcome, say.Answered)
        assert code(outcome.message) == jsonrpc.OUTCOME_UNKNOWN
        await trio.sleep(30.0)
        assert len(world.upstream.sent("hold")) == 1


async def test_link_that_is_gone_when_something_is_sent_leaves_it_unsent(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.upstream.loses_on_send.add("hold")
        reply = send(session, 1, "hold")
        await wait_all_tasks_blocked()
        world.upstream.loses_on_send.clear()
        world.link.lose()
        outcome = await reply.wait()

        assert isinstance(outcome, say.Streaming)
        assert len(world.upstream.sent("hold")) == 1


async def test_forgotten_session_is_opened_again_with_its_setup_and_sent_once_more(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        await send(session, 1, "echo", setup=SetupChange("logging/setLevel", keep=True)).wait()
        world.upstream.forget()
        world.upstream.failures["hold"] = [Failure.SESSION_LOST]
        send(session, 2, "hold")
        await wait_all_tasks_blocked()

        assert list(world.upstream.connects[-1].setup) == ["logging/setLevel"]
        assert not world.link.established.resumed
        assert [sent.link for sent in world.upstream.journal if sent.message.method == "hold"] == [0, 1]


# ---- closing ----


async def test_closed_session_is_gone_here_and_upstream(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await session.close()

        assert world.link.closed is True
        with pytest.raises(SessionNotFound):
            session.actor()
    assert await disk.scan() == ([], None)


async def test_close_is_told_when_it_is_durable(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await open_session(world)
        before = trio.current_time()
        await session.close()

        assert trio.current_time() >= before + 1.0


async def test_busy_session_lets_others_run(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        actor = session.actor()
        for _ in range(10 * session_module.TURNS_PER_CHECKPOINT):
            actor.tell(say.NoteShown(0))
        left: list[int] = []

        async def other() -> None:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            left.append(len(actor._mailbox))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
        assert left[0] > 0, "it ran before all turns were taken"
