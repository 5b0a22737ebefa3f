"""The margin of leases: how long what a process owns for a while stays its own, if it is not renewed.

By the process's own clock, and from the moment when the request was *sent*: so it errs to the safe side, whatever the
store's clock says. The clock counts suspension: a machine that wakes finds its leases over.

What does not run out has no margin: the claim of a whole store. Its owner's presence does (`presence.py`), and counts
as a lease here: when it is over, others take the owner for gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

WHOLE_STORE = -1  # in place of a partition: the presence of whoever has claimed all of them


@runtime_checkable
class Leasing(Protocol):
    """A store that knows how long its leases last."""

    def lease_margin_seconds(self) -> float | None:
        """Give the time until the first of them runs out, negative if one has; None: none does. Never waits."""
        ...


def steady_seconds() -> float:
    """Give a clock that goes on while the machine is suspended, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LeaseMargin:
    """The ends of one process's leases. Changed by one thread; any may look."""

    def __init__(self, clock: Callable[[], float] = steady_seconds) -> None:
        self.now = clock
        self._until: dict[int, float] = {}  # by partition, so it is bounded

    def granted(self, partition: int, asked: float, ttl_seconds: float) -> None:
        """Note a lease, or that it was prolonged.

        Args:
          asked: what `now` gave before the request was sent.
        """
        self._until[partition] = asked + ttl_seconds

    def over(self, partition: int) -> None:
        """Note that a lease was given back, or is another's."""
        self._until.pop(partition, None)

    def seconds(self) -> float | None:
        """Give the time until the first runs out; None: there is none."""
        ends = list(self._until.values())
        return min(ends) - self.now() if ends else None
