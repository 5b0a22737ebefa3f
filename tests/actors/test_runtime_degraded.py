"""A runtime whose outage policy is `degrade`: sessions go on while the store is away, and it says so.

Each test has its control in what the policy `refuse` does with the same outage.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.handle import OutcomeUnknown
from actors.registry import Draining, NotKnownYet, SessionNotFound
from actors.runtime import Runtime, RuntimeOptions, leaves, open_runtime
from persistence.memory import MemoryStore
from persistence.store import FenceLost, StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_session, open_world
from tests.persistence.faulty import FaultyStore

DEGRADE: dict[str, Any] = {"store_outage": "degrade"}
AWAY = "away"


async def wait_durable(runtime: Runtime) -> None:
    """Wait until the store has everything again."""
    with trio.fail_after(60):
        while runtime.degraded is not None:  # noqa: ASYNC110 - on a clock that jumps
            await trio.sleep(0.1)


async def test_sessions_begin_and_go_on_while_the_store_is_away(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, **DEGRADE) as world:
        before = await open_session(world)
        world.store.begin_outage(StoreUnavailable(AWAY))
        session = await open_session(world)
        for one in (before, session):
            async with one.update() as values:
                values["step"] = 1
        assert world.runtime.degraded is not None
        assert world.runtime.writer.statistics().outage_seconds == 0
        world.store.end_outage()
        await wait_durable(world.runtime)
        world.kill()
    async with open_world(disk=disk) as world:
        for one in (before, session):
            assert await world.runtime.session(one.id).values() == {"step": 1}


async def test_refusing_they_are_told_that_it_is_in_doubt(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.store.begin_outage(StoreUnavailable(AWAY))
        with pytest.raises(OutcomeUnknown):
            await world.runtime.create()
        with pytest.raises(OutcomeUnknown):
            async with session.update() as values:
                values["step"] = 1
        assert world.runtime.degraded is None
        world.store.end_outage()


async def test_kill_while_degraded_loses_what_was_told_since(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, **DEGRADE) as world:
        kept = await open_session(world)
        world.store.begin_outage(StoreUnavailable(AWAY))
        lost = await open_session(world)
        async with kept.update() as values:
            values["step"] = 1
        world.kill()
    async with open_world(disk=disk) as world:
        assert await world.runtime.session(kept.id).values() == {}
        with pytest.raises(SessionNotFound):
            await world.runtime.session(lost.id).values()


async def test_passivated_session_comes_back_from_memory(autojump_clock: MockClock) -> None:
    async with open_world(**DEGRADE) as world:
        world.store.begin_outage(StoreUnavailable(AWAY))
        session = await open_session(world)
        await session.emit("said/while/away")
        actor = world.runtime.registry.residents()[0]
        actor.stop("out of memory with it")
        while world.runtime.registry.residents():  # noqa: ASYNC110 - on a clock that jumps
            await trio.sleep(0.1)
        async with aclosing(session.events()) as events:
            assert (await anext(events)).message.method == "said/while/away"
        assert world.runtime.degraded is not None


async def test_orderly_stop_while_degraded_tries_the_store_once_more(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, **DEGRADE) as world:
        world.store.begin_outage(StoreUnavailable(AWAY))
        session = await open_session(world)
        await trio.sleep(30)  # by now the store is tried each five seconds only
        world.store.end_outage()
    async with open_world(disk=disk) as world:
        assert await world.runtime.session(session.id).values() == {}


async def test_stop_is_bounded_where_the_store_stays_away(autojump_clock: MockClock) -> None:
    async with open_world(stop_seconds_max=5.0, **DEGRADE) as world:
        world.store.begin_outage(StoreUnavailable(AWAY))
        await open_session(world)
        began = trio.current_time()
    assert trio.current_time() - began <= 15.0


async def test_runtime_starts_without_its_store_and_learns_what_it_holds(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        stored = await open_session(world)
    upstream = FakeUpstream()
    store = FaultyStore(disk)
    store.begin_outage(StoreUnavailable(AWAY))
    options = RuntimeOptions(**DEGRADE)
    async with open_runtime(store, connect=upstream.connect, options=options) as runtime:
        created = await runtime.create()
        # A stored session may be there: whoever asks is told to come again, not that it is gone for good.
        with pytest.raises(NotKnownYet):
            await runtime.session(stored.id).values()
        assert issubclass(NotKnownYet, Draining)
        assert upstream.connects == []
        store.end_outage()
        await wait_durable(runtime)
        await trio.sleep(1.0)
        assert stored.id in [session.session_id for session in upstream.connects]  # restored, as at any start
        assert await runtime.session(stored.id).values() == {}
        assert await runtime.session(created.id).values() == {}
        with pytest.raises(SessionNotFound):
            await runtime.session("never-there").values()


async def test_refusing_it_does_not_start_without_its_store(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.begin_outage(StoreUnavailable(AWAY))
    with pytest.raises(StoreUnavailable):
        async with open_runtime(store):
            pytest.fail("there is no store")


async def test_store_that_was_taken_over_meanwhile_ends_the_runtime(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012
        async with open_world(disk=disk, **DEGRADE) as world:
            world.store.begin_outage(StoreUnavailable(AWAY))
            await open_session(world)
            await disk.claim("successor")
            world.store.end_outage()
            await trio.sleep_forever()
    assert any(isinstance(error, FenceLost) for error in leaves(raised.value))


async def test_degrading_store_is_opened_from_its_url(autojump_clock: MockClock) -> None:
    async with open_runtime("memory:", options=RuntimeOptions(**DEGRADE)) as runtime:
        assert runtime.degraded is None
        assert runtime.store.url == "memory:"
        await runtime.create()
