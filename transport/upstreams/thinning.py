"""Thinning: which of many like events get a log line of their own.

An upstream may do a thing a million times, and the log is to say so without a million lines.
"""

from __future__ import annotations


def is_power_of_two(count: int) -> bool:
    """Whether to log this time: the 1st, 2nd, 4th, 8th, ..."""
    return count & (count - 1) == 0
