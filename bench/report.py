"""The report of a run: a table for people, one line of JSON for programs and for later.

Every run is appended to `bench/results/<measurement>.jsonl`, with the machine and the revision it was measured on:
a number without them says nothing. Compare ratios within one run rather than absolute rates between runs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


@attrs.frozen
class Report:
    """What one run came to."""

    measurement: str  # calls | commits | rows | memory | start
    settings: Mapping[str, object]  # what it was asked to do
    rows: Sequence[Mapping[str, object]]
    problems: Sequence[str] = ()  # what makes the run worthless: wrong answers, lost facts


def deliver(report: Report, table: Table, *, as_json: bool, results: Path) -> None:
    """Keep a report among the results, and show it.

    Args:
      report: what to keep.
      table: the same for people.
      as_json: print the line of JSON to stdout instead of the table.
      results: the folder to keep it in; made if it is not there.
    """
    line = json.dumps(_record(report))
    results.mkdir(parents=True, exist_ok=True)
    with (results / f"{report.measurement}.jsonl").open("a") as file:
        file.write(line + "\n")
    if as_json:
        print(line)
    else:
        Console(width=_width()).print(table)


def progress() -> Progress:
    """Make a progress bar on stderr that shows itself on a terminal only."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table whose first column is words, and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _record(report: Report) -> dict[str, object]:
    return {
        "measurement": report.measurement,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "machine": machine(),
        "settings": dict(report.settings),
        "rows": [dict(row) for row in report.rows],
        "problems": list(report.problems),
    }


def machine() -> dict[str, object]:
    """Say what the numbers were measured on."""
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "trio": version("trio"),
        "httptools": version("httptools"),
        "hypercorn": version("hypercorn"),
        "msgspec": version("msgspec"),
    }


def _revision() -> str:
    """The revision of the source that is measured; "" outside a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, timeout=10.0)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()


def _width() -> int | None:
    """A terminal's own width; wide enough for any of our tables where there is none."""
    return None if Console().is_terminal else 120
