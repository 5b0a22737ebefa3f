"""Supervision: who is restarted, how often that is ordinary, and what happens then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.supervisor import ChildSpec, Restart, RestartHistory, RestartIntensity, SupervisorGaveUp, supervise


class Crash(Exception):
    pass


def crashing(times: int, runs: list[float]) -> Callable[[], Awaitable[None]]:
    """Give a child that crashes so often, then ends by itself."""

    async def run() -> None:
        runs.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(runs) <= times:
            raise Crash(f"crash {len(runs)}")

    return run


def test_restarts_beyond_the_intensity_are_one_too_many() -> None:
    intensity = RestartIntensity(restarts=2, period_seconds=10.0)
    history = RestartHistory().add(0.0, intensity)
    assert history is not None
    history = history.add(1.0, intensity)
    assert history is not None

    assert history.add(2.0, intensity) is None


def test_restarts_older_than_the_period_are_forgotten() -> None:
    intensity = RestartIntensity(restarts=2, period_seconds=10.0)

    # At 10.5 the restart at 0 is 10.5 s old and forgotten, the one at 1 is 9.5 s old and counts.
    assert RestartHistory((0.0, 1.0)).add(10.5, intensity) == RestartHistory((1.0, 10.5))


def test_no_restarts_means_none() -> None:
    assert RestartHistory().add(0.0, RestartIntensity(restarts=0)) is None


@given(
    st.lists(st.floats(0.0, 100.0), max_size=30).map(sorted),
    st.integers(0, 5),
    st.floats(0.1, 50.0),
)
def test_never_more_restarts_in_a_period_than_allowed(crashes: list[float], restarts: int, period: float) -> None:
    intensity = RestartIntensity(restarts, period)
    history = RestartHistory()
    restarted: list[float] = []
    for at in crashes:
        grown = history.add(at, intensity)
        if grown is None:
            recent = [one for one in restarted if at - one <= period]
            assert len(recent) >= restarts, "given up, though there were fewer"
            break
        history = grown
        restarted.append(at)
        assert len([one for one in restarted if at - one <= period]) <= restarts


async def test_transient_child_is_restarted_after_a_crash_until_it_ends() -> None:
    runs: list[float] = []

    await supervise(ChildSpec("child", crashing(3, runs)))

    assert len(runs) == 4


async def test_temporary_child_is_never_restarted() -> None:
    runs: list[float] = []

    await supervise(ChildSpec("child", crashing(1, runs), Restart.TEMPORARY))

    assert len(runs) == 1


async def test_permanent_child_is_restarted_even_when_it_ends(autojump_clock: MockClock) -> None:
    runs: list[float] = []

    async def run() -> None:
        runs.append(trio.current_time())
        if len(runs) == 5:
            await trio.sleep_forever()

    with trio.move_on_after(1.0):
        await supervise(ChildSpec("child", run, Restart.PERMANENT))

    assert len(runs) == 5


async def test_permanent_child_that_ends_at_once_lets_others_run(autojump_clock: MockClock) -> None:
    async def run() -> None:
        pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, ChildSpec("child", run, Restart.PERMANENT))
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


async def test_crash_loop_ends_in_giving_up() -> None:
    runs: list[float] = []

    with pytest.raises(SupervisorGaveUp, match="child crashed 4 times") as raised:
        await supervise(ChildSpec("child", crashing(100, runs)))

    assert len(runs) == 4
    assert isinstance(raised.value.__cause__, Crash)


async def test_giving_up_is_told_where_someone_wants_to_hear() -> None:
    runs: list[float] = []
    told: list[Exception] = []

    await supervise(ChildSpec("child", crashing(100, runs), gave_up=told.append))

    assert [str(error) for error in told] == ["crash 4"]


async def test_rare_crashes_are_forgiven_for_ever(autojump_clock: MockClock) -> None:
    runs: list[float] = []

    async def run() -> None:
        runs.append(trio.current_time())
        await trio.sleep(30.0)  # three restarts a minute are ordinary: at 0, 30, 60, ... two are within any 60 s
        raise Crash("now and then")

    with trio.move_on_after(1500.0):
        await supervise(ChildSpec("child", run))

    assert len(runs) == 50


async def test_cancelled_child_is_not_restarted() -> None:
    runs: list[float] = []

    async def run() -> None:
        runs.append(trio.current_time())
        try:
            await trio.sleep_forever()
        finally:
            raise Crash("while it was cancelled")

    with trio.CancelScope() as scope:
        scope.cancel()
        await supervise(ChildSpec("child", run))

    assert len(runs) == 1


async def test_children_that_are_alike_share_a_spec() -> None:
    told: list[tuple[str, str]] = []

    async def run(child: str) -> None:
        told.append((child, "runs"))
        if child == "sick":
            raise Crash("always")

    spec = ChildSpec(
        "child",
        run,
        intensity=RestartIntensity(restarts=1),
        gave_up=lambda child, error: told.append((child, f"gave up: {error}")),
        ended=lambda child: told.append((child, "ended")),
    )
    await supervise(spec, "well")
    await supervise(spec, "sick")

    well, sick = [("well", "runs"), ("well", "ended")], [("sick", "runs"), ("sick", "runs")]
    assert told == [*well, *sick, ("sick", "gave up: always"), ("sick", "ended")]


async def test_end_of_a_cancelled_child_is_told() -> None:
    ended: list[str] = []

    with trio.CancelScope() as scope:
        scope.cancel()
        await supervise(ChildSpec("child", trio.sleep_forever, ended=lambda: ended.append("child")))

    assert ended == ["child"]
