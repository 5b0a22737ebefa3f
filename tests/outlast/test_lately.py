"""The worst of late is remembered for one window at least, and for two at most."""

from __future__ import annotations

from outlast.lately import WorstLately


def test_what_is_long_ago_is_forgotten() -> None:
    lately = WorstLately(60.0)
    lately.note(3.0, 10.0)
    lately.note(1.0, 20.0)
    assert lately.worst(59.0) == 3.0
    assert lately.worst(119.0) == 3.0
    lately.note(0.5, 119.0)
    assert lately.worst(120.0) == 0.5
    assert lately.worst(1000.0) == 0.0
