"""A process that stores events without end, for tests to kill. Says each event id that it was given.

Usage: event_store_process.py honest|early PATH

`early` is the negative control: events are acknowledged before they are committed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from outlast.event_store import DurableEventStore
from persistence.sqlite import SqliteStore
from tests.outlast.event_store_bed import progress
from tests.persistence.faulty import FaultyStore

SESSIONS = 8


async def main(mode: str, path: str) -> None:
    async def open_lying() -> FaultyStore:
        return FaultyStore(await SqliteStore.open(Path(path)), commit_seconds=0.3, lies=True)

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


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
