"""Power cuts: what a disk holds when the machine is gone, and only that.

The store lies on ext4 on a loop device. The writer is stopped (SIGSTOP), then the device's backing file is copied: the
copy has what was written through, and nothing of what the kernel still keeps for later. The ledger lies elsewhere, and
is complete as of the stop. The copy is mounted (ext4 recovers from its journal) and the store opened (SQLite recovers
from its log), as after a power cut.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults import mounting
from tests.faults.child import Child
from tests.faults.fault import Control, Fault, Trial
from tests.faults.recovery import recover
from tests.faults.weaknesses import NORMAL, OFF

_NOTED_MIN = 200
_MOMENT_SECONDS = (
    0.05,
    1.0,
)  # less than the kernel's own habit of writing things out (5 s): controls must lose


def cut_power(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Cut the power under a writer at random moments."""
    for number in range(runs):
        seconds = random.Random(number).uniform(*_MOMENT_SECONDS)
        image, copy, ledger = folder / "image", folder / "copy", folder / f"{number}.ledger"
        mounting.make_image(image)
        # Small and large logs: with the product's own bound of 4 MB a checkpoint comes every second or so.
        log_bytes_max = "300000" if number % 2 else "0"
        options = ("--sessions", "16", "--log-bytes-max", log_bytes_max, "--weakness", weakness)
        with (
            mounting.mounted_image(image, folder / "before") as disk,
            Child(disk / "outlast.db", ledger, options) as child,
        ):
            child.wait_noted(_NOTED_MIN)
            time.sleep(seconds)  # the moment itself is what is tried
            child.stop()
            mounting.copy_image(image, copy)
        with mounting.mounted_image(copy, folder / "after") as disk:
            yield recover(disk / "outlast.db", ledger, at=f"{seconds:.3f} s after {_NOTED_MIN} facts")


POWER_CUT = Fault(
    "power cut under a writer (ext4 on a loop device)",
    "nothing acknowledged is lost; the store opens",
    cut_power,
    10,
    (Control(NORMAL, "synchronous = NORMAL"), Control(OFF, "synchronous = OFF")),
    quick_runs=0,
    missing=mounting.missing,
)
