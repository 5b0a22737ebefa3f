"""The zombie owner: stopped (SIGSTOP) in the middle of its work, taken for dead, succeeded, and awake again.

A SQLite store has a lock on its file, which refuses a successor for as long as the first one exists, even stopped:
that is the promise. (Behind it there is no fence between processes: who has the file to itself checks fences in memory.
Stores that are shared have one; see `redis_faults.py`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.faults import exits
from tests.faults.child import Child, HarnessFailed, run_to_end
from tests.faults.fault import Control, Fault, Trial
from tests.faults.recovery import recover
from tests.faults.weaknesses import UNLOCKED

_NOTED_MIN = 40
_TRIES = 30  # a first one that is stopped in the middle of a commit has SQLite's own lock: another moment
# Long pauses between its commits, so that it is stopped between two of them most of the time.
_FIRST = ("--author", "first", "--sessions", "4", "--pause-seconds", "0.02")
_SECOND = ("--author", "second", "--sessions", "4", "--revisions", "30")


def meet_successor(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Stop an owner, let a successor try, and let the first one go on."""
    for number in range(runs):
        store, ledger = folder / f"{number}.db", folder / f"{number}.ledger"
        with Child(store, ledger, (*_FIRST, "--weakness", weakness)) as first:
            first.wait_noted(_NOTED_MIN)
            code = _succeed(first, (*_SECOND, "--weakness", weakness))
            broken = _judge(first, code, lock_is_off=bool(weakness))
            first.kill()
        yield recover(store, ledger, broken=broken)


def _succeed(first: Child, options: tuple[str, ...]) -> int:
    """Let a successor try while the first one stands still; give its exit code. The first one goes on afterwards."""
    code = exits.IN_USE
    for _ in range(_TRIES):
        first.stop()
        code = run_to_end(first.store, first.ledger, options)
        first.resume()
        if code != exits.IN_USE or "--weakness" not in options or not options[-1]:
            break
        first.wait_noted(1)
    return code


def _judge(first: Child, code: int, *, lock_is_off: bool) -> tuple[str, ...]:
    if not lock_is_off:
        first.wait_noted(_NOTED_MIN)  # it was not disturbed
        return () if code == exits.IN_USE else (f"the successor was not refused (it ended with {code})",)
    if code != exits.DONE:
        raise HarnessFailed(f"the successor ended with {code}: it never found the store at rest")
    try:
        first.wait_noted(_NOTED_MIN)
    except HarnessFailed:
        ended = first.wait_end()
        return () if ended == exits.FENCED else (f"the first owner ended with {ended}",)
    return ("the first owner went on although it had a successor",)


LOCKED = Fault(
    "zombie owner: SIGSTOP, a successor, SIGCONT",
    "the successor is refused (the file is locked); the first one goes on",
    meet_successor,
    6,
    (Control(UNLOCKED, "no lock"),),
    control_runs=2,
)
