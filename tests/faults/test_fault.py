"""The judgement: what makes a row green, and what makes the harness itself worthless."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.faults.fault import Control, Fault, Outcome, Trial, Verdict
from tests.faults.harness import try_fault
from tests.faults.report import cells_of

KEPT, LOST, BROKEN, EMPTY = Trial(10, 0), Trial(10, 1), Trial(10, 0, ("torn",)), Trial(0, 0)


def outcome_of(own: Trial, control: Trial, *, missing: str = "") -> Outcome:
    """Try a fault whose runs come out as said."""

    def run(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
        for _ in range(runs):
            yield control if weakness else own

    fault = Fault("name", "promise", run, 2, (Control("weak", "words"),), missing=lambda: missing)
    return try_fault(fault, runs=2, control_runs=2)


@pytest.mark.parametrize("control", [LOST, BROKEN])
def test_kept_needs_nothing_lost_and_a_control_that_shows(control: Trial) -> None:
    assert outcome_of(KEPT, control).verdict is Verdict.KEPT


@pytest.mark.parametrize("own", [LOST, BROKEN])
def test_one_lost_fact_or_broken_promise_is_enough(own: Trial) -> None:
    outcome = outcome_of(own, LOST)
    assert outcome.verdict is Verdict.BROKEN
    assert not outcome.is_well


def test_control_that_shows_nothing_condemns_the_harness() -> None:
    outcome = outcome_of(KEPT, KEPT)
    assert outcome.verdict is Verdict.BLIND
    assert not outcome.is_well


def test_row_without_a_control_condemns_the_harness() -> None:
    assert attrs.evolve(outcome_of(KEPT, LOST), controls=()).verdict is Verdict.BLIND


def test_row_that_acknowledged_nothing_says_nothing() -> None:
    assert outcome_of(EMPTY, LOST).verdict is Verdict.EMPTY


def test_what_is_not_at_hand_is_said_and_not_tried() -> None:
    outcome = outcome_of(LOST, KEPT, missing="needs root")
    assert outcome.verdict is Verdict.NOT_RUN
    assert outcome.is_well
    assert cells_of(outcome)[0][5] == "not run: needs root"


def test_table_counts_all_runs() -> None:
    [cells] = cells_of(outcome_of(KEPT, LOST))
    assert cells == ("name", "2", "20", "0", "0", "kept", "words", "2 of 20", "0")
