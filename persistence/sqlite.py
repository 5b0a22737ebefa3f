"""The SQLite store: one file, one connection, one thread that writes, reads and checkpoints.

- WAL with synchronous=FULL: a commit that returned survives kill -9 and loss of power.
- locking_mode=EXCLUSIVE: a second process is refused, no shared-memory file. It is also what makes the WAL-reset bug of
  SQLite before 3.51.3 impossible here (two connections that write and checkpoint at the same instant).
- Checkpoints are ours: small ones, after the commit has been answered or when nothing is asked. They delay the next
  commit by some milliseconds now and then, where SQLite's own delay the commit that triggers them.
- A full disk rolls a commit back. What makes room gets past it, once, with the room that the ballast held.
- After a failed write or sync the store stays broken until it is opened anew: what the device holds is unknown.
- A record that cannot be read is moved to the quarantine table. Its session stays listed, with failure ``corrupt``,
  and is refused on every load, until a newer snapshot or a tombstone comes. A log entry that cannot be read stays
  where it is: without it a replay would have a gap that nobody sees.

This is the only file that imports sqlite3.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import quote

import trio
from msgspec.structs import astuple

from persistence import sqlite_file, sqlite_resealing, sqlite_rows, sqlite_statements
from persistence.ballast import Ballast
from persistence.canary import CANARY
from persistence.codec import Codec
from persistence.leases import Held, Lease, LeaseTable
from persistence.partitions import PARTITIONS, partitions_of
from persistence.records import Batch, Fence, LogEntry, Quarantined, Snapshot, SnapshotHeader, StoreHealth
from persistence.resealing import Resealed, SealedWith
from persistence.store import (
    SnapshotCorrupt,
    StoreBroken,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreInvalid,
    StoreUnavailable,
)
from persistence.worker import Worker

Result = TypeVar("Result")

# A tombstone keeps late writes of an ended session out; those come within seconds. A million of them is some 100 MB.
TOMBSTONES_MAX = 1_000_000

_PAGE_BYTES = 4096
# At this size a checkpoint writes some 1,000 pages in 5 to 10 ms. Larger ones are fewer, and longer: a WAL of 79 MB
# stopped commits for 170 ms.
_WAL_BYTES_MAX = 4 << 20
_IDLE_SECONDS = 0.5


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
            after_job=self._database.checkpoint_if_large,
            when_idle=self._database.checkpoint_when_idle,
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
          pages_max: how large the file may grow, in pages of 4 KiB; beyond it the store is full.
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
        return await self._run(lambda: self._database.leases.acquire(partition, owner, ttl_seconds))

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        """Prolong a lease."""
        return await self._run(lambda: self._database.leases.renew(lease, ttl_seconds))

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        await self._run(lambda: self._database.leases.release(lease))

    async def commit(self, batch: Batch) -> None:
        """Write the batch in one transaction; encoding takes place in the store's thread."""
        await self._run(self._database.commit, batch)

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
        self._path = path
        self._codec = codec
        self._pages_max = pages_max
        self._tombstones_max = tombstones_max
        self._now_unix_s = now_unix_s
        self.leases: LeaseTable
        self._connection: sqlite3.Connection
        self._hold: sqlite_file.Hold
        self._ballast = Ballast(path.with_name(f"{path.name}-ballast"))
        self._broken: str | None = None
        self._wal_bytes = 0  # an estimate, see `_commit`

    def open(self) -> None:
        if not self._path.exists():
            sqlite_file.create(self._path, _fill)
        self._hold = sqlite_file.hold(self._path)
        try:
            self._connection = _connect(self._path, "rw")
            try:
                self._prepare()
                self._check_key()
                self._read_leases()
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._hold.release()
            raise
        self._ballast.take()

    def close(self) -> None:
        try:
            # Whatever goes wrong here, commits are in the WAL and synced: the next opening finds them.
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connection):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._ballast.drop()
            self._hold.release()

    def commit(self, batch: Batch) -> None:
        try:
            self._commit(batch)
        except StoreFull:
            if not (batch.tombstones or batch.trims) or not self._ballast.drop():
                raise
            self._checkpoint()  # empties the log, now that the file can grow
            self._commit(batch)

    def _commit(self, batch: Batch) -> None:
        # Sealed before the transaction begins: what cannot be encoded leaves no trace.
        snapshots = [(*astuple(s.header), self._codec.seal_snapshot(s)) for s in batch.snapshots]
        entries = [(entry, self._codec.seal_entry(entry)) for entry in batch.entries]
        # In memory, because nobody else can change them: this process has the file to itself.
        self.leases.check(partitions_of(batch), batch.fence)
        with self._transaction():
            sqlite_rows.write(self._connection, batch, snapshots, entries, tombstones_max=self._tombstones_max)
        # Each row changes about one page of its own. Erring high is safe: checkpoints come a little earlier.
        rows = len(snapshots) + len(entries) + len(batch.trims) + len(batch.tombstones)
        self._wal_bytes += (rows + 2) * _PAGE_BYTES + sum(len(record) for _, record in entries)

    def load(self, session_id: str) -> Snapshot | None:
        with self._reading():
            row = self._connection.execute(sqlite_statements.LOAD, (session_id,)).fetchone()
        if row is None:
            return None
        rid, record = row[0], row[-1]
        header = SnapshotHeader(*row[1:-1])
        if not record:
            raise SnapshotCorrupt(f"session {session_id}: its record is in quarantine")
        try:
            return self._codec.open_snapshot(header, record)
        except SnapshotCorrupt as error:
            self._set_aside(rid, header, record, error)

    def read_log(self, session_id: str, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        with self._reading():
            rows = self._connection.execute(sqlite_statements.READ_LOG, (session_id, stream, after, limit)).fetchall()
        return [
            self._codec.open_entry(LogEntry(session_id, sequence, stream, offset, at_unix_s, record))
            for sequence, offset, at_unix_s, record in rows
        ]

    def scan(self, after: int, limit: int) -> tuple[Sequence[SnapshotHeader], int | None]:
        with self._reading():
            rows = self._connection.execute(sqlite_statements.SCAN, (after, limit + 1)).fetchall()
        # Many sessions, few servers: one string for each server, not one for each session.
        page = [
            SnapshotHeader(session_id, revision, sys.intern(server_id), owner, failure, active, expires)
            for _, session_id, revision, server_id, owner, failure, active, expires in rows[:limit]
        ]
        return page, rows[limit - 1][0] if len(rows) > limit else None

    def quarantined(self) -> Sequence[Quarantined]:
        with self._reading():
            return [Quarantined(*row) for row in self._connection.execute(sqlite_statements.QUARANTINED)]

    def probe(self) -> StoreHealth:
        began = time.perf_counter()
        with self._transaction():
            self._connection.execute(sqlite_statements.SET_META, ("probed_unix_s", time.time()))
        self._wal_bytes += _PAGE_BYTES
        with self._reading():
            (sessions,) = self._connection.execute(sqlite_statements.COUNT).fetchone()
        return StoreHealth("sqlite", True, time.perf_counter() - began, sessions)

    def claim(self, owner: str) -> Fence:
        canary = self._codec.canary()
        if canary is not None:
            with self._transaction():
                self._connection.execute(sqlite_statements.SET_META, (CANARY, canary))
        return self.leases.claim(owner)

    def look(self, function: Callable[[sqlite_rows.Connection, Codec], Result]) -> Result:
        with self._reading():
            return function(self._connection, self._codec)

    def reseal(self, fence: Fence, after: str) -> Resealed:
        with self._transaction():
            self.leases.check(range(PARTITIONS), fence)
            step = sqlite_resealing.reseal(self._connection, self._codec, after)
        self._wal_bytes += step.written_bytes + step.resealed.rewritten * _PAGE_BYTES
        return step.resealed

    def checkpoint_if_large(self) -> None:
        if self._wal_bytes >= _WAL_BYTES_MAX:
            self._checkpoint()

    def checkpoint_when_idle(self) -> None:
        if self._wal_bytes:
            self._checkpoint()
        self._ballast.take()  # it may have been needed, and there may be room again

    def _checkpoint(self) -> None:
        if self._broken:
            return
        self._wal_bytes = 0  # also when it fails for want of room: the next try comes after as much again
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            self._translate(error, writing=True)  # remembers if the device has failed; nobody waits to be told

    def _prepare(self) -> None:
        """Take the lock and set the connection up.

        The order matters: EXCLUSIVE before the file is read for the first time, or SQLite uses shared memory.
        """
        try:
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            for pragma in sqlite_statements.PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            if self._pages_max is not None:
                self._connection.execute(f"PRAGMA max_page_count = {self._pages_max}")
            self._connection.execute("BEGIN EXCLUSIVE")
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._translate_opening(error) from error
        if mode != "wal":
            raise StoreInvalid(f"{self._path}: this file system cannot hold a write-ahead log ({mode} only)")
        sqlite_file.check_format(found, self._path)  # again: the file's own header may be older than its WAL

    def _check_key(self) -> None:
        with self._reading():
            row = self._connection.execute(sqlite_statements.GET_META, (CANARY,)).fetchone()
        self._codec.check_canary(None if row is None else row[0], str(self._path))

    def _read_leases(self) -> None:
        """Read who owns what; the table is made where an older version left none."""
        with self._transaction():
            self._connection.execute(sqlite_statements.LEASES)
            kept = sqlite_rows.read_leases(self._connection)
            (number,) = self._connection.execute(sqlite_statements.GET_META, ("incarnation",)).fetchone()
        self.leases = LeaseTable(self._now_unix_s, save=self._save_leases, kept=kept, last_number=number)

    def _save_leases(self, changed: Mapping[int, Held]) -> None:
        with self._transaction():
            sqlite_rows.save_leases(self._connection, changed)

    def _set_aside(self, rid: int, header: SnapshotHeader, record: bytes, error: SnapshotCorrupt) -> NoReturn:
        """Move a record to quarantine and say so.

        Without room for it there, it stays in its place, is not served all the same, and is moved another time.
        """
        row = (header.session_id, str(error), time.time(), record)
        try:
            with self._transaction():
                self._connection.execute(sqlite_statements.SET_ASIDE, row)
                self._connection.execute(sqlite_statements.EMPTY_RECORD, (rid,))
        except StoreError as refusal:
            raise SnapshotCorrupt(f"{error}; it could not be set aside ({refusal})") from error
        raise error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block or nothing, durable at its end; SQLite's errors come out as the store's."""
        if self._broken:
            raise StoreBroken(self._broken)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._translate(error, writing=True) from error
        finally:
            if self._connection.in_transaction:  # SQLite itself has rolled back after some errors, not after all
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error, writing=False) from error

    def _translate(self, error: sqlite3.Error, *, writing: bool) -> Exception:
        """Say what SQLite's error means, and remember it if the store cannot be trusted any more."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return error  # sqlite3 complains of how it was used: a mistake of ours, to be seen as one
        reason = f"{self._path}: {error} ({error.sqlite_errorname})"
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return StoreFull(reason)
        damaged = code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        if writing and damaged:
            self._broken = f"{reason}. Nothing is written any more: end the process and start anew"
            return StoreBroken(self._broken)
        # A read that failed says nothing of what was written; and a session is not given up for a bad read.
        return StoreUnavailable(reason)

    def _translate_opening(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            holder = sqlite_file.held_by(self._path)
            return StoreInUse(
                f"{self._path} is in use by another process{holder}. One process at a time can serve a SQLite store:"
                " stop the other one, or name another path"
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreInvalid(f"{self._path} is damaged: {error}")
        return self._translate(error, writing=False)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=0,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,  # closing may fall to another thread when the process is torn down
        cached_statements=256,
    )


def _fill(draft: Path) -> None:
    """Write an empty store."""
    connection = _connect(draft, "rw")
    try:
        connection.execute("PRAGMA journal_mode = MEMORY")  # a draft that is cut short is thrown away whole
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("BEGIN")
        for statement in sqlite_statements.SCHEMA:
            connection.execute(statement)
        facts = [("store_uuid", str(uuid.uuid4())), ("created_unix_s", time.time()), ("incarnation", 0)]
        connection.executemany(sqlite_statements.SET_META, facts)
        connection.execute(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {sqlite_file.FORMAT}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        raise (StoreFull if full else StoreUnavailable)(f"{draft}: {error}") from error
    finally:
        connection.close()
