"""A histogram of durations in fixed buckets: counting is cheap, memory bounded, and two of them can be added. Pure.

All histograms have the same buckets, so those of several processes, or of hours, merge by adding counts; quantiles of
samples could not be merged. Bounds grow by the fourth root of two: a quantile is off by less than a fifth, which is
finer than a day's change. From half a millisecond, below which no call gets, to over an hour, after which calls are
given up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

_FIRST_SECONDS = 0.0005
_PER_DOUBLING = 4
_DOUBLINGS = 23
BOUNDS_SECONDS = tuple(_FIRST_SECONDS * 2 ** (step / _PER_DOUBLING) for step in range(_DOUBLINGS * _PER_DOUBLING + 1))


class Histogram:
    """How many durations there were, by how long they were."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)  # the last: longer than all bounds
        self.sum_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean_seconds(self) -> float:
        """The average; 0 if there were none."""
        count = self.count
        return self.sum_seconds / count if count else 0.0

    def quantile_seconds(self, share: float) -> float:
        """Give the duration that this share of all did not exceed; 0 if there were none.

        Args:
          share: 0.95 for the 95th percentile.

        Returns:
          the upper bound of the bucket it falls into; of the last, which has none, the longest bound.
        """
        rank, seen = share * self.count, 0
        if not rank:
            return 0.0
        for bound, count in zip(BOUNDS_SECONDS, self.counts, strict=False):
            seen += count
            if seen >= rank:
                return bound
        return BOUNDS_SECONDS[-1]


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Add histograms up."""
    total = Histogram()
    for histogram in histograms:
        total.counts = [ours + theirs for ours, theirs in zip(total.counts, histogram.counts, strict=True)]
        total.sum_seconds += histogram.sum_seconds
    return total
