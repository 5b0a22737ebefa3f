"""What an owner remembers of its newest commits, to write them again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from persistence.records import Fence
from persistence.redis_history import BeyondRecall, History, Written

FENCE = Fence("test", 1, "nonce")


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def written(*numbers: tuple[int, int], size: int = 1) -> Written:
    return Written(b"x" * size, ("key",), FENCE, dict(numbers))


def filled(history: History, *commits: Written) -> Sequence[Written]:
    for one in commits:
        history.add(one)
    return commits


def test_nothing_is_missing_where_all_counts_are_as_they_were_or_higher() -> None:
    history = History()
    filled(history, written((1, 1), (2, 1)), written((1, 2)))
    assert history.expected(1) == 2
    assert not history.is_beyond({1: 2, 2: 5})
    assert history.missing({1: 2, 2: 5}) == []


def test_what_was_written_after_the_counts_is_missing_in_its_order() -> None:
    history = History()
    commits = filled(history, written((1, 1), (2, 1)), written((2, 2)), written((1, 2), (2, 3)))
    assert history.is_beyond({1: 1, 2: 1})
    assert history.missing({1: 1, 2: 1}) == list(commits[1:])


def test_a_partition_that_nothing_was_written_to_misses_nothing() -> None:
    history = History()
    filled(history, written((1, 7)))
    assert not history.is_beyond({1: 7, 2: 0})


def test_what_was_written_again_counts_under_its_new_number() -> None:
    history = History()
    [first, second] = filled(history, written((1, 12)), written((1, 14)))  # sent twice each: the outcome was unknown
    assert history.missing({1: 10}) == [first, second]
    first.numbers = {1: 11}
    assert history.is_beyond({1: 11}), "cut short in the middle, the rest is missing still"
    assert history.missing({1: 11}) == [second]
    second.numbers = {1: 12}
    history.settle()
    assert history.expected(1) == 12


def test_beyond_its_bytes_the_oldest_is_let_go_and_a_server_that_needs_it_is_refused() -> None:
    history = History(bytes_max=100)
    commits = filled(history, *[written((1, number), size=40) for number in (1, 2, 3)])
    assert history.missing({1: 1}) == list(commits[1:])
    with pytest.raises(BeyondRecall, match="partition 1"):
        history.missing({1: 0})


def test_beyond_its_time_too() -> None:
    clock = Clock()
    history = History(seconds_max=10, now=clock)
    filled(history, written((1, 1)))
    clock.seconds = 11
    [second] = filled(history, written((1, 2)))
    assert history.missing({1: 1}) == [second]
    with pytest.raises(BeyondRecall):
        history.missing({1: 0})


def test_a_partition_that_was_given_back_is_nobody_s_business_here() -> None:
    history = History()
    [_, other] = filled(history, written((1, 5)), written((2, 1)))
    history.forget(1)
    assert history.expected(1) == 0
    assert history.missing({1: 0, 2: 0}) == [other]


def test_a_new_claim_begins_with_nothing() -> None:
    history = History()
    filled(history, written((1, 5)))
    history.clear()
    assert not history.is_beyond({1: 0})
    assert history.missing({1: 0}) == []
