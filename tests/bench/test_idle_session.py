"""What an idle session costs: so many bytes allocated, and not one more for what is over.

Goal: a session that is open, has made a call and says nothing stays within its bound (docs/benchmarks.md, Memory).
Method: a gateway counts what Python has allocated (`tracemalloc`), before and after sessions like those of
`bench memory`; the count is exact but for tables that grow by leaps, where resident memory varies with the allocator.
What is there once (code loaded on first use, pools) is allocated for the sessions before the first count.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from bench.children import run_to_end
from bench.targets import upstream_child

FIRST_SESSIONS = 60
SESSIONS = 300
# For each. As this is written it is 5,200 right after the last call, when the timekeeper still watches some, and 4,600
# a few seconds later. (In the process's resident memory allocations are rounded up, each by 8 bytes on average.)
ALLOCATED_BYTES_MAX = 5_700
BALLAST_BYTES = 1024

_ROOT = Path(__file__).resolve().parents[2]


def test_idle_session_stays_within_its_bytes(tmp_path: Path) -> None:
    assert _allocated_bytes(tmp_path) <= ALLOCATED_BYTES_MAX


def test_a_kilobyte_more_for_each_session_is_noticed(tmp_path: Path) -> None:
    assert _allocated_bytes(tmp_path, ballast_bytes=BALLAST_BYTES) > ALLOCATED_BYTES_MAX


def _allocated_bytes(folder: Path, *, ballast_bytes: int = 0) -> float:
    """Measure what one session more makes a gateway allocate."""
    with upstream_child(folder=folder, core=None) as upstream:
        ballast = [str(ballast_bytes)] if ballast_bytes else []
        gateway = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.traced_gateway", str(folder), upstream.url, *ballast],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with gateway:
            assert gateway.stdin is not None
            try:
                ready = re.search(r"http://\S+", _line(gateway))
                assert ready is not None
                _populate(f"{ready[0].rstrip('/')}/mcp", FIRST_SESSIONS)
                before_bytes = _count(gateway)
                _populate(f"{ready[0].rstrip('/')}/mcp", SESSIONS)
                return (_count(gateway) - before_bytes) / SESSIONS
            finally:
                gateway.stdin.close()


def _populate(url: str, sessions: int) -> None:
    """Open sessions, with one call in each, and leave them alone."""
    arguments = ["bench.load", "--populate", "--url", url, "--sessions", str(sessions)]
    run_to_end("populating", arguments, core=None, seconds_max=120.0)


def _count(gateway: subprocess.Popen[str]) -> int:
    assert gateway.stdin is not None
    gateway.stdin.write("\n")
    gateway.stdin.flush()
    return int(_line(gateway))


def _line(gateway: subprocess.Popen[str]) -> str:
    assert gateway.stdout is not None
    return gateway.stdout.readline()
