"""The SQLite store: one file, one connection, one thread that writes, reads and checkpoints.

- A commit that returned survives kill -9 and loss of power, and a second process is refused: `sqlite_connection.py`.
- Checkpoints are ours: small ones, after the commit has been answered or when nothing is asked. They delay the next
  commit by some milliseconds now and then, where SQLite's own delay the commit that triggers them.
- A full disk rolls a commit back. What makes room gets past it, with the room that the ballast held: `sqlite_room.py`.
- A record that cannot be read is moved to the quarantine table. Its session stays listed, with failure ``corrupt``,
  and is refused on every load, until a newer snapshot or a tombstone comes. A log entry that cannot be read stays
  where it is: without it a replay would have a gap that nobody sees.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import trio
from msgspec.structs import astuple

from persistence import sqlite_file, sqlite_resealing, sqlite_rows, sqlite_statements
from persistence.ballast import Ballast
from persistence.canary import CANARY
from persistence.codec import Codec
from persistence.leases import Held, Lease, LeaseTable
from persistence.partitions import PARTITIONS
from persistence.records import Batch, Fence, LogEntry, Quarantined, Snapshot, SnapshotHeader, StoreHealth
from persistence.resealing import Resealed, SealedWith
from persistence.shown import shown_id
from persistence.sqlite_connection import SqliteConnection, fill
from persistence.sqlite_room import Room
from persistence.store import SnapshotCorrupt, StoreError
from persistence.worker import Worker

Result = TypeVar("Result")

# A tombstone keeps late writes of an ended session out; those come within seconds. A million of them is some 100 MB.
TOMBSTONES_MAX = 1_000_000

_IDLE_SECONDS = 0.5
_LEASES_A_PAGE = 20  # or more, by the length of the owner's name


class SqliteStore:
    """Keeps sessions in one SQLite file. Made by `open`."""

    survives = "local"

    def __init__(
        self, path: Path, codec: Codec, pages_max: int | None, tombstones_max: int, now_unix_s: Callable[[], float]
    ) -> None:
        path = path.absolute()  # whoever changes the working directory later does not change the store
        self._database = _Database(path, codec, pages_max, tombstones_max, now_unix_s)
        self._worker = Worker(
            f"sqlite {path.name}",
            after_job=self._database.room.after_job,
            when_idle=self._database.room.when_idle,
            idle_seconds=_IDLE_SECONDS,
        )
        self._closed = False
        self.url = f"sqlite:{path}"

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        codec: Codec | None = None,
        pages_max: int | None = None,
        tombstones_max: int = TOMBSTONES_MAX,
        now_unix_s: Callable[[], float] = time.time,
    ) -> SqliteStore:
        """Open the store at `path`, or make it, with the directories above.

        Args:
          pages_max: how large the file may grow, in the file's own pages; beyond it the store is full.
          tombstones_max: how many ended sessions are remembered; the oldest are forgotten first.

        Raises:
          StoreInUse: another process has it. The message says which, where the system tells.
          StoreInvalid: it is something else, of another format, or under a key that the codec lacks. It was not
            touched.
          StoreFull, StoreBroken, StoreUnavailable: the operating system refuses; nothing is left behind.
        """
        store = cls(path, codec or Codec(), pages_max, tombstones_max, now_unix_s)
        try:
            await store._worker.run(store._database.open)
        except BaseException:
            store._worker.stop()
            raise
        return store

    def __repr__(self) -> str:
        return f"<SqliteStore {self.url}{' closed' if self._closed else ''}>"

    async def claim(self, owner: str) -> Fence:
        """Become the one owner."""
        return await self._run(self._database.claim, owner)

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        """Become the owner of one partition for a while."""
        return await self._run(
            lambda: self._database.change_leases(lambda table: table.acquire(partition, owner, ttl_seconds))
        )

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        """Prolong a lease."""
        return await self._run(lambda: self._database.change_leases(lambda table: table.renew(lease, ttl_seconds)))

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        await self._run(lambda: self._database.change_leases(lambda table: table.release(lease)))

    async def commit(self, batch: Batch) -> None:
        """Write the batch in one transaction; encoding takes place in the store's thread."""
        await self._run(self._database.commit, batch)

    def lease_margin_seconds(self) -> float | None:
        """Give the time until the first lease runs out."""
        return self._database.leases.margin_seconds()

    async def load(self, session_id: str) -> Snapshot | None:
        """Give the stored snapshot, checked against its checksum."""
        return await self._run(self._database.load, session_id)

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        """Give a stream's entries after an offset."""
        return await self._run(self._database.read_log, session_id, stream, after, limit)

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        """Give a page of headers, in the order in which the sessions were first stored."""
        return await self._run(self._database.scan, after, limit)

    async def quarantined(self) -> Sequence[Quarantined]:
        """List the quarantine table."""
        return await self._run(self._database.quarantined)

    async def probe(self) -> StoreHealth:
        """Write and read one row, durably."""
        return await self._run(self._database.probe)

    async def obstacles(self) -> Mapping[str, str]:
        """Give the sessions that cannot be opened here; a look at every snapshot's first bytes."""
        return await self._run(self._database.look, sqlite_resealing.obstacles)

    async def sealed_with(self) -> Sequence[SealedWith]:
        """Count the records by key."""
        return await self._run(self._database.look, sqlite_resealing.sealed_with)

    async def reseal(self, fence: Fence, *, after: str = "") -> Resealed:
        """Seal a page of records anew, in one transaction."""
        return await self._run(self._database.reseal, fence, after)

    async def aclose(self) -> None:
        """Checkpoint the whole WAL into the file and let go of it.

        Cancellation: closes all the same. It waits for the job in the thread, which the device bounds.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            await self._worker.run(self._database.close)
        self._worker.stop()

    async def _run(self, function: Callable[..., Result], *arguments: object) -> Result:
        if self._closed:
            raise trio.ClosedResourceError(f"{self.url} is closed")
        return await self._worker.run(functools.partial(function, *arguments))


class _Database:
    """The connection and what is done with it; lives in the worker's thread."""

    def __init__(
        self, path: Path, codec: Codec, pages_max: int | None, tombstones_max: int, now_unix_s: Callable[[], float]
    ) -> None:
        self.leases: LeaseTable
        self._path = path
        self._codec = codec
        self._pages_max = pages_max
        self._tombstones_max = tombstones_max
        self._now_unix_s = now_unix_s
        self._connection = SqliteConnection(path)
        self.room = Room(self._connection, Ballast(path.with_name(f"{path.name}-ballast")))
        self._hold: sqlite_file.Hold

    def open(self) -> None:
        if not self._path.exists():
            sqlite_file.create(self._path, fill)
        self._hold = sqlite_file.hold(self._path)
        try:
            self._connection.open(pages_max=self._pages_max)
            try:
                self.room.open()
                self._check_key()
                self.room.attempt(self._read_leases)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._hold.release()
            raise
        self.room.take_ballast()

    def close(self) -> None:
        try:
            self.room.close()
            self._connection.close()
        finally:
            self._hold.release()

    def commit(self, batch: Batch) -> None:
        # Sealed before the transaction begins: what cannot be encoded leaves no trace.
        snapshots = [(*astuple(s.header), self._codec.seal_snapshot(s)) for s in batch.snapshots]
        entries = [(entry, self._codec.seal_entry(entry)) for entry in batch.entries]
        size = sum([len(row[-1]) for row in snapshots]) + sum([len(record) for _, record in entries])
        write = functools.partial(self._write, batch, snapshots, entries, size)
        self.room.attempt(write, makes_room=bool(batch.tombstones or batch.trims))

    def _write(
        self, batch: Batch, snapshots: list[tuple[Any, ...]], entries: list[tuple[LogEntry, bytes]], size: int
    ) -> None:
        rows = len(snapshots) + len(entries) + len(batch.trims) + len(batch.tombstones)
        # In memory, because nobody else can change them: this process has the file to itself.
        self.leases.check_batch(batch)
        self.room.admit(rows, size, adds=bool(snapshots or entries))
        before = self._connection.rows_changed
        with self._connection.transaction():
            sqlite_rows.write(self._connection, batch, snapshots, entries, tombstones_max=self._tombstones_max)
        self.room.count(self._connection.rows_changed - before, size)

    def load(self, session_id: str) -> Snapshot | None:
        with self._connection.reading():
            row = self._connection.execute(sqlite_statements.LOAD, (session_id,)).fetchone()
        if row is None:
            return None
        rid, record = row[0], row[-1]
        header = SnapshotHeader(*row[1:-1])
        if not record:
            raise SnapshotCorrupt(f"session {shown_id(session_id)}…: its record is in quarantine")
        try:
            return self._codec.open_snapshot(header, record)
        except SnapshotCorrupt as error:
            self._set_aside(rid, header, record, error)

    def read_log(self, session_id: str, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        with self._connection.reading():
            rows = self._connection.execute(sqlite_statements.READ_LOG, (session_id, stream, after, limit)).fetchall()
        return [
            self._codec.open_entry(LogEntry(session_id, sequence, stream, offset, at_unix_s, record))
            for sequence, offset, at_unix_s, record in rows
        ]

    def scan(self, after: int, limit: int) -> tuple[Sequence[SnapshotHeader], int | None]:
        with self._connection.reading():
            rows = self._connection.execute(sqlite_statements.SCAN, (after, limit + 1)).fetchall()
        # Many sessions, few servers and few owners: one string for each of these, not one for each session.
        page = [
            SnapshotHeader(session_id, revision, sys.intern(server_id), sys.intern(owner), failure, active, expires)
            for _, session_id, revision, server_id, owner, failure, active, expires in rows[:limit]
        ]
        return page, rows[limit - 1][0] if len(rows) > limit else None

    def quarantined(self) -> Sequence[Quarantined]:
        with self._connection.reading():
            return [Quarantined(*row) for row in self._connection.execute(sqlite_statements.QUARANTINED)]

    def probe(self) -> StoreHealth:
        began = time.perf_counter()
        with self._connection.transaction():
            self._connection.execute(sqlite_statements.SET_META, ("probed_unix_s", time.time()))
        self.room.count(1, 0)
        with self._connection.reading():
            (sessions,) = self._connection.execute(sqlite_statements.COUNT).fetchone()
        latency_seconds = time.perf_counter() - began
        return StoreHealth("sqlite", True, latency_seconds, sessions, has_ballast=self.room.has_ballast)

    def claim(self, owner: str) -> Fence:
        return self.room.attempt(lambda: self._claim(owner))

    def _claim(self, owner: str) -> Fence:
        canary = self._codec.canary()
        if canary is not None:
            with self._connection.transaction():
                self._connection.execute(sqlite_statements.SET_META, (CANARY, canary))
        return self.leases.claim(owner)

    def change_leases(self, change: Callable[[LeaseTable], Result]) -> Result:
        return self.room.attempt(lambda: change(self.leases))

    def look(self, function: Callable[[sqlite_rows.Connection, Codec], Result]) -> Result:
        with self._connection.reading():
            return function(self._connection, self._codec)

    def reseal(self, fence: Fence, after: str) -> Resealed:
        with self._connection.transaction():
            self.leases.check(range(PARTITIONS), fence)
            step = sqlite_resealing.reseal(self._connection, self._codec, after)
        self.room.count(step.resealed.rewritten, step.written_bytes)
        return step.resealed

    def _check_key(self) -> None:
        with self._connection.reading():
            row = self._connection.execute(sqlite_statements.GET_META, (CANARY,)).fetchone()
        self._codec.check_canary(None if row is None else row[0], str(self._path))

    def _read_leases(self) -> None:
        """Read who owns what; the table is made where an older version left none."""
        with self._connection.transaction():
            self._connection.execute(sqlite_statements.LEASES)
            kept = sqlite_rows.read_leases(self._connection)
            (number,) = self._connection.execute(sqlite_statements.GET_META, ("incarnation",)).fetchone()
        self.leases = LeaseTable(self._now_unix_s, save=self._save_leases, kept=kept, last_number=number)

    def _save_leases(self, changed: Mapping[int, Held]) -> None:
        with self._connection.transaction():
            sqlite_rows.save_leases(self._connection, changed)
        self.room.count(len(changed) // _LEASES_A_PAGE, 0)

    def _set_aside(self, rid: int, header: SnapshotHeader, record: bytes, error: SnapshotCorrupt) -> NoReturn:
        """Move a record to quarantine and say so.

        Without room for it there, it stays in its place, is not served all the same, and is moved another time.
        """
        row = (header.session_id, str(error), time.time(), record)
        try:
            with self._connection.transaction():
                self._connection.execute(sqlite_statements.SET_ASIDE, row)
                self._connection.execute(sqlite_statements.EMPTY_RECORD, (rid,))
        except StoreError as refusal:
            raise SnapshotCorrupt(f"{error}; it could not be set aside ({refusal})") from error
        raise error
