"""Whole sessions out of a store and into one: records only, whatever their fields mean.

A session's snapshot and log are read together, held one session at a time, and written in one commit: it is there whole
or not at all. Many small sessions share a commit. Nothing here knows JSON (`persistence/document.py`) or what a session
is (the floor above).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from persistence.document import SESSION_BYTES_MAX
from persistence.records import HISTORY_STREAM, Batch, Fence, LogEntry, Snapshot, Trim
from persistence.store import Store

PAGE_BYTES = 1 << 20  # about as much of a log is read at a time
_PAGE_ENTRIES_MAX = 100
_FIRST_PAGE_ENTRIES = 8  # before anything is known of a log's entries: they may be large ones

# A commit waits for the device once, however much is in it; these many make that wait a small part of the whole.
BATCH_SESSIONS = 250
BATCH_BYTES = 4 << 20


class TooLarge(Exception):
    """This session's log is larger than a document can hold of one session."""


@attrs.frozen
class SessionRecords:
    """All that is kept of one session."""

    snapshot: Snapshot
    entries: Sequence[LogEntry]
    trim_through: int = 0  # what was stored of the session's events up to here goes in the same commit
    history_trim_through: int = 0  # and of its history

    @property
    def events(self) -> int:
        """How many events there are, history apart."""
        return sum([entry.stream != HISTORY_STREAM for entry in self.entries])

    @property
    def trims(self) -> list[Trim]:
        """What is to go of what is stored."""
        lines = (self.trim_through, self.history_trim_through)
        return [Trim(self.snapshot.header.session_id, line) for line in lines if line]

    @property
    def weight_bytes(self) -> int:
        """About how much memory the log takes; states are small beside a commit's bound."""
        return sum(len(entry.body) for entry in self.entries) + 1024


async def read_entries(
    store: Store,
    session_id: str,
    streams: Iterable[int],
    *,
    through_sequence: int,
    bytes_max: int = SESSION_BYTES_MAX,
) -> list[LogEntry]:
    """Give what is kept of these streams, in the order of the log.

    Args:
      through_sequence: entries behind it belong to a newer snapshot than was read, and are left out.
      bytes_max: no log is held that is larger.

    Raises:
      TooLarge
      SnapshotCorrupt, StoreUnavailable: as `Store.read_log`.
    """
    entries: list[LogEntry] = []
    read_bytes = 0
    for stream in streams:
        after, limit = 0, _FIRST_PAGE_ENTRIES
        while page := await store.read_log(session_id, stream=stream, after=after, limit=limit):
            entries += [entry for entry in page if entry.sequence <= through_sequence]
            read_bytes += sum(len(entry.body) for entry in page)
            if read_bytes > bytes_max:
                raise TooLarge(f"its log is larger than {bytes_max} bytes")
            if len(page) < limit:
                break
            after = page[-1].offset
            largest = max(len(entry.body) for entry in page) or 1
            limit = max(1, min(_PAGE_ENTRIES_MAX, PAGE_BYTES // largest))
    entries.sort(key=lambda entry: entry.sequence)
    return entries


class Intake:
    """Writes sessions to a store, several in a commit. `flush` at the end; what was added before is durable then."""

    def __init__(self, store: Store, fence: Fence) -> None:
        self._store = store
        self._fence = fence
        self._waiting: list[SessionRecords] = []
        self._waiting_bytes = 0
        self.written = 0  # sessions, durably

    async def add(self, records: SessionRecords) -> None:
        """Take a session; it is written with the next commit.

        Raises:
          FenceLost, StoreFull, StoreUnavailable, StoreBroken: as `Store.commit`, about sessions taken before.
        """
        self._waiting.append(records)
        self._waiting_bytes += records.weight_bytes
        if len(self._waiting) >= BATCH_SESSIONS or self._waiting_bytes >= BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Have everything written that was added. Raises as `add`."""
        if not self._waiting:
            return
        await self._store.commit(
            Batch(
                self._fence,
                snapshots=tuple(records.snapshot for records in self._waiting),
                entries=tuple(entry for records in self._waiting for entry in records.entries),
                trims=tuple(trim for records in self._waiting for trim in records.trims),
            )
        )
        self.written += len(self._waiting)
        self._waiting = []
        self._waiting_bytes = 0
