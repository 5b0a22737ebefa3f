"""`make faults`: ``python -m tests.faults [--row WORDS]... [--runs N] [--json FILE]``.

Exit code 1: a promise was broken, or a control found nothing, so that the harness is. 2: it could not be tried.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import click
import structlog
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.faults.child import HarnessFailed
from tests.faults.fault import Fault, Outcome, Trial
from tests.faults.harness import try_fault
from tests.faults.report import table_of, write_trial
from tests.faults.rows import ROWS

_WIDTH = 190  # of the table where there is no terminal


@click.command()
@click.option("--row", "words", multiple=True, help="Only rows with these words in their names; may be repeated.")
@click.option("--runs", type=click.IntRange(1), help="So many runs of each row.  [default: each row's own]")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), default="/dev/null")
def main(words: tuple[str, ...], runs: int | None, json_path: Path) -> None:
    """Try every fault, and each of its negative controls; print a table."""
    # What the runtime says of failures that are made here on purpose would only hide the table.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = [fault for fault in ROWS if not words or any(word in fault.name for word in words)]
    if not rows:
        raise click.UsageError("no row has these words in its name: " + "; ".join(fault.name for fault in ROWS))
    outcomes = _try_all(rows, runs, json_path)
    console = Console()
    Console(width=None if console.is_terminal else _WIDTH).print(table_of(outcomes))
    for outcome in outcomes:
        for trial in outcome.sum.trials:
            if trial.lost or trial.broken:
                said = "; ".join(trial.broken[:3])
                click.echo(f"{outcome.fault.name} [{trial.at}]: {trial.lost} lost. {said}", err=True)
    if not all(outcome.is_well for outcome in outcomes):
        sys.exit(1)


def _try_all(rows: list[Fault], runs: int | None, json_path: Path) -> list[Outcome]:
    outcomes = []
    stderr = Console(stderr=True, soft_wrap=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        json_path.open("a") as lines,
        Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar,
    ):
        task = bar.add_task("starting")
        for fault in rows:
            tried = 0

            def hear(fault: Fault, control: str, trial: Trial) -> None:
                nonlocal tried
                tried += 1
                write_trial(lines, fault.name, control, trial)
                bar.update(task, description=f"{fault.name}: {tried} runs {f'({control})' if control else ''}")

            began = time.monotonic()
            bar.update(task, description=fault.name)
            outcome = try_fault(
                fault,
                runs=runs or fault.runs,
                control_runs=fault.control_runs,
                hear=hear,
            )
            seconds = time.monotonic() - began
            stderr.print(f"{fault.name}: {outcome.verdict.value} ({tried} runs with controls, {seconds:.0f} s)")
            outcomes.append(outcome)
    return outcomes


if __name__ == "__main__":
    try:
        main()
    except HarnessFailed as error:
        click.echo(f"faults: {error}", err=True)
        sys.exit(2)
