"""The fake that other tests rely on is a store like any other, until a fault is planned."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from persistence.memory import MemoryStore
from persistence.records import Batch
from persistence.store import StoreUnavailable
from tests.persistence.contract import *  # noqa: F403 - the suite of claims
from tests.persistence.faulty import FaultyStore
from tests.persistence.lease_contract import *  # noqa: F403 - and of those about leases
from tests.persistence.making import snapshot
from tests.persistence.places import FaultyPlace, Place

pytestmark = pytest.mark.jumping_time


@pytest.fixture
def place() -> Place:
    return FaultyPlace()


async def test_only_the_planned_operation_fails() -> None:
    store = FaultyStore(MemoryStore())
    fence = await store.claim("test")
    store.fail(2, StoreUnavailable("lost"))
    await store.commit(Batch(fence, (snapshot("a"),)))
    with pytest.raises(StoreUnavailable):
        await store.commit(Batch(fence, (snapshot("b"),)))
    assert await store.load("b") is None
    assert await store.load("a") == snapshot("a")


async def test_an_operation_may_happen_and_its_answer_be_lost() -> None:
    store = FaultyStore(MemoryStore())
    fence = await store.claim("test")
    store.fail(1, StoreUnavailable("lost"), done=True)
    with pytest.raises(StoreUnavailable):
        await store.commit(Batch(fence, (snapshot(),)))
    assert await store.load("s") == snapshot()


@pytest.mark.parametrize("keep", [False, True])
async def test_a_crash_leaves_a_commit_in_flight_to_chance(keep: bool) -> None:
    disk = MemoryStore()
    store = FaultyStore(disk, commit_seconds=1)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("kept"),)))

    async def commit() -> None:
        with pytest.raises(StoreUnavailable):
            await store.commit(Batch(fence, (snapshot("in flight"),)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        await trio.testing.wait_all_tasks_blocked()
        store.crash(keep_unacknowledged=keep)
    after = FaultyStore(disk)
    assert await after.load("kept") == snapshot("kept")
    assert (await after.load("in flight") is not None) is keep


async def test_a_lying_store_forgets_what_it_acknowledged() -> None:
    disk = MemoryStore()
    store = FaultyStore(disk, lies=True)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot(),)))
    store.crash()
    assert await FaultyStore(disk).load("s") is None
