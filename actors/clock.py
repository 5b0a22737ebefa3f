"""Wall-clock time that does not jump.

Sessions compare times to choose (has this waited long enough? is it idle?), so a step of the system clock must not
look like an hour of silence. The wall clock is read once; from there on time advances with trio's clock, which is
monotonic and which tests can turn by hand.
"""

from __future__ import annotations

import time

import trio


class SteadyClock:
    """Seconds since the epoch, advancing with trio's clock. Make it inside `trio.run`."""

    __slots__ = ("_offset_seconds",)

    def __init__(self, now_unix_s: float | None = None) -> None:
        wall = time.time() if now_unix_s is None else now_unix_s
        self._offset_seconds = wall - trio.current_time()

    def now_unix_s(self) -> float:
        return trio.current_time() + self._offset_seconds

    def at_unix_s(self, time_seconds: float) -> float:
        """Give the wall-clock time of an instant of trio's clock."""
        return time_seconds + self._offset_seconds
