"""The rows of a batch, on their way into SQLite: written and asked for in chunks of many to a statement.

Why in chunks stands in `sqlite_statements.py`. Everything here runs in the store's thread, inside its transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from persistence import sqlite_statements
from persistence.records import Batch, LogEntry, Tombstone, Trim


class Connection(Protocol):
    """What is needed of the database connection; only `sqlite.py` knows sqlite3."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any: ...

    def executemany(self, sql: str, parameters: Sequence[Any], /) -> Any: ...


def write(connection: Connection, statement: Callable[[int], str], rows: Sequence[Sequence[object]]) -> None:
    """Write rows with a statement that takes so many at once."""
    for chunk in sqlite_statements.chunks(rows):
        connection.execute(statement(len(chunk)), [value for row in chunk for value in row])


def write_entries(connection: Connection, entries: Sequence[tuple[LogEntry, bytes]]) -> None:
    """Write log entries; a session that has no row yet gets one for them to point to.

    Args:
      entries: each with its sealed record.
    """
    if not entries:
        return
    session_ids = list({entry.session_id for entry, _ in entries})
    rids = dict(_select(connection, sqlite_statements.select_rids, session_ids))
    if len(rids) < len(session_ids):
        places = [(session_id,) for session_id in session_ids if session_id not in rids]
        write(connection, sqlite_statements.insert_places, places)
        rids = dict(_select(connection, sqlite_statements.select_rids, session_ids))
    rows = [
        (rids[entry.session_id], entry.sequence, entry.stream, entry.offset, entry.at_unix_s, record)
        for entry, record in entries
    ]
    write(connection, sqlite_statements.insert_entries, rows)


def buried(connection: Connection, batch: Batch) -> set[str]:
    """Give the sessions of a batch that have a tombstone already."""
    named = {snapshot.header.session_id for snapshot in batch.snapshots}
    named.update(entry.session_id for entry in batch.entries)
    return {session_id for (session_id,) in _select(connection, sqlite_statements.select_buried, list(named))}


def trim(connection: Connection, trims: Sequence[Trim]) -> None:
    """Forget the oldest entries of some logs."""
    rows = [(trim.session_id, trim.through_sequence) for trim in trims]
    connection.executemany(sqlite_statements.TRIM, rows)


def bury(connection: Connection, tombstones: Sequence[Tombstone], tombstones_max: int) -> None:
    """End sessions: their records and logs go; their ids are remembered, so many of the newest in all."""
    if not tombstones:
        return
    ended = [(tombstone.session_id,) for tombstone in tombstones]
    rows = [(tombstone.session_id, tombstone.reason, tombstone.at_unix_s) for tombstone in tombstones]
    connection.executemany(sqlite_statements.BURY, rows)
    connection.executemany(sqlite_statements.FORGET_LOG, ended)
    connection.executemany(sqlite_statements.FORGET_SESSION, ended)
    connection.execute(sqlite_statements.FORGET_OLD_TOMBSTONES, (tombstones_max,))


def _select(connection: Connection, query: Callable[[int], str], keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for chunk in sqlite_statements.chunks(keys):
        yield from connection.execute(query(len(chunk)), chunk).fetchall()
