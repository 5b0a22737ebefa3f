"""Real servers that are killed, stopped, emptied, filled, and fail over: nothing that was acknowledged is lost.

Each protection has its control beside it: the same fault with the protection off, which then loses or doubles what it
guards.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import pytest
import trio

from persistence import redis_scripts
from persistence.partitions import partition_of
from persistence.records import Batch, Fence
from persistence.redis import RedisStore
from persistence.redis_asking import RedisAsker
from persistence.redis_commits import RedisCommits
from persistence.redis_records import tag_of
from persistence.store import FenceLost, Store, StoreBroken, StoreFull, StoreUnavailable
from persistence.writer import Writer
from tests.persistence.making import entry, snapshot, tombstone
from tests.persistence.redis_servers import (
    RedisServer,
    cluster,
    commit_until_known,
    free_ports,
    replicate,
    running,
    wait_for,
)

REPLICATED = "?level=replicated&replicas=1"
LARGE_BYTES = 40_000  # what a stopped replica has not read yet fits into sockets' buffers, unless it is much


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    with running(server):
        yield server


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    primary, replica = (RedisServer("", "--repl-diskless-sync-delay", "0", port=port) for port in free_ports(2))
    with running(primary, replica):
        replicate(primary, replica)
        yield primary, replica


# Killed, stopped


async def test_a_killed_server_comes_back_with_all_that_was_acknowledged() -> None:
    # Goal: what a receipt told is there after kill -9 of the server, which writes its file before it answers. (With
    # `everysec` it puts that off while a sync takes long: seen to lose what it had acknowledged.) Method: sessions that
    # submit without end through a writer, three kills.
    server = RedisServer("", "--appendfsync", "always")
    with running(server):
        await _assert_kills_lose_nothing(server)


async def _assert_kills_lose_nothing(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    writer = Writer(store, await store.claim("test"), retry_seconds=0.01, retry_seconds_max=0.1)
    durable: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        enough = {kill: trio.Event() for kill in (300, 600, 900)}
        for number in range(20):
            nursery.start_soon(_submit_on, writer, f"session-{number}", durable, enough)
        for event in enough.values():
            with trio.fail_after(30):
                await event.wait()
            server.kill()
            told = dict(durable)
            server.start()
            await _assert_kept(server.url, told)
        nursery.cancel_scope.cancel()
    await store.aclose()
    await _assert_kept(server.url, durable)


async def _submit_on(
    writer: Writer, session_id: str, durable: dict[str, int], enough: Mapping[int, trio.Event]
) -> None:
    """Submit without end, each revision with its entry; note what is durable, and say when there are enough."""
    for revision in itertools.count(1):
        written = trio.Event()
        log = (entry(session_id, revision),)
        frozen = partial(snapshot, session_id, revision)
        writer.submit(session_id, revision, frozen, entries=log, receipt=lambda _, written=written: written.set())  # type: ignore[misc]
        await written.wait()
        durable[session_id] = revision
        for count, event in enough.items():
            if sum(durable.values()) >= count:
                event.set()


async def test_without_its_file_a_killed_server_comes_back_empty_and_that_is_noticed(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "appendonly", "no")
    store = await RedisStore.open(f"{server.url}?unsafe=no-aof")
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot(),)))
    server.kill()
    for file in (server.directory / "appendonlydir").iterdir():
        file.unlink()
    server.start()
    with pytest.raises(StoreBroken, match="emptied or exchanged"):
        await commit_until_known(store, Batch(fence, (snapshot(revision=2),)))
    await store.aclose()


async def test_a_stopped_server_is_given_up_soon_and_written_to_once(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    fence = await store.claim("test")
    batch = Batch(fence, (snapshot(),), tuple(entry("s", number) for number in range(1, 6)))
    server.stop_answering()
    with trio.fail_after(10), pytest.raises(StoreUnavailable):
        await store.commit(batch)
    server.answer_again()  # and does what it was asked, although nobody waits for it any more
    await commit_until_known(store, batch)
    assert await store.read_log("s", stream=0, after=0, limit=99) == list(batch.entries)
    assert server.ask("LLEN", f"rr:{tag_of(partition_of('s'))}l:s") == 5
    await store.aclose()


async def test_without_sequences_what_is_sent_again_is_there_twice(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _change_commit(monkeypatch, "if sequence > last then", "if true then")
    store = await RedisStore.open(server.url)
    batch = Batch(await store.claim("test"), (snapshot(),), (entry("s", 1),))
    for _ in range(2):
        await store.commit(batch)
    assert len(await store.read_log("s", stream=0, after=0, limit=99)) == 2
    await store.aclose()


async def test_who_queues_behind_a_stopped_server_does_not_wait_a_second_each(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    refused = 0

    async def load() -> None:
        nonlocal refused
        with pytest.raises(StoreUnavailable):
            await store.load("s")
        refused += 1

    server.stop_answering()
    with trio.fail_after(20):  # fifty of them, one after the other, would be 50 s
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(load)
    assert refused == 50
    server.answer_again()
    await store.aclose()


async def test_a_server_that_was_started_anew_meanwhile_is_asked_without_a_failure(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot(),)))
    for revision in (2, 3):
        server.kill()
        server.start()
        assert await store.load("s") == snapshot(revision=revision - 1)
        await store.commit(Batch(fence, (snapshot(revision=revision),)))
    await store.aclose()


async def test_a_server_that_forgot_the_scripts_is_taught_them_again(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    fence = await store.claim("test")
    server.ask("SCRIPT", "FLUSH")
    with pytest.raises(StoreUnavailable, match="NOSCRIPT"):
        await store.commit(Batch(fence, (snapshot(),)))
    await commit_until_known(store, Batch(fence, (snapshot(),)))
    await store.aclose()


# Emptied


async def test_an_emptied_server_is_noticed_by_whatever_is_asked_next(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot(),)))
    server.ask("FLUSHALL")
    asked = (
        lambda: store.commit(Batch(fence, (snapshot(revision=2),))),
        lambda: store.load("s"),
        lambda: store.read_log("s", stream=0, after=0, limit=9),
        store.scan,
        store.probe,
        lambda: store.claim("again"),
        lambda: store.acquire(1, "again", ttl_seconds=1),
    )
    for question in asked:
        with pytest.raises(StoreBroken, match="emptied or exchanged"):
            await question()
    assert server.ask("DBSIZE") == 0
    await store.aclose()


async def test_without_the_check_an_emptied_server_says_that_there_is_no_session(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await RedisStore.open(server.url)
    await store.commit(Batch(await store.claim("test"), (snapshot(),)))
    server.ask("FLUSHALL")
    monkeypatch.setattr(RedisAsker, "raise_foreign", lambda *_: None)
    monkeypatch.setattr(RedisCommits, "check", lambda *_: None)  # or they would be written again
    assert await store.load("s") is None
    await store.aclose()


async def test_an_older_copy_of_the_store_is_noticed(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.claim("first")
    older = {key: server.ask("DUMP", key) for key in server.ask("KEYS", "*")}
    fence = await store.claim("second")
    server.ask("FLUSHALL")
    for key, dump in older.items():
        server.ask("RESTORE", key, 0, dump)
    with pytest.raises(FenceLost, match="first"):
        await store.commit(Batch(fence, (snapshot(),)))
    with pytest.raises(StoreBroken, match="older copy"):
        await store.probe()
    await store.aclose()


# Full


async def test_a_full_server_takes_nothing_of_a_batch_but_takes_what_makes_room(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("old"),), (entry("old"),)))
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(StoreFull):
        await store.commit(Batch(fence, tuple(snapshot(f"new-{number}") for number in range(50))))
    with pytest.raises(StoreFull):
        await store.probe()
    assert [header.session_id for header in (await store.scan())[0]] == ["old"]
    await store.aclose()
    store = await RedisStore.open(server.url)  # a start that a full server refused could not make room
    fence = await store.claim("again")
    await store.commit(Batch(fence, (), (), (), (tombstone("old"),)))
    assert await store.load("old") is None
    server.ask("CONFIG", "SET", "maxmemory", "0")
    await store.commit(Batch(fence, (snapshot("new-1"),)))
    await store.aclose()


async def test_where_one_node_of_a_cluster_is_full_no_other_takes_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sessions are told that such a batch was rolled back, and go back to what they had: so it must have been.
    with cluster() as nodes:
        store = await RedisStore.open(nodes[0].tcp_url)
        fence = await store.claim("test")
        nodes[2].ask("CONFIG", "SET", "maxmemory", "1mb")
        batch = Batch(fence, tuple(snapshot(f"new-{number}") for number in range(60)))
        with pytest.raises(StoreFull):
            await store.commit(batch)
        assert await store.scan() == ([], None)
        # The control: without asking for admission first.
        monkeypatch.setattr(RedisCommits, "_admit", lambda *_: None)
        monkeypatch.setattr(redis_scripts, "COMMIT_ANYWAY", redis_scripts.COMMIT)
        with pytest.raises(StoreFull):
            await store.commit(batch)
        assert 0 < len((await store.scan())[0]) < 60
        await store.aclose()


# Owners


async def test_a_zombie_owner_writes_nothing(server: RedisServer) -> None:
    assert await _written_by_a_zombie(server) == 0


async def test_without_the_fence_a_zombie_overwrites_its_successor(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _change_commit(monkeypatch, "if refused then return refused end", "")
    assert await _written_by_a_zombie(server) == 1


async def _written_by_a_zombie(server: RedisServer) -> int:
    """Let an owner write after another has taken over; give how many of its facts took another's place."""
    zombie = await RedisStore.open(server.url)
    old = await zombie.claim("zombie")
    successor = await RedisStore.open(server.url)
    await successor.commit(Batch(await successor.claim("successor"), (snapshot("s", 1, {"by": "successor"}),)))
    with contextlib.suppress(FenceLost):
        await zombie.commit(Batch(old, (snapshot("s", 2, {"by": "zombie"}),)))
    loaded = await successor.load("s")
    assert loaded is not None
    for store in (zombie, successor):
        await store.aclose()
    return int(loaded.fields["by"] == "zombie")


