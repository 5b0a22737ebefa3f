"""Worlds from seeds: no promise is broken in any of them, and each protection, taken away, is missed by a checker.

A world that breaks a promise says which, and how to live through it again: ``python -m tests.simulation --seed N``.
The controls are small worlds, in which one thing is made worse on purpose; within a few seeds it must show, and by what
it breaks, not by accident. Longer runs are for `python -m tests.simulation --seeds 1000`.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import trio
from trio.testing import MockClock

from tests.simulation.sim_store import Lies
from tests.simulation.standstill import Standstill
from tests.simulation.surroundings import Habits
from tests.simulation.world import Plan, Report, simulate

SEEDS = range(1, 21)
CONTROL_SEEDS = range(1, 9)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_promise_is_broken_in_a_world_of_crashes_and_bad_days(seed: int) -> None:
    report = simulate(Plan(seed=seed, hours=0.05))
    assert not report.violations, str(report)
    assert report.counts["ends by crash"] >= 4
    assert report.counts["calls that came to RESULT"] > 100
    assert report.counts["events heard"] > 100


def test_the_same_seed_gives_the_same_world() -> None:
    first, second, other = (simulate(small_world(seed)) for seed in (1, 1, 2))
    assert first == second
    assert first.digest != other.digest


@pytest.mark.parametrize(
    "missed",
    [
        r"client\S+ \(.{6}\): was acknowledged, and is not kept",
        r"update u\d+ was acknowledged, and is not kept",
        r"event e\d+ was acknowledged, and is not kept",
        r"was shown, and was never kept|was shown as .* and is kept as",
    ],
    ids=["session", "update", "emitted event", "shown event"],
)
def test_without_the_gate_a_crash_loses_what_clients_were_told(missed: str) -> None:
    habits = Habits(first_use_after_seconds=3.0)
    assert_found(missed, [small_world(seed, gate_open_always=True, habits=habits) for seed in CONTROL_SEEDS])


def test_a_store_that_acknowledges_before_it_writes_is_found_out() -> None:
    lies = Lies(early_acknowledgement=True)
    missed = r"was acknowledged, and is not kept|was shown, and was never kept"
    assert_found(missed, [small_world(seed, lies=lies) for seed in CONTROL_SEEDS])


def test_a_store_that_writes_half_a_commit_is_found_out() -> None:
    lies = Lies(torn_commits=True)
    assert_found(r"the snapshot counts log entries", [small_world(seed, lies=lies) for seed in CONTROL_SEEDS])


def test_a_reader_that_skips_an_event_is_found_out() -> None:
    habits = Habits(skips=True)
    skipped = r"after event \d+ came event \d+, and no loss was announced"
    assert_found(skipped, [small_world(seed, habits=habits) for seed in CONTROL_SEEDS])


def test_a_reader_that_repeats_an_event_is_found_out() -> None:
    habits = Habits(repeats=True)
    assert_found(r"after event (\d+) came event \1$", [small_world(seed, habits=habits) for seed in CONTROL_SEEDS])


def test_a_link_that_sends_again_is_found_out() -> None:
    assert_found(r"call \S+ ran \d+ times", [small_world(seed, links_resend=True) for seed in CONTROL_SEEDS])


def test_without_a_weakness_the_worlds_of_the_controls_break_nothing() -> None:
    for seed in CONTROL_SEEDS[:4]:
        report = simulate(small_world(seed))
        assert not report.violations, str(report)


def test_a_broken_promise_names_the_seed_and_how_to_replay_it() -> None:
    report = Report(7, small_world(7).arguments, ["client1.1: update u1 was acknowledged, and is not kept"])
    assert "python -m tests.simulation --seed 7 --sessions 10 --hours 0.06 --ends 3" in str(report)
    assert "update u1 was acknowledged" in str(report)


def test_time_that_stands_still_is_noticed() -> None:
    clock, scope = MockClock(autojump_threshold=0), trio.CancelScope()
    standstill = Standstill(clock, scope)

    async def spin() -> None:
        with scope:
            while True:
                await trio.lowlevel.checkpoint()

    trio.run(spin, clock=clock, instruments=[standstill])
    assert "spin" in standstill.culprit


def small_world(
    seed: int,
    *,
    gate_open_always: bool = False,
    lies: Lies = Lies(),
    habits: Habits = Habits(),
    links_resend: bool = False,
) -> Plan:
    return Plan(
        seed=seed,
        sessions=10,
        hours=0.06,
        ends=3,
        gate_open_always=gate_open_always,
        lies=lies,
        habits=habits,
        links_resend=links_resend,
    )


@cache
def live_through(plan: Plan) -> Report:
    """Simulate once what several tests look at."""
    return simulate(plan)


def assert_found(pattern: str, plans: list[Plan]) -> None:
    """Live through one world after another, until what is looked for has shown."""
    reports: list[Report] = []
    for plan in plans:
        reports.append(live_through(plan))
        if any(re.search(pattern, text) for text in reports[-1].violations):
            return
    pytest.fail("\n".join(["not found in any of these worlds:", *map(str, reports)]))
