"""The SQL that the SQLite store speaks: the schema of format 1, and its statements.

Measured with 1 KB records, 20,000 sessions, pages of 4 KiB, batches of 100, each row's cost included:

- Entries lie in a table of their own rowids, in the order in which they came, found by the index (rid, sequence):
  42k rows/s. Clustered by session they cost a page of 4 KB each: 22k with rid and sequence packed into the rowid,
  16k WITHOUT ROWID. With the 32-character session id in place of rid the index alone brings it down to 31k.
- Rows are written many to a statement. Python gives up the interpreter lock around every step of a statement, and in
  a busy process each of these is a queue to stand in again: batches of 100 as single rows went down from 30k rows/s
  to 0.5k beside a computing event loop (p99 840 ms), as statements of 64 rows to 5.6k (60 ms).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

CHUNK_ROWS_MAX = 64  # rows of one statement; chunks are powers of two, so that few statements need preparing

# A session with entries but no snapshot has a row too, because entries point to it: revision -1, not shown anywhere.
# `record` comes last: columns after a long value would have to be looked for behind it. No STRICT tables: SQLite 3.34
# is still what some distributions link Python against.
# The table of leases came after the first files of format 1. It is made where it is missing: versions without it use
# the incarnation in `meta`, which rises with both, and only one process at a time has the file.
LEASES = """CREATE TABLE IF NOT EXISTS lease (
    partition INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    nonce TEXT NOT NULL,
    number INTEGER NOT NULL,
    until_unix_s REAL NOT NULL
)"""
SCHEMA = (
    LEASES,
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    """CREATE TABLE session (
        rid INTEGER PRIMARY KEY,
        session_id TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        server_id TEXT NOT NULL,
        owner TEXT NOT NULL,
        failure TEXT NOT NULL,
        last_active_unix_s REAL NOT NULL,
        expires_unix_s REAL NOT NULL,
        record BLOB NOT NULL
    )""",
    "CREATE INDEX session_without_snapshot ON session (rid) WHERE revision < 0",
    """CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        rid INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        stream INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        at_unix_s REAL NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (rid, sequence)
    )""",
    """CREATE TABLE tombstone (
        id INTEGER PRIMARY KEY,
        session_id TEXT NOT NULL UNIQUE,
        reason TEXT NOT NULL,
        at_unix_s REAL NOT NULL
    )""",
    """CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY,
        session_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        at_unix_s REAL NOT NULL,
        raw BLOB NOT NULL
    )""",
)

PRAGMAS = (
    "synchronous = FULL",
    "wal_autocheckpoint = 0",
    "mmap_size = 0",  # a bad sector is an error of a read call, not a SIGBUS
    "cell_size_check = ON",
    "trusted_schema = OFF",
    "secure_delete = FAST",  # overwrite what is deleted where that costs no further page
    "temp_store = MEMORY",
    "cache_size = -32768",  # KiB
)

HEADER_COLUMNS = "session_id, revision, server_id, owner, failure, last_active_unix_s, expires_unix_s"

SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
SET_META_AT_LEAST = SET_META.replace("excluded.value", "max(value, excluded.value)")
SET_LEASE = "INSERT OR REPLACE INTO lease (partition, owner, nonce, number, until_unix_s) VALUES (?, ?, ?, ?, ?)"
GET_LEASES = "SELECT partition, owner, nonce, number, until_unix_s FROM lease"
GET_META = "SELECT value FROM meta WHERE key = ?"
SCAN = f"SELECT rid, {HEADER_COLUMNS} FROM session WHERE rid > ? AND revision >= 0 ORDER BY rid LIMIT ?"
LOAD = f"SELECT rid, {HEADER_COLUMNS}, record FROM session WHERE session_id = ? AND revision >= 0"
# Within a stream, offsets rise with the sequence: the index gives the order.
READ_LOG = """SELECT sequence, offset, at_unix_s, record FROM entry
    WHERE rid = (SELECT rid FROM session WHERE session_id = ?) AND stream = ? AND offset > ?
    ORDER BY sequence LIMIT ?"""
SET_ASIDE = "INSERT INTO quarantine (session_id, reason, at_unix_s, raw) VALUES (?, ?, ?, ?)"
EMPTY_RECORD = "UPDATE session SET record = x'', failure = 'corrupt' WHERE rid = ?"
QUARANTINED = "SELECT session_id, reason, at_unix_s, length(raw) FROM quarantine ORDER BY id"
# Both counts come from indexes; counting with the condition turned round would read the whole table.
COUNT = "SELECT (SELECT count(*) FROM session) - (SELECT count(*) FROM session WHERE revision < 0)"

TRIM = """DELETE FROM entry WHERE rid = (SELECT rid FROM session WHERE session_id = ?)
    AND sequence > ? AND sequence <= ?"""
BURY = "INSERT INTO tombstone (session_id, reason, at_unix_s) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
FORGET_LOG = "DELETE FROM entry WHERE rid = (SELECT rid FROM session WHERE session_id = ?)"
FORGET_SESSION = "DELETE FROM session WHERE session_id = ?"
FORGET_OLD_TOMBSTONES = "DELETE FROM tombstone WHERE id <= (SELECT max(id) FROM tombstone) - ?"

_SNAPSHOT_COLUMNS = f"{HEADER_COLUMNS}, record"
_UPDATES = ", ".join(f"{c} = excluded.{c}" for c in _SNAPSHOT_COLUMNS.split(", ") if c != "session_id")


@functools.cache
def upsert_snapshots(rows: int) -> str:
    """Write the statement for so many snapshots: 8 values each, in the order of the columns."""
    return (
        f"INSERT INTO session ({_SNAPSHOT_COLUMNS}) VALUES {_places(8, rows)} ON CONFLICT (session_id)"
        f" DO UPDATE SET {_UPDATES} WHERE excluded.revision > revision"
    )


@functools.cache
def insert_entries(rows: int) -> str:
    """Write the statement for so many entries: rid, sequence, stream, offset, at, record."""
    return (
        f"INSERT INTO entry (rid, sequence, stream, offset, at_unix_s, record) VALUES {_places(6, rows)}"
        " ON CONFLICT (rid, sequence) DO NOTHING"
    )


@functools.cache
def insert_places(rows: int) -> str:
    """Write the statement that gives so many sessions a row, if they have none, for their entries to point to."""
    return (
        f"INSERT INTO session ({_SNAPSHOT_COLUMNS})"
        f" SELECT column1, -1, '', '', '', 0.0, 0.0, x'' FROM (VALUES {_places(1, rows)}) WHERE true"
        " ON CONFLICT (session_id) DO NOTHING"
    )


@functools.cache
def select_rids(rows: int) -> str:
    """Write the query for the rids of so many sessions."""
    return f"SELECT session_id, rid FROM session WHERE session_id IN ({_list(rows)})"


@functools.cache
def select_buried(rows: int) -> str:
    """Write the query for which of so many sessions have a tombstone."""
    return f"SELECT session_id FROM tombstone WHERE session_id IN ({_list(rows)})"


def chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut rows into as few chunks as powers of two up to `CHUNK_ROWS_MAX` allow."""
    start = 0
    while start < len(rows):
        size = min(CHUNK_ROWS_MAX, 1 << ((len(rows) - start).bit_length() - 1))
        yield rows[start : start + size]
        start += size


def _places(columns: int, rows: int) -> str:
    return ", ".join([f"({_list(columns)})"] * rows)


def _list(length: int) -> str:
    return ", ".join("?" * length)
