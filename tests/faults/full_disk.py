"""A disk that is full: what was told stays, what does not fit is refused, and room can be made without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.faults import exits, mounting
from tests.faults.child import run_to_end
from tests.faults.fault import Control, Fault, Trial
from tests.faults.recovery import recover
from tests.faults.weaknesses import DEAF, NO_BALLAST

_DISK_BYTES = 48 << 20  # the store takes its ballast of 8 MiB only where four times as much is free
_WAYS = {exits.DONE: (), exits.STUCK: ("did not go on although room could be made",)}


def fill_disk(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Fill the disk with sessions of different sizes, end half of them, write on."""
    for number in range(runs):
        filling_bytes = 9_000 + 7_000 * (number % 4)
        sessions = 2 * _DISK_BYTES // filling_bytes
        options = ("--kind", "filling", "--sessions", str(sessions), "--filling-bytes", str(filling_bytes))
        ledger = folder / f"{number}.ledger"
        with mounting.small_disk(folder / "disk", _DISK_BYTES) as disk:
            code = run_to_end(disk / "outlast.db", ledger, (*options, "--weakness", weakness))
            broken = _WAYS.get(code, (f"ended with {code}",))
            # What was read is compared on the full disk, too: recovery must not need room that there is not.
            yield recover(disk / "outlast.db", ledger, at=f"{filling_bytes} bytes a session", broken=broken)


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
