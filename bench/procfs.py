"""What the kernel says of a process: CPU time used, memory resident, read from /proc.

The kernel's own accounts are taken rather than a profiler's, because they cost the measured process nothing and
leave nothing out: threads, system calls and garbage collections are all in them.
"""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class ProcessGone(Exception):
    """There is no such process any more."""


def cpu_seconds(pid: int) -> float:
    """Give the CPU time, user and system, of all threads of a process since its start.

    Its resolution is one tick (10 ms): a window of three busy seconds is known to a third of a percent.

    Raises:
      ProcessGone
    """
    return parse_cpu_seconds(_read(pid, "stat"), _TICKS_PER_SECOND)


def resident_bytes(pid: int) -> int:
    """Give the memory a process holds in RAM now.

    Raises:
      ProcessGone
    """
    return parse_resident_bytes(_read(pid, "status"))


def parse_cpu_seconds(stat: str, ticks_per_second: int) -> float:
    """Read utime + stime out of /proc/<pid>/stat.

    The command's name stands in parentheses and may itself hold spaces and parentheses: what follows the last
    closing one is counted. There, state is the first field; utime and stime are the 12th and 13th (proc(5): 14, 15).
    """
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_second


def parse_resident_bytes(status: str) -> int:
    """Read VmRSS out of /proc/<pid>/status.

    Raises:
      ProcessGone: there is none: a process that has ended and is not yet waited for has no memory.
    """
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessGone("it has ended")


def _read(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGone(f"no process {pid}") from None
