"""The watchdog reports a standstill once, with the stack of what held the loop."""

from __future__ import annotations

import threading

import trio

from outlast.watchdog import BEAT_SECONDS, Lag, Watchdog


class Time:
    """A clock turned by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_beat_in_time_is_not_reported() -> None:
    time, lags = Time(), list[Lag]()
    watchdog = Watchdog(lag_seconds=0.25, report=lags.append, now=time)
    time.seconds += BEAT_SECONDS + 0.2
    watchdog.listen_once()
    assert lags == []


def test_a_late_beat_is_reported_once_with_the_stack_that_held_the_loop() -> None:
    time, lags = Time(), list[Lag]()
    watchdog = Watchdog(lag_seconds=0.25, report=lags.append, now=time)
    time.seconds += BEAT_SECONDS + 0.5
    watchdog.listen_once()
    watchdog.listen_once()
    assert [round(lag.seconds, 3) for lag in lags] == [0.5]
    assert "test_a_late_beat_is_reported_once" in lags[0].stack
    assert watchdog.standstills == 1


async def test_the_next_standstill_is_reported_again(autojump_clock: trio.testing.MockClock) -> None:
    time, lags = Time(), list[Lag]()
    watchdog = Watchdog(lag_seconds=0.25, report=lags.append, now=time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.run)
        await trio.testing.wait_all_tasks_blocked()
        for expected in (1, 2):
            time.seconds += 1.0
            watchdog.listen_once()  # its own thread may have been first: a standstill counts once all the same
            assert watchdog.standstills == expected
            await trio.sleep(BEAT_SECONDS * 2)
        nursery.cancel_scope.cancel()


async def test_the_listening_thread_ends_with_the_watchdog() -> None:
    before = threading.enumerate()  # another test's may still be on its way out
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Watchdog(report=lambda lag: None).run)
        await trio.testing.wait_all_tasks_blocked()
        (thread,) = [
            thread for thread in threading.enumerate() if thread.name == "outlast-watchdog" and thread not in before
        ]
        nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await trio.to_thread.run_sync(thread.join)
    assert not thread.is_alive()
