"""The device that a folder is on: what file system, how much room, and what it costs to have something kept.

A promise to keep is worth what the device's sync is worth. How long one takes is measured; whether it is honest cannot
be measured from here, but one that takes no time at all is not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

SYNCS = 64
_BLOCK = b"\0" * 4096
_MOUNTS = Path("/proc/self/mountinfo")


@attrs.frozen
class SyncTimes:
    """How long small durable writes take."""

    median_seconds: float
    slowest_seconds: float


@attrs.frozen
class Device:
    """A file system, as seen from a folder on it."""

    kind: str  # such as "ext4"; "" where the system does not tell
    bytes_free: int
    syncs: SyncTimes


def look_at(folder: Path, *, now: Callable[[], float] = time.perf_counter) -> Device:
    """Look at the device of a folder. Blocks for the time of `SYNCS` syncs; what it writes, it removes.

    Raises:
      OSError: the folder cannot be written to, or the device fails.
    """
    status = os.statvfs(folder)
    return Device(file_system_of(folder), status.f_bavail * status.f_frsize, _measure(folder, now))


def file_system_of(folder: Path, mounts: str | None = None) -> str:
    """Name the file system of a folder; "" where the system does not tell.

    Args:
      mounts: the text of /proc/self/mountinfo (proc_pid_mountinfo(5)); None: this process's.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text()
        except OSError:
            return ""
    place = folder.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        mounted = Path(fields[4].encode().decode("unicode_escape"))
        if len(mounted.parts) >= best and place.is_relative_to(mounted):  # of equal ones the later covers the earlier
            best, kind = len(mounted.parts), after.split()[0]
    return kind


def _measure(folder: Path, now: Callable[[], float]) -> SyncTimes:
    path = folder / f".outlast-doctor-{os.getpid()}"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        taken = [_one_sync(descriptor, now) for _ in range(SYNCS)]
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
    return _summed_up(taken)


def _one_sync(descriptor: int, now: Callable[[], float]) -> float:
    begun = now()
    os.write(descriptor, _BLOCK)
    os.fdatasync(descriptor)
    return now() - begun


def _summed_up(taken: Sequence[float]) -> SyncTimes:
    ordered = sorted(taken)
    return SyncTimes(ordered[len(ordered) // 2], ordered[-1])
