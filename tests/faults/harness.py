"""The harness: tries a fault and its controls, each in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.faults.fault import Fault, Outcome, Sum, Trial

Hear = Callable[[Fault, str, Trial], None]  # row, control ("": none), run


def try_fault(fault: Fault, *, runs: int, control_runs: int, hear: Hear = lambda *_: None) -> Outcome:
    """Try a fault so many times, then each of its controls.

    Args:
      hear: told of each run as it ends.
    """
    if missing := fault.missing():
        return Outcome(fault, Sum(fault.name, ()), (), missing)
    own = _try(fault, "", fault.weakness, runs, hear)
    controls = [_try(fault, control.words, control.weakness, control_runs, hear) for control in fault.controls]
    return Outcome(fault, own, controls)


def _try(fault: Fault, words: str, weakness: str, runs: int, hear: Hear) -> Sum:
    trials = []
    with tempfile.TemporaryDirectory(prefix="outlast-faults-") as folder:
        for trial in fault.run(Path(folder), weakness, runs):
            hear(fault, words, trial)
            trials.append(trial)
    return Sum(words or fault.name, trials)
