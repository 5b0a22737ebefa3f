"""Sessions and their store: replies wait for commits, refusals go back to what is durable, outages are waited out.

Method: a commit takes a second of virtual time, so that what leaves before it is seen to. `gate_open_always` is the
control: the same scenario, with the gate open, must lose what it had promised.
"""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from actors import messages as say
from actors.handle import CommandRejected, SessionHandle, SessionUnavailable
from actors.mailbox import OneShot
from actors.registry import SessionNotFound
from actors.state import Limits, Metrics
from persistence.memory import MemoryStore
from persistence.store import StoreFull, StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_session, open_world, send
from tests.persistence.faulty import FaultyStore


def update(session: SessionHandle, **values: object) -> OneShot[say.Outcome]:
    return session.actor().ask(lambda ticket: say.Update(ticket, values, 10))


def fill(store: FaultyStore) -> None:
    """Have no room: reading works, no commit does."""

    def begin(name: str) -> None:
        if name == "commit":
            store.begin_outage(StoreFull("no space left"))
        else:
            store.end_outage()

    store.on_operation = begin


def make_room(store: FaultyStore) -> None:
    store.on_operation = None
    store.end_outage()


async def promised_then_killed(disk: MemoryStore, *, gate_open_always: bool) -> tuple[SessionHandle, bool]:
    """Update a session, and kill the process half a second into the commit; say whether it had been promised."""
    async with open_world(disk=disk, commit_seconds=1.0, gate_open_always=gate_open_always) as world:
        session = await world.runtime.create()
        await trio.sleep(1.5)  # with the gate open, only now it can be found
        reply = update(session, paid=True)
        await trio.sleep(0.5)
        world.kill()
        return session, reply.is_set


async def kept_values(disk: MemoryStore, session: SessionHandle) -> object:
    async with open_world(disk=disk) as world:
        try:
            return await world.runtime.session(session.id).values()
        except SessionNotFound:
            return None


