"""Rounds become medians, errors add up, and a run with a wrong answer is a failed one."""

from __future__ import annotations

import io

from rich.console import Console

from bench.calls import CallsPlan, CallsRow, report, summarize, table
from bench.cores import Cores, assign
from bench.load import Measured


def _measured(calls: int, cpu_seconds: float, **errors: int) -> Measured:
    return Measured(
        sessions=32,
        calls=calls,
        seconds=2.0,
        cpu_seconds=cpu_seconds,
        p50_ms=1.0,
        p99_ms=2.0,
        max_ms=3.0,
        opening_seconds=0.1,
        errors=errors,
    )


def test_rounds_become_medians_and_errors_add_up() -> None:
    # 20,000 calls in 2 s with 2.0 s of CPU: 10,000 calls/s at 0.1 ms; the second round is disturbed
    rounds = [_measured(20_000, 2.0), _measured(2_000, 2.0, lost=1), _measured(20_000, 2.4, lost=2, wrong=1)]
    row = summarize("relay", 32, rounds)
    assert row.calls_per_second == 10_000
    assert row.cpu_ms_per_call == 0.12
    assert (row.cpu_ms_lowest, row.cpu_ms_highest) == (0.1, 1.0)
    assert row.errors == {"lost": 3, "wrong": 1}


def test_a_window_without_calls_divides_by_nothing() -> None:
    row = summarize("relay", 1, [_measured(0, 0.0)])
    assert (row.calls_per_second, row.cpu_ms_per_call) == (0.0, 0.0)


def test_wrong_answers_and_silence_are_problems_and_right_answers_are_not() -> None:
    plan = CallsPlan(("relay",))
    right = summarize("relay", 32, [_measured(100, 0.1)])
    wrong = summarize("relay", 32, [_measured(100, 0.1, wrong=1)])
    silent = summarize("relay", 32, [_measured(0, 0.0)])
    assert report(plan, [right]).problems == []
    assert report(plan, [right, wrong]).problems == ["relay, 32 sessions: {'wrong': 1}"]
    assert report(plan, [silent]).problems == ["relay, 32 sessions: no calls"]


def test_the_table_tells_cost_as_a_multiple_of_the_bare_relay_at_the_same_sessions() -> None:
    def row(target: str, sessions: int, cpu_ms: float) -> CallsRow:
        return CallsRow(target, sessions, 1000.0, 1.0, 2.0, cpu_ms, cpu_ms, cpu_ms, {})

    shown = io.StringIO()
    rows = [row("relay", 1, 0.2), row("relay", 32, 0.1), row("gateway", 32, 0.25)]
    Console(file=shown, width=120).print(table(rows))
    gateway = next(line for line in shown.getvalue().splitlines() if "gateway" in line)
    assert [cell.strip() for cell in gateway.split("│")[1:-1]] == [
        "gateway",
        "32",
        "1,000",
        "1.00",
        "2.00",
        "0.250",
        "0.250-0.250",
        "2.5",
        "0",
    ]


def test_with_two_cores_the_measured_process_has_one_for_itself() -> None:
    assert assign(frozenset({3, 1, 2})) == Cores(measured=1, measuring=2)


def test_with_one_core_nothing_is_pinned() -> None:
    assert assign(frozenset({0})) == Cores(None, None)