# Replicas


async def test_a_server_that_became_a_replica_is_unavailable(pair: tuple[RedisServer, RedisServer]) -> None:
    primary, other = pair
    store = await RedisStore.open(primary.url)
    fence = await store.claim("test")
    other.ask("REPLICAOF", "NO", "ONE")
    primary.ask("REPLICAOF", "127.0.0.1", other.port)
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await store.commit(Batch(fence, (snapshot(),)))
    primary.ask("REPLICAOF", "NO", "ONE")
    await commit_until_known(store, Batch(fence, (snapshot(),)))
    await store.aclose()


async def test_what_too_few_replicas_have_is_not_acknowledged_however_often_it_is_sent(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    primary, replica = pair
    store = await RedisStore.open(primary.url + REPLICATED)
    assert store.survives == "replicated"
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s", 1),)))
    replica.stop_answering()
    batch = Batch(fence, (snapshot("s", 2),))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await store.commit(batch)
        await trio.sleep(0.3)  # or it would not be asked: it has just not answered
    replica.answer_again()
    await commit_until_known(store, batch)
    await store.aclose()


async def test_without_a_write_of_its_own_what_is_sent_again_is_not_counted(
    pair: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # WAIT counts from the connection's last write. All that this one is asked is stored already.
    _change_commit(monkeypatch, "redis.call('HINCRBY', ARGV[1] .. group[1] .. 'lease', 'commits', 1)", "0")
    primary, replica = pair
    store = await RedisStore.open(primary.url + REPLICATED)
    fence = await store.claim("test")
    replica.stop_answering()
    batch = Batch(fence, (snapshot("s", 1),))
    with pytest.raises(StoreUnavailable):
        await store.commit(batch)
    await trio.sleep(0.3)
    await store.commit(batch)  # which no replica has
    replica.answer_again()
    await store.aclose()


async def test_a_failover_loses_nothing_that_a_replica_was_counted_for(pair: tuple[RedisServer, RedisServer]) -> None:
    lost, acknowledged = await _lost_in_failover(pair, REPLICATED)
    assert acknowledged > 0
    assert lost == 0


async def test_without_counting_a_failover_loses_what_was_acknowledged(pair: tuple[RedisServer, RedisServer]) -> None:
    lost, acknowledged = await _lost_in_failover(pair, "")
    assert 0 < lost < acknowledged


async def _lost_in_failover(pair: tuple[RedisServer, RedisServer], options: str) -> tuple[int, int]:
    """Commit while the replica keeps up, then while it does not; kill the primary, and read what the replica has."""
    primary, replica = pair
    store = await RedisStore.open(primary.url + options)
    fence = await store.claim("test")
    told: dict[str, int] = {}
    for number in range(100):
        await _commit_large(store, fence, f"early-{number}", told)
    replica.stop_answering()
    for number in range(600):
        if not await _commit_large(store, fence, f"late-{number}", told):
            break
    primary.kill()
    replica.answer_again()
    replica.ask("REPLICAOF", "NO", "ONE")
    wait_for(lambda: b"role:master" in replica.ask("INFO", "replication"), "the promotion")
    await store.aclose()
    after = await RedisStore.open(replica.url)
    kept = await _kept(after, told)
    await after.aclose()
    return sum(kept[session_id] < revision for session_id, revision in told.items()), len(told)


async def _commit_large(store: Store, fence: Fence, session_id: str, told: dict[str, int]) -> bool:
    try:
        await store.commit(Batch(fence, (snapshot(session_id, 1, {"filling": os.urandom(LARGE_BYTES)}),)))
    except StoreUnavailable:
        return False
    told[session_id] = 1
    return True


async def _assert_kept(url: str, told: Mapping[str, int]) -> None:
    store = await RedisStore.open(url)
    kept = await _kept(store, told)
    for session_id, revision in told.items():
        assert kept[session_id] >= revision
        log = await store.read_log(session_id, stream=0, after=0, limit=1_000_000)
        assert [one.sequence for one in log] == list(range(1, len(log) + 1))
        # One entry with each snapshot, both or neither; while the writer goes on, between two looks at the snapshot.
        assert kept[session_id] <= len(log) <= (await _kept(store, [session_id]))[session_id]
    await store.aclose()


async def _kept(store: Store, told: Iterable[str]) -> dict[str, int]:
    kept = {}
    for session_id in told:
        loaded = await store.load(session_id)
        kept[session_id] = loaded.header.revision if loaded is not None else 0
    return kept


def _change_commit(monkeypatch: pytest.MonkeyPatch, what: str, by: str) -> None:
    """Take a protection out of the script that commits."""
    changed = redis_scripts.COMMIT.replace(what, by)
    assert changed != redis_scripts.COMMIT
    monkeypatch.setattr(redis_scripts, "COMMIT", changed)
    monkeypatch.setattr(redis_scripts, "ALL", (*redis_scripts.ALL, changed))