async def test_reply_waits_for_commit(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await world.runtime.create()
        before = trio.current_time()
        reply = update(session, paid=True)
        await trio.sleep(0.9)
        assert not reply.is_set

        await trio.sleep(0.2)
        told = await reply.wait()

        assert told == say.Accepted()
        assert trio.current_time() == pytest.approx(before + 1.1), "it was there by then"


async def test_what_was_promised_survives_a_kill(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    session, promised = await promised_then_killed(disk, gate_open_always=False)

    assert not promised
    assert await kept_values(disk, session) == {}, "it was neither promised nor kept"


async def test_without_the_gate_a_kill_loses_what_was_promised(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    session, promised = await promised_then_killed(disk, gate_open_always=True)

    assert promised
    assert await kept_values(disk, session) != {"paid": True}, "the control: promised, and lost"


async def test_session_is_made_only_when_that_is_durable(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, commit_seconds=1.0) as world:
        with trio.move_on_after(0.5):
            await world.runtime.create()
            pytest.fail("it was made before that was durable")
        world.kill()
    async with open_world(disk=disk) as world:
        assert world.runtime.registry.statistics().sessions == 0


async def test_turn_without_hard_events_leaves_at_once(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await open_session(world)
        before = trio.current_time()
        outcome = await send(session, 1, "echo", "hello").wait()

        assert isinstance(outcome, say.Answered)
        assert trio.current_time() == before


async def test_outputs_leave_in_the_order_of_their_turns(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await open_session(world)
        left: list[str] = []

        async def note(name: str, reply: OneShot[say.Outcome]) -> None:
            await reply.wait()
            left.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "update", update(session, step=1))
            nursery.start_soon(note, "look", session.actor().ask(say.Look))  # needs no commit, but may rest on one
            await trio.sleep(0.5)
            assert left == []
            nursery.start_soon(note, "second update", update(session, step=2))
        assert left[-1] == "second update"
        assert sorted(left[:2]) == ["look", "update"]


async def test_commands_of_one_commit_share_it(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await world.runtime.create()
        first = update(session, step=1)
        await trio.sleep(0.1)
        others = [update(session, step=step) for step in range(2, 12)]
        commits = len(world.store.commits)
        await others[-1].wait()

        assert first.is_set
        assert len(world.store.commits) == commits + 2, "one in flight, all others together"


async def test_upstream_is_not_told_what_rests_on_an_undurable_fact(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await open_session(world)
        await send(session, 1).wait()
        update(session, step=1)
        reply = send(session, 2, "echo")
        await trio.sleep(0.5)
        assert len(world.upstream.sent("echo")) == 1

        await reply.wait()

        assert len(world.upstream.sent("echo")) == 2


async def test_full_store_turns_outputs_into_errors_and_state_back(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await world.runtime.create()
        async with session.update() as values:
            values["step"] = 1
        fill(world.store)
        with pytest.raises(SessionUnavailable):
            async with session.update() as values:
                values["step"] = 2

        assert await session.values() == {"step": 1}


async def test_full_store_does_not_end_the_neighbours(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session, neighbour = await world.runtime.create(), await world.runtime.create()
        world.store.fail(1, StoreFull("no space left"))
        with pytest.raises(SessionUnavailable):
            async with session.update() as values:
                values["step"] = 1
        async with neighbour.update() as values:
            values["step"] = 1

        assert await neighbour.values() == {"step": 1}


async def test_store_that_stays_full_is_asked_a_bounded_number_of_times(autojump_clock: MockClock) -> None:
    """A session whose very recovery has something to write must not ask a full store for ever.

    Method: a call is a stream when the process ends, so that recovering logs an error; then every commit is refused.
    """
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        send(session, 1, "hold")
        await trio.sleep(0.5)
        world.kill()
    async with open_world(disk=disk) as world:
        fill(world.store)
        again = world.runtime.session(session.id)
        outcome = None
        with trio.move_on_after(60.0):
            outcome = await again.actor().ask(say.Look).wait()
        assert outcome is not None, "it waits for ever"
        assert isinstance(outcome, say.NotDone)
        await trio.sleep(600.0)
        assert world.store.operations < 30
        make_room(world.store)

        assert (await again.state()).calls == {}, "with room again, it is recovered"


async def test_crash_forgets_what_was_not_yet_on_its_way_to_the_store(autojump_clock: MockClock) -> None:
    """Nobody was told of it, and it may be the very state that crashed."""
    async with open_world(commit_seconds=1.0) as world:
        session = await world.runtime.create()
        on_its_way = update(session, step=1)
        await trio.sleep(0.5)
        gathering = update(session, step=2)
        await trio.sleep(0.1)
        session.actor().tell("no such command")  # type: ignore[arg-type]
        told = [await on_its_way.wait(), await gathering.wait()]

        assert [type(outcome) for outcome in told] == [say.NotDone, say.NotDone]
        await trio.sleep(5.0)
        assert await session.values() == {"step": 1}


async def test_store_outage_shuts_the_gate_until_it_is_over(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await world.runtime.create()
        world.store.begin_outage(StoreUnavailable("away"))
        reply = update(session, step=1)
        await trio.sleep(2.0)
        assert not reply.is_set

        world.store.end_outage()
        await reply.wait()

        assert await session.values() == {"step": 1}


async def test_who_waits_too_long_for_the_store_is_told_that_the_outcome_is_in_doubt(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        session = await world.runtime.create()
        world.store.begin_outage(StoreUnavailable("away"))
        began = trio.current_time()
        told = await update(session, step=1).wait()

        assert isinstance(told, say.NotDone)
        assert told.problem is say.Problem.LOST
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.05)
        refused = await update(session, step=2).wait()
        assert isinstance(refused, say.NotDone)
        assert refused.problem is say.Problem.UNAVAILABLE
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.05), "nothing is begun while the store is away"

        world.store.end_outage()
        await world.runtime.settled()
        await trio.testing.wait_all_tasks_blocked()  # the session has heard of it, too
        assert await session.values() == {"step": 1}, "what was in doubt has become durable after all"
        await update(session, step=3).wait()
        assert await session.values() == {"step": 3}


async def test_without_that_limit_it_would_wait_as_long_as_the_store_is_away(autojump_clock: MockClock) -> None:
    """Negative control."""
    async with open_world(store_wait_seconds=math.inf) as world:
        session = await world.runtime.create()
        world.store.begin_outage(StoreUnavailable("away"))
        reply = update(session, step=1)
        await trio.sleep(600.0)
        assert not reply.is_set
        world.store.end_outage()
        await reply.wait()


async def test_loading_from_a_store_that_is_away_is_unavailable_and_tried_again(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await world.runtime.create()
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)
        world.store.begin_outage(StoreUnavailable("away"))
        with pytest.raises(SessionUnavailable, match="does not answer"):
            await again.values()
        world.store.end_outage()

        assert await again.values() == {}


async def test_updates_of_one_session_go_one_after_the_other(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=0.1) as world:
        session = await world.runtime.create()

        async def add() -> None:
            async with session.update() as values:
                values["count"] = values.get("count", 0) + 1
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(add)
        assert await session.values() == {"count": 10}


async def test_update_behind_one_that_was_refused_begins_from_what_is_durable(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=0.1) as world:
        session = await world.runtime.create()
        refused: list[str] = []

        async def change(name: str) -> None:
            try:
                async with session.update() as values:
                    values[name] = True
            except SessionUnavailable:
                refused.append(name)

        world.store.fail(1, StoreFull("no space left"))  # the next operation is the first update's commit
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, "one")
            nursery.start_soon(change, "other")
        assert len(refused) == 1
        assert await session.values() == dict.fromkeys({"one", "other"} - set(refused), True)


async def test_block_that_raises_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await world.runtime.create()
        with pytest.raises(KeyError):  # noqa: PT012
            async with session.update() as values:
                values["step"] = 1
                raise KeyError("no")

        assert await session.values() == {}


async def test_soft_facts_are_kept_by_an_orderly_stop(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await send(session, 1, label="echo").wait()
    async with open_world(disk=disk) as world:
        state = await world.runtime.session(session.id).state()

        assert state.metrics == Metrics(2, 1, 0), "the handshake and a tool call"


async def test_values_beyond_the_limit_are_rejected(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(values_bytes_max=100)) as world:
        session = await world.runtime.create()
        with pytest.raises(CommandRejected, match="the limit is 100"):
            async with session.update() as values:
                values["large"] = "x" * 200
        with pytest.raises(CommandRejected, match="msgpack"):
            async with session.update() as values:
                values["strange"] = object()

        assert await session.values() == {}


async def test_refused_opening_leaves_no_trace(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    upstream.rejects = ("upstream_rejected", "not with you")
    async with open_world(upstream, disk) as world:
        with pytest.raises(AssertionError, match="not with you"):
            await open_session(world)
        await world.runtime.settled()

        assert world.runtime.registry.statistics().sessions == 0
        assert world.runtime.registry.statistics().resident == 0
    assert await disk.scan() == ([], None)
