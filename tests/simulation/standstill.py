"""Standstill: virtual time that does not go on, because something keeps itself busy at one instant for ever.

Under a real clock such a loop burns a processor; under a virtual one it would hang the simulation, so it is noticed
here.
"""

from __future__ import annotations

from collections import Counter

import trio
from trio.testing import MockClock

STEPS_MAX = 300_000  # of all tasks at one instant; a busy world takes some hundred


class Standstill(trio.abc.Instrument):
    """Watches a run, and cancels a scope when its time stands still.

    Args:
      clock: of the run.
      scope: cancelled then.
    """

    def __init__(self, clock: MockClock, scope: trio.CancelScope) -> None:
        self.culprit = ""  # which task took most of the steps, if time stood still
        self._clock = clock
        self._scope = scope
        self._now = -1.0
        self._steps: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        now = self._clock.current_time()
        if now != self._now:
            self._now = now
            self._steps.clear()
        self._steps[task.name] += 1
        if self._steps[task.name] > STEPS_MAX and not self.culprit:
            self.culprit = f"{task.name}, at {now!r} s"
            self._scope.cancel()
