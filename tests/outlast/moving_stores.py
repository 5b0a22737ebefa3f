"""Stores for moving sessions: one that makes any number of them up as they are asked for, and counts what is alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence

import attrs
from msgspec.structs import replace

from actors.ids import SessionId
from actors.snapshots import to_header, to_snapshot
from actors.state import LogState, SessionState, Stream
from persistence.leases import Lease
from persistence.memory import MemoryStore
from persistence.portable import SessionRecords
from persistence.records import (
    HISTORY_STREAM,
    Batch,
    Fence,
    LogEntry,
    Quarantined,
    Snapshot,
    SnapshotHeader,
    StoreHealth,
)
from tests.actors.making import fresh_state

EVENTS = 3


def numbered(number: int, **fields: object) -> SessionState:
    """Give one of many sessions: open, with three events on its own stream."""
    state = fresh_state(
        session_id=SessionId(f"session-{number:026}"),
        revision=4,
        opened=True,
        streams={0: Stream(0, None, EVENTS + 1)},
        log=LogState(7, EVENTS + 1, 0),
        values={"number": number},
    )
    return replace(state, **fields)


def records(number: int, **fields: object) -> SessionRecords:
    """Give all that is kept of it."""
    state = numbered(number, **fields)
    entries = tuple(LogEntry(state.session_id, n, 0, n, 1000.0 + n, b"{}") for n in range(1, EVENTS + 1))
    return SessionRecords(to_snapshot(state), entries)


async def filled(store: MemoryStore, these: Iterable[SessionRecords]) -> MemoryStore:
    """Put sessions into a store."""
    fence = await store.claim("test")
    for one in these:
        await store.commit(Batch(fence, (one.snapshot,), tuple(one.entries)))
    return store


async def contents(store: MemoryStore) -> dict[str, tuple[Snapshot, Sequence[LogEntry]]]:
    """Give all snapshots and logs (of the sessions' own streams, and the next two)."""
    headers, _ = await store.scan()
    found: dict[str, tuple[Snapshot, Sequence[LogEntry]]] = {}
    for header in headers:
        snapshot = await store.load(header.session_id)
        assert snapshot is not None
        log = [
            entry
            for stream in (0, 1, 2, HISTORY_STREAM)
            for entry in await store.read_log(header.session_id, stream=stream, after=0, limit=1000)
        ]
        found[header.session_id] = (snapshot, sorted(log, key=lambda entry: entry.sequence))
    return found


@attrs.define(eq=False)
class EndlessStore:
    """Holds nothing: gives sessions that are made up as they are asked for, and forgets those that come in.

    What it gave and was given is counted for as long as anybody holds it.
    """

    sessions: int
    alive: int = 0
    alive_most: int = 0
    written: list[str] = attrs.field(factory=list)  # ids
    url: str = "endless:"
    survives: str = "memory"

    def watch(self, thing: object) -> None:
        """Count it until it is gone."""
        self.alive += 1
        self.alive_most = max(self.alive_most, self.alive)
        weakref.finalize(thing, self._gone)

    def _gone(self) -> None:
        self.alive -= 1

    async def claim(self, owner: str) -> Fence:
        return Fence(owner, 1)

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        return Lease(partition, Fence(owner, 1), ttl_seconds)

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        return lease

    async def release(self, lease: Lease) -> None:
        pass

    async def commit(self, batch: Batch) -> None:
        self.written += [snapshot.header.session_id for snapshot in batch.snapshots]
        for thing in (*batch.snapshots, *batch.entries):
            self.watch(thing)

    async def load(self, session_id: str) -> Snapshot | None:
        snapshot = to_snapshot(numbered(int(session_id.removeprefix("session-"))))
        self.watch(snapshot)
        return snapshot

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        page = [LogEntry(session_id, n, 0, n, 1000.0, b"{}") for n in range(after + 1, min(EVENTS, after + limit) + 1)]
        for entry in page:
            self.watch(entry)
        return page

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        if self.written:
            page = [to_header(numbered(int(name.removeprefix("session-")))) for name in self.written]
            return page, None
        last = min(self.sessions, after + limit)
        return [to_header(numbered(number)) for number in range(after, last)], last if last < self.sessions else None

    async def quarantined(self) -> Sequence[Quarantined]:
        return ()

    async def probe(self) -> StoreHealth:
        return StoreHealth("endless", True, 0.0, self.sessions)

    async def aclose(self) -> None:
        return None
