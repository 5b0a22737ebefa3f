"""The n-th operation of the store fails, for every n, under a runtime; in virtual time.

Each n is tried twice, because an operation that failed may have taken place: the answer was lost on its way. Then the
process is killed, and another one is started over the same disk. The store itself is the fake that passes the store's
suite of claims; what is tried here is all that stands between it and the client.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import trio
from trio.testing import MockClock

import outlast
from persistence.memory import MemoryStore
from persistence.store import StoreError, StoreFull, StoreUnavailable
from tests.faults.facts import Fact
from tests.faults.fault import Control, Fault, Trial
from tests.faults.runtime_workload import VALUE, lost_values
from tests.faults.weaknesses import LYING
from tests.persistence.faulty import FaultyStore

_SESSIONS = 4
_UPDATES = 6
_COMMIT_SECONDS = 0.01
_ENDS_SECONDS_MAX = 600.0  # virtual
_CONTROL = (Control(LYING, "a store that answers before it writes"),)


def fail_each_operation(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Fail the n-th operation, in three ways, until there is no n-th."""
    for nth in itertools.count(1):
        if nth > runs:
            return
        reached = False
        for error, done in (
            (StoreUnavailable("n-th"), False),
            (StoreUnavailable("n-th"), True),
            (StoreFull("n-th"), False),
        ):
            trial, operations = trio.run(
                _live, nth, error, done, weakness == LYING, clock=MockClock(autojump_threshold=0)
            )
            reached = reached or operations >= nth
            yield trial
        if not reached:
            return


async def _live(nth: int, error: StoreError, done: bool, lies: bool) -> tuple[Trial, int]:
    """Work through one failure and a kill; then compare."""
    disk = MemoryStore()
    store = FaultyStore(disk, commit_seconds=_COMMIT_SECONDS, lies=lies)
    store.fail(nth, error, done=done)
    told: list[Fact] = []
    with trio.fail_after(_ENDS_SECONDS_MAX):
        try:
            async with outlast.open_runtime(store) as runtime:
                async with trio.open_nursery() as nursery:
                    for _ in range(_SESSIONS):
                        nursery.start_soon(_use, runtime, told)
                operations = store.operations
                store.crash()
        except* StoreError:  # it could not even be opened, and says so: nobody was told anything
            operations = store.operations
        lost, wrong = await lost_values(disk, told)
    kind = "done, answer lost" if done else "not done"
    return Trial(
        len(told), lost, tuple(wrong), f"operation {nth}: {type(error).__name__}, {kind}"
    ), operations


async def _use(runtime: outlast.Runtime, told: list[Fact]) -> None:
    """Make a session and update it; what is refused is not told."""
    try:
        session = await runtime.create(server_id="faults")
    except outlast.SessionUnavailable:
        return
    for number in range(1, _UPDATES + 1):
        try:
            async with session.update() as values:
                values[VALUE] = number
        except outlast.SessionUnavailable:
            continue
        told.append(Fact(session.id, number, "runtime"))


FAILING_OPERATION = Fault(
    "the n-th operation of the store fails, for every n",
    "what was told is kept, refused updates are said to be",
    fail_each_operation,
    10_000,
    _CONTROL,
    control_runs=4,
    quick_runs=10_000,
)
