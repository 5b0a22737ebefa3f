"""Values are counted in the bucket that they belong to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from persistence.buckets import Buckets

INFINITY = float("inf")


def test_a_value_belongs_to_the_first_bound_that_it_does_not_exceed() -> None:
    buckets = Buckets((1.0, 10.0))
    for value in (0.0, 1.0, 1.5, 10.0, 11.0):
        buckets.add(value)
    assert list(buckets.cumulative()) == [(1.0, 2), (10.0, 4), (INFINITY, 5)]
    assert (buckets.count, buckets.total) == (5, 23.5)


@given(st.lists(st.floats(0, 1000)))
def test_cumulative_counts_are_those_of_the_values(values: list[float]) -> None:
    buckets = Buckets()
    for value in values:
        buckets.add(value)
    for bound, seen in buckets.cumulative():
        assert seen == sum(value <= bound for value in values)
