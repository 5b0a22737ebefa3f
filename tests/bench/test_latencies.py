"""Percentiles are read off by nearest rank, from every latency that was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.latencies import Latencies, Percentiles, median, percentile


def test_percentiles_of_a_hundred_known_latencies_are_the_ranks_themselves() -> None:
    latencies = Latencies(milliseconds / 1000 for milliseconds in range(100, 0, -1))
    assert latencies.percentiles() == Percentiles(p50_ms=50.0, p99_ms=99.0, max_ms=100.0)


def test_a_single_latency_is_every_percentile() -> None:
    assert Latencies([0.25]).percentiles() == Percentiles(250.0, 250.0, 250.0)


def test_no_latencies_give_zeros_rather_than_an_error() -> None:
    assert Latencies().percentiles() == Percentiles(0.0, 0.0, 0.0)


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=200),
    st.floats(min_value=0, max_value=1, exclude_min=True),
)
def test_a_percentile_is_a_measured_value_that_enough_others_do_not_exceed(
    values: list[float], fraction: float
) -> None:
    ordered = sorted(values)
    found = percentile(ordered, fraction)
    assert found in values
    assert sum(value <= found for value in values) >= fraction * len(values) * (1 - 1e-12)
    assert sum(value < found for value in values) < fraction * len(values)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError):
        percentile([1.0], fraction)


def test_one_disturbed_round_does_not_move_the_median() -> None:
    assert median([10.0, 11.0, 900.0]) == 11.0
