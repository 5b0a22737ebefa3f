"""A Redis that sentinels watch, with real servers: the store goes where they appoint a primary, and nowhere else.

A primary that is replaced while it is stopped takes itself for the primary for some ten seconds when it goes on, and
takes what it is given. The controls do without asking anew, and without asking again.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
import trio

import outlast
from persistence.partitions import partition_of
from persistence.records import Batch, Fence
from persistence.redis import RedisStore
from persistence.redis_nodes import Nodes
from persistence.redis_records import tag_of
from persistence.store import FenceLost, Store, StoreInvalid, StoreUnavailable
from tests.persistence.making import entry, snapshot
from tests.persistence.redis_servers import RedisServer, commit_until_known, free_ports, programs, wait_for
from tests.persistence.redis_watched import SERVICE, SentinelServer, Watched, watched

REPLICATED = "&level=replicated&replicas=1"
LARGE_BYTES = 40_000  # what a stopped replica has not read yet fits into sockets' buffers, unless it is much
FILLING = 300  # commits so large: some 12 MB


@pytest.fixture
def world() -> Iterator[Watched]:
    """A primary with one replica."""
    with watched() as world:
        yield world


@pytest.mark.parametrize("program", programs().values(), ids=programs().keys())
@pytest.mark.parametrize("stopped", [False, True], ids=["killed", "stopped"])
async def test_a_failover_loses_nothing_that_was_acknowledged(program: str, stopped: bool) -> None:
    # Goal: at level `replicated`, all that was acknowledged is at whoever is in charge, whatever became of the primary,
    # and the store finds it by itself. Method: commits without a pause; the primary is killed, or stopped until another
    # is in charge and then told to go on; commits through all of that, and until it has become a replica.
    with watched(replicas=2, program=program) as world:
        store = await RedisStore.open(world.url + REPLICATED)
        fence = await store.claim("test")
        numbers = itertools.count(1)
        told: list[int] = []
        await commit_some(store, fence, told, numbers, 50)
        if stopped:
            world.primary.stop_answering()
        else:
            world.primary.kill()
        await commit_some(store, fence, told, numbers, 50)
        successor = world.wait_for_successor()
        assert (await store.probe()).primary == f"127.0.0.1:{successor.port}"
        if stopped:
            world.primary.answer_again()
            await commit_some(store, fence, told, numbers, 200)
        await store.aclose()
        await assert_kept(world.url, told)


async def test_without_asking_anew_it_stays_at_the_dead_primary(
    world: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await RedisStore.open(world.url)
    fence = await store.claim("test")
    learn = Nodes._learn
    monkeypatch.setattr(Nodes, "_learn", lambda nodes: learn(nodes) if nodes.primary is None else None)
    world.primary.kill()
    world.wait_for_successor()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{world.primary.port}.*refused"):
            await store.commit(Batch(fence, (snapshot(),)))
        await trio.sleep(0.3)  # or it would not be asked: it has just not answered
    monkeypatch.undo()
    await commit_until_known(store, Batch(fence, (snapshot(),)))
    await store.aclose()


async def test_what_a_former_primary_takes_is_not_acknowledged(world: Watched) -> None:
    store, fence = await over_a_former_primary(world)
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{world.primary.port} is the primary no more"):
        await store.commit(Batch(fence, (snapshot("s", 2),)))
    await commit_until_known(store, Batch(fence, (snapshot("s", 2),)))
    await store.aclose()
    assert await revision_of(world.url, "s") == 2


async def test_without_asking_again_what_a_former_primary_takes_is_lost(
    world: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nodes, "_confirm", lambda _: None)
    store, fence = await over_a_former_primary(world)
    await store.commit(Batch(fence, (snapshot("s", 2),)))
    assert await revision_of(world.url, "s") == 1
    await store.aclose()


async def test_a_former_owner_at_a_former_primary_finds_its_successor(world: Watched) -> None:
    store, fence = await over_a_former_primary(world)
    successor = await RedisStore.open(world.url)
    await successor.commit(Batch(await successor.claim("successor"), (snapshot("s", 5),)))
    with pytest.raises(StoreUnavailable):  # not what the former primary says, which knows of no successor
        await store.commit(Batch(fence, (snapshot("s", 6),)))
    with pytest.raises(FenceLost, match="successor"):
        await commit_until_known(store, Batch(fence, (snapshot("s", 6),)))
    for one in (store, successor):
        await one.aclose()
    assert await revision_of(world.url, "s") == 5


async def test_what_a_promoted_replica_has_not_heard_of_is_written_again(world: Watched) -> None:
    # At level `redis`: the replica lags, and is promoted.
    store = await RedisStore.open(world.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s", 1),)))
    [replica] = world.servers[1:]
    wait_until_replicated(replica, "s")
    replica.stop_answering()
    for number in range(FILLING):
        filling = snapshot(f"filling-{number}", 1, {"filling": os.urandom(LARGE_BYTES)})
        await store.commit(Batch(fence, (filling,)))
    await store.commit(Batch(fence, (snapshot("s", 2),), (entry("s", 1),)))
    world.primary.kill()
    replica.answer_again()
    assert world.wait_for_successor() is replica
    assert await revision_of(world.url, "s") < 2, "nothing was lost, so nothing is shown"
    await commit_until_known(store, Batch(fence, (snapshot("other", 1),)))
    assert await store.read_log("s", stream=0, after=0, limit=9) == [entry("s", 1)]
    await store.aclose()
    assert await revision_of(world.url, "s") == 2
    assert await revision_of(world.url, f"filling-{FILLING - 1}") == 1


async def test_sessions_of_a_runtime_go_on_at_the_new_primary(world: Watched) -> None:
    async with outlast.open_runtime(world.url) as runtime:
        session = await runtime.create()
        async with session.update() as values:
            values["before"] = True
        world.primary.kill()
        with trio.fail_after(30):
            async with session.update() as values:
                values["after"] = True
    async with outlast.open_runtime(world.url) as runtime:
        assert (await runtime.session(session.id).state()).values == {"before": True, "after": True}


# Sentinels that are away


async def test_an_application_that_may_degrade_begins_without_sentinels_and_finds_them_later() -> None:
    with watched(replicas=0) as world:
        for sentinel in world.sentinels:
            sentinel.kill()
        with pytest.raises(StoreUnavailable):
            async with outlast.open_runtime(world.url):
                pass
        options = outlast.RuntimeOptions(store_outage="degrade", store_outage_patience_seconds=0.1)
        async with outlast.open_runtime(world.url, options=options) as runtime:
            session = await runtime.create()
            assert runtime.degraded is not None
            assert runtime.degraded.facts > 0
            for sentinel in world.sentinels:
                sentinel.start()
            await until_written_back(runtime)
        assert await revision_of(world.url, session.id) > 0


async def test_sentinels_that_are_away_are_passed_over_and_told_of() -> None:
    with watched(replicas=0) as world:
        for sentinel in world.sentinels[:2]:
            sentinel.kill()
        store = await RedisStore.open(world.url)
        fence = await store.claim("test")
        health = await store.probe()
        assert health.troubles["sentinels"]
        for sentinel in world.sentinels[:2]:
            assert f"sentinel 127.0.0.1:{sentinel.port}: " in health.detail
        world.sentinels[2].kill()
        for revision in range(1, 5):  # a primary in use stays in use
            await store.commit(Batch(fence, (snapshot("s", revision),)))
            await trio.sleep(0.15)
        world.primary.kill()  # and from here on nobody says where to go
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.commit(Batch(fence, (snapshot("s", 5),)))
            await trio.sleep(0.3)
        world.primary.start()
        with pytest.raises(StoreUnavailable, match="no sentinel can be asked"):
            await store.load("s")
        world.sentinels[1].start()
        await commit_until_known(store, Batch(fence, (snapshot("s", 5),)))
        assert await store.load("s") == snapshot("s", 5)
        await store.aclose()


async def test_at_the_start_sentinels_that_are_all_away_are_named() -> None:
    ports = free_ports(3)
    url = f"redis+sentinel://:hunter2@{','.join(f'127.0.0.1:{port}' for port in ports)}/0?service=m"
    with pytest.raises(StoreUnavailable, match="no sentinel can be asked: start one, or name others") as caught:
        await RedisStore.open(url)
    assert all(f"127.0.0.1:{port}: Error 111" in str(caught.value) for port in ports)
    assert "hunter2" not in str(caught.value)


async def test_a_sentinel_that_is_stopped_costs_half_a_second_once() -> None:
    with watched(replicas=0) as world:
        store = await RedisStore.open(world.url)
        fence = await store.claim("test")
        world.sentinels[0].stop_answering()
        with trio.fail_after(20):  # waited for each time, it would be some 50 s
            for revision in range(1, 101):
                await store.commit(Batch(fence, (snapshot("s", revision),)))
                await trio.sleep(0.01)
        await store.aclose()


# Mistakes


async def test_what_cannot_be_is_said_in_one_line() -> None:
    with watched(replicas=0) as world:
        sentinel, primary = f"127.0.0.1:{world.sentinels[0].port}", f"127.0.0.1:{world.primary.port}"
        for url, said in (
            (f"redis+sentinel://{sentinel}/0?service=other", 'it watches no service "other"'),
            (f"redis+sentinel://{primary}/0?service={SERVICE}", f"{primary}: it is a Redis server, and no sentinel"),
            (f"redis://{sentinel}", "the server is a sentinel, and keeps nothing: say redis.sentinel://"),
        ):
            with pytest.raises(StoreInvalid, match=said) as caught:
                await RedisStore.open(url)
            assert "\n" not in str(caught.value)


async def test_a_primary_that_is_not_fit_is_refused() -> None:
    with watched(replicas=0) as world:
        world.primary.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreInvalid, match="maxmemory-policy"):
            await RedisStore.open(world.url)


async def test_sentinels_have_a_password_of_their_own() -> None:
    server = RedisServer("", "--requirepass", "the-servers", port=free_ports(1)[0])
    lines = (
        "requirepass the-sentinels",
        f"sentinel monitor {SERVICE} 127.0.0.1 {server.port} 1",
        f"sentinel auth-pass {SERVICE} the-servers",
    )
    sentinel = SentinelServer(free_ports(1)[0], lines)
    where = f"127.0.0.1:{sentinel.port}/0?service={SERVICE}"
    try:
        for one in (server, sentinel):
            one.launch()
        for url, said in (
            (f"redis+sentinel://:the-servers@{where}", "REDIS_SENTINEL_PASSWORD"),
            (f"redis+sentinel://:the-servers@{where}&sentinel_password=not-that", "sentinel_password in the URL"),
            (f"redis+sentinel://:not-that@{where}&sentinel_password=the-sentinels", "the user or password is refused"),
        ):
            with pytest.raises((StoreInvalid, StoreUnavailable), match=said) as caught:
                await opened_once_it_listens(url)
            assert "not-that" not in str(caught.value)
            assert "the-s" not in str(caught.value).replace("the sentinels", "")
        store = await RedisStore.open(f"redis+sentinel://:the-servers@{where}&sentinel_password=the-sentinels")
        assert "the-s" not in f"{store!r} {store.url} {await store.probe()}"
        await store.aclose()
    finally:
        for one in (server, sentinel):
            one.close()


async def opened_once_it_listens(url: str) -> Store:
    """Open a store whose sentinel has just been started."""
    with trio.fail_after(20):
        while True:
            try:
                return await RedisStore.open(url)
            except StoreUnavailable as error:
                if "refused." not in str(error):
                    raise
            await trio.sleep(0.02)


# What tests share


async def over_a_former_primary(world: Watched) -> tuple[RedisStore, Fence]:
    """Give a store with a connection to a primary that was stopped, replaced, and has just gone on."""
    store = await RedisStore.open(world.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s", 1),)))
    [replica] = world.servers[1:]
    wait_until_replicated(replica, "s")
    world.primary.stop_answering()
    assert world.wait_for_successor() is replica
    world.primary.answer_again()
    wait_for(lambda: world.primary.ask("ROLE")[0] == b"master", "the former primary")
    return store, fence


def wait_until_replicated(replica: RedisServer, session_id: str) -> None:
    """Wait until a replica has a session."""
    key = f"rr:{tag_of(partition_of(session_id))}s:{session_id}"
    wait_for(lambda: replica.ask("EXISTS", key) == 1, "the replica")


async def until_written_back(runtime: outlast.Runtime) -> None:
    """Wait until an application that went on from memory has its store again."""
    with trio.fail_after(30):
        while runtime.degraded is not None:  # noqa: ASYNC110 (nothing tells of it)
            await trio.sleep(0.05)


async def commit_some(store: Store, fence: Fence, told: list[int], numbers: Iterator[int], count: int) -> None:
    """Commit so many sessions, one after the other; note those that were acknowledged."""
    for number in itertools.islice(numbers, count):
        batch = Batch(fence, (snapshot(f"session-{number}", 1),), (entry(f"session-{number}", 1),))
        await commit_until_known(store, batch)
        told.append(number)


async def assert_kept(url: str, told: list[int]) -> None:
    store = await RedisStore.open(url)
    headers, _ = await store.scan(limit=10_000)
    assert {f"session-{number}" for number in told} <= {header.session_id for header in headers}
    for number in told[::10]:
        assert len(await store.read_log(f"session-{number}", stream=0, after=0, limit=9)) == 1
    await store.aclose()


async def revision_of(url: str, session_id: str) -> int:
    """Give what somebody finds who opens the store now; 0: nothing."""
    store = await RedisStore.open(url)
    loaded = await store.load(session_id)
    await store.aclose()
    return 0 if loaded is None else loaded.header.revision
