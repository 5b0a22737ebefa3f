"""A few runs of every row that needs no root: the promises hold, and the harness would notice if they did not.

All runs, and the rows for root: `make faults`. A machine without strace, or where it is not allowed, sees those rows
as not run, here and there.
"""

from __future__ import annotations

import pytest

from tests.faults.fault import Fault, Verdict
from tests.faults.harness import try_fault
from tests.faults.rows import ROWS

QUICK = [fault for fault in ROWS if fault.quick_runs]


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_nothing_acknowledged_is_lost_and_the_control_loses(fault: Fault) -> None:
    outcome = try_fault(fault, runs=fault.quick_runs, control_runs=fault.quick_control_runs)
    if outcome.missing:
        assert outcome.verdict is Verdict.NOT_RUN
    else:
        assert outcome.verdict is Verdict.KEPT, [trial for trial in outcome.sum.trials if trial.lost or trial.broken]


def test_rows_have_names_of_their_own() -> None:
    assert len({fault.name for fault in ROWS}) == len(ROWS)


def test_each_row_has_a_control() -> None:
    assert [fault.name for fault in ROWS if not fault.controls] == []
