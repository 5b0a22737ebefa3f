"""What every store promises of leases and fences.

A test module of a store imports all of it beside the contract, whose fixtures it uses.
"""

from __future__ import annotations

import attrs
import pytest

from persistence.lease_margin import Leasing
from persistence.leases import Lease
from persistence.partitions import PARTITIONS, partition_of
from persistence.records import Batch, Fence
from persistence.store import FenceLost, LeaseHeld, Store
from tests.persistence.making import entry, snapshot, tombstone
from tests.persistence.places import Place

TTL_SECONDS = 10.0
MINE = partition_of("s")
OTHER = (MINE + 1) % PARTITIONS
OTHER_ID = next(session_id for session_id in map(str, range(999)) if partition_of(session_id) != MINE)


async def lease_of(store: Store, owner: str = "a", partition: int = MINE) -> Lease:
    return await store.acquire(partition, owner, ttl_seconds=TTL_SECONDS)


async def test_a_lease_lets_its_owner_write_to_its_partition_alone(store: Store) -> None:
    lease = await lease_of(store)
    await store.commit(Batch(lease.fence, (snapshot("s"),), (entry("s"),)))
    with pytest.raises(FenceLost):
        await store.commit(Batch(lease.fence, (snapshot(OTHER_ID),)))
    with pytest.raises(FenceLost):
        await store.commit(Batch(lease.fence, (), (), (), (tombstone(OTHER_ID),)))
    assert (lease.partition, lease.fence.owner) == (MINE, "a")
    assert [header.session_id for header in (await store.scan())[0]] == ["s"]


async def test_a_batch_over_a_partition_of_another_is_refused_whole(store: Store) -> None:
    lease = await lease_of(store)
    with pytest.raises(FenceLost):
        await store.commit(Batch(lease.fence, (snapshot("s"), snapshot(OTHER_ID)), (entry("s"),)))
    assert await store.scan() == ([], None)
    assert await store.read_log("s", stream=0, after=0, limit=9) == []


async def test_the_margin_is_that_of_the_lease_that_runs_out_first(store: Store) -> None:
    assert isinstance(store, Leasing)
    assert store.lease_margin_seconds() is None
    lease = await lease_of(store)
    margin = store.lease_margin_seconds()
    assert margin is not None
    assert 0 < margin <= TTL_SECONDS
    other = await store.acquire(OTHER, "a", ttl_seconds=TTL_SECONDS * 10)
    margin = store.lease_margin_seconds()
    assert margin is not None
    assert margin <= TTL_SECONDS
    await store.renew(lease, ttl_seconds=TTL_SECONDS * 10)
    margin = store.lease_margin_seconds()
    assert margin is not None
    assert TTL_SECONDS < margin <= TTL_SECONDS * 10
    await store.release(lease)
    await store.release(other)
    assert store.lease_margin_seconds() is None, "what was claimed, or given back, does not run out"


async def test_a_running_lease_is_refused_to_others_and_says_how_long(store: Store) -> None:
    await lease_of(store, "a")
    with pytest.raises(LeaseHeld) as caught:
        await lease_of(store, "b")
    assert (caught.value.partition, caught.value.owner) == (MINE, "a")
    assert 0 < caught.value.remaining_seconds <= TTL_SECONDS
    await lease_of(store, "b", (MINE + 1) % PARTITIONS)  # that one is nobody's


async def test_a_lease_that_ran_out_goes_to_who_asks(place: Place, store: Store) -> None:
    before = await lease_of(store, "a")
    await place.let_pass(store, TTL_SECONDS + 1)
    after = await lease_of(store, "b")
    assert after.fence.number > before.fence.number
    await store.commit(Batch(after.fence, (snapshot("s", 2),)))
    with pytest.raises(FenceLost, match="b"):
        await store.commit(Batch(before.fence, (snapshot("s", 3),)))
    assert await store.load("s") == snapshot("s", 2)


async def test_a_zombie_with_a_lease_that_ran_out_cannot_write_even_if_nobody_took_it(
    place: Place, store: Store
) -> None:
    lease = await lease_of(store)
    await place.let_pass(store, TTL_SECONDS + 1)
    with pytest.raises(FenceLost, match="ran out"):
        await store.commit(Batch(lease.fence, (snapshot("s"),)))
    with pytest.raises(FenceLost, match="ran out"):
        await store.renew(lease, ttl_seconds=TTL_SECONDS)


