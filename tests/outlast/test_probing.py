"""The store is probed as often as it can bear, however many ask; and who asks is answered in time.

Method: a memory store whose probes are counted, and held up or failed by the test.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from outlast.probing import Probe, StoreProber, free_bytes_of
from persistence.memory import MemoryStore
from persistence.records import StoreHealth
from persistence.store import StoreUnavailable


class Probed(MemoryStore):
    """A store whose probes take time, and may fail."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        super().__init__()
        self.probes = 0
        self.seconds = seconds
        self.failure: StoreUnavailable | None = None

    async def probe(self) -> StoreHealth:
        self.probes += 1
        await trio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        return await super().probe()


async def test_one_probe_serves_all_who_ask_at_once_and_for_a_while(autojump_clock: MockClock) -> None:
    store = Probed(seconds=0.5)
    prober = StoreProber(store, fresh_seconds=5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        async with trio.open_nursery() as asking:
            for _ in range(100):
                asking.start_soon(prober.probe)
        await prober.probe()
        assert store.probes == 1
        await trio.sleep(5.0)
        await prober.probe()
        assert store.probes == 2
        nursery.cancel_scope.cancel()


async def test_without_a_while_in_which_it_is_good_each_question_is_a_probe(autojump_clock: MockClock) -> None:
    store = Probed()
    prober = StoreProber(store, fresh_seconds=0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        for _ in range(3):
            await prober.probe()
        assert store.probes == 3
        nursery.cancel_scope.cancel()


async def test_a_store_that_does_not_answer_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    store = Probed(seconds=60.0)
    prober = StoreProber(store, wait_seconds=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        assert (await prober.probe()).problem == "no answer for 2.0 s"
        assert trio.current_time() == pytest.approx(2.0)
        assert (await prober.probe()).problem == "no answer for 2.0 s"  # at once: two seconds are over
        assert trio.current_time() == pytest.approx(2.0)
        await trio.sleep(58.0)
        await wait_all_tasks_blocked()
        assert (await prober.probe()).problem == ""
        assert store.probes == 1
        nursery.cancel_scope.cancel()


async def test_a_failed_probe_says_why(autojump_clock: MockClock) -> None:
    store = Probed()
    store.failure = StoreUnavailable("connection refused")
    prober = StoreProber(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prober.run)
        assert await prober.probe() == Probe(0.0, None, "connection refused")
        nursery.cancel_scope.cancel()


def test_room_is_told_of_what_lies_on_a_device() -> None:
    assert (free_bytes_of("sqlite:/tmp/outlast.db") or 0) > 0
    assert free_bytes_of("sqlite:/no/such/place/outlast.db") is None
    assert free_bytes_of("redis://localhost") is None
