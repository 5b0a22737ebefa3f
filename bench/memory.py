"""`bench memory`: what a session costs the gateway in RAM, by what it is doing.

`resident`: its actor lives, and nothing happens: opened over HTTP by a client that made one call and left no
connection behind; the upstream is reached over HTTP. `stored`: known to the gateway but not in memory, as after
passivation or a restart: an entry of the index. Both are differences of the process's resident memory, divided by
very many sessions, so the interpreter, our code and whatever the allocator keeps for itself at the start are in
neither.

The difference is taken against a gateway that has done the same work already, lest what is there once (code loaded
on first use, pools, the database's page cache) be charged to sessions: for `resident`, with a few sessions, on a
store with so many others that reading its index has filled the page cache; for `stored`, with half of them, which
fill it too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
from rich.table import Table

from bench import cores as cores_of
from bench import stored
from bench.children import Child, run_to_end
from bench.cores import Cores
from bench.procfs import resident_bytes
from bench.report import Report, table_of
from bench.targets import SERVER_ID, gateway_child, mcp_url, upstream_child

RESIDENT = "resident"
STORED = "stored"
WARM_UP_SESSIONS = 200
CACHE_FILLING_SESSIONS = 50_000  # 40 MB of store: more than the page cache holds
POPULATE_SECONDS_MAX = 900.0
_MIB = 1024 * 1024


@attrs.frozen
class MemoryPlan:
    """What `bench memory` is to do."""

    resident_sessions: int = 10_000
    stored_sessions: int = 100_000

    @property
    def steps(self) -> int:
        """How many gateways are measured."""
        return 2


@attrs.frozen
class MemoryRow:
    """One kind of session."""

    kind: str
    sessions: int
    before_bytes: int  # resident memory of the gateway without them
    after_bytes: int
    sessions_per_second: float  # how fast they were opened; 0: they were stored already
    cpu_ms_per_session: float  # for opening one, with its call

    @property
    def bytes_per_session(self) -> float:
        return (self.after_bytes - self.before_bytes) / self.sessions


def measure(plan: MemoryPlan, *, on_step: Callable[[str], None]) -> list[MemoryRow]:
    """Measure both kinds.

    Raises:
      bench.children.ChildFailed: something did not start, or sessions could not be opened.
    """
    cores = cores_of.assign(cores_of.available())
    rows = [_measure_resident(plan.resident_sessions, cores)]
    on_step(RESIDENT)
    rows.append(_measure_stored(plan.stored_sessions, cores))
    on_step(STORED)
    return rows


def _measure_resident(sessions: int, cores: Cores) -> MemoryRow:
    room = str(sessions + WARM_UP_SESSIONS + CACHE_FILLING_SESSIONS + 1)
    settings = {"OUTLAST_RESIDENT_SESSIONS_MAX": room, "OUTLAST_SESSIONS_MAX": room}
    with tempfile.TemporaryDirectory(prefix="outlast-bench-") as name:
        folder = Path(name)
        # Those that only fill the cache belong to a server that is not there, so that they are not brought to life.
        stored.make(folder / "outlast.db", CACHE_FILLING_SESSIONS, server_id="elsewhere")
        with (
            upstream_child(folder=folder, core=cores.measuring) as upstream,
            gateway_child(upstream.url, folder=folder, core=cores.measured, environment=settings) as gateway,
        ):
            _populate(gateway, WARM_UP_SESSIONS, cores)
            before_bytes = resident_bytes(gateway.pid)
            opened = _populate(gateway, sessions, cores)
            return MemoryRow(
                kind=RESIDENT,
                sessions=sessions,
                before_bytes=before_bytes,
                after_bytes=resident_bytes(gateway.pid),
                sessions_per_second=sessions / opened["seconds"],
                cpu_ms_per_session=opened["cpu_seconds"] / sessions * 1000.0,
            )


def _populate(gateway: Child, sessions: int, cores: Cores) -> dict[str, float]:
    """Open sessions, with one call in each, and leave them alone."""
    arguments = ["bench.load", "--populate", "--url", mcp_url(gateway), "--sessions", str(sessions)]
    arguments += ["--watched-pid", str(gateway.pid)]
    output = run_to_end("populating", arguments, core=cores.measuring, seconds_max=POPULATE_SECONDS_MAX)
    measured: dict[str, float] = json.loads(output)
    return measured


def _measure_stored(sessions: int, cores: Cores) -> MemoryRow:
    return MemoryRow(
        kind=STORED,
        sessions=sessions,
        before_bytes=_resident_with_stored(sessions, cores),
        after_bytes=_resident_with_stored(2 * sessions, cores),
        sessions_per_second=0.0,
        cpu_ms_per_session=0.0,
    )


def _resident_with_stored(sessions: int, cores: Cores) -> int:
    """Start a gateway that may hold one session in memory on a store with very many."""
    settings = {"OUTLAST_RESIDENT_SESSIONS_MAX": "1", "OUTLAST_SESSIONS_MAX": str(sessions + 1)}
    with tempfile.TemporaryDirectory(prefix="outlast-bench-") as name:
        folder = Path(name)
        stored.make(folder / "outlast.db", sessions, server_id=SERVER_ID)
        with (
            upstream_child(folder=folder, core=cores.measuring) as upstream,
            gateway_child(upstream.url, folder=folder, core=cores.measured, environment=settings) as gateway,
        ):
            return resident_bytes(gateway.pid)


def report(plan: MemoryPlan, rows: Sequence[MemoryRow]) -> Report:
    """Make the run's record."""
    records = [{**attrs.asdict(row), "bytes_per_session": row.bytes_per_session} for row in rows]
    return Report("memory", attrs.asdict(plan), records)


def table(rows: Sequence[MemoryRow]) -> Table:
    """Show the run."""
    columns = [
        "a session that is",
        "sessions",
        "RSS before MiB",
        "after MiB",
        "bytes each",
        "opened/s",
        "CPU ms/opening",
    ]
    return table_of("memory of the gateway process", columns, [_cells(row) for row in rows])


def _cells(row: MemoryRow) -> list[str]:
    opened = row.sessions_per_second
    return [
        row.kind,
        f"{row.sessions:,}",
        f"{row.before_bytes / _MIB:.1f}",
        f"{row.after_bytes / _MIB:.1f}",
        f"{row.bytes_per_session:,.0f}",
        f"{opened:,.0f}" if opened else "",
        f"{row.cpu_ms_per_session:.2f}" if opened else "",
    ]
