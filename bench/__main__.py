"""The command line of the measurements: `python -m bench calls | commits | rows | memory | start`.

Exit code 1 means that something was measured and is wrong (an answer, a lost fact); 2, that it could not be measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.table import Table

from bench import calls as calls_of
from bench import commits as commits_of
from bench import memory as memory_of
from bench import rows as rows_of
from bench import start as start_of
from bench.children import ChildFailed
from bench.places import CODECS
from bench.report import RESULTS, Report, deliver, progress
from bench.targets import ALL, HYPERCORN, RELAY, SPEAK_SSE

_as_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON to stdout instead of a table.")
_store_option = click.option(
    "--store", default="sqlite", show_default=True, help="sqlite, or the URL of a Redis server; its keys are removed."
)
_results = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder that keeps every run's line of JSON.  [default: bench/results]",
)


@click.group()
def main() -> None:
    """Measure what is felt."""


@main.command()
@click.option("--target", "names", multiple=True, type=click.Choice(ALL), help="Only this one; may be repeated.")
@click.option("--sessions", multiple=True, type=click.IntRange(1, 4096), default=(1, 32, 256), show_default=True)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.05), help="Of each window.")
@click.option("--sse", is_flag=True, help="The upstream answers by SSE.")
@_as_json
@_results
def calls(
    names: tuple[str, ...],
    sessions: tuple[int, ...],
    rounds: int,
    seconds: float,
    sse: bool,
    as_json: bool,
    results: Path,
) -> None:
    """Measure tools/call through the gateway, directly, and through two bare servers, side by side."""
    if sse and (HYPERCORN in names or RELAY in names):
        raise click.UsageError("the references speak JSON only: with --sse, measure direct and gateway")
    plan = calls_of.CallsPlan(names or (SPEAK_SSE if sse else ALL), sessions, rounds, seconds, sse)
    with progress() as bar:
        task = bar.add_task("starting", total=plan.steps)
        rows = calls_of.measure(plan, on_step=lambda words: bar.update(task, advance=1, description=words))
    _finish(calls_of.report(plan, rows), calls_of.table(rows), as_json, results)


@main.command()
@click.option("--clients", multiple=True, type=click.IntRange(1, 10_000), default=(1, 10, 100, 1000), show_default=True)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0.05), help="Of each window.")
@click.option("--writer-only", is_flag=True, help="The writer and the store alone, without actors.")
@click.option("--folder", default="", help="Where the store lies.  [default: the system's temporary folder]")
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    type=click.Choice(tuple(CODECS)),
    default=("plain",),
    show_default=True,
    help="How records are sealed; may be repeated, to have ratios.",
)
@_store_option
@_as_json
@_results
def commits(
    clients: tuple[int, ...],
    rounds: int,
    seconds: float,
    writer_only: bool,
    folder: str,
    codecs: tuple[str, ...],
    store: str,
    as_json: bool,
    results: Path,
) -> None:
    """Measure durable replies per second: the runtime alone, on a SQLite file with fsync, or on Redis."""
    plan = commits_of.CommitsPlan(
        clients, rounds, seconds, writer_only=writer_only, folder=folder, codecs=codecs, store=store
    )
    with progress() as bar:
        task = bar.add_task("starting", total=plan.steps)
        rows = commits_of.measure(plan, on_step=lambda words: bar.update(task, advance=1, description=words))
    _finish(commits_of.report(plan, rows), commits_of.table(plan, rows), as_json, results)


@main.command()
@click.option("--rows", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Of a batch.")
@click.option("--sessions", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0.05), help="Of each window.")
@click.option("--redis", default="", help="The URL of a Redis server, to be measured too; its keys are removed.")
@click.option("--folder", default="", help="Where the file lies.  [default: the system's temporary folder]")
@click.option(
    "--codec",
    type=click.Choice(tuple(CODECS)),
    default=rows_of.RowsPlan().codec,
    show_default=True,
    help="How records are sealed, also the bare ones.",
)
@_as_json
@_results
def rows(
    rows: int,
    sessions: int,
    rounds: int,
    seconds: float,
    redis: str,
    folder: str,
    codec: str,
    as_json: bool,
    results: Path,
) -> None:
    """Measure rows per second of a store: SQLite, synced; and Redis, fenced, beside a bare pipeline."""
    plan = rows_of.RowsPlan(rows, sessions, rounds, seconds, redis, folder, codec)
    with progress() as bar:
        task = bar.add_task("starting", total=plan.steps)
        measured = rows_of.measure(plan, on_step=lambda words: bar.update(task, advance=1, description=words))
    _finish(rows_of.report(plan, measured), rows_of.table(plan, measured), as_json, results)


@main.command()
@click.option("--resident-sessions", default=10_000, show_default=True, type=click.IntRange(100))
@click.option("--stored-sessions", default=100_000, show_default=True, type=click.IntRange(100))
@_as_json
@_results
def memory(resident_sessions: int, stored_sessions: int, as_json: bool, results: Path) -> None:
    """Measure what an idle session costs the gateway in RAM, in memory and stored."""
    plan = memory_of.MemoryPlan(resident_sessions, stored_sessions)
    with progress() as bar:
        task = bar.add_task("opening sessions", total=plan.steps)
        rows = memory_of.measure(plan, on_step=lambda words: bar.update(task, advance=1, description=words))
    _finish(memory_of.report(plan, rows), memory_of.table(rows), as_json, results)


@main.command()
@click.option("--sessions", multiple=True, type=click.IntRange(1, 10_000_000), default=(1, 100_000), show_default=True)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@_as_json
@_results
def start(sessions: tuple[int, ...], rounds: int, as_json: bool, results: Path) -> None:
    """Measure how soon the gateway is ready with very many stored sessions, and what memory it takes."""
    plan = start_of.StartPlan(sessions, rounds)
    with progress() as bar:
        task = bar.add_task("making a store", total=plan.steps)
        rows = start_of.measure(plan, on_step=lambda words: bar.update(task, advance=1, description=words))
    _finish(start_of.report(plan, rows), start_of.table(rows), as_json, results)


def _finish(report: Report, table: Table, as_json: bool, results: Path) -> None:
    deliver(report, table, as_json=as_json, results=results)
    for problem in report.problems:
        click.echo(f"bench: {problem}", err=True)
    if report.problems:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except ChildFailed as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(2)
