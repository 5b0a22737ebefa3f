"""The runtime: begins and ends in order, and what its block raises comes out as it was raised."""

from __future__ import annotations

from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock

from actors.jsonrpc import RequestFailed
from actors.runtime import RuntimeOptions, leaves, open_runtime, run_runtime
from persistence.memory import MemoryStore
from persistence.store import FenceLost, StoreBroken, StoreUnavailable, StoreUrlInvalid
from tests.actors.worlds import open_session, open_world
from tests.persistence.faulty import FaultyStore


class Mine(Exception):
    pass


async def test_block_that_raises_is_heard_as_it_was(autojump_clock: MockClock) -> None:
    with pytest.raises(Mine):
        async with open_runtime("memory:"):
            raise Mine


async def test_store_that_cannot_be_had_is_told_before_the_block(autojump_clock: MockClock) -> None:
    with pytest.raises(StoreUrlInvalid):
        async with open_runtime("nonsense:"):
            pytest.fail("there is no store")
    store = FaultyStore(MemoryStore())
    store.begin_outage(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        async with open_runtime(store):
            pytest.fail("there is no store")


async def test_index_that_cannot_be_read_is_told_before_the_block(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    store.on_operation = lambda name: store.begin_outage(StoreUnavailable("away")) if name == "scan" else None
    with pytest.raises(StoreUnavailable, match="away"):
        async with open_runtime(store):
            pytest.fail("not all sessions are known")
    with pytest.raises(trio.ClosedResourceError):
        await store.probe()


@pytest.mark.parametrize("error", [StoreBroken("fsync"), FenceLost("another owner")])
async def test_store_that_must_not_be_written_any_more_ends_the_block(
    error: Exception, autojump_clock: MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012
        async with open_runtime(store) as runtime:
            store.begin_outage(error)
            await runtime.create()
            pytest.fail("nothing may be acknowledged")

    assert error in list(leaves(raised.value))


async def test_runtime_lives_in_a_nursery_of_its_user(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        runtime = await nursery.start(run_runtime, "memory:")
        session = await runtime.create()

        assert await session.values() == {}
        nursery.cancel_scope.cancel()


async def test_stop_keeps_what_was_said_and_leaves_upstreams_their_sessions(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, commit_seconds=1.0) as world:
        session = await open_session(world)
        async with session.update() as values:
            values["step"] = 1
    assert [link.closed for link in world.upstream.links] == [False]
    async with open_world(disk=disk) as world:
        assert await world.runtime.session(session.id).values() == {"step": 1}


async def test_stop_is_bounded_where_the_store_does_not_answer(autojump_clock: MockClock) -> None:
    async with open_world(stop_seconds_max=5.0) as world:
        session = await world.runtime.create()
        world.store.begin_outage(StoreUnavailable("away"))
        with trio.move_on_after(1.0):
            async with session.update() as values:
                values["step"] = 1
        began = trio.current_time()
    # The actors, the flush and the writer's own last flush: each has five seconds.
    assert trio.current_time() - began <= 15.0


async def test_cancelled_runtime_keeps_what_was_said(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    with trio.CancelScope() as scope:
        async with open_world(disk=disk) as world:
            session = await world.runtime.create()
            async with session.update() as values:
                values["step"] = 1
            scope.cancel()
            await trio.lowlevel.checkpoint()
    async with open_world(disk=disk) as world:
        assert await world.runtime.session(session.id).values() == {"step": 1}


async def test_runtime_without_a_connect_keeps_values_and_refuses_requests(autojump_clock: MockClock) -> None:
    async with open_runtime("memory:", options=RuntimeOptions()) as runtime:
        session = await runtime.create()
        with pytest.raises(RequestFailed, match="connects sessions to nothing"):
            await session.request("anything")
        await session.emit("still/works")

        assert runtime.restorer is None
        async with aclosing(session.events()) as events:
            assert (await anext(events)).message.method == "still/works"
