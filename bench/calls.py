"""`bench calls`: tools/call through the gateway, against the same upstream directly and against two bare servers.

Rounds are interleaved: every round measures every target once at every number of sessions, so that a slow minute of the
machine strikes all alike. Of the rounds, medians are told. CPU time per call is the number to look at: it hardly moves
when a neighbour is busy, while rates and latencies do.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs
from rich.table import Table

from bench import cores as cores_of
from bench.children import run_to_end
from bench.cores import Cores
from bench.latencies import median
from bench.load import Measured
from bench.report import Report, table_of
from bench.targets import RELAY, Target, targets

LOAD_SECONDS_EXTRA_MAX = 60.0  # opening, draining and closing many sessions, beside the window itself


@attrs.frozen
class CallsPlan:
    """What `bench calls` is to do."""

    targets: tuple[str, ...]
    sessions: tuple[int, ...] = (1, 32, 256)
    rounds: int = 3
    seconds: float = 3.0
    sse: bool = False

    @property
    def steps(self) -> int:
        """How many windows are measured in all."""
        return self.rounds * len(self.sessions) * len(self.targets)


@attrs.frozen
class CallsRow:
    """The medians of one target's rounds at one number of sessions."""

    target: str
    sessions: int
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_call: float  # the same number: CPU seconds per 1,000 calls
    cpu_ms_lowest: float
    cpu_ms_highest: float
    errors: dict[str, int]  # of all rounds


def measure(plan: CallsPlan, *, on_step: Callable[[str], None]) -> list[CallsRow]:
    """Start everything, measure all rounds, end everything.

    Args:
      plan: what to do.
      on_step: called with a few words after each measured window.

    Raises:
      bench.children.ChildFailed: something did not start, or the load broke down.
    """
    cores = cores_of.assign(cores_of.available())
    rounds: dict[tuple[str, int], list[Measured]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="outlast-bench-") as folder,
        targets(plan.targets, folder=Path(folder), cores=cores, sse=plan.sse) as running,
    ):
        for _ in range(plan.rounds):
            for sessions in plan.sessions:
                for target in running:
                    measured = put_load(target, sessions, plan.seconds, cores)
                    rounds.setdefault((target.name, sessions), []).append(measured)
                    on_step(f"{target.name}, {sessions} sessions")
    return [summarize(name, sessions, measured) for (name, sessions), measured in sorted(rounds.items(), key=_order)]


def put_load(target: Target, sessions: int, seconds: float, cores: Cores) -> Measured:
    """Measure one window in a generator process of its own.

    Raises:
      bench.children.ChildFailed
    """
    arguments = ["bench.load", "--url", target.url, "--sessions", str(sessions), "--seconds", str(seconds)]
    arguments += ["--watched-pid", str(target.pid), *(["--token", target.token] if target.token else [])]
    seconds_max = seconds + LOAD_SECONDS_EXTRA_MAX
    output = run_to_end(f"load on {target.name}", arguments, core=cores.measuring, seconds_max=seconds_max)
    return Measured(**json.loads(output))


def summarize(target: str, sessions: int, rounds: Sequence[Measured]) -> CallsRow:
    """Take the medians of several rounds; errors add up."""
    cpu = [measured.cpu_ms_per_call for measured in rounds]
    errors: Counter[str] = Counter()
    for measured in rounds:
        errors.update(measured.errors)
    return CallsRow(
        target=target,
        sessions=sessions,
        calls_per_second=median([measured.calls_per_second for measured in rounds]),
        p50_ms=median([measured.p50_ms for measured in rounds]),
        p99_ms=median([measured.p99_ms for measured in rounds]),
        cpu_ms_per_call=median(cpu),
        cpu_ms_lowest=min(cpu),
        cpu_ms_highest=max(cpu),
        errors=dict(errors),
    )


def report(plan: CallsPlan, rows: Sequence[CallsRow]) -> Report:
    """Make the run's record."""
    problems = [f"{row.target}, {row.sessions} sessions: {row.errors}" for row in rows if row.errors]
    problems += [f"{row.target}, {row.sessions} sessions: no calls" for row in rows if not row.calls_per_second]
    return Report("calls", attrs.asdict(plan), [attrs.asdict(row) for row in rows], problems)


def table(rows: Sequence[CallsRow]) -> Table:
    """Show the run, with each target's CPU time as a multiple of the bare relay's where that was measured."""
    floors = {row.sessions: row.cpu_ms_per_call for row in rows if row.target == RELAY}
    columns = ["target", "sessions", "calls/s", "p50 ms", "p99 ms", "CPU ms/call", "of rounds", "x relay", "errors"]
    return table_of(
        "tools/call (CPU ms per call = CPU seconds per 1,000 calls)",
        columns,
        [_cells(row, floors.get(row.sessions, 0.0)) for row in rows],
    )


def _cells(row: CallsRow, floor: float) -> list[str]:
    return [
        row.target,
        str(row.sessions),
        f"{row.calls_per_second:,.0f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.cpu_ms_per_call:.3f}",
        f"{row.cpu_ms_lowest:.3f}-{row.cpu_ms_highest:.3f}",
        f"{row.cpu_ms_per_call / floor:.1f}" if floor else "",
        _counts(row.errors.items()),
    ]


def _counts(errors: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in errors) or "0"


def _order(entry: tuple[tuple[str, int], object]) -> tuple[int, str]:
    """By number of sessions first: what is to be compared stands together."""
    (name, sessions), _ = entry
    return sessions, name
