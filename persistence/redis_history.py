"""The history: what the servers have acknowledged lately, so that it can be written again to one that has lost it.

Replication is asynchronous: a replica that lagged, and is promoted, has forgotten the newest commits; so has a machine
that lost its last second of append-only file. The store is the same then, by its uuid, only older. Whoever went on from
there would mix two histories. So each partition counts its commits, in the same script that writes them, and its owner
remembers the count of the last one that was acknowledged: a server with a smaller one has gone back.

What it has lost is the end of what this owner wrote, so the owner keeps the end, as it was sent: the same bytes again,
in the same order, make the server what it was, for sessions in memory and for those that have left it, ends and logs
included. No event id is lost, and none can be given out twice. What is kept is bounded in bytes and in time; a server
that has gone back further is not the store that this process knows, and it must start anew from what is there.

Pure but for the clock that it is given. Lives in one thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs

from persistence.records import Fence

# A replica lags by its network and by what it was stopped for: seconds, of some megabytes each. Servers let go of a
# replica that was silent for 60 s (repl-timeout), and someone may promote it some minutes later.
KEPT_BYTES_MAX = 64 << 20
KEPT_SECONDS_MAX = 600.0


class BeyondRecall(Exception):
    """More is lost than is kept here."""


@attrs.define(eq=False)
class Written:
    """Something that was written by one call, and acknowledged."""

    packed: bytes  # as the script takes it
    keys: tuple[str, ...]  # of the call
    fence: Fence
    numbers: dict[int, int]  # by partition: which of its commits that was
    at_seconds: float = 0.0


class History:
    """The newest commits of one owner.

    Args:
      bytes_max, seconds_max: how much is kept.
      now: a clock that only runs forward.
    """

    def __init__(
        self,
        *,
        bytes_max: int = KEPT_BYTES_MAX,
        seconds_max: float = KEPT_SECONDS_MAX,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._now = now
        self._kept: deque[Written] = deque()
        self._bytes = 0
        self._last: dict[int, int] = {}  # by partition: the number of the last that was acknowledged
        self._beyond: dict[int, int] = {}  # by partition: the number of the last that is not kept here any more

    @property
    def is_empty(self) -> bool:
        """Whether nothing was acknowledged yet."""
        return not self._last

    def expected(self, partition: int) -> int:
        """Give the count below which a partition has gone back; 0: nothing is known of it."""
        return self._last.get(partition, 0)

    def add(self, written: Written) -> None:
        """Remember what was acknowledged just now."""
        written.at_seconds = self._now()
        self._last.update(written.numbers)
        self._kept.append(written)
        self._bytes += len(written.packed)
        oldest_seconds = written.at_seconds - self._seconds_max
        while self._kept and (self._bytes > self._bytes_max or self._kept[0].at_seconds < oldest_seconds):
            dropped = self._kept.popleft()
            self._bytes -= len(dropped.packed)
            self._beyond.update(dropped.numbers)

    def is_beyond(self, counts: Mapping[int, int]) -> bool:
        """Say whether more was acknowledged than the servers know of."""
        return any(count < self._last.get(partition, 0) for partition, count in counts.items())

    def missing(self, counts: Mapping[int, int]) -> Sequence[Written]:
        """Give what the servers have lost, oldest first.

        Args:
          counts: by partition, how many commits its server knows of.

        Raises:
          BeyondRecall
        """
        for partition, count in counts.items():
            if partition in self._last and count < self._beyond.get(partition, 0):
                raise BeyondRecall(f"partition {partition} has gone back to commit {count}")
        return [one for one in self._kept if any(number > counts[part] for part, number in one.numbers.items())]

    def settle(self) -> None:
        """Take note that what was missing is written, under the numbers that it has now."""
        for written in self._kept:
            self._last.update({one: number for one, number in written.numbers.items() if one in self._last})

    def forget(self, partition: int) -> None:
        """Forget a partition that is another's from now on, or is loaded anew."""
        self._last.pop(partition, None)
        for written in [one for one in self._kept if partition in one.numbers]:
            self._kept.remove(written)
            self._bytes -= len(written.packed)
            self._beyond.update(written.numbers)

    def clear(self) -> None:
        """Forget everything: what was written under an older claim was found, or not, by the new one."""
        self._kept.clear()
        self._last.clear()
        self._beyond.clear()
        self._bytes = 0
