"""Buckets: how many values there were, by how large they were; what a scraper makes quantiles of.

The bounds are given once and never change, so counting is one search in a short tuple, and the counts of two processes
can be added. No locks: everything is counted in one task's turn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

# From a commit on a fast disk (0.1 ms) to a call that somebody gave up on. Steps of about two and a half: a scraper
# stores one series for each bound and server.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ROWS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Buckets:
    """Counts of values up to each bound."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        """
        Args:
          bounds: rising; a value that equals one belongs to it.
        """
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0  # sum of all values

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Give each bound, infinity the last, with how many values did not exceed it."""
        seen = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            seen += count
            yield bound, seen
