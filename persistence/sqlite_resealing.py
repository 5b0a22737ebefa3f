"""Keys in the SQLite store: which records are under which, and how they get under another one.

A rewriting goes through the snapshots by rid, then through the entries by id; where it is, is written `TABLE:NUMBER`.
Everything here runs in the store's thread, on its connection, inside what the caller has begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from persistence.codec import Codec
from persistence.envelope import HEAD_BYTES, KEY_ID_AT, KEY_ID_BYTES
from persistence.records import LogEntry, SnapshotHeader
from persistence.resealing import (
    PAGE_BYTES_MAX,
    PAGE_RECORDS,
    Resealed,
    SealedWith,
    count_by_key,
    resealed_entry,
    resealed_snapshot,
)
from persistence.sqlite_rows import Connection
from persistence.sqlite_statements import HEADER_COLUMNS

# The key id where it stands in a record; blobs are compared byte by byte.
_KEY_ID = f"substr(record, {KEY_ID_AT + 1}, {KEY_ID_BYTES})"
_HEAD = f"substr(record, 1, {HEAD_BYTES})"
# A row without a snapshot, or with its record in quarantine, has an empty record.
_HEADS = f"SELECT {_HEAD}, count(*) FROM session WHERE length(record) > 0 GROUP BY 1"
_ENTRY_HEADS = f"SELECT {_HEAD}, count(*) FROM entry GROUP BY 1"
_KINDS = f"SELECT DISTINCT {_HEAD} FROM session WHERE length(record) > 0"
_WITH_HEAD = f"SELECT session_id FROM session WHERE length(record) > 0 AND {_HEAD} = ?"
_SNAPSHOTS = (
    f"SELECT rid, {HEADER_COLUMNS}, record FROM session"
    f" WHERE rid > ? AND length(record) > 0 AND {_KEY_ID} != ? ORDER BY rid LIMIT ?"
)
_ENTRIES = (
    "SELECT entry.id, session_id, sequence, stream, offset, at_unix_s, entry.record FROM entry JOIN session USING (rid)"
    f" WHERE entry.id > ? AND {_KEY_ID.replace('record', 'entry.record')} != ? ORDER BY entry.id LIMIT ?"
)
_SET_SNAPSHOT = "UPDATE session SET record = ? WHERE rid = ?"
_SET_ENTRY = "UPDATE entry SET record = ? WHERE id = ?"

_FIRST, _SECOND = "session", "entry"


@attrs.frozen
class Step:
    """One step of a rewriting, and how many bytes it wrote."""

    resealed: Resealed
    written_bytes: int


def obstacles(connection: Connection, codec: Codec) -> Mapping[str, str]:
    """Give the sessions that this codec cannot open, and why.

    There are few kinds of heads, however many records: these are judged, and usually nothing is left to ask. (70 ms for
    100,000 sessions; counting them, too, would sort them all: 390.)
    """
    found: dict[str, str] = {}
    for (head,) in connection.execute(_KINDS).fetchall():
        reason = codec.obstacle(head)
        if reason:
            found |= {session_id: reason for (session_id,) in connection.execute(_WITH_HEAD, (head,))}
    return found


def sealed_with(connection: Connection, _: Codec) -> Sequence[SealedWith]:
    """Count the records by key."""
    return count_by_key(connection.execute(_HEADS).fetchall(), connection.execute(_ENTRY_HEADS).fetchall())


def reseal(connection: Connection, codec: Codec, after: str) -> Step:
    """Rewrite the records of one page; inside a transaction."""
    table, _, position = (after or f"{_FIRST}:0").partition(":")
    query = _SNAPSHOTS if table == _FIRST else _ENTRIES
    wanted = codec.key_id.to_bytes(KEY_ID_BYTES, "big")
    last = int(position)
    written: list[tuple[bytes, int]] = []
    left = 0
    for row in _page(iter(connection.execute(query, (last, wanted, PAGE_RECORDS)))):
        last = row[0]
        record = _resealed(codec, table, row)
        if record is None:
            left += 1
        else:
            written.append((record, last))
    connection.executemany(_SET_SNAPSHOT if table == _FIRST else _SET_ENTRY, written)
    if written or left:
        following: str | None = f"{table}:{last}"
    else:
        following = f"{_SECOND}:0" if table == _FIRST else None
    return Step(Resealed(following, len(written), left), sum([len(record) for record, _ in written]))


def _page(rows: Iterator[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Read rows until their records are many enough; a row is as large as a message may be."""
    page: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        page.append(row)
        size += len(row[-1])
        if size >= PAGE_BYTES_MAX:
            break
    return page


def _resealed(codec: Codec, table: str, row: tuple[Any, ...]) -> bytes | None:
    if table == _FIRST:
        return resealed_snapshot(codec, SnapshotHeader(*row[1:-1]), row[-1])
    return resealed_entry(codec, LogEntry(*row[1:]))
