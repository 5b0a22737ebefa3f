"""Pauses: how often the cyclic garbage collector stopped everything, and for how long.

A collection holds the loop like any other code, and every session waits; so it is counted where it happens.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from persistence.buckets import Buckets


class Pauses:
    """Counts the collections of this process while it watches."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = Buckets()
        self._now = now
        self._began = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count for the length of a block."""
        gc.callbacks.append(self.note)
        try:
            yield
        finally:
            gc.callbacks.remove(self.note)

    def note(self, phase: str, info: Mapping[str, int]) -> None:
        """Take what the collector tells of itself."""
        if phase == "start":
            self._began = self._now()
        else:
            self.seconds.add(self._now() - self._began)
