"""How long leases last, by the clock of who has them."""

from __future__ import annotations

from persistence.lease_margin import WHOLE_STORE, LeaseMargin, steady_seconds
from persistence.leases import LeaseTable


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_time_counts_from_when_it_was_asked_for() -> None:
    clock = Clock()
    margin = LeaseMargin(clock)
    asked = margin.now()
    clock.seconds += 4  # the answer took so long
    margin.granted(7, asked, 10.0)
    assert margin.seconds() == 6.0
    margin.granted(WHOLE_STORE, margin.now(), 15.0)
    assert margin.seconds() == 6.0, "the first counts"
    margin.over(7)
    assert margin.seconds() == 15.0
    clock.seconds += 20
    assert margin.seconds() == -5.0, "it is over, and nobody has said so"
    margin.over(WHOLE_STORE)
    margin.over(WHOLE_STORE)
    assert margin.seconds() is None


def test_the_clock_does_not_go_back() -> None:
    assert steady_seconds() <= steady_seconds()


def test_a_table_tells_of_its_own_leases_alone() -> None:
    clock = Clock()
    table = LeaseTable(clock)
    table.claim("me")
    assert table.margin_seconds() is None
    lease = table.acquire(3, "me", 10.0)
    clock.seconds += 4
    assert table.margin_seconds() == 6.0
    kept = LeaseTable(clock, kept=table._held)
    assert kept.margin_seconds() is None, "those are of a process that has ended"
    table.release(lease)
    assert table.margin_seconds() is None
