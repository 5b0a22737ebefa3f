"""How a workload says why it ended: its exit codes, apart from those of Python and of shells."""

from __future__ import annotations

DONE = 0
BROKEN = 70  # the device failed under a commit: nothing more may be acknowledged
FENCED = 71  # another owner has claimed the store
IN_USE = 72  # another process holds the store
STUCK = 73  # the disk was full, and it did not go on although there was room to make
UNAVAILABLE = 75  # the store could not be opened, or claimed
NOT_FULL = 74  # the disk was meant to be full and was not: the harness is wrong
