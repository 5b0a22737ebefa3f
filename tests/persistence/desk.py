"""A desk: a writer at work on a FaultyStore, and all that was heard from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import trio

from persistence.records import LogEntry, Snapshot
from persistence.writer import Frozen, Receipt, Writer
from tests.persistence.faulty import FaultyStore
from tests.persistence.making import snapshot, tombstone


@attrs.define
class Desk:
    """A writer at work, its store, and the receipts in the order in which they came."""

    store: FaultyStore
    writer: Writer
    nursery: trio.Nursery
    receipts: list[Receipt] = attrs.field(factory=list)
    frozen: list[tuple[str, int]] = attrs.field(factory=list)  # each call of a freeze

    def submit(self, session_id: str, revision: int, **more: Any) -> None:
        self.writer.submit(
            session_id, revision, self.freeze(session_id, revision), receipt=self.receipts.append, **more
        )

    def submit_soft(self, session_id: str, revision: int, *riders: LogEntry) -> None:
        freeze = self.freeze(session_id, revision)
        self.writer.submit_soft(session_id, revision, (lambda: Frozen(freeze(), riders)) if riders else freeze)

    def bury(self, session_id: str) -> None:
        self.writer.bury(tombstone(session_id), self.receipts.append)

    def freeze(self, session_id: str, revision: int) -> Callable[[], Snapshot]:
        def freeze() -> Snapshot:
            self.frozen.append((session_id, revision))
            return snapshot(session_id, revision)

        return freeze

    @property
    def durable(self) -> list[tuple[str, int]]:
        return [(one.session_id, one.revision) for one in self.receipts if one.failure is None]

    @property
    def failed(self) -> list[tuple[str, int]]:
        return [(one.session_id, one.revision) for one in self.receipts if one.failure is not None]

    @property
    def batches(self) -> list[list[tuple[str, int]]]:
        return [[(s.header.session_id, s.header.revision) for s in batch.snapshots] for batch in self.store.commits]


async def open_desk(nursery: trio.Nursery, store: FaultyStore, **settings: float) -> Desk:
    writer = Writer(store, await store.claim("test"), **settings)  # type: ignore[arg-type]
    await nursery.start(writer.run)
    return Desk(store, writer, nursery)
