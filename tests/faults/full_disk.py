"""A disk that is full: what was told stays, what does not fit is refused, and room can be made without a restart.

The disk is a small tmpfs. The store's ballast lies on it, too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from tests.faults import exits, mounting
from tests.faults.child import run_to_end
from tests.faults.fault import Control, Fault, Trial
from tests.faults.recovery import recover
from tests.faults.weaknesses import DEAF, NO_BALLAST

_DISK_BYTES = 48 << 20  # the store takes its ballast of 8 MiB only where four times as much is free
# Of a session: a part of the log, some hundred to a page; 46 and 59 KB were once stuck. The controls take the first:
# with smaller ones what is left over at the end may be room enough without ballast, too.
_FILLINGS_BYTES = (300_000, 20_000, 1_000, 46_000, 1_000_000, 59_000)
_STUCK = "did not go on although room could be made"


def fill_disk(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Fill the disk with sessions of different sizes, end half of them, write on."""
    for number in range(runs):
        filling_bytes, ledger = _filling_bytes(number), folder / f"{number}.ledger"
        with mounting.small_disk(folder / "disk", _DISK_BYTES) as disk:
            code = run_to_end(disk / "outlast.db", ledger, _options("filling", filling_bytes, weakness))
            broken: tuple[str, ...] = ()
            if code == exits.STUCK:
                broken = (_STUCK,)
                mounting.enlarge(disk, 2 * _DISK_BYTES)  # for a look at what it holds
            elif code != exits.DONE:
                broken = (f"ended with {code}",)
            yield recover(disk / "outlast.db", ledger, at=f"{filling_bytes} bytes a session", broken=broken)


def kill_on_full_disk(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Kill the writer the moment that it is refused, and start on the disk as it is."""
    for number in range(runs):
        filling_bytes, ledger = _filling_bytes(number), folder / f"{number}.ledger"
        with mounting.small_disk(folder / "disk", _DISK_BYTES) as disk:
            code = run_to_end(disk / "outlast.db", ledger, _options("filling-killed", filling_bytes, weakness))
            broken = () if code == -signal.SIGKILL else (f"ended with {code}",)
            at = f"{filling_bytes} bytes a session"
            yield recover(disk / "outlast.db", ledger, at=at, broken=broken)


def _filling_bytes(number: int) -> int:
    return _FILLINGS_BYTES[number % len(_FILLINGS_BYTES)]


def _options(kind: str, filling_bytes: int, weakness: str) -> tuple[str, ...]:
    sessions = 2 * _DISK_BYTES // filling_bytes
    sizes = ("--sessions", str(sessions), "--filling-bytes", str(filling_bytes))
    return ("--kind", kind, *sizes, "--weakness", weakness)


FULL_DISK = Fault(
    "a full disk (tmpfs of 48 MiB), and on without a restart",
    "nothing acknowledged is lost; ends are taken, then new facts",
    fill_disk,
    6,
    (Control(DEAF, "told although refused"), Control(NO_BALLAST, "no ballast: stuck")),
    control_runs=1,
    quick_runs=0,
    missing=mounting.missing,
)
KILLED_FULL = Fault(
    "kill -9 on a full disk, and a start on it",
    "nothing acknowledged is lost; the next start can write",
    kill_on_full_disk,
    6,
    (Control(DEAF, "told although refused"), Control(NO_BALLAST, "no ballast: no room for an owner")),
    control_runs=1,
    quick_runs=0,
    missing=mounting.missing,
)
