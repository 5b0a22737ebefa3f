"""A batch as rows of the SQLite store's tables, and leases as rows of theirs.

Writes inside a transaction that others begin and end. Knows statements and rows, but not the library: errors pass
through to whoever opened the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from persistence import sqlite_statements
from persistence.leases import Held
from persistence.records import Batch, LogEntry, log_start

Sealed = tuple[LogEntry, bytes]


class Cursor(Protocol):
    """What a statement gives."""

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """What takes statements."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]], /) -> object: ...


def write(
    connection: Connection,
    batch: Batch,
    snapshots: Sequence[tuple[Any, ...]],
    entries: Sequence[Sealed],
    *,
    tombstones_max: int,
) -> None:
    """Write a batch.

    Args:
      batch: its trims and tombstones are taken from it.
      snapshots: its snapshots as rows, sealed.
      entries: its entries, with what is to be kept of each.
      tombstones_max: how many ended sessions are remembered.
    """
    buried = _buried(connection, batch)
    if buried:
        snapshots = [row for row in snapshots if row[0] not in buried]
        entries = [pair for pair in entries if pair[0].session_id not in buried]
    _write(connection, sqlite_statements.upsert_snapshots, snapshots)
    _write_entries(connection, entries)
    trims = [(trim.session_id, log_start(trim.through_sequence), trim.through_sequence) for trim in batch.trims]
    connection.executemany(sqlite_statements.TRIM, trims)
    _bury(connection, batch, tombstones_max)


def read_leases(connection: Connection) -> dict[int, Held]:
    """Read what was saved of each partition's lease."""
    return {row[0]: Held(*row[1:]) for row in connection.execute(sqlite_statements.GET_LEASES).fetchall()}


def save_leases(connection: Connection, changed: Mapping[int, Held]) -> None:
    """Keep leases. The last number and owner stand in `meta` as well, where versions without leases look for them."""
    rows = [(number, one.owner, one.nonce, one.number, one.until_unix_s) for number, one in changed.items()]
    connection.executemany(sqlite_statements.SET_LEASE, rows)
    newest = max(changed.values(), key=lambda one: one.number)
    connection.executemany(sqlite_statements.SET_META_AT_LEAST, [("incarnation", newest.number)])
    connection.executemany(sqlite_statements.SET_META, [("owner", newest.owner)])


def _buried(connection: Connection, batch: Batch) -> set[str]:
    named = {snapshot.header.session_id for snapshot in batch.snapshots}
    named.update(entry.session_id for entry in batch.entries)
    return {session_id for (session_id,) in _select(connection, sqlite_statements.select_buried, list(named))}


def _write(connection: Connection, statement: Callable[[int], str], rows: Sequence[Sequence[object]]) -> None:
    for chunk in sqlite_statements.chunks(rows):
        connection.execute(statement(len(chunk)), list(chain.from_iterable(chunk)))


def _select(connection: Connection, query: Callable[[int], str], keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for chunk in sqlite_statements.chunks(keys):
        yield from connection.execute(query(len(chunk)), chunk).fetchall()


def _write_entries(connection: Connection, entries: Sequence[Sealed]) -> None:
    if not entries:
        return
    session_ids = list({entry.session_id for entry, _ in entries})
    rids = dict(_select(connection, sqlite_statements.select_rids, session_ids))
    if len(rids) < len(session_ids):
        places = [(session_id,) for session_id in session_ids if session_id not in rids]
        _write(connection, sqlite_statements.insert_places, places)
        rids = dict(_select(connection, sqlite_statements.select_rids, session_ids))
    rows = [
        (rids[entry.session_id], entry.sequence, entry.stream, entry.offset, entry.at_unix_s, record)
        for entry, record in entries
    ]
    _write(connection, sqlite_statements.insert_entries, rows)


def _bury(connection: Connection, batch: Batch, tombstones_max: int) -> None:
    if not batch.tombstones:
        return
    ended = [(tombstone.session_id,) for tombstone in batch.tombstones]
    rows = [(tombstone.session_id, tombstone.reason, tombstone.at_unix_s) for tombstone in batch.tombstones]
    # In this order the tombstones lie in what the sessions gave up: on a full disk the file need not grow for them.
    connection.executemany(sqlite_statements.FORGET_LOG, ended)
    connection.executemany(sqlite_statements.FORGET_SESSION, ended)
    connection.executemany(sqlite_statements.BURY, rows)
    connection.execute(sqlite_statements.FORGET_OLD_TOMBSTONES, (tombstones_max,))
