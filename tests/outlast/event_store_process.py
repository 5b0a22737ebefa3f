"""A process that stores events without end, for tests to kill. Says each event id that it was given.

Usage: event_store_process.py honest|early PATH

`early` is the negative control: events are acknowledged before they are committed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import trio

from outlast.event_store import DurableEventStore
from persistence.records import Batch
from persistence.sqlite import SqliteStore
from tests.outlast.event_store_bed import progress

SESSIONS = 8


async def main(mode: str, path: str) -> None:
    async def open_lying() -> SqliteStore:
        store = await SqliteStore.open(Path(path))
        store.commit = _some_commits_then_none(store)  # type: ignore[method-assign, assignment]
        return store

    store = open_lying if mode == "early" else f"sqlite:{path}"
    async with DurableEventStore(store) as events, asyncio.TaskGroup() as group:
        for number in range(SESSIONS):
            group.create_task(store_without_end(events, f"session-{number}"))


async def store_without_end(events: DurableEventStore, session_id: str) -> None:
    session = events.session(session_id)
    number = 0
    while True:
        number += 1
        event_id = await session.store_event("1", progress(number))
        print(session_id, number, event_id, flush=True)


def _some_commits_then_none(store: SqliteStore) -> Callable[[Batch], Coroutine[Any, Any, None]]:
    """Acknowledge every commit, and keep only the first ones: the others would be written later."""
    really_commit = store.commit
    left = iter(range(10))

    async def commit(batch: Batch) -> None:
        await trio.lowlevel.checkpoint()
        if next(left, None) is not None:
            await really_commit(batch)

    return commit


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
