"""Cores: which processor runs what, so that the measured process shares its own with nobody.

With two cores or more, what is measured gets one, and all that measures it (generator, upstream) another. Then the
CPU time per call is the gateway's alone, and a scheduler's choice cannot move it from run to run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import attrs


@attrs.frozen
class Cores:
    """Who runs where; None: wherever the scheduler likes."""

    measured: int | None
    measuring: int | None


def assign(available: frozenset[int]) -> Cores:
    """Choose: the lowest core is measured, the next one measures; with a single core nothing is pinned."""
    if len(available) < 2:
        return Cores(None, None)
    measured, measuring = sorted(available)[:2]
    return Cores(measured, measuring)


def available() -> frozenset[int]:
    """The cores this process may use."""
    return frozenset(os.sched_getaffinity(0))


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Run the block, and whatever it starts, on one core.

    A child inherits the core of the thread that starts it. Pinning the starter for that moment leaves no instant
    in which the child runs elsewhere, and needs no code between fork and exec.
    """
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
