"""The timekeeper: tells sessions when something has waited for a while.

One task and one heap for all sessions. A cancel scope for each call would double the price of a call (measured: a
deadline around an `ask` costs as much as the ask); an entry here costs about a microsecond. What was answered in
the meantime is skipped.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Protocol

import trio

GRAIN_SECONDS = 0.02  # so late it may tell: thousands of calls a second become due one by one, and wake it by the dozen


class Watched(Protocol):
    """Something whose tickets can become overdue."""

    def overdue(self, ticket: int) -> None:
        """Note that this ticket has waited as long as was asked; ignored if it waits no more."""
        ...


class Timekeeper:
    """Says `overdue` after a while. Bounded by nature: a session watches a bounded number of calls and posts."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Watched, int]] = []
        self._order = itertools.count()  # equal times: first come, first told; and watched things need no order
        self._sleep = trio.CancelScope()
        self._sleep_until = 0.0

    def watch(self, watched: Watched, ticket: int, seconds: float) -> None:
        """Tell `watched` about `ticket` in this many seconds."""
        due = trio.current_time() + seconds
        heapq.heappush(self._heap, (due, next(self._order), watched, ticket))
        if due < self._sleep_until:
            self._sleep_until = due
            self._sleep.deadline = due

    async def run(self) -> None:
        """Tell, for ever."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                _, _, watched, ticket = heapq.heappop(self._heap)
                watched.overdue(ticket)
            self._sleep_until = max(self._heap[0][0], now + GRAIN_SECONDS) if self._heap else float("inf")
            with trio.CancelScope(deadline=self._sleep_until) as self._sleep:
                await trio.sleep_forever()
