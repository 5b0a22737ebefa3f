"""The memory store: what a store does, for as long as the process lives.

For tests and for stateless use. Records are sealed and opened as on disk, so that nothing shared leaks from a
session into its stored past, and what cannot be stored on disk cannot be stored here.

Sessions and their logs have no bound here but those that the floors above set (session count, trimming).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio
from msgspec.structs import replace

from persistence.codec import Codec
from persistence.envelope import HEAD_BYTES
from persistence.leases import Lease, LeaseTable
from persistence.partitions import PARTITIONS
from persistence.records import (
    Batch,
    Fence,
    LogEntry,
    Quarantined,
    Snapshot,
    SnapshotHeader,
    StoreHealth,
    Tombstone,
    log_start,
)
from persistence.resealing import Resealed, SealedWith, count_by_key, is_stale, resealed_entry, resealed_snapshot
from persistence.shown import shown_id
from persistence.store import SnapshotCorrupt

TOMBSTONES_MAX = 100_000  # 20 MB; late writes of an ended session come within seconds


@attrs.define
class _Row:
    position: int  # where scanning finds it; rises with each new session
    header: SnapshotHeader
    record: bytes  # empty: it is in quarantine


class MemoryStore:
    """Keeps sessions in this process's memory."""

    url = "memory:"
    survives = "memory"

    def __init__(
        self,
        *,
        codec: Codec | None = None,
        tombstones_max: int = TOMBSTONES_MAX,
        now_unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._codec = codec or Codec()
        self._tombstones_max = tombstones_max
        self._leases = LeaseTable(now_unix_s)
        self._positions = itertools.count(1)
        self._rows: dict[str, _Row] = {}  # in the order of their positions: a row is replaced in its place
        self._logs: dict[str, dict[int, LogEntry]] = {}  # by sequence; bodies sealed
        self._tombstones: dict[str, Tombstone] = {}  # oldest first
        self._quarantine: list[tuple[Quarantined, bytes]] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._rows)} sessions{' closed' if self._closed else ''}>"

    async def claim(self, owner: str) -> Fence:
        """Become the one owner."""
        await self._checkpoint()
        return self._leases.claim(owner)

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        """Become the owner of one partition for a while."""
        await self._checkpoint()
        return self._leases.acquire(partition, owner, ttl_seconds)

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        """Prolong a lease."""
        await self._checkpoint()
        return self._leases.renew(lease, ttl_seconds)

    def lease_margin_seconds(self) -> float | None:
        """Give the time until the first lease runs out."""
        return self._leases.margin_seconds()

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        await self._checkpoint()
        self._leases.release(lease)

    async def commit(self, batch: Batch) -> None:
        """Take the whole batch over at once."""
        await self._checkpoint()
        self._leases.check_batch(batch)
        # Everything that can fail comes first, so that nothing is half done.
        records = [(snapshot.header, self._codec.seal_snapshot(snapshot)) for snapshot in batch.snapshots]
        entries = [attrs.evolve(entry, body=self._codec.seal_entry(entry)) for entry in batch.entries]
        for header, record in records:
            self._put(header, record)
        self._append(entries)
        for trim in batch.trims:
            log, start = self._logs.get(trim.session_id, {}), log_start(trim.through_sequence)
            for sequence in [known for known in log if start < known <= trim.through_sequence]:
                del log[sequence]
        for tombstone in batch.tombstones:
            self._bury(tombstone)

    async def load(self, session_id: str) -> Snapshot | None:
        """Give the stored snapshot, checked against its checksum."""
        await self._checkpoint()
        row = self._rows.get(session_id)
        if row is None:
            return None
        if not row.record:
            raise SnapshotCorrupt(f"session {shown_id(session_id)}…: its record is in quarantine")
        try:
            return self._codec.open_snapshot(row.header, row.record)
        except SnapshotCorrupt as error:
            aside = Quarantined(session_id, str(error), time.time(), len(row.record))
            self._quarantine.append((aside, row.record))
            row.header, row.record = replace(row.header, failure="corrupt"), b""
            raise

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        """Give a stream's entries after an offset."""
        await self._checkpoint()
        log = self._logs.get(session_id, {})
        found = [entry for entry in log.values() if entry.stream == stream and entry.offset > after]
        found.sort(key=lambda entry: entry.sequence)
        return [self._codec.open_entry(entry) for entry in found[:limit]]

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        """Give a page of headers, in the order in which the sessions were first stored."""
        await self._checkpoint()
        beyond = (row for row in self._rows.values() if row.position > after)
        rows = list(itertools.islice(beyond, limit + 1))
        page = rows[:limit]
        return [row.header for row in page], page[-1].position if len(rows) > limit else None

    async def quarantined(self) -> Sequence[Quarantined]:
        """List what was set aside."""
        await self._checkpoint()
        return [aside for aside, _ in self._quarantine]

    async def probe(self) -> StoreHealth:
        """Say that memory can be written, which takes no time."""
        await self._checkpoint()
        return StoreHealth("memory", True, 0.0, len(self._rows))

    async def obstacles(self) -> Mapping[str, str]:
        """Give the sessions that cannot be opened here."""
        await self._checkpoint()
        found = {row.header.session_id: self._codec.obstacle(row.record[:HEAD_BYTES]) for row in self._rows.values()}
        return {session_id: reason for session_id, reason in found.items() if reason}

    async def sealed_with(self) -> Sequence[SealedWith]:
        """Count the records by key."""
        await self._checkpoint()
        snapshots = [(row.record, 1) for row in self._rows.values() if row.record]
        return count_by_key(snapshots, [(entry.body, 1) for log in self._logs.values() for entry in log.values()])

    async def reseal(self, fence: Fence, *, after: str = "") -> Resealed:
        """Seal all records anew, in one step: there is no commit that could be too large."""
        await self._checkpoint()
        self._leases.check(range(PARTITIONS), fence)
        codec = self._codec
        rows = [row for row in self._rows.values() if row.record and is_stale(codec, row.record)]
        entries = [(log, entry) for log in self._logs.values() for entry in log.values() if is_stale(codec, entry.body)]
        left = 0
        for row in rows:
            record = resealed_snapshot(codec, row.header, row.record)
            left += record is None
            row.record = record or row.record
        for log, entry in entries:
            record = resealed_entry(codec, entry)
            left += record is None
            log[entry.sequence] = attrs.evolve(entry, body=record or entry.body)
        return Resealed(None, len(rows) + len(entries) - left, left)

    async def aclose(self) -> None:
        """Refuse from now on; what was kept goes with the object."""
        self._closed = True
        await trio.lowlevel.checkpoint()

    async def _checkpoint(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the memory store is closed")
        await trio.lowlevel.checkpoint()

    def _put(self, header: SnapshotHeader, record: bytes) -> None:
        if header.session_id in self._tombstones:
            return
        row = self._rows.get(header.session_id)
        if row is None:
            self._rows[header.session_id] = _Row(next(self._positions), header, record)
        elif header.revision > row.header.revision:
            row.header, row.record = header, record

    def _append(self, entries: Iterable[LogEntry]) -> None:
        for entry in entries:
            if entry.session_id not in self._tombstones:
                self._logs.setdefault(entry.session_id, {}).setdefault(entry.sequence, entry)

    def _bury(self, tombstone: Tombstone) -> None:
        self._tombstones.setdefault(tombstone.session_id, tombstone)
        self._rows.pop(tombstone.session_id, None)
        self._logs.pop(tombstone.session_id, None)
        if len(self._tombstones) > self._tombstones_max:
            del self._tombstones[next(iter(self._tombstones))]
