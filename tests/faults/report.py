"""The report: a table for people, a line of JSON for each run."""

from __future__ import annotations

import json
from typing import TextIO

from rich.table import Table

from tests.faults.fault import Outcome, Sum, Trial


def write_trial(file: TextIO, row: str, control: str, trial: Trial) -> None:
    """Write one run as a line of JSON."""
    record = {
        "row": row,
        "control": control,
        "at": trial.at,
        "acknowledged": trial.acknowledged,
        "lost": trial.lost,
        "broken": list(trial.broken),
    }
    file.write(json.dumps(record) + "\n")
    file.flush()


def table_of(outcomes: list[Outcome]) -> Table:
    """Make the table: each fault, and beside it what its controls lost."""
    table = Table(title="faults: acknowledged facts, lost facts", title_justify="left")
    for words, justify in (
        ("fault", "left"),
        ("runs", "right"),
        ("acknowledged", "right"),
        ("lost", "right"),
        ("broken", "right"),
        ("verdict", "left"),
        ("control", "left"),
        ("lost of acknowledged", "right"),
        ("broken", "right"),
    ):
        table.add_column(words, justify="right" if justify == "right" else "left")
    for outcome in outcomes:
        for index, cells in enumerate(cells_of(outcome)):
            table.add_row(*cells, end_section=index == len(outcome.controls) - 1)
    return table


def cells_of(outcome: Outcome) -> list[tuple[str, ...]]:
    """Give the lines of one row: the first with its first control, the others with the rest of them."""
    if outcome.missing:
        return [(outcome.fault.name, "0", "", "", "", f"not run: {outcome.missing}", "", "", "")]
    sum = outcome.sum
    own = (
        outcome.fault.name,
        str(len(sum.trials)),
        f"{sum.acknowledged:,}",
        f"{sum.lost:,}",
        f"{sum.broken:,}",
        outcome.verdict.value,
    )
    blank = ("",) * len(own)
    controls = [_control_cells(control) for control in outcome.controls] or [("none", "", "")]
    return [(*(blank if index else own), *cells) for index, cells in enumerate(controls)]


def _control_cells(control: Sum) -> tuple[str, ...]:
    return (control.name, f"{control.lost:,} of {control.acknowledged:,}", f"{control.broken:,}")
