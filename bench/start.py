"""`bench start`: from exec to the ready line, and to the first answer, with very many stored sessions.

The store lies in the page cache: what is measured is our own work, not the disk's. Every round starts on a fresh copy,
because a gateway begins at once to restore sessions, and so changes what it was started on. The single session beside
the many shows what is the interpreter's share.

Ready must mean ready: the most recently active session is called at once, and has to answer.
"""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from rich.table import Table

from actors.ids import SessionId
from bench import cores as cores_of
from bench import stored
from bench.caller import is_echo
from bench.children import ChildFailed
from bench.cores import Cores
from bench.latencies import median
from bench.procfs import cpu_seconds, resident_bytes
from bench.report import Report, table_of
from bench.script import PROTOCOL_VERSION
from bench.targets import SERVER_ID, gateway_child, mcp_url, upstream_child

ANSWER_SECONDS_MAX = 30.0
_MIB = 1024 * 1024


@attrs.frozen
class StartPlan:
    """What `bench start` is to do."""

    sessions: tuple[int, ...] = (1, 100_000)
    rounds: int = 3

    @property
    def steps(self) -> int:
        """How many stores are made and gateways started in all."""
        return len(self.sessions) * (self.rounds + 1)


@attrs.frozen
class StartRow:
    """The medians of the rounds with one number of stored sessions."""

    sessions: int
    store_mib: float
    ready_seconds: float  # from exec to the ready line
    answer_seconds: float  # from exec to the first answer of a stored session
    resident_mib: float  # of the gateway, at the ready line
    ready_seconds_highest: float
    ready_cpu_seconds: float  # of the gateway, up to then: what a busy machine does not stretch


@attrs.frozen
class Started:
    """One round."""

    ready_seconds: float
    answer_seconds: float
    resident_bytes: int
    cpu_seconds: float


def measure(plan: StartPlan, *, on_step: Callable[[str], None]) -> list[StartRow]:
    """Make each store, start a gateway on copies of it.

    Raises:
      bench.children.ChildFailed: a gateway did not start, or does not answer.
    """
    cores = cores_of.assign(cores_of.available())
    rows: list[StartRow] = []
    for sessions in plan.sessions:
        with tempfile.TemporaryDirectory(prefix="outlast-bench-") as folder:
            original = Path(folder) / "original.db"
            newest = stored.make(original, sessions, server_id=SERVER_ID)
            on_step(f"store of {sessions:,} sessions")
            rounds: list[Started] = []
            for number in range(plan.rounds):
                rounds.append(_start(original, newest, Path(folder) / str(number), cores))
                on_step(f"start with {sessions:,} sessions")
            rows.append(summarize(sessions, original.stat().st_size, rounds))
    return rows


def _start(original: Path, newest: SessionId, folder: Path, cores: Cores) -> Started:
    folder.mkdir()
    shutil.copy(original, folder / "outlast.db")
    with (
        upstream_child(folder=folder, core=cores.measuring) as upstream,
        gateway_child(upstream.url, folder=folder, core=cores.measured) as gateway,
    ):
        at_ready_bytes, at_ready_cpu_seconds = resident_bytes(gateway.pid), cpu_seconds(gateway.pid)
        begun_at = time.perf_counter()
        _call(mcp_url(gateway), newest)
        answer_seconds = gateway.ready_seconds + time.perf_counter() - begun_at
        return Started(gateway.ready_seconds, answer_seconds, at_ready_bytes, at_ready_cpu_seconds)


def _call(url: str, session_id: SessionId) -> None:
    """Call `echo` in a stored session.

    Raises:
      bench.children.ChildFailed: it was not answered as it should be.
    """
    parts = urlsplit(url)
    call = {"name": "echo", "arguments": {"text": "hello again"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-session-id": session_id,
        "mcp-protocol-version": PROTOCOL_VERSION,
    }
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request("POST", parts.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except OSError as error:
        raise ChildFailed(f"the gateway does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status != 200 or not is_echo(content, 1, "hello again"):
        raise ChildFailed(f"a stored session was answered with {answer.status}: {content[:300]!r}")


def summarize(sessions: int, store_bytes: int, rounds: Sequence[Started]) -> StartRow:
    """Take the medians."""
    return StartRow(
        sessions=sessions,
        store_mib=store_bytes / _MIB,
        ready_seconds=median([started.ready_seconds for started in rounds]),
        answer_seconds=median([started.answer_seconds for started in rounds]),
        resident_mib=median([started.resident_bytes / _MIB for started in rounds]),
        ready_seconds_highest=max(started.ready_seconds for started in rounds),
        ready_cpu_seconds=median([started.cpu_seconds for started in rounds]),
    )


def report(plan: StartPlan, rows: Sequence[StartRow]) -> Report:
    """Make the run's record."""
    return Report("start", attrs.asdict(plan), [attrs.asdict(row) for row in rows])


def table(rows: Sequence[StartRow]) -> Table:
    """Show the run."""
    columns = ["stored sessions", "store MiB", "ready s", "slowest s", "CPU s", "first answer s", "RSS MiB at ready"]
    return table_of("start (from exec; the store is in the page cache)", columns, [_cells(row) for row in rows])


def _cells(row: StartRow) -> list[str]:
    return [
        f"{row.sessions:,}",
        f"{row.store_mib:.1f}",
        f"{row.ready_seconds:.2f}",
        f"{row.ready_seconds_highest:.2f}",
        f"{row.ready_cpu_seconds:.2f}",
        f"{row.answer_seconds:.2f}",
        f"{row.resident_mib:.1f}",
    ]
