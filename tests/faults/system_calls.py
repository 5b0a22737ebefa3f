"""Every system call by which a store reaches the disk: killed at it, and failed by it, for every n."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from tests.faults import exits, strace
from tests.faults.child import HarnessFailed, run_to_end
from tests.faults.fault import Control, Fault, Trial
from tests.faults.recovery import recover
from tests.faults.weaknesses import DEAF, EARLY

# From an empty folder to a closed store: the file is made, linked into place, written by three sessions, and its log
# is checkpointed in between (the log's bound is a few pages) and at the end.
_OPTIONS = ("--sessions", "3", "--revisions", "4", "--filling-bytes", "1500", "--log-bytes-max", "60000")
_WRITES = ("pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "link", "unlink")
_MISSED_MAX = 2
_SYNCS = ("fdatasync", "fsync")
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def kill_at_each(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Kill the workload at each call, open what it leaves, compare."""
    options = (*_OPTIONS, "--weakness", weakness)
    points = strace.points_of(folder, options, _WRITES, runs)
    missed = 0
    for point in points:
        store, ledger = folder / f"{point}.db", folder / f"{point}.ledger"
        code = run_to_end(store, ledger, options, strace.harming(point, "signal=KILL"))
        # Batches form as they come, so one run has some calls more than the other: then it just ends.
        missed += code == exits.DONE
        broken = () if code in (*_KILLED, exits.DONE) else (f"ended with {code}",)
        yield recover(store, ledger, at=str(point), broken=broken)
    if missed > _MISSED_MAX and missed * 4 > len(points):
        raise HarnessFailed(f"{missed} of {len(points)} processes were not killed")


def fail_each_sync(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Let each sync fail once with EIO; the process must stop by itself, and have told of nothing since."""
    options = (*_OPTIONS, "--weakness", weakness)
    for point in strace.points_of(folder, options, _SYNCS, runs):
        store, ledger = folder / f"{point}.db", folder / f"{point}.ledger"
        code = run_to_end(store, ledger, options, strace.harming(point, "error=EIO"))
        # Done is fine, too: the failed sync was the last one, of the checkpoint at the end, and all is in the log.
        broken = () if code in (exits.BROKEN, exits.DONE) else (f"ended with {code}",)
        yield recover(store, ledger, at=str(point), broken=broken)


EACH_CALL = Fault(
    "kill -9 at the n-th write, sync, truncation, link, for every n",
    "nothing acknowledged is lost; the store opens",
    kill_at_each,
    10_000,
    (Control(EARLY, "told before it is committed"),),
    control_runs=12,
    quick_runs=3,
    quick_control_runs=4,  # two of them at writes in the middle, where something has been told
    missing=strace.missing,
)
EACH_SYNC = Fault(
    "EIO from the n-th sync, for every n",
    "nothing is acknowledged from then on, and the process ends",
    fail_each_sync,
    10_000,
    (Control(DEAF, "a writer that ignores it"),),
    control_runs=6,
    quick_runs=2,
    quick_control_runs=3,
    missing=strace.missing,
)
