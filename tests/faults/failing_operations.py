"""The n-th operation of the store fails, for every n, under a runtime; in virtual time.

Each n is tried in several ways: an operation that failed may have taken place (the answer was lost on its way), and
the next one, which is to mend it, may fail as well. Then the process is killed, and the disk is compared with what was
told. The store itself is the fake that passes the store's suite of claims; what is tried here is all that stands
between it and the client.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
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


@attrs.frozen
class Way:
    """How the n-th operation fails, and with it perhaps the one after: what recovers from a failure may fail, too."""

    words: str
    error: StoreError
    done: bool = False  # it took place, only the answer was lost
    next_error: StoreError | None = None


_AWAY, _FULL = StoreUnavailable("on purpose"), StoreFull("on purpose")
_WAYS = (
    Way("away", _AWAY),
    Way("away, and done", _AWAY, done=True),
    Way("away twice", _AWAY, done=True, next_error=_AWAY),
    Way("full", _FULL),
    Way("full, then away", _FULL, next_error=_AWAY),
)


def fail_each_operation(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Fail the n-th operation, in every way, until there is no n-th."""
    for nth in range(1, runs + 1):
        reached = False
        for way in _WAYS:
            trial, operations = trio.run(_live, nth, way, weakness == LYING, clock=MockClock(autojump_threshold=0))
            reached = reached or operations >= nth
            yield trial
        if not reached:
            return


async def _live(nth: int, way: Way, lies: bool) -> tuple[Trial, int]:
    """Work through one failure and a kill; then compare."""
    disk = MemoryStore()
    store = FaultyStore(disk, commit_seconds=_COMMIT_SECONDS, lies=lies)
    store.fail(nth, way.error, done=way.done)
    if way.next_error:
        store.fail(nth + 1, way.next_error)
    told: list[Fact] = []
    denied: list[str] = []
    operations = 0
    with trio.fail_after(_ENDS_SECONDS_MAX):
        try:
            async with outlast.open_runtime(store) as runtime:
                async with trio.open_nursery() as nursery:
                    for _ in range(_SESSIONS):
                        nursery.start_soon(_use, runtime, told, denied)
                operations = store.operations
                store.crash()
        except* StoreError:  # it could not even be opened, and says so: nobody was told anything
            operations = operations or store.operations
        lost, wrong = await lost_values(disk, told)
    return Trial(len(told), lost, (*wrong, *denied), f"operation {nth}: {way.words}"), operations


async def _use(runtime: outlast.Runtime, told: list[Fact], denied: list[str]) -> None:
    """Make a session and update it; what is refused is not told."""
    try:
        session = await runtime.create(server_id="faults")
    except outlast.SessionUnavailable:
        return
    told.append(Fact(session.id, 0, "runtime"))
    for number in range(1, _UPDATES + 1):
        try:
            async with session.update() as values:
                values[VALUE] = number
        except outlast.SessionUnavailable:
            continue
        except outlast.SessionNotFound:
            denied.append(f"{session.id}: was told of, and is said not to exist")
            return
        told.append(Fact(session.id, number, "runtime"))


FAILING_OPERATION = Fault(
    "the n-th operation of the store fails, for every n",
    "what was told is kept, refused updates are said to be",
    fail_each_operation,
    10_000,
    _CONTROL,
    control_runs=4,
    quick_runs=10_000,
    quick_control_runs=4,
)
