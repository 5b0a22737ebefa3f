"""The harness: tries a fault and its controls, each in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.fault import Control, Fault, Outcome, Sum, Trial

_CONTROL_TRIES_MORE = 5

Hear = Callable[[Fault, str, Trial], None]  # row, control ("": none), run


def try_fault(fault: Fault, *, runs: int, control_runs: int, hear: Hear = lambda *_: None) -> Outcome:
    """Try a fault so many times, then each of its controls.

    Args:
      hear: told of each run as it ends.
    """
    if missing := fault.missing():
        return Outcome(fault, Sum(fault.name, ()), (), missing)
    own = _try(fault, "", fault.weakness, runs, hear)
    controls = [_try_control(fault, control, control_runs, hear) for control in fault.controls]
    return Outcome(fault, own, controls)


def _try_control(fault: Fault, control: Control, runs: int, hear: Hear) -> Sum:
    """Try a control until it is noticed, a few times over: many a fault strikes at a moment of its own choosing."""
    found = _try(fault, control.words, control.weakness, runs, hear)
    for _ in range(_CONTROL_TRIES_MORE):
        if found.lost or found.broken:
            break
        again = _try(fault, control.words, control.weakness, runs, hear)
        found = Sum(found.name, (*found.trials, *again.trials))
    return found


def _try(fault: Fault, words: str, weakness: str, runs: int, hear: Hear) -> Sum:
    trials = []
    with tempfile.TemporaryDirectory(prefix="outlast-faults-") as folder:
        for trial in fault.run(Path(folder), weakness, runs):
            hear(fault, words, trial)
            trials.append(trial)
    return Sum(words or fault.name, trials)
