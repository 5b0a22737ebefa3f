"""Who is at work on a store is known to whoever is about to take it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from persistence.degrading import DegradingStore
from persistence.memory import MemoryStore
from persistence.presence import PRESENT_SECONDS, keep_tending, refuse_if_held
from persistence.redis import RedisStore
from persistence.store import FenceLost, StoreInUse
from tests.persistence.behind import given
from tests.persistence.places import RedisPlace, ask
from tests.persistence.redis_servers import RedisServer, cluster, running


@pytest.fixture(scope="module", params=["alone", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cluster":
        with cluster() as nodes:
            yield nodes[1].tcp_url
    else:
        server = RedisServer()
        with running(server):
            yield server.url


async def test_an_owner_that_is_there_is_named(url: str) -> None:
    place = RedisPlace(url)
    gateway, command = await RedisStore.open(place.url), await RedisStore.open(place.url)
    assert await command.holder() is None
    fence = await gateway.claim("host:17")
    assert await command.holder() is None, "a claim has no end: it says nothing of who is there"
    assert gateway.lease_margin_seconds() is None
    await gateway.tend(fence)
    margin = gateway.lease_margin_seconds()
    assert margin is not None
    assert 0 < margin <= PRESENT_SECONDS, "of being there"
    held = await command.holder()
    assert held is not None
    assert held.owner == "host:17"
    assert 0 < held.remaining_seconds <= PRESENT_SECONDS
    assert await gateway.holder() is None, "nobody is in its own way"
    with pytest.raises(StoreInUse, match=r"in use by host:17.*--take-over"):
        await refuse_if_held(command)
    await gateway.aclose()
    await refuse_if_held(command)
    await command.aclose()


async def test_one_that_was_killed_counts_as_gone_after_a_while(url: str) -> None:
    place = RedisPlace(url)
    killed, command = await RedisStore.open(place.url), await RedisStore.open(place.url)
    await killed.tend(await killed.claim("killed"))
    until = await ask(command, "HGET", f"{place.prefix}:meta", "present_until")
    assert isinstance(until, bytes)
    await ask(command, "HSET", f"{place.prefix}:meta", "present_until", int(until) - round(PRESENT_SECONDS * 1000))
    await refuse_if_held(command)
    for store in (killed, command):
        await store.aclose()


async def test_a_running_lease_is_an_owner_that_is_there(url: str) -> None:
    place = RedisPlace(url)
    gateway, command = await RedisStore.open(place.url), await RedisStore.open(place.url)
    lease = await gateway.acquire(7, "host:18", ttl_seconds=30)
    with pytest.raises(StoreInUse, match="host:18"):
        await refuse_if_held(command)
    await gateway.release(lease)
    await refuse_if_held(command)
    for store in (gateway, command):
        await store.aclose()


async def test_a_former_owner_that_writes_nothing_is_told(url: str) -> None:
    place = RedisPlace(url)
    former, successor = await RedisStore.open(place.url), await RedisStore.open(place.url)
    fence = await former.claim("former")
    await former.tend(fence)
    present = await successor.claim("successor")
    await successor.tend(present)
    with pytest.raises(FenceLost, match="successor"):
        await keep_tending(former, fence)
    await former.aclose()
    held = await former_view(place)
    assert held == "successor", "what the former one left behind does not hide who came after"
    await successor.aclose()


async def former_view(place: RedisPlace) -> str:
    store = await RedisStore.open(place.url)
    held = await store.holder()
    await store.aclose()
    return held.owner if held is not None else ""


async def test_it_is_seen_through_a_store_that_degrades(url: str) -> None:
    place = RedisPlace(url)
    gateway, command = await RedisStore.open(place.url), await RedisStore.open(place.url)
    degrading = await DegradingStore.open(given(gateway))
    fence = await degrading.claim("host:19")
    with trio.move_on_after(0.2):
        await keep_tending(degrading, fence)
    with pytest.raises(StoreInUse, match="host:19"):
        await refuse_if_held(command)
    assert await degrading.holder() is None
    for store in (degrading, command):
        await store.aclose()


async def test_a_store_that_one_process_has_to_itself_needs_none_of_it() -> None:
    store = MemoryStore()
    await store.claim("somebody")
    await refuse_if_held(store)
    await store.aclose()
