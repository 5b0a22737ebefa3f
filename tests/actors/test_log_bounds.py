"""The log keeps so many events and so many bytes, and always what was said last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.log_bounds import SEGMENTS, extended
from actors.state import Limits, LogState

sizes = st.lists(st.integers(0, 400), max_size=200)


def _kept(log: LogState, written: list[int]) -> list[int]:
    """Give the sizes of the events that are kept, by plain counting."""
    return written[log.trimmed_through :]


@given(sizes, st.integers(1, 50), st.integers(SEGMENTS, 2000))
def test_what_is_kept_is_bounded_in_events_and_bytes(written: list[int], events_max: int, bytes_max: int) -> None:
    limits = Limits(events_per_session_max=events_max, events_bytes_max=bytes_max)
    log = LogState(epoch=1)
    for count, size in enumerate(written, start=1):
        log = extended(log, size, limits)
        kept = _kept(log, written[:count])
        assert kept, "the newest event is always there"
        assert len(kept) <= events_max
        assert sum(kept[:-1]) <= bytes_max + bytes_max // SEGMENTS
        assert len(log.segments) <= 3 * SEGMENTS + 1, "the state stays small"
    assert log.next_sequence == len(written) + 1


@given(sizes)
def test_nothing_is_trimmed_before_a_bound_is_reached(written: list[int]) -> None:
    limits = Limits(events_per_session_max=200, events_bytes_max=400 * 200)
    log = LogState(epoch=1)
    for size in written:
        log = extended(log, size, limits)
    assert log.trimmed_through == 0


def test_one_event_larger_than_the_bound_is_kept_until_the_next() -> None:
    limits = Limits(events_bytes_max=1600)
    log = extended(LogState(epoch=1), 10_000, limits)
    assert log.trimmed_through == 0
    log = extended(log, 1, limits)
    assert log.trimmed_through == 1
