"""The simulated store: a disk that survives, and the store that a process has in front of it while it lives.

A commit takes (virtual) time before and after the instant in which it becomes durable. A crash loses what was
not yet durable and answers nobody; a commit that was under way then is either on the disk whole or not at
all, as chance has it. On a bad day the store is unavailable, full or slow for a while, or fails single
operations, with or without effect.

The disk is also a witness: it notes what no correct owner writes (a revision that falls or forks, a log entry
that changes), which a store by contract ignores in silence. Two lies are built in, as negative controls: a
torn commit, and an acknowledgement before the write.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import attrs
import trio

from persistence.codec import Codec
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
from persistence.store import StoreBroken, StoreFull, StoreUnavailable


@attrs.define
class Row:
    """One session's record."""

    position: int
    header: SnapshotHeader
    record: bytes


class SimDisk:
    """What survives a crash. All methods are sync: what they do is durable when they return."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.logs: dict[str, dict[int, LogEntry]] = {}  # what is kept, by sequence
        self.archive: dict[str, dict[tuple[int, int], LogEntry]] = {}  # all that was ever kept, by (stream, offset)
        self.ended: dict[str, Tombstone] = {}
        self.contradictions: list[str] = []
        self.batches = 0
        self._codec = Codec()
        self._positions = itertools.count(1)
        self.leases = LeaseTable(trio.current_time)

    def claim(self, owner: str) -> Fence:
        return self.leases.claim(owner)

    def snapshot(self, session_id: str) -> Snapshot | None:
        row = self.rows.get(session_id)
        return None if row is None else self._codec.open_snapshot(row.header, row.record)

    def entries(self, session_id: str) -> list[LogEntry]:
        """Give all that is kept of a session's log, in order."""
        return [entry for _, entry in sorted(self.logs.get(session_id, {}).items())]

    def check_fence(self, fence: Fence) -> None:
        self.leases.check(range(PARTITIONS), fence)

    def apply(self, batch: Batch) -> None:
        """Take a batch over, by the rules of `Store.commit`."""
        self.check_fence(batch.fence)
        self.batches += 1
        for snapshot in batch.snapshots:
            self._put(snapshot)
        for entry in batch.entries:
            self._append(entry)
        for trim in batch.trims:
            log, start = self.logs.get(trim.session_id, {}), log_start(trim.through_sequence)
            for sequence in [known for known in log if start < known <= trim.through_sequence]:
                del log[sequence]
        for tombstone in batch.tombstones:
            self.ended.setdefault(tombstone.session_id, tombstone)
            self.rows.pop(tombstone.session_id, None)
            self.logs.pop(tombstone.session_id, None)

    def _put(self, snapshot: Snapshot) -> None:
        header = snapshot.header
        if header.session_id in self.ended:
            return
        record = self._codec.seal_snapshot(snapshot)
        row = self.rows.get(header.session_id)
        if row is None:
            self.rows[header.session_id] = Row(next(self._positions), header, record)
        elif header.revision > row.header.revision:
            row.header, row.record = header, record
        elif header.revision < row.header.revision:
            self._contradict(header.session_id, f"revision fell from {row.header.revision} to {header.revision}")
        elif record != row.record:
            self._contradict(header.session_id, f"two different states have revision {header.revision}")

    def _append(self, entry: LogEntry) -> None:
        if entry.session_id in self.ended:
            return
        archive = self.archive.setdefault(entry.session_id, {})
        known = archive.setdefault((entry.stream, entry.offset), entry)
        if known != entry:
            self._contradict(entry.session_id, f"{known} was written again as {entry}")
        kept = self.logs.setdefault(entry.session_id, {}).setdefault(entry.sequence, entry)
        if kept != entry:
            self._contradict(entry.session_id, f"{kept} was to be replaced by {entry}")

    def _contradict(self, session_id: str, text: str) -> None:
        self.contradictions.append(f"session {session_id[:6]} in the store: {text}")


@attrs.frozen
class Lies:
    """How a store may be worse than it promises: negative controls."""

    torn_commits: bool = False  # a crash leaves half of the commit that was under way
    early_acknowledgement: bool = False  # a commit is acknowledged before it is written


