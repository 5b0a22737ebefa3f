"""Places: where the stores under test keep things, and how to reach behind them to do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import attrs

from persistence.codec import Codec
from persistence.memory import MemoryStore
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


class MemoryPlace:
    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return MemoryStore(tombstones_max=tombstones_max)

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
        return FaultyStore(MemoryStore(tombstones_max=tombstones_max), commit_seconds=0.1)


class SqlitePlace:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "outlast.db"

    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return await SqliteStore.open(self.path, tombstones_max=tombstones_max)

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
