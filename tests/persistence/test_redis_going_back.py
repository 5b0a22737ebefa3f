"""Servers that come back with less than they acknowledged: a replica that lagged is promoted; a file loses its end.

The owner has kept what it wrote last, and writes it again before anything else is written or read. The controls do
without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

import outlast
from persistence import redis_history
from persistence.records import Batch, Fence, Trim
from persistence.redis import RedisStore
from persistence.redis_commits import RedisCommits
from persistence.store import FenceLost, Store, StoreBroken, StoreUnavailable
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

LARGE_BYTES = 40_000  # what a stopped replica has not read yet fits into sockets' buffers, unless it is much
FILLING = 300  # commits so large: some 12 MB


@attrs.frozen
class Pair:
    """A primary and its replica behind one address, which follows whoever is in charge."""

    primary: RedisServer
    replica: RedisServer
    address: Path

    @property
    def url(self) -> str:
        return f"unix://{self.address}"

    def fail_over(self) -> None:
        """Kill the primary, promote the replica, and have the address lead to it."""
        self.primary.kill()
        self.replica.answer_again()
        self.replica.ask("REPLICAOF", "NO", "ONE")
        wait_for(lambda: b"role:master" in self.replica.ask("INFO", "replication"), "the promotion")
        self.address.unlink()
        self.address.symlink_to(self.replica.socket)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    primary, replica = (RedisServer("", "--repl-diskless-sync-delay", "0", port=port) for port in free_ports(2))
    with running(primary, replica):
        replicate(primary, replica)
        address = primary.directory / "address"
        address.symlink_to(primary.socket)
        yield Pair(primary, replica, address)


async def fill(store: Store, fence: Fence) -> None:
    """Write so much that a stopped replica cannot have it."""
    for number in range(FILLING):
        filling = snapshot(f"filling-{number}", 1, {"filling": os.urandom(LARGE_BYTES)})
        await store.commit(Batch(fence, (filling,)))


async def held(url: str) -> dict[str, int]:
    """Give what a store holds: revisions by session."""
    store = await RedisStore.open(url)
    found, after = await store.scan(limit=10_000)
    await store.aclose()
    assert after is None
    return {header.session_id: header.revision for header in found}


async def test_what_a_promoted_replica_has_not_heard_of_is_written_again(pair: Pair) -> None:
    # Goal: after a failover to a replica that lagged, the store holds all that was acknowledged: newer snapshots, new
    # sessions, ends, logs and trims; also of sessions that nobody touches again. Method: the replica is stopped in the
    # middle of the owner's commits; one commit, of another session, after the failover.
    store = await RedisStore.open(pair.url)
    fence = await store.claim("test")
    log = tuple(entry("s", number) for number in range(1, 6))
    await store.commit(Batch(fence, (snapshot("s", 1), snapshot("ends", 1)), log[:2]))
    await replicated(pair)
    pair.replica.stop_answering()
    await fill(store, fence)
    await store.commit(Batch(fence, (snapshot("s", 2), snapshot("new", 1)), log[2:], (Trim("s", 1),)))
    await store.commit(Batch(fence, (), (), (), (tombstone("ends"),)))
    pair.fail_over()
    before = await held(pair.replica.url)
    assert before["s"] == 1, "nothing was lost, so nothing is shown"
    assert "ends" in before
    assert "new" not in before
    await commit_until_known(store, Batch(fence, (snapshot("other", 1),)))
    after = await held(pair.replica.url)
    assert after == {"s": 2, "new": 1, "other": 1} | {f"filling-{number}": 1 for number in range(FILLING)}
    assert await store.read_log("s", stream=0, after=0, limit=9) == list(log[1:])
    await store.commit(Batch(fence, (snapshot("s", 3),), (entry("s", 6),)))
    assert await store.load("ends") is None
    await store.aclose()


async def test_without_writing_again_it_is_lost(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_history.History, "expected", lambda *_: 0)
    monkeypatch.setattr(RedisCommits, "reassert", lambda _: None)
    store = await RedisStore.open(pair.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s", 1), snapshot("ends", 1))))
    await replicated(pair)
    pair.replica.stop_answering()
    await fill(store, fence)
    await store.commit(Batch(fence, (snapshot("s", 2), snapshot("new", 1)), (), (), (tombstone("ends"),)))
    pair.fail_over()
    await commit_until_known(store, Batch(fence, (snapshot("other", 1),)))
    after = await held(pair.replica.url)
    assert after["s"] == 1
    assert "ends" in after
    assert "new" not in after
    await store.aclose()


async def test_reading_after_a_failover_gives_nothing_older_than_was_acknowledged(pair: Pair) -> None:
    store = await RedisStore.open(pair.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s", 1),)))
    await replicated(pair)
    pair.replica.stop_answering()
    await fill(store, fence)
    await store.commit(Batch(fence, (snapshot("s", 2),), (entry("s", 1),)))
    pair.fail_over()
    assert (await held(pair.replica.url))["s"] == 1
    assert await read_until_known(store, "s") == 2
    assert await store.read_log("s", stream=0, after=0, limit=9) == [entry("s", 1)]
    await store.aclose()


async def test_an_idle_owner_notices_too_when_it_says_that_it_is_there(pair: Pair) -> None:
    store = await RedisStore.open(pair.url)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s", 1),)))
    await replicated(pair)
    pair.replica.stop_answering()
    await fill(store, fence)
    await store.commit(Batch(fence, (snapshot("s", 2),)))
    pair.fail_over()
    with trio.fail_after(30):
        while True:
            try:
                await store.tend(fence)
                break
            except StoreUnavailable:
                await trio.sleep(0.05)
    assert (await held(pair.replica.url))["s"] == 2
    await store.aclose()


async def test_sessions_of_a_runtime_lose_nothing_in_a_lossy_failover(pair: Pair) -> None:
    # The same, as users have it: sessions in memory and one that has left it; values, and events under their ids.
    async with outlast.open_runtime(pair.url) as runtime:
        active, idle = [await runtime.create() for _ in range(2)]
        await replicated(pair)
        pair.replica.stop_answering()
        for number in range(FILLING // 4):  # each value is as large as one may be
            async with active.update() as values:
                values["filling"], values["number"] = os.urandom(4 * LARGE_BYTES), number
        async with idle.update() as values:
            values["kept"] = "yes"
        for number in range(1, 4):
            await idle.emit("note", {"number": number})
        leaving = runtime.registry.resident(idle.id)
        assert leaving is not None
        leaving.stop("leaves memory")
        pair.fail_over()
        with trio.fail_after(30):
            async with active.update() as values:
                values["after"] = True
        assert (await idle.state()).values["kept"] == "yes"
    async with outlast.open_runtime(pair.replica.url) as runtime:
        state = await runtime.session(active.id).state()
        assert (state.values["number"], state.values["after"]) == (FILLING // 4 - 1, True)
        again = runtime.session(idle.id)
        assert (await again.state()).values["kept"] == "yes"
        reading = await again.read(None)
        assert [entry.offset for entry in await reading.next_page()] == [1, 2, 3]


async def test_what_is_lost_beyond_what_is_remembered_ends_the_process(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await RedisStore.open(pair.url)
    store._keeper.commits.history._bytes_max = 10 * LARGE_BYTES
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s", 1),)))
    await replicated(pair)
    pair.replica.stop_answering()
    await store.commit(Batch(fence, (snapshot("s", 2),)))
    await fill(store, fence)
    pair.fail_over()
    with pytest.raises(StoreBroken, match="older copy"):
        await commit_until_known(store, Batch(fence, (snapshot("filling-0", 2),)))
    await store.aclose()


async def test_a_failover_that_has_lost_the_claim_too_has_another_owner(pair: Pair) -> None:
    store = await RedisStore.open(pair.url)
    fence = await store.claim("first")
    await replicated(pair)
    pair.replica.stop_answering()
    await fill(store, fence)
    fence = await store.claim("second")
    pair.fail_over()
    with pytest.raises(FenceLost, match="first"):
        await commit_until_known(store, Batch(fence, (snapshot("s", 2),)))
    await store.aclose()


async def test_a_file_that_has_lost_its_end_is_completed() -> None:
    # As after a machine's loss of power, with a file that is synced every second: the server has less than it said.
    server = RedisServer()
    with running(server):
        store = await RedisStore.open(server.url)
        fence = await store.claim("test")
        await store.commit(Batch(fence, (snapshot("s", 1),)))
        file = next((server.directory / "appendonlydir").glob("*.incr.aof"))
        size = file.stat().st_size
        await store.commit(Batch(fence, (snapshot("s", 2), snapshot("t", 1))))
        server.kill()
        os.truncate(file, size)
        server.start()
        assert await held(server.url) == {"s": 1}
        await commit_until_known(store, Batch(fence, (snapshot("u", 1),)))
        assert await held(server.url) == {"s": 2, "t": 1, "u": 1}
        await store.aclose()


async def test_a_node_of_a_cluster_that_has_gone_back_is_given_its_part_again() -> None:
    # With `everysec` a server puts its writing off while a sync takes long, so a file's size would tell nothing.
    with cluster("--appendfsync", "always") as nodes:
        store = await RedisStore.open(nodes[0].tcp_url)
        fence = await store.claim("test")
        many = [f"session-{number}" for number in range(60)]
        await store.commit(Batch(fence, tuple(snapshot(name, 1) for name in many)))
        files = {node: next((node.directory / "appendonlydir").glob("*.incr.aof")) for node in nodes}
        sizes = {node: file.stat().st_size for node, file in files.items()}
        await store.commit(Batch(fence, tuple(snapshot(name, 2) for name in many)))
        nodes[1].kill()
        os.truncate(files[nodes[1]], sizes[nodes[1]])
        nodes[1].start()
        wait_for(lambda: b"cluster_state:ok" in nodes[1].ask("CLUSTER", "INFO"), "the cluster")
        assert set((await held(nodes[0].tcp_url)).values()) == {1, 2}
        for name in many[:1]:
            await commit_until_known(store, Batch(fence, (snapshot(name, 3),)))
        with trio.fail_after(30):
            await store.tend(fence)
        assert await held(nodes[0].tcp_url) == dict.fromkeys(many, 2) | {many[0]: 3}
        await store.aclose()


async def read_until_known(store: Store, session_id: str) -> int:
    with trio.fail_after(30):
        while True:
            try:
                loaded = await store.load(session_id)
            except StoreUnavailable:
                await trio.sleep(0.05)
            else:
                return loaded.header.revision if loaded is not None else 0


async def replicated(pair: Pair) -> None:
    """Wait until the replica has all that there is so far."""

    def offset(server: RedisServer, name: bytes) -> bytes:
        facts = dict(line.split(b":") for line in server.ask("INFO", "replication").split(b"\r\n") if b":" in line)
        found: bytes = facts[name]
        return found

    wait_for(
        lambda: offset(pair.primary, b"master_repl_offset") == offset(pair.replica, b"slave_repl_offset"), "the replica"
    )
    await trio.lowlevel.checkpoint()
