"""The workload: a process that commits facts and notes in a ledger those that it was told are durable.

    python -m tests.faults.workload --store PATH --ledger PATH [--kind KIND] [--weakness NAME] ...

It ends by itself only when it has done its revisions, or when it may not go on; how, its exit code says. Everything
else is done to it from outside.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import trio

from persistence import sqlite_room
from persistence.leases import Lease
from persistence.partitions import partition_of
from persistence.records import Batch, Fence, LogEntry, Tombstone
from persistence.sqlite import SqliteStore
from persistence.store import FenceLost, LeaseHeld, Store, StoreBroken, StoreInUse, StoreUnavailable
from persistence.writer import Freeze, Receipt, Writer
from tests.faults import exits
from tests.faults.facts import Fact, entry_of, snapshot_of
from tests.faults.ledger import Ledger
from tests.faults.places import Place, open_place, place_of
from tests.faults.runtime_workload import update_sessions
from tests.faults.weaknesses import DEAF, EARLY, UNFENCED, weaken

Told = Callable[[Receipt], None]
Submit = Callable[[Told], None]
Attempt = Callable[[], Awaitable[bool]]

_KINDS = ("steady", "leased", "filling", "filling-killed", "runtime")
_FIRST_SESSION = "session-0"
_LEASE_SECONDS = 1.0
_TRIES = 20  # at making room, and at going on afterwards: each waits for the store's own checkpoint in between
_TRY_SECONDS = 0.1


@attrs.frozen(kw_only=True)
class Plan:
    """What to do."""

    store: Place
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
        await update_sessions(f"sqlite:{plan.store}", plan.ledger, plan.sessions, open_gate=plan.weakness == EARLY)
        return exits.DONE
    store = await open_place(plan.store)
    ledger = Ledger(plan.ledger)
    try:
        async with trio.open_nursery() as nursery:
            if plan.kind == "leased":
                fence = await nursery.start(hold_lease, plan, store)
            else:
                fence = await store.claim(plan.author)
            writer = Writer(store, fence)
            await nursery.start(writer.run)
            desk = Desk(plan, writer, ledger)
            code = await (fill_up(desk) if plan.kind.startswith("filling") else write_steadily(desk, store))
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # a worker's last job, which the device or the server's timeouts bound
            await store.aclose()
    return code


async def hold_lease(plan: Plan, store: Store, *, task_status: trio.TaskStatus[Fence]) -> None:
    """Wait for the lease of the sessions' partition, and keep it for as long as it can be renewed.

    Raises:
      FenceLost: it ran out, or another has it.
    """
    lease: Lease | None = None
    while lease is None:
        try:
            lease = await store.acquire(partition_of(_FIRST_SESSION), plan.author, ttl_seconds=_LEASE_SECONDS)
        except LeaseHeld as error:
            await trio.sleep(error.remaining_seconds)
    task_status.started(lease.fence)
    while True:
        await trio.sleep(_LEASE_SECONDS / 3)
        with contextlib.suppress(*(FenceLost,) if plan.weakness == UNFENCED else ()):
            lease = await store.renew(lease, ttl_seconds=_LEASE_SECONDS)


async def write_steadily(desk: Desk, store: Store) -> int:
    """Write one revision of each session after the other, from where the store stands."""
    headers, _ = await store.scan()
    stands = {header.session_id: header.revision for header in headers}
    names = itertools.islice(_names(leased=desk.plan.kind == "leased"), desk.plan.sessions)
    async with trio.open_nursery() as nursery:
        for session_id in names:
            nursery.start_soon(_revise, desk, session_id, stands.get(session_id, 0))
    return exits.DONE


def _names(*, leased: bool) -> Iterator[str]:
    """Name sessions; for who has a lease, those of its partition."""
    names = (f"session-{number}" for number in itertools.count())
    if not leased:
        return names
    return (name for name in names if partition_of(name) == partition_of(_FIRST_SESSION))


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
    parser.add_argument("--store", type=place_of, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument(
        "--kind", choices=("steady", "leased", "filling", "filling-killed", "runtime"), default="steady"
    )
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
