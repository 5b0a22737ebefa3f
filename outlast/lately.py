"""The worst of late: a maximum that forgets.

A maximum since the start would complain of one bad moment for ever. This one covers the running window and the one
before it, so it looks back between one and two windows, and costs a comparison for each value.
"""

from __future__ import annotations


class WorstLately:
    """The largest value of the last one to two windows."""

    __slots__ = ("_before", "_began_seconds", "_now", "_window_seconds")

    def __init__(self, window_seconds: float = 60.0) -> None:
        self._window_seconds = window_seconds
        self._began_seconds = 0.0
        self._now = self._before = 0.0

    def note(self, value: float, now_seconds: float) -> None:
        """Note a value.

        Args:
          now_seconds: on any clock that only goes forward, always the same.
        """
        self._turn(now_seconds)
        self._now = max(self._now, value)

    def worst(self, now_seconds: float) -> float:
        """Give the largest value noted of late; 0 if there was none."""
        self._turn(now_seconds)
        return max(self._now, self._before)

    def _turn(self, now_seconds: float) -> None:
        windows = (now_seconds - self._began_seconds) // self._window_seconds
        if windows >= 1:
            self._before = self._now if windows == 1 else 0.0
            self._now = 0.0
            self._began_seconds += windows * self._window_seconds
