"""The timekeeper: tells when it was asked to, in order, and not before."""

from __future__ import annotations

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.overdue import Timekeeper


class Watched:
    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []

    def overdue(self, ticket: int) -> None:
        self.told.append((ticket, trio.current_time()))


async def told_of(waits: list[tuple[float, float]]) -> list[tuple[int, float]]:
    """Ask for each wait at its time; give what was told, with times since the start."""
    timekeeper, watched = Timekeeper(), Watched()
    began = trio.current_time()

    async def ask(ticket: int, at: float, seconds: float) -> None:
        await trio.sleep(at)
        timekeeper.watch(watched, ticket, seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(timekeeper.run)
        for ticket, (at, seconds) in enumerate(waits):
            nursery.start_soon(ask, ticket, at, seconds)
        await trio.sleep(1000.0)
        nursery.cancel_scope.cancel()
    return [(ticket, at - began) for ticket, at in watched.told]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), max_size=12))
@settings(max_examples=50, deadline=None)
def test_everyone_is_told_once_at_its_time(waits: list[tuple[int, int]]) -> None:
    # Eighths of a second are exact in binary, so that times can be compared for equality.
    asked = [(at / 8, seconds / 8) for at, seconds in waits]
    told = trio.run(told_of, asked, clock=MockClock(autojump_threshold=0))

    assert sorted(told) == [(ticket, at + seconds) for ticket, (at, seconds) in enumerate(asked)]
    assert [at for _, at in told] == sorted(at for _, at in told)


async def test_shorter_wait_that_comes_later_is_told_first(autojump_clock: MockClock) -> None:
    assert await told_of([(0.0, 10.0), (1.0, 1.0)]) == [(1, 2.0), (0, 10.0)]
