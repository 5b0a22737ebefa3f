"""Asserts in the contract suite explain themselves as those of test files do; and the mark `jumping_time`.

pytest-trio takes a clock from a test's own arguments only. A module marked `jumping_time` has `autojump_clock` for all
of its tests, also for those that it imports from the contract suite.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.abc
import trio.testing

pytest.register_assert_rewrite(
    "tests.persistence.contract", "tests.persistence.lease_contract", "tests.persistence.faulty"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "jumping_time: run on a clock that jumps to the next deadline")


@pytest.hookimpl(trylast=True)  # after pytest-trio has put its own mark on every test
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("jumping_time") is not None:
            item.add_marker(pytest.mark.trio(run=_run), append=False)


def _run(
    function: Callable[[], Awaitable[None]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> None:
    trio.run(function, clock=clock or trio.testing.MockClock(autojump_threshold=0), instruments=instruments)
