"""kill -9 at random moments, of a writer with its store and of a whole runtime."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.child import Child
from tests.faults.facts import lost_facts
from tests.faults.fault import Control, Fault, Trial
from tests.faults.recovery import recover
from tests.faults.runtime_workload import lost_values
from tests.faults.weaknesses import EARLY

_EARLY = (Control(EARLY, "told before it is committed"),)
_NOTED_MIN = 50  # the kill finds a workload at full speed
_MOMENT_SECONDS_MAX = 0.3


def kill_writers(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Kill writers that take checkpoints all the time: few sessions or many, a slow disk or a fast one."""
    for number in range(runs):
        sessions = "4" if number % 2 else "40"
        seconds = "0.02" if number % 4 < 2 else "0"
        sizes = ("--sessions", sessions, "--log-bytes-max", "200000", "--commit-seconds", seconds)
        options = (*sizes, "--weakness", weakness)
        store, ledger = folder / f"{number}.db", folder / f"{number}.ledger"
        moment = _kill_at_random(store, ledger, options, number)
        yield recover(store, ledger, at=moment, compare=lost_facts)


def kill_runtimes(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Kill runtimes whose sessions are being updated."""
    for number in range(runs):
        # On a slow disk a kill finds what was told and not written, if there is any, whatever the moment.
        seconds = "0" if number % 2 else "0.02"
        options = ("--kind", "runtime", "--sessions", "20", "--commit-seconds", seconds, "--weakness", weakness)
        store, ledger = folder / f"{number}.db", folder / f"{number}.ledger"
        moment = _kill_at_random(store, ledger, options, number)
        yield recover(store, ledger, at=moment, compare=lost_values)


def _kill_at_random(store: Path, ledger: Path, options: tuple[str, ...], seed: int) -> str:
    seconds = random.Random(seed).uniform(0.0, _MOMENT_SECONDS_MAX)
    with Child(store, ledger, options) as child:
        child.wait_noted(_NOTED_MIN)
        time.sleep(seconds)  # the moment itself is what is tried
        child.kill()
    return f"{seconds:.3f} s after {_NOTED_MIN} facts"


WRITER = Fault(
    "kill -9 of a writer, at random",
    "nothing acknowledged is lost; no batch is torn",
    kill_writers,
    16,
    _EARLY,
    quick_runs=2,
)
RUNTIME = Fault(
    "kill -9 of a runtime, at random",
    "a value whose update ended is there",
    kill_runtimes,
    12,
    _EARLY,
    quick_runs=2,
)
