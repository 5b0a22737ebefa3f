"""What tests of the DegradingStore need: a place whose stores degrade, and an outage on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from persistence.codec import Codec
from persistence.degrading import DegradingStore
from persistence.memory import MemoryStore
from persistence.records import Fence, SnapshotHeader
from persistence.store import Store, StoreUnavailable
from tests.persistence.faulty import FaultyStore
from tests.persistence.places import Place


def away() -> StoreUnavailable:
    """What an absent store says; a new one each time, since an exception remembers where it was raised."""
    return StoreUnavailable("away")


@attrs.define
class DegradingPlace:
    """Another place, with a DegradingStore in front of its stores."""

    behind: Place

    async def open(self, *, tombstones_max: int = 1000) -> Store:
        primary = await self.behind.open(tombstones_max=tombstones_max)
        return await DegradingStore.open(given(primary))

    async def let_pass(self, store: Store, seconds: float) -> None:
        await self.behind.let_pass(primary_of(store), seconds)

    async def flip_snapshot(self, store: Store, session_id: str) -> None:
        await self.behind.flip_snapshot(primary_of(store), session_id)

    async def flip_entry(self, store: Store, session_id: str, sequence: int) -> None:
        await self.behind.flip_entry(primary_of(store), session_id, sequence)

    async def record(self, store: Store, session_id: str) -> bytes:
        return await self.behind.record(primary_of(store), session_id)

    def use_codec(self, store: Store, codec: Codec) -> None:
        self.behind.use_codec(primary_of(store), codec)


def primary_of(store: Store) -> Store:
    """Give the store behind."""
    assert isinstance(store, DegradingStore)
    assert store._primary is not None
    return store._primary


def given(primary: Store) -> Any:
    """Give what opens a store that is open already, unless it has an outage."""

    async def open_primary() -> Store:
        await trio.lowlevel.checkpoint()
        if isinstance(primary, FaultyStore):
            await primary.quarantined()  # raises what an outage raises
        return primary

    return open_primary


@attrs.define
class Bench:
    """A degrading store at work, the faulty store behind it, and the disk behind that."""

    disk: MemoryStore
    faulty: FaultyStore
    store: DegradingStore
    fence: Fence
    nursery: trio.Nursery
    adopted: list[str]

    def begin_outage(self) -> None:
        self.faulty.begin_outage(away())

    async def end_outage(self) -> None:
        """Let the store answer, and wait until nothing is in memory only."""
        self.faulty.end_outage()
        while self.store.degraded is not None:  # noqa: ASYNC110 - on a clock that jumps
            await trio.sleep(0.1)

    @property
    def written_back(self) -> list[list[tuple[str, int]]]:
        """The snapshots of each batch that the store behind acknowledged."""
        return [[(s.header.session_id, s.header.revision) for s in batch.snapshots] for batch in self.faulty.commits]


@asynccontextmanager
async def open_bench(
    *, absent: bool = False, disk: MemoryStore | None = None, commit_seconds: float = 0.0, **bounds: Any
) -> AsyncIterator[Bench]:
    """Run a degrading store.

    Args:
      absent: the store behind does not answer from the start.
      bounds: as of `DegradingStore.open`.
    """
    disk = disk or MemoryStore()
    faulty = FaultyStore(disk, commit_seconds=commit_seconds)
    if absent:
        faulty.begin_outage(away())
    adopted: list[str] = []

    def adopt(headers: Any) -> None:
        assert all(isinstance(header, SnapshotHeader) for header in headers)
        adopted.extend(header.session_id for header in headers)

    store = await DegradingStore.open(given(faulty), name="faulty:", **bounds)
    store.on_adopted = adopt
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield Bench(disk, faulty, store, await store.claim("test"), nursery, adopted)
        nursery.cancel_scope.cancel()
