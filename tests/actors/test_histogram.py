"""Durations in buckets: what a quantile may be off by, and that histograms of several processes add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.histogram import BOUNDS_SECONDS, Histogram, merged

lengths = st.lists(st.floats(0.001, 3600.0), min_size=1, max_size=200)


def counted(durations: list[float]) -> Histogram:
    histogram = Histogram()
    for seconds in durations:
        histogram.add(seconds)
    return histogram


@given(lengths, st.sampled_from([0.5, 0.95, 1.0]))
def test_quantile_is_no_less_than_the_true_one_and_less_than_a_fifth_more(durations: list[float], share: float) -> None:
    rank = max(1, -int(-share * len(durations) // 1))  # rounded up
    true = sorted(durations)[rank - 1]
    said = counted(durations).quantile_seconds(share)

    assert true <= said * 1.0000001
    assert said <= true * 1.2


@given(lengths, lengths)
def test_histograms_add_up(some: list[float], others: list[float]) -> None:
    both, total = counted(some + others), merged([counted(some), counted(others)])

    assert total.counts == both.counts
    assert total.sum_seconds == pytest.approx(both.sum_seconds)


def test_mean_is_exact() -> None:
    assert counted([1.0, 2.0, 6.0]).mean_seconds == 3.0


def test_nothing_counted_is_zero() -> None:
    assert Histogram().quantile_seconds(0.95) == Histogram().mean_seconds == 0.0


def test_what_is_longer_than_all_bounds_is_counted_in_the_last_bucket() -> None:
    histogram = counted([1e9])
    assert histogram.counts[-1] == histogram.count == 1
    assert histogram.quantile_seconds(0.5) == BOUNDS_SECONDS[-1] > 3600
