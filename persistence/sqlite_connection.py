"""The connection: one to the store's file, with the lock on it, and SQLite's errors in the store's words.

- WAL with synchronous=FULL: a transaction that ended survives kill -9 and loss of power.
- locking_mode=EXCLUSIVE: a second process is refused, no shared-memory file. It is also what makes the WAL-reset bug of
  SQLite before 3.51.3 impossible here (two connections that write and checkpoint at the same instant).
- After a failed write or sync nothing more is written until the file is opened anew: what the device holds is unknown.

This is the only file that imports sqlite3. It knows nothing of sessions.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from persistence import sqlite_file, sqlite_statements
from persistence.store import (
    StoreBroken,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreInvalid,
    StoreUnavailable,
)

# Of a new file; older files keep theirs. A session's record of about 1 KB changes, wherever it lies, one page: half the
# size is half of what each commit syncs and each checkpoint moves (4 KiB: 7.0 KB written per row of 0.7 KB, now 3.8).
PAGE_BYTES = 2048

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})  # the file itself, and not a record in it
_AFTER_DAMAGE = "bring back a backup, or name another path"

# What SQLite calls an I/O error although no device has failed: locks that the file system has not, memory.
_HARMLESS_IO_ERRORS = frozenset(
    {
        sqlite3.SQLITE_IOERR_NOMEM,
        sqlite3.SQLITE_IOERR_BLOCKED,
        sqlite3.SQLITE_IOERR_LOCK,
        sqlite3.SQLITE_IOERR_RDLOCK,
        sqlite3.SQLITE_IOERR_UNLOCK,
        sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    }
)


class SqliteConnection:
    """The one connection to the file at `path`. All of it is for one thread, that of the store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.page_bytes = PAGE_BYTES  # of this file, when it is open
        self._broken: str | None = None
        self._connection: sqlite3.Connection

    def open(self, *, pages_max: int | None = None) -> None:
        """Connect to a file that is there, take the lock, set everything up.

        Args:
          pages_max: how large the file may grow; beyond it, it is full.

        Raises:
          StoreInUse, StoreInvalid: another process has it; it is damaged, or of another format.
          StoreBroken: the device fails.
          StoreFull, StoreUnavailable
        """
        try:
            self._connection = _connect(self.path, "rw")
        except sqlite3.Error as error:
            raise self._translate_opening(error) from error
        try:
            self._prepare(pages_max)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Move the whole log into the file, if that can be done, and let go of it.

        Whatever goes wrong here, what was committed is in the log and synced: the next opening finds it.
        """
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._connection):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def rows_changed(self) -> int:
        """How many rows were inserted, updated and deleted since the opening."""
        return self._connection.total_changes

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> sqlite3.Cursor:
        """Execute a statement inside of `transaction` or `reading`."""
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]], /) -> sqlite3.Cursor:
        """Execute a statement for each row, inside of `transaction`."""
        return self._connection.executemany(statement, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing, durable at its end; SQLite's errors come out as the store's.

        Raises:
          StoreFull: there is no room; nothing was written.
          StoreBroken: the device failed, now or before.
          StoreUnavailable
        """
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
    def reading(self) -> Iterator[None]:
        """SQLite's errors in the block come out as the store's.

        Raises:
          StoreDamaged: what was asked for lies in a part of the file that cannot be read.
          StoreUnavailable
        """
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error, writing=False) from error

    def checkpoint(self, *, truncate: bool = False) -> int:
        """Move what is in the log into the file.

        Args:
          truncate: give the room of the log's file back, too. It is taken anew as the log grows.

        Returns:
          How many pages are left in the log.

        Raises:
          StoreFull: the file would have to grow, and there is no room. All stays in the log.
          StoreBroken: the device failed, now or before.
          StoreUnavailable
        """
        if self._broken:
            raise StoreBroken(self._broken)
        try:
            kind = "TRUNCATE" if truncate else "PASSIVE"
            [(_, pages, moved)] = self._connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        except sqlite3.Error as error:
            raise self._translate(error, writing=True) from error
        return int(pages - moved)

    def log_file_bytes(self) -> int:
        """Say how large the log's file is; what is in it may be less."""
        try:
            return self.path.with_name(f"{self.path.name}-wal").stat().st_size
        except OSError:
            return 0

    def free_bytes(self) -> int:
        """Say how much the file has in pages that nothing uses: room that costs the disk nothing."""
        with self.reading():
            (pages,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages) * self.page_bytes

    def _prepare(self, pages_max: int | None) -> None:
        """Take the lock and set the connection up.

        The order matters: EXCLUSIVE before the file is read for the first time, or SQLite uses shared memory.
        """
        try:
            self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            for pragma in sqlite_statements.PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            if pages_max is not None:
                self._connection.execute(f"PRAGMA max_page_count = {pages_max}")
            self._connection.execute("BEGIN EXCLUSIVE")
            (found,) = self._connection.execute("PRAGMA user_version").fetchone()
            (self.page_bytes,) = self._connection.execute("PRAGMA page_size").fetchone()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._translate_opening(error) from error
        if mode != "wal":
            raise StoreInvalid(f"{self.path}: this file system cannot hold a write-ahead log ({mode} only)")
        sqlite_file.check_format(found, self.path)  # again: the file's own header may be older than its WAL

    def _translate(self, error: sqlite3.Error, *, writing: bool) -> Exception:
        """Say what SQLite's error means, and remember it if the file cannot be trusted any more."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return error  # sqlite3 complains of how it was used: a mistake of ours, to be seen as one
        reason = f"{self.path}: {error} ({error.sqlite_errorname})"
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return StoreFull(reason)
        damaged = code & 0xFF in _DAMAGED
        if writing and (damaged or code & 0xFF == sqlite3.SQLITE_IOERR):
            self._broken = f"{reason}. Nothing is written any more: end the process and start anew"
            return StoreBroken(self._broken)
        # A read that failed says nothing of what was written; and a session is not given up for a bad read.
        return StoreDamaged(f"{reason}; {_AFTER_DAMAGE}") if damaged else StoreUnavailable(reason)

    def _translate_opening(self, error: sqlite3.Error) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            holder = sqlite_file.held_by(self.path)
            return StoreInUse(
                f"{self.path} is in use by another process{holder}. One process at a time can serve a SQLite store:"
                " stop the other one, or name another path"
            )
        if code & 0xFF in _DAMAGED:
            return StoreInvalid(f"{self.path} is damaged: {error}; {_AFTER_DAMAGE}")
        if _is_device_failure(code):  # a device that cannot even be read is not away: it will not come back by itself
            return StoreBroken(f"{self.path}: {error} ({error.sqlite_errorname})")
        return self._translate(error, writing=False)


def fill(draft: Path) -> None:
    """Write an empty store into an empty file.

    Raises:
      StoreFull, StoreBroken, StoreUnavailable
    """
    connection = _connect(draft, "rw")
    try:
        connection.execute("PRAGMA journal_mode = MEMORY")  # a draft that is cut short is thrown away whole
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("BEGIN")
        for statement in sqlite_statements.SCHEMA:
            connection.execute(statement)
        facts = [("store_uuid", str(uuid.uuid4())), ("created_unix_s", time.time()), ("incarnation", 0)]
        connection.executemany(sqlite_statements.SET_META, facts)
        connection.execute(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {sqlite_file.FORMAT}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise _kind_of(getattr(error, "sqlite_errorcode", 0))(f"{draft}: {error}") from error
    finally:
        connection.close()


def _kind_of(code: int) -> type[StoreError]:
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return StoreFull
    return StoreBroken if _is_device_failure(code) else StoreUnavailable


def _is_device_failure(code: int) -> bool:
    return code & 0xFF == sqlite3.SQLITE_IOERR and code not in _HARMLESS_IO_ERRORS


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=0,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,  # closing may fall to another thread when the process is torn down
        cached_statements=256,
    )
