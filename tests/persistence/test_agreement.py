"""Whatever is committed, memory, SQLite and Redis tell the same afterwards: each is the others' model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings

from persistence.memory import MemoryStore
from persistence.records import Batch, Fence, LogEntry, Trim
from persistence.sqlite import SqliteStore
from persistence.store import FenceLost, Store
from tests.persistence.making import entry, snapshot, tombstone
from tests.persistence.places import RedisPlace
from tests.persistence.redis_servers import RedisServer, running

Steps = Sequence[tuple[tuple[tuple[object, ...], ...], str]]

ids = st.sampled_from("abcd")
small = st.integers(1, 6)
bodies = st.sampled_from([b"one", b"two"])
# Offsets rise with the sequence within a stream, as in every log.
log_entries = st.builds(lambda i, n, body: entry(i, n, stream=n % 2, offset=n, body=body), ids, small, bodies)
batches = st.builds(
    lambda *parts: tuple(map(tuple, parts)),
    st.lists(st.builds(lambda i, n, f: snapshot(i, n, {"f": f}), ids, st.integers(0, 6), small), max_size=5),
    st.lists(log_entries, max_size=8),
    st.lists(st.builds(Trim, ids, small), max_size=2),
    st.lists(st.builds(tombstone, ids), max_size=1),
)
# Each batch comes with the fence of the newest owner, or of the one before.
steps = st.lists(st.tuples(batches, st.sampled_from(["newest", "newest", "newest", "former", "claim"])), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_memory_and_sqlite_agree_on_any_batches(steps: Steps) -> None:
    trio.run(_compare, steps)


async def _compare(steps: Steps) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stores: list[Store] = [MemoryStore(), await SqliteStore.open(Path(directory) / "outlast.db")]
        told = [await _told(store, steps) for store in stores]
        for store in stores:
            await store.aclose()
    assert told[0] == told[1]


async def _told(store: Store, steps: Steps) -> list[object]:
    fences = [Fence("nobody", 0), await store.claim("first")]
    told: list[object] = []
    for parts, whose in steps:
        if whose == "claim":
            fences.append(await store.claim("next"))
        try:
            await store.commit(Batch(fences[-2 if whose == "former" else -1], *parts))  # type: ignore[arg-type]
        except FenceLost:
            told.append("fence lost")
    for session_id in "abcd":
        told.append(await store.load(session_id))
        told.append(await store.read_log(session_id, stream=0, after=1, limit=3))
        told.append(await store.read_log(session_id, stream=1, after=0, limit=2))
    told.append(sorted((await store.scan())[0], key=lambda header: header.session_id))
    told.append((await store.probe()).sessions)
    return told


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    with running(server):
        yield server


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_memory_and_redis_agree_on_any_batches(server: RedisServer, steps: Steps) -> None:
    trio.run(_compare_redis, server, _in_order(steps))


async def _compare_redis(server: RedisServer, steps: Steps) -> None:
    stores: list[Store] = [MemoryStore(), await RedisPlace(server.url).open(tombstones_max=100_000)]
    told = [await _told(store, steps) for store in stores]
    for store in stores:
        await store.aclose()
    assert told[0] == told[1]


def _in_order(steps: Steps) -> Steps:
    """Leave out the entries that come out of order: a log rises, and where it does not, stores may differ."""
    last: dict[str, int] = {}
    ordered = []
    for (snapshots, entries, trims, tombstones), whose in steps:
        rising = []
        for one in entries:
            assert isinstance(one, LogEntry)
            if whose != "former" and one.sequence > last.get(one.session_id, 0):
                last[one.session_id] = one.sequence
                rising.append(one)
        ordered.append(((snapshots, tuple(rising), trims, tombstones), whose))
    return ordered


async def test_the_comparison_notices_a_difference() -> None:
    class Forgetful(MemoryStore):
        async def commit(self, batch: Batch) -> None:
            await super().commit(Batch(batch.fence, batch.snapshots, batch.entries, (), batch.tombstones))

    steps: Steps = [(((snapshot("a"),), (entry("a", 2, offset=2),), (Trim("a", 2),), ()), "newest")]
    assert await _told(MemoryStore(), steps) != await _told(Forgetful(), steps)
