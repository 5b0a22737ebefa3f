"""Latencies: what single calls took, kept compactly, and the percentiles of it.

Every latency is kept as it was measured, 8 bytes each. A histogram with buckets was weighed: it saves memory that a
run of seconds does not need, and rounds exactly the percentiles that are to be compared.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable, Sequence

import attrs


@attrs.frozen
class Percentiles:
    """What the calls of one window took, in milliseconds; all zero where there were none."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Latencies:
    """The latencies of one window, in seconds. `add` is all that runs while measuring."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._seconds = array("d", seconds)
        self.add = self._seconds.append  # bound once: one attribute less per call

    def __len__(self) -> int:
        return len(self._seconds)

    def percentiles(self) -> Percentiles:
        """Sort what was added, and read the percentiles off it."""
        ordered = sorted(self._seconds)
        if not ordered:
            return Percentiles(0.0, 0.0, 0.0)
        return Percentiles(
            p50_ms=percentile(ordered, 0.50) * 1000.0,
            p99_ms=percentile(ordered, 0.99) * 1000.0,
            max_ms=ordered[-1] * 1000.0,
        )


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Give the smallest value that at least this fraction of all values does not exceed (nearest rank).

    Args:
      ordered: ascending, not empty.
      fraction: above 0, at most 1.
    """
    if not ordered or not 0.0 < fraction <= 1.0:
        raise ValueError(f"no percentile {fraction} of {len(ordered)} values")
    return ordered[math.ceil(fraction * len(ordered)) - 1]


def median(values: Sequence[float]) -> float:
    """Give the middle of several rounds: one disturbed round does not move it."""
    return statistics.median(values)
