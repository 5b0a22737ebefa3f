"""Places: where the stores under test keep things, and how to reach behind them to do harm."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Protocol

import attrs

from persistence.codec import Codec
from persistence.memory import MemoryStore
from persistence.partitions import PARTITIONS, partition_of
from persistence.redis import RedisStore
from persistence.redis_nodes import Call, Declined
from persistence.redis_records import tag_of
from persistence.sqlite import SqliteStore
from persistence.store import Store
from tests.persistence.faulty import FaultyStore


class Place(Protocol):
    """One kind of store, and the way behind it."""

    async def open(self, *, tombstones_max: int = 1000) -> Store: ...

    async def flip_snapshot(self, store: Store, session_id: str) -> None:
        """Flip a bit in the stored record."""
        ...

    async def flip_entry(self, store: Store, session_id: str, sequence: int) -> None: ...

    async def record(self, store: Store, session_id: str) -> bytes:
        """Give the stored bytes of a snapshot."""
        ...

    def use_codec(self, store: Store, codec: Codec) -> None:
        """Go on as another version of the program would."""
        ...

    async def let_pass(self, store: Store, seconds: float) -> None:
        """Have so much time pass for the leases of the store."""
        ...


class _OwnClock:
    """For a store that is given its clock."""

    now_unix_s = 1_000_000.0

    async def let_pass(self, store: Store, seconds: float) -> None:
        self.now_unix_s += seconds


class MemoryPlace(_OwnClock):
    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return self._new(tombstones_max)

    def _new(self, tombstones_max: int) -> MemoryStore:
        return MemoryStore(tombstones_max=tombstones_max, now_unix_s=lambda: self.now_unix_s)

    async def flip_snapshot(self, store: Store, session_id: str) -> None:
        row = _memory(store)._rows[session_id]
        row.record = _flipped(row.record)

    async def flip_entry(self, store: Store, session_id: str, sequence: int) -> None:
        log = _memory(store)._logs[session_id]
        log[sequence] = attrs.evolve(log[sequence], body=_flipped(log[sequence].body))

    async def record(self, store: Store, session_id: str) -> bytes:
        return _memory(store)._rows[session_id].record

    def use_codec(self, store: Store, codec: Codec) -> None:
        _memory(store)._codec = codec


class FaultyPlace(MemoryPlace):
    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return FaultyStore(self._new(tombstones_max), commit_seconds=0.1)


class SqlitePlace(_OwnClock):
    def __init__(self, directory: Path) -> None:
        self.path = directory / "outlast.db"

    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return await SqliteStore.open(self.path, tombstones_max=tombstones_max, now_unix_s=lambda: self.now_unix_s)

    async def flip_snapshot(self, store: Store, session_id: str) -> None:
        changed = _flipped(await self.record(store, session_id))
        await execute(store, "UPDATE session SET record = ? WHERE session_id = ?", changed, session_id)

    async def flip_entry(self, store: Store, session_id: str, sequence: int) -> None:
        where = "WHERE sequence = ? AND rid = (SELECT rid FROM session WHERE session_id = ?)"
        [[record]] = await execute(store, f"SELECT record FROM entry {where}", sequence, session_id)
        assert isinstance(record, bytes)
        await execute(store, f"UPDATE entry SET record = ? {where}", _flipped(record), sequence, session_id)

    async def record(self, store: Store, session_id: str) -> bytes:
        [[record]] = await execute(store, "SELECT record FROM session WHERE session_id = ?", session_id)
        assert isinstance(record, bytes)
        return record

    def use_codec(self, store: Store, codec: Codec) -> None:
        assert isinstance(store, SqliteStore)
        store._database._codec = codec


class RedisPlace:
    """A part of a server's keys, under a prefix that is used once."""

    def __init__(self, url: str) -> None:
        self.prefix = f"t{secrets.token_hex(6)}"
        self.url = f"{url}{'&' if '?' in url else '?'}prefix={self.prefix}"

    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return await RedisStore.open(self.url, tombstones_max=tombstones_max * PARTITIONS)

    async def flip_snapshot(self, store: Store, session_id: str) -> None:
        changed = _flipped(await self.record(store, session_id))
        await ask(store, "HSET", self.key("s", session_id), "r", changed)

    async def flip_entry(self, store: Store, session_id: str, sequence: int) -> None:
        key = self.key("l", session_id)
        packed = await ask(store, "LINDEX", key, sequence - 1)
        assert isinstance(packed, bytes)
        await ask(store, "LSET", key, sequence - 1, _flipped(packed))

    async def record(self, store: Store, session_id: str) -> bytes:
        record = await ask(store, "HGET", self.key("s", session_id), "r")
        assert isinstance(record, bytes)
        return record

    def use_codec(self, store: Store, codec: Codec) -> None:
        assert isinstance(store, RedisStore)
        store._keeper.codec = codec

    async def let_pass(self, store: Store, seconds: float) -> None:
        """Turn the leases back, since the server's clock cannot be turned forward."""
        for partition in range(PARTITIONS):
            key = f"{self.prefix}:{tag_of(partition)}lease"
            until = await ask(store, "HGET", key, "until")
            assert isinstance(until, bytes)
            if until != b"0":
                await ask(store, "HSET", key, "until", int(until) - round(seconds * 1000))

    def key(self, kind: str, session_id: str) -> str:
        """Name a session's key."""
        return f"{self.prefix}:{tag_of(partition_of(session_id))}{kind}:{session_id}"


async def ask(store: Store, command: str, key: str, *words: bytes | str | int) -> object:
    """Put a command to a Redis store's server, in its own thread."""
    assert isinstance(store, RedisStore)
    nodes = store._keeper.nodes
    [answer] = await store._worker.run(lambda: nodes.ask([Call(key, (command, key, *words))]))
    assert not isinstance(answer, Declined), answer
    return answer


async def execute(store: Store, statement: str, *values: object) -> list[list[object]]:
    """Run a statement on a SQLite store's own connection, in its own thread."""
    assert isinstance(store, SqliteStore)
    connection = store._database._connection
    return await store._worker.run(lambda: [list(row) for row in connection.execute(statement, values)])


def _memory(store: Store) -> MemoryStore:
    store = store.disk if isinstance(store, FaultyStore) else store
    assert isinstance(store, MemoryStore)
    return store


def _flipped(record: bytes) -> bytes:
    return record[:-1] + bytes([record[-1] ^ 0x10])
