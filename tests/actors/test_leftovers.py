"""What a session is opened by is over soon, and leaves nothing behind in it.

A context is inherited by every task that is started in it, and holds on to the request that is noted there; a request,
to the task of its connection. Sessions live for days: each that did inherit it would keep 1,600 bytes of a connection
that is long closed.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable, Mapping

import pytest
import trio
from trio.testing import MockClock

from actors.log_context import serving
from tests.actors.worlds import World, open_session, open_world


class Request:
    """Implements `actors.log_context.Served`."""

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()

    def log_fields(self) -> Mapping[str, str]:
        return {}


async def _open_by_a_request(world: World) -> weakref.ref[Request]:
    """Open a session from a task of its own, as a connection's, and give what is left of the request afterwards."""
    left: list[weakref.ref[Request]] = []

    async def connection() -> None:
        request = Request()
        left.append(weakref.ref(request))
        serving(request)
        await open_session(world)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection)
    gc.collect()
    return left[0]


async def test_session_holds_nothing_of_the_request_that_opened_it(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        request = await _open_by_a_request(world)

        assert world.runtime.registry.statistics().resident == 1
        assert request() is None


async def test_in_the_context_of_the_request_it_would(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_within(nursery: trio.Nursery, run: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        nursery.start_soon(run, *args)

    async with open_world() as world:
        monkeypatch.setattr("actors.registry.start_apart", start_within)
        request = await _open_by_a_request(world)

        assert request() is not None