async def test_a_lease_that_is_renewed_goes_on_with_its_fence(place: Place, store: Store) -> None:
    lease = await lease_of(store)
    for _ in range(3):
        await place.let_pass(store, TTL_SECONDS - 1)
        renewed = await store.renew(lease, ttl_seconds=TTL_SECONDS)
        assert renewed.fence == lease.fence
    await store.commit(Batch(lease.fence, (snapshot("s"),)))
    with pytest.raises(LeaseHeld):
        await lease_of(store, "b")


async def test_renewing_what_another_has_is_refused(place: Place, store: Store) -> None:
    before = await lease_of(store, "a")
    await place.let_pass(store, TTL_SECONDS + 1)
    after = await lease_of(store, "b")
    with pytest.raises(FenceLost, match="b"):
        await store.renew(before, ttl_seconds=TTL_SECONDS)
    await store.commit(Batch(after.fence, (snapshot("s"),)))


async def test_a_lease_that_is_given_back_is_free_and_its_fence_over(store: Store) -> None:
    before = await lease_of(store, "a")
    await store.release(before)
    await store.release(before)
    with pytest.raises(FenceLost):
        await store.commit(Batch(before.fence, (snapshot("s"),)))
    after = await lease_of(store, "b")
    assert after.fence.number > before.fence.number
    await store.release(before)  # not his any more
    await store.commit(Batch(after.fence, (snapshot("s"),)))


async def test_whoever_holds_a_lease_can_acquire_it_anew(store: Store) -> None:
    # As when the answer to the first request was lost.
    first = await lease_of(store)
    second = await lease_of(store)
    assert second.fence.number > first.fence.number
    with pytest.raises(FenceLost):
        await store.commit(Batch(first.fence, (snapshot("s"),)))
    await store.commit(Batch(second.fence, (snapshot("s"),)))


async def test_a_claim_takes_all_partitions_whoever_has_them(store: Store) -> None:
    lease = await lease_of(store)
    fence = await store.claim("owner of all")
    assert fence.number > lease.fence.number
    with pytest.raises(FenceLost, match="owner of all"):
        await store.commit(Batch(lease.fence, (snapshot("s"),)))
    everywhere = tuple(snapshot(f"session-{number}") for number in range(2 * PARTITIONS))
    await store.commit(Batch(fence, everywhere))
    assert (await store.probe()).sessions == len(everywhere)


async def test_what_was_claimed_gives_way_to_who_asks_for_a_lease(place: Place, store: Store) -> None:
    fence = await store.claim("owner of all")
    await place.let_pass(store, 1000 * TTL_SECONDS)
    await store.commit(Batch(fence, (snapshot("s"), snapshot(OTHER_ID))))  # a claim does not run out
    await lease_of(store, "b")
    with pytest.raises(FenceLost):
        await store.commit(Batch(fence, (snapshot("s", 2),)))
    await store.commit(Batch(fence, (snapshot(OTHER_ID, 2),)))


async def test_before_anybody_claimed_nobody_can_write(store: Store) -> None:
    for fence in (Fence("", 0), Fence("nobody", 0), Fence("nobody", 1)):
        with pytest.raises(FenceLost):
            await store.commit(Batch(fence, (snapshot("s"),)))
    await store.release(await lease_of(store))
    with pytest.raises(FenceLost):
        await store.commit(Batch(Fence("", 1), (snapshot("s"),)))


async def test_a_number_given_out_twice_does_not_make_a_fence(store: Store) -> None:
    # After a failover that lost a claim, its number goes to the next one: the nonce tells them apart.
    fence = await store.claim("owner")
    with pytest.raises(FenceLost):
        await store.commit(Batch(attrs.evolve(fence, nonce="of another process"), (snapshot("s"),)))
    await store.commit(Batch(fence, (snapshot("s"),)))


async def test_numbers_rise_over_claims_and_leases_and_never_restart(store: Store) -> None:
    numbers = []
    for _ in range(3):
        lease = await lease_of(store)
        await store.release(lease)
        numbers += [lease.fence.number, (await store.claim("owner")).number]
    assert numbers == sorted(set(numbers))
