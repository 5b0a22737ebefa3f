"""Records for tests, with as little said as the test needs."""

from __future__ import annotations

from collections.abc import Mapping

from persistence.records import HISTORY_STREAM, LogEntry, Snapshot, SnapshotHeader, Tombstone


def snapshot(
    session_id: str = "s", revision: int = 1, fields: Mapping[str, object] | None = None, *, failure: str = ""
) -> Snapshot:
    header = SnapshotHeader(session_id, revision, "linear", "owner-digest", failure, 1000.5, 2000.25)
    return Snapshot(header, {"revision": revision} if fields is None else fields)


def entry(
    session_id: str = "s", sequence: int = 1, *, stream: int = 0, offset: int | None = None, body: bytes = b""
) -> LogEntry:
    position = sequence if offset is None else offset
    return LogEntry(session_id, sequence, stream, position, 1000.0 + sequence, body or b"message %d" % sequence)


def page(session_id: str = "s", number: int = 1, *, body: bytes = b"") -> LogEntry:
    """Make an entry of a session's history."""
    return entry(session_id, HISTORY_STREAM + number, stream=HISTORY_STREAM, offset=number, body=body)


def tombstone(session_id: str = "s", reason: str = "ended") -> Tombstone:
    return Tombstone(session_id, reason, 3000.0)
