"""Another process with a SQLite store, for tests to lock out and to kill.

Usage: sqlite_process.py open|serve|serve-early PATH
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import trio

from persistence.records import Batch, Snapshot
from persistence.sqlite import SqliteStore
from persistence.store import StoreError
from persistence.writer import Receipt, Writer
from tests.persistence.making import entry, snapshot

SESSIONS = 20


async def main(mode: str, path: str) -> None:
    try:
        store = await SqliteStore.open(Path(path))
    except StoreError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return
    if mode == "open":
        print("opened", flush=True)
    else:
        await serve(store, early=mode == "serve-early")
    await store.aclose()


async def serve(store: SqliteStore, *, early: bool) -> None:
    """Submit without end; say each receipt, or, to show that it is noticed, each submission."""
    fence = await store.claim("process")
    if early:
        store.commit = _two_commits_then_none(store)  # type: ignore[method-assign]
    writer = Writer(store, fence)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        for number in range(SESSIONS):
            nursery.start_soon(submit, writer, f"session-{number}", early)


async def submit(writer: Writer, session_id: str, early: bool) -> None:
    revision = 0
    while True:
        revision += 1
        written = trio.Event()

        def receipt(receipt: Receipt, written: trio.Event = written) -> None:
            if not early:
                say(receipt.session_id, receipt.revision)
            written.set()

        frozen = snapshot(session_id, revision, {"filling": bytes(2000)})
        log = (entry(session_id, revision),)
        writer.submit(session_id, revision, partial(_same, frozen), entries=log, receipt=receipt)
        if early:
            say(session_id, revision)
        await written.wait()


def say(session_id: str, revision: int) -> None:
    print(session_id, revision, flush=True)


def _same(frozen: Snapshot) -> Snapshot:
    return frozen


def _two_commits_then_none(store: SqliteStore):  # type: ignore[no-untyped-def]
    commit, commits = store.commit, 0

    async def commit_twice(batch: Batch) -> None:
        nonlocal commits
        commits += 1
        if commits > 2:
            await trio.sleep_forever()
        await commit(batch)

    return commit_twice


trio.run(main, sys.argv[1], sys.argv[2])
