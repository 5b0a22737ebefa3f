"""strace as a fault injector: count a workload's system calls, and let something happen at the n-th of them.

The counts are those of each thread; all calls that are looked at here come from the store's one thread (the ledger is
written with write(2), which is not looked at).
"""

from __future__ import annotations

import collections
import functools
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.faults.child import HarnessFailed, run_to_end

_CALL = re.compile(r"^\d+\s+(\w+)\(", re.MULTILINE)


@attrs.frozen
class Point:
    """The n-th call of one kind."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


@functools.cache
def missing() -> str:
    """Say why calls cannot be traced here; "" if they can: it may be there and not be allowed."""
    if not shutil.which("strace"):
        return "strace is not installed (Debian: apt install strace)"
    command = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=False)
    return "" if tried.returncode == 0 else f"strace does not work here: {tried.stderr.strip()[-80:]}"


def points_of(folder: Path, options: Sequence[str], calls: Sequence[str], points_max: int) -> list[Point]:
    """Run the workload unharmed, and give the points at which it can be harmed: all, or so many, evenly spaced."""
    trace = folder / "trace"
    prefix = _strace(trace, calls)
    code = run_to_end(folder / "counted.db", folder / "counted.ledger", options, prefix)
    if code:
        raise HarnessFailed(f"the workload ended with {code} although nothing was done to it")
    counts = collections.Counter(_CALL.findall(trace.read_text()))
    points = [Point(call, number) for call in calls for number in range(1, counts[call] + 1)]
    if len(points) <= points_max:
        return points
    # The middle of each stretch: the first calls of all make the file, when nobody has been told of anything yet.
    return [points[(2 * index + 1) * len(points) // (2 * points_max)] for index in range(points_max)]


def harming(point: Point, harm: str) -> list[str]:
    """Give what to run a workload under, so that `harm` (signal=KILL, error=EIO) happens at the point."""
    inject = f"inject={point.call}:{harm}:when={point.number}"
    # A signal is lost when the call is stopped at by seccomp's filter (ptrace takes one only at a call's own stops); so
    # every call of the process stops it here, and its start takes longer. Counting and errors work with the filter.
    return [*_strace(Path("/dev/null"), [point.call], filtered=not harm.startswith("signal")), "-e", inject]


def _strace(output: Path, calls: Sequence[str], *, filtered: bool = True) -> list[str]:
    # filtered: only the calls that are looked at stop the process, so the rest runs at full speed
    seccomp = ["--seccomp-bpf"] if filtered else []
    return [
        "strace",
        "-f",
        *seccomp,
        "-qq",
        "-o",
        str(output),
        "-e",
        f"trace={','.join(calls)}",
        "-e",
        "signal=none",
    ]
