"""Faults and what came of them: the records, and the one place that judges.

A row of the table is a fault with a promise, tried in many runs, and beside it its negative controls: the same fault
with a protection taken away. Promises are kept when no acknowledged fact is lost and no other promise is broken. A
control that loses and breaks nothing says that the harness would not notice: then the row is worth nothing, however
green. Pure: no processes, no files.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs


@attrs.frozen
class Trial:
    """What one run came to."""

    acknowledged: int  # facts of which somebody was told
    lost: int  # facts among them that are not there, or not as they were told
    broken: tuple[str, ...] = ()  # other promises that were not kept, in words
    at: str = ""  # where or when the fault struck


Run = Callable[[Path, str, int], Iterator[Trial]]  # a folder of its own, a weakness or "", how many runs


@attrs.frozen
class Control:
    """A protection that is taken away."""

    weakness: str  # a name of tests/faults/weaknesses.py
    words: str


@attrs.frozen
class Fault:
    """One row: what happens, what is promised, how it is tried."""

    name: str
    promise: str
    run: Run
    runs: int  # how many runs by default; rows that go through every point take as many as there are, at most
    controls: tuple[Control, ...]
    control_runs: int = 3
    quick_runs: int = 1  # in `make test`; 0: not there, because it needs root or takes long
    quick_control_runs: int = 1
    missing: Callable[[], str] = str  # what is not at hand on this machine; "" when all is
    weakness: str = ""  # what is taken away for the row itself, to see the next protection at work


class Verdict(enum.Enum):
    """What a row is worth."""

    KEPT = "kept"
    BROKEN = "BROKEN"
    BLIND = "HARNESS BROKEN: a control found nothing"
    EMPTY = "HARNESS BROKEN: nothing was acknowledged"
    NOT_RUN = "not run"


@attrs.frozen
class Sum:
    """All runs of a row, or of a control."""

    name: str
    trials: Sequence[Trial]

    @property
    def acknowledged(self) -> int:
        return sum(trial.acknowledged for trial in self.trials)

    @property
    def lost(self) -> int:
        return sum(trial.lost for trial in self.trials)

    @property
    def broken(self) -> int:
        return sum(len(trial.broken) for trial in self.trials)


@attrs.frozen
class Outcome:
    """A row with its controls."""

    fault: Fault
    sum: Sum
    controls: Sequence[Sum]
    missing: str = ""

    @property
    def verdict(self) -> Verdict:
        """Judge: the row first, then whether the harness could have seen it fail."""
        if self.missing:
            return Verdict.NOT_RUN
        if self.sum.lost or self.sum.broken:
            return Verdict.BROKEN
        if not self.sum.acknowledged:
            return Verdict.EMPTY
        if not self.controls or any(not (control.lost or control.broken) for control in self.controls):
            return Verdict.BLIND
        return Verdict.KEPT

    @property
    def is_well(self) -> bool:
        return self.verdict in (Verdict.KEPT, Verdict.NOT_RUN)
