"""The registry: one actor for each session, bounds on how many there are, and nobody finds another's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors import messages as say
from actors.ids import Principal
from actors.registry import Draining, RegistryStatistics, SessionNotFound, TooManySessions
from actors.session import SessionActor
from persistence.memory import MemoryStore
from persistence.store import SnapshotCorrupt, SnapshotTooNew
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_session, open_world, problem, read_stream, send
from tests.persistence.places import MemoryPlace

ALICE = Principal("issuer", "client", "alice")
BOB = Principal("issuer", "client", "bob")


async def test_session_is_found_by_its_principal_alone(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world, principal=ALICE)
        told: list[str] = []
        for session_id, principal in [(session.id, BOB), (session.id, None), ("unknown", ALICE)]:
            handle = (
                world.runtime.session(session_id)
                if principal is None
                else world.runtime.session(session_id, principal=principal)
            )
            with pytest.raises(SessionNotFound) as refused:
                await handle.state()
            told.append(str(refused.value))

        assert len(set(told)) == 1, "a foreign session looks like one that never was"
        assert (await world.runtime.session(session.id, principal=ALICE).state()).principal == ALICE


async def test_session_has_one_actor(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)

        assert again.actor() is again.actor(), "while it is loading, too"
        await again.state()
        assert world.runtime.registry.statistics() == RegistryStatistics(1, 1, 0, 0)


async def test_more_sessions_than_may_be_are_turned_away(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        for _ in range(2):
            await open_session(world)
    async with open_world(disk=disk, sessions_max=3) as world:
        session = await open_session(world)
        with pytest.raises(TooManySessions, match="3 sessions"):
            await open_session(world)
        assert world.runtime.registry.statistics().turned_away == 1

        await session.close()
        await open_session(world)


async def test_sessions_that_are_being_opened_count(autojump_clock: MockClock) -> None:
    """However many open at once: those stored and those to be are together no more than may be."""
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        for _ in range(3):
            await open_session(world)
    upstream.connect_seconds = 1.0
    async with open_world(upstream, disk, sessions_max=4) as world:
        handshake = jsonrpc.request("open", "initialize")
        beginning = world.runtime.begin()
        opening = beginning.ask(lambda ticket: say.SendRequest(ticket, handshake, opens=True))
        with pytest.raises(TooManySessions):
            world.runtime.begin()
        await opening.wait()
        assert world.runtime.registry.statistics().sessions == 4


async def test_opening_that_failed_counts_no_more(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.rejects = ("upstream_rejected", "no")
    async with open_world(upstream, sessions_max=1) as world:
        for _ in range(3):
            with pytest.raises(AssertionError, match="no"):
                await open_session(world)
        upstream.rejects = None
        await open_session(world)


async def test_a_principal_has_its_share_and_leaves_the_others_theirs(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        for _ in range(2):
            await open_session(world, principal=ALICE)
    async with open_world(disk=disk, sessions_per_principal_max=3) as world:
        session = await open_session(world, principal=ALICE)
        with pytest.raises(TooManySessions, match="you have 3 sessions"):
            await open_session(world, principal=ALICE)
        await open_session(world, principal=BOB)
        for _ in range(5):
            await open_session(world)  # anonymous: everybody

        await session.close()
        await open_session(world, principal=ALICE)
        assert world.runtime.registry.statistics().turned_away == 1


async def test_control_without_shares_one_principal_takes_all_there_is(autojump_clock: MockClock) -> None:
    async with open_world(sessions_max=4) as world:
        for _ in range(4):
            await open_session(world, principal=ALICE)
        with pytest.raises(TooManySessions, match="4 sessions exist"):
            await open_session(world, principal=BOB)


async def test_sessions_being_opened_count_for_their_principal(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    async with open_world(upstream, sessions_per_principal_max=1) as world:
        upstream.rejects = ("upstream_rejected", "no")
        with pytest.raises(AssertionError, match="no"):
            await open_session(world, principal=ALICE)  # failed: counts no more
        upstream.rejects, upstream.connect_seconds = None, 1.0
        beginning = world.runtime.begin(principal=ALICE)
        handshake = jsonrpc.request("open", "initialize")
        opening = beginning.ask(lambda ticket: say.SendRequest(ticket, handshake, opens=True))
        with pytest.raises(TooManySessions):
            world.runtime.begin(principal=ALICE)
        await opening.wait()


async def test_draining_takes_nothing_new_and_serves_what_is_there(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        stored = await open_session(world)
    async with open_world(disk=disk) as world:
        live = await open_session(world)
        world.runtime.registry.drain()

        with pytest.raises(Draining):
            await open_session(world)
        with pytest.raises(Draining):
            await world.runtime.session(stored.id).state()
        assert isinstance(await send(live, 1).wait(), say.Answered)


async def test_quiet_comes_when_nobody_waits(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        reply = send(session, 1, "hold")
        await wait_all_tasks_blocked()
        with trio.move_on_after(10.0) as waiting:
            await world.runtime.registry.wait_quiet()
        assert waiting.cancelled_caught
        world.link.answer(1)
        with trio.fail_after(1.0):
            await world.runtime.registry.wait_quiet()
        assert isinstance(await reply.wait(), say.Streaming)


async def as_a_stop_waits(world: World) -> None:
    await world.runtime.registry.wait_quiet()


async def read_through_a_stop(
    world: World, wait_quiet: Callable[[World], Awaitable[None]] = as_a_stop_waits
) -> list[object]:
    """Have a streamed call answered, and stop everything as soon as it is quiet; give what the stream told."""
    session = await open_session(world)
    outcome = await send(session, 1, "hold").wait()
    assert isinstance(outcome, say.Streaming)
    told: list[object] = []

    async def read() -> None:
        told.extend(jsonrpc.result_of(message) for message in await read_stream(session, outcome.stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        world.link.answer(1, "late")
        await wait_all_tasks_blocked()  # its commit has begun, and takes a second
        await wait_quiet(world)
        await world.runtime.registry.stop_actors()
    return told


async def test_answer_on_its_way_to_the_store_is_waited_for(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        assert await read_through_a_stop(world) == ["late"]


async def test_answer_that_is_kept_in_the_instant_of_the_stop_is_given(autojump_clock: MockClock) -> None:
    async def at_once(world: World) -> None:
        await trio.sleep(1.0)  # the commit ends in this instant; the reader may not have had a turn when that is seen
        while not all(actor.is_quiet for actor in world.runtime.registry.residents()):
            await trio.lowlevel.checkpoint()

    for _ in range(20):  # trio chooses in which order tasks run that become ready together
        async with open_world(commit_seconds=1.0) as world:
            assert await read_through_a_stop(world, at_once) == ["late"]


async def test_control_without_that_wait_it_is_cut_off(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionActor, "is_quiet", property(lambda actor: not actor.state.busy))
    async with open_world(commit_seconds=1.0) as world:
        assert await read_through_a_stop(world) == []


async def test_stopping_tells_whoever_waits_what_is_known(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        sent = send(session, 1, "hold")
        await wait_all_tasks_blocked()
        await world.runtime.registry.stop_actors()
        outcome = await sent.wait()

        assert isinstance(outcome, say.Answered), "it had reached the upstream"
        assert world.runtime.registry.statistics().resident == 0
        assert world.link.closed is False, "the upstream keeps its session"


async def test_record_that_cannot_be_read_is_uninitialized(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)
        world.store.fail(1, SnapshotCorrupt("checksum"))
        assert problem(await again.ask(say.Look)) is say.Problem.UNINITIALIZED
        await wait_all_tasks_blocked()

        assert world.runtime.registry.statistics().uninitialized == 1


async def test_damaged_record_costs_its_session_alone_and_the_log_says_why(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        damaged, intact = await open_session(world), await open_session(world)
    await MemoryPlace().flip_snapshot(disk, damaged.id)
    with capture_logs() as logs:
        async with open_world(upstream, disk, restore=True) as world:
            await wait_all_tasks_blocked()

            assert world.runtime.registry.statistics().uninitialized == 1
            with pytest.raises(SessionNotFound):
                await world.runtime.session(damaged.id).ask(say.Look)
            assert (await world.runtime.session(intact.id).state()).opened
            assert [aside.session_id for aside in await disk.quarantined()] == [damaged.id]
    [line] = [line for line in logs if line["event"] == "record is damaged"]
    assert (line["log_level"], line["session"]) == ("error", damaged.id[:6])
    assert "the checksum does not fit" in line["why"]
    assert damaged.id not in str(logs)


async def test_log_says_once_that_a_session_cannot_go_on_and_why(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
    upstream.rejects = ("upstream_rejected", "not any more")
    with capture_logs() as logs:
        for _ in range(2):
            async with open_world(upstream, disk, restore=True) as world:
                await trio.sleep(1.0)
                assert world.runtime.registry.statistics().uninitialized == 1
    [line] = [line for line in logs if line["event"] == "session is uninitialized"]
    assert (line["session"], line["server"]) == (session.id[:6], "linear")
    assert (line["reason"], line["why"]) == ("upstream_rejected", "not any more")


async def test_record_of_a_newer_version_is_left_alone(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)
        world.store.fail(1, SnapshotTooNew("version 99"))
        assert problem(await again.ask(say.Look)) is say.Problem.UNAVAILABLE

        assert world.runtime.registry.statistics().uninitialized == 0
        assert (await again.state()).opened, "where it can be read, it is served"


async def test_removed_session_is_gone_whether_in_memory_or_not(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        stored = await open_session(world)
    async with open_world(disk=disk) as world:
        live = await open_session(world)
        for session in (stored, live):
            world.runtime.registry.remove(session.id, "admin")
        await world.runtime.settled()
        await wait_all_tasks_blocked()
        assert world.runtime.registry.statistics().sessions == 0
    assert await disk.scan() == ([], None)


async def test_ended_session_cannot_come_back(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        stale = await world.store.load(session.id)
        assert stale is not None
        await session.close()
        commit = world.store.commits[-1]
        await world.store.commit(
            attrs.evolve(commit, tombstones=(), snapshots=(attrs.evolve(stale, fields=stale.fields),))
        )

        assert await world.store.load(session.id) is None
