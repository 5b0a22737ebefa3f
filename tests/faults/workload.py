"""The workload: a process that commits facts and notes in a ledger those that it was told are durable.

    python -m tests.faults.workload --store PATH --ledger PATH [--kind KIND] [--weakness NAME] ...

It ends by itself only when it has done its revisions, or when it may not go on; how, its exit code says. Everything
else is done to it from outside.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import trio

from persistence import sqlite_room
from persistence.records import Batch, LogEntry, Tombstone
from persistence.sqlite import SqliteStore
from persistence.store import FenceLost, StoreBroken, StoreInUse, StoreUnavailable
from persistence.writer import Freeze, Receipt, Writer
from tests.faults import exits
from tests.faults.facts import Fact, entry_of, snapshot_of
from tests.faults.ledger import Ledger
from tests.faults.runtime_workload import update_sessions
from tests.faults.weaknesses import DEAF, EARLY, weaken

Told = Callable[[Receipt], None]
Submit = Callable[[Told], None]
Attempt = Callable[[], Awaitable[bool]]

_TRIES = 20  # at making room, and at going on afterwards: each waits for the store's own checkpoint in between
_TRY_SECONDS = 0.1


@attrs.frozen(kw_only=True)
class Plan:
    """What to do."""

    store: Path
    ledger: Path
    kind: str
    author: str
    weakness: str
    sessions: int
    revisions: int  # of each session; 0: without end
    filling_bytes: int
    pause_seconds: float  # of each session, between two revisions
    commit_seconds: float  # what each commit takes longer, as on a disk that is overloaded
    log_bytes_max: int  # checkpoint at this size; 0: as the product does


@attrs.frozen
class Desk:
    """Where facts are submitted, and noted once they are durable."""

    plan: Plan
    writer: Writer
    ledger: Ledger

    async def keep(self, fact: Fact) -> bool:
        """Have a fact kept, note it when it is durable, and say whether it was."""
        entries = (entry_of(fact),)
        freeze = functools.partial(snapshot_of, fact, self.plan.filling_bytes)
        if self.plan.weakness == EARLY:
            self.ledger.note(fact)
        return await self._wait(fact, functools.partial(self._submit, fact, freeze, entries))

    async def bury(self, session_id: str) -> bool:
        """Have a session's end kept, likewise."""
        fact = Fact(session_id, 0, self.plan.author)
        tombstone = Tombstone(session_id, "ended", 1.0)
        return await self._wait(fact, lambda receipt: self.writer.bury(tombstone, receipt))

    def _submit(self, fact: Fact, freeze: Freeze, entries: tuple[LogEntry, ...], receipt: Told) -> None:
        self.writer.submit(fact.session_id, fact.revision, freeze, entries=entries, receipt=receipt)

    async def _wait(self, fact: Fact, submit: Submit) -> bool:
        heard = trio.Event()
        kept = False

        def receipt(receipt: Receipt) -> None:
            nonlocal kept
            kept = receipt.failure is None
            if kept and self.plan.weakness != EARLY:
                self.ledger.note(fact)
            heard.set()

        submit(receipt)
        await heard.wait()
        return kept


async def run(plan: Plan) -> int:
    """Do what was asked.

    Returns:
      The exit code.
    """
    if plan.kind == "runtime":
        await update_sessions(plan.store, plan.ledger, plan.sessions, open_gate=plan.weakness == EARLY)
        return exits.DONE
    store = await SqliteStore.open(plan.store)
    ledger = Ledger(plan.ledger)
    try:
        writer = Writer(store, await store.claim(plan.author))
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            desk = Desk(plan, writer, ledger)
            code = await (write_steadily(desk, store) if plan.kind == "steady" else fill_up(desk))
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # a worker's last job, which the device bounds
            await store.aclose()
    return code


async def write_steadily(desk: Desk, store: SqliteStore) -> int:
    """Write one revision of each session after the other, from where the store stands."""
    headers, _ = await store.scan()
    stands = {header.session_id: header.revision for header in headers}
    async with trio.open_nursery() as nursery:
        for number in range(desk.plan.sessions):
            session_id = f"session-{number}"
            nursery.start_soon(_revise, desk, session_id, stands.get(session_id, 0))
    return exits.DONE


async def _revise(desk: Desk, session_id: str, revision: int) -> None:
    plan, last = desk.plan, revision + desk.plan.revisions
    while not plan.revisions or revision < last:
        revision += 1
        if not await desk.keep(Fact(session_id, revision, plan.author)):
            return
        if plan.pause_seconds:
            await trio.sleep(plan.pause_seconds)


async def fill_up(desk: Desk) -> int:
    """Write new sessions until the disk is full, end half of them, and go on, all in one life (unless killed there)."""
    written: list[str] = []
    # Twice as many as fit. The deaf control is never told that they do not.
    for number in range(desk.plan.sessions):
        fact = Fact(f"session-{number}", 1, desk.plan.author)
        if not await desk.keep(fact):
            break
        written.append(fact.session_id)
    if len(written) == desk.plan.sessions and desk.plan.weakness != DEAF:
        return exits.NOT_FULL
    if desk.plan.kind == "filling-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    for session_id in written[: len(written) // 2]:
        if not await _in_some_tries(functools.partial(desk.bury, session_id)):
            return exits.STUCK
    for number in range(len(written) // 4):
        fact = Fact(f"later-{number}", 1, desk.plan.author)
        if not await _in_some_tries(functools.partial(desk.keep, fact)):
            return exits.STUCK
    return exits.DONE


async def _in_some_tries(attempt: Attempt) -> bool:
    for _ in range(_TRIES):
        if await attempt():
            return True
        await trio.sleep(_TRY_SECONDS)
    return False


def slow_down(seconds: float) -> None:
    """Let each commit wait before it writes.

    A kill finds facts that were told and not written then, if there are any. Once written, synced or not, they survive.
    """
    commit = SqliteStore.commit

    async def commit_slowly(self: SqliteStore, batch: Batch) -> None:
        await trio.sleep(seconds)
        await commit(self, batch)

    SqliteStore.commit = commit_slowly  # type: ignore[method-assign]


def main() -> int:
    """Read the command line, and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.workload")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--kind", choices=("steady", "filling", "filling-killed", "runtime"), default="steady")
    parser.add_argument("--author", default="first")
    parser.add_argument("--weakness", default="")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--revisions", type=int, default=0)
    parser.add_argument("--filling-bytes", type=int, default=600)
    parser.add_argument("--pause-seconds", type=float, default=0.0)
    parser.add_argument("--commit-seconds", type=float, default=0.0)
    parser.add_argument("--log-bytes-max", type=int, default=0)
    plan = Plan(**vars(parser.parse_args()))
    if plan.log_bytes_max:
        sqlite_room.LOG_BYTES_MAX = plan.log_bytes_max
    if plan.commit_seconds:
        slow_down(plan.commit_seconds)
    weaken(plan.weakness)
    code = exits.DONE
    try:
        code = trio.run(run, plan)
    except* StoreBroken:
        code = exits.BROKEN
    except* FenceLost:
        code = exits.FENCED
    except* StoreInUse:
        code = exits.IN_USE
    except* StoreUnavailable:
        code = exits.UNAVAILABLE
    return code


if __name__ == "__main__":
    sys.exit(main())