@attrs.define
class Weather:
    """What the store's day is like, until when (trio's clock)."""

    unavailable_until: float = 0.0
    full_until: float = 0.0
    slow_until: float = 0.0
    mishap_share: float = 0.0  # of single operations that fail

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self.unavailable_until = self.full_until = self.slow_until = self.mishap_share = 0.0


class SimStore:
    """One process's store, in front of the disk. Implements `persistence.store.Store`."""

    url = "simulated:"
    survives = "local"

    def __init__(self, disk: SimDisk, chance: random.Random, weather: Weather, lies: Lies = Lies()) -> None:
        self.disk = disk
        self.broken = False  # the device fails: the process has to end
        self._chance = chance
        self._weather = weather
        self._lies = lies
        self._dead = False
        self._under_way: Batch | None = None
        self._unwritten: list[Batch] = []
        self._closed = False

    def crash(self) -> None:
        """End the process at this instant: nothing is answered and nothing is written from now on."""
        batch, self._under_way = self._under_way, None
        self._dead = True
        self._unwritten.clear()
        if batch is not None and self._lies.torn_commits:
            self.disk.apply(Batch(batch.fence, batch.snapshots))
        elif batch is not None and self._chance.random() < 0.5:
            self.disk.apply(batch)

    async def claim(self, owner: str) -> Fence:
        await self._operate(mishaps=False)
        return self.disk.claim(owner)

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        await self._operate()
        return self.disk.leases.acquire(partition, owner, ttl_seconds)

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        await self._operate()
        return self.disk.leases.renew(lease, ttl_seconds)

    async def release(self, lease: Lease) -> None:
        await self._operate()
        self.disk.leases.release(lease)

    async def commit(self, batch: Batch) -> None:
        with trio.CancelScope(shield=True):  # once begun, a commit runs to its end
            await self._operate()
            now = trio.current_time()
            if self.broken:
                raise StoreBroken("the device has failed")
            if now < self._weather.full_until and (batch.snapshots or batch.entries):
                raise StoreFull("no room")
            self.disk.check_fence(batch.fence)
            self._under_way = batch
            await trio.sleep(self._seconds(now))
            self._check_alive()
            self._under_way = None
            self._write(batch)
            await trio.sleep(self._seconds(now))
            self._check_alive()
            if self._chance.random() < self._weather.mishap_share:
                raise StoreUnavailable("the answer was lost")

    async def load(self, session_id: str) -> Snapshot | None:
        await self._operate()
        return self.disk.snapshot(session_id)

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        await self._operate()
        entries = self.disk.entries(session_id)
        return [entry for entry in entries if entry.stream == stream and entry.offset > after][:limit]

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        await self._operate(mishaps=False)
        rows = [row for row in self.disk.rows.values() if row.position > after]
        return [row.header for row in rows[:limit]], rows[limit - 1].position if len(rows) > limit else None

    async def quarantined(self) -> Sequence[Quarantined]:
        await self._operate()
        return []

    async def probe(self) -> StoreHealth:
        await self._operate()
        return StoreHealth("simulated", True, 0.0, len(self.disk.rows))

    async def aclose(self) -> None:
        self._closed = True
        await trio.lowlevel.checkpoint()

    def _seconds(self, now: float) -> float:
        longest = 2.0 if now < self._weather.slow_until else 0.004
        return self._chance.random() * longest

    def _write(self, batch: Batch) -> None:
        if self._lies.early_acknowledgement:
            for promised in self._unwritten:
                self.disk.apply(promised)
            self._unwritten = [batch]
        else:
            self.disk.apply(batch)

    def _check_alive(self) -> None:
        if self._dead:
            raise StoreUnavailable("the process is dead")

    async def _operate(self, *, mishaps: bool = True) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the store is closed")
        await trio.sleep(self._chance.random() * 0.001)
        self._check_alive()
        if not mishaps:
            return
        if trio.current_time() < self._weather.unavailable_until:
            raise StoreUnavailable("the store is away")
        if self._chance.random() < self._weather.mishap_share:
            raise StoreUnavailable("a single operation failed")
