"""Flood: what is said again and again is said a few times, and then counted.

An upstream that answers nonsense, or a disk that is full, makes the same line a thousand times a second; so many lines
fill a disk and hide everything else. Of each kind of line (its logger and its words, for each server behind the
gateway) so many are written in a while; the last one says that the next are left out, and the first one afterwards how
many were.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LINES_MAX = 30  # of one kind, in each stretch of
STRETCH_SECONDS = 60.0
# Kinds come from the code and the configuration, so there are few. Should somebody put data into the words of a line,
# all is forgotten at this many, which at worst writes too much.
KINDS_MAX = 2000

LEFT_OUT = "left_out"  # how many lines of this kind were left out before this one
LAST_FOR_SECONDS = "last_for_seconds"  # for how long the next ones of this kind are left out


class _Stretch:
    __slots__ = ("begun_seconds", "left_out", "lines")

    def __init__(self, begun_seconds: float) -> None:
        self.begun_seconds = begun_seconds
        self.lines = 0
        self.left_out = 0


class Flood:
    """Counts lines by kind. Not locked: threads that meet here may miscount by one, and lose nothing."""

    def __init__(
        self,
        *,
        lines_max: int = LINES_MAX,
        stretch_seconds: float = STRETCH_SECONDS,
        now_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines_max = lines_max
        self._stretch_seconds = stretch_seconds
        self._now_seconds = now_seconds
        self._stretches: dict[tuple[str, str, str], _Stretch] = {}

    def admit(self, kind: tuple[str, str, str]) -> dict[str, object] | None:
        """Count a line; give what is to be added to it, or None if it is left out.

        Args:
          kind: logger, words, server.
        """
        now_seconds = self._now_seconds()
        stretch = self._stretches.get(kind)
        if stretch is None:
            if len(self._stretches) >= KINDS_MAX:
                self._stretches.clear()
            stretch = self._stretches[kind] = _Stretch(now_seconds)
        left_out = 0
        over_seconds = stretch.begun_seconds + self._stretch_seconds - now_seconds
        if over_seconds <= 0:
            left_out = stretch.left_out
            stretch.begun_seconds, stretch.lines, stretch.left_out = now_seconds, 0, 0
            over_seconds = self._stretch_seconds
        stretch.lines += 1
        if stretch.lines > self._lines_max:
            stretch.left_out += 1
            return None
        added: dict[str, object] = {LEFT_OUT: left_out} if left_out else {}
        if stretch.lines == self._lines_max:
            added[LAST_FOR_SECONDS] = round(over_seconds, 1)
        return added
