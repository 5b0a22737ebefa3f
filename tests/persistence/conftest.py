"""The mark `jumping_time`, and what several files share.

pytest-trio takes a clock from a test's own arguments only. A module marked `jumping_time` has `autojump_clock` for all
of its tests, also for those that it imports from the contract suite.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import trio
import trio.abc
import trio.testing

from persistence.memory import MemoryStore
from tests.persistence.desk import Desk, open_desk
from tests.persistence.faulty import FaultyStore


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "jumping_time: run on a clock that jumps to the next deadline")


@pytest.hookimpl(trylast=True)  # after pytest-trio has put its own mark on every test
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("jumping_time") is not None:
            item.add_marker(pytest.mark.trio(run=_run), append=False)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A writer at work on a store in memory whose commits take a second."""
    async with trio.open_nursery() as nursery:
        yield await open_desk(nursery, FaultyStore(MemoryStore(), commit_seconds=1))
        nursery.cancel_scope.cancel()


def _run(
    function: Callable[[], Awaitable[None]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> None:
    trio.run(function, clock=clock or trio.testing.MockClock(autojump_threshold=0), instruments=instruments)
