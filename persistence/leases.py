"""Leases: the right to write to one partition for a while, and the fence that makes a former owner's writes fail.

A lock alone is worthless when its holder can pause: it wakes, believes that it still owns, and writes. (Measured: a
stopped process overwrote its successor's acknowledged state in 24 of 25 runs with a lock, in none with a fence.) So
each commit carries a fence, and the store compares it with the newest that it gave out.

A fence is a pair. The number rises with every acquisition and never restarts, not even when a lease is released. The
nonce is drawn anew by each process: after a failover that lost the newest number, it may be given out a second time,
to someone else.

`acquire` is for instances that share a store: it waits for nobody, refuses while another's lease runs, and what it
gives runs out. `claim` is for the one owner of a whole store: it takes every partition at once, whoever has it, under
one number; its leases do not run out, and give way to whoever asks. Both are entries of the same table, so that going
from one owner to several is no change of format.

Here are the records, and the table for stores that keep theirs in one process. Times are the store's own clock's.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Mapping

import attrs

from persistence.partitions import PARTITIONS, partitions_of
from persistence.records import Batch, Fence
from persistence.store import FenceLost, LeaseHeld

NONCE_BYTES = 16
CLAIMED = 0.0  # in place of a time: until somebody else asks

Save = Callable[[Mapping[int, "Held"]], None]


@attrs.frozen
class Lease:
    """The right to write to one partition, until it runs out, is released, or somebody claims the store.

    `until_unix_s` is by the store's clock and for people. Whoever acts on a lease keeps a deadline of its own: from
    the moment when the request was *sent*, on a clock that also counts suspension, and with a margin.
    """

    partition: int
    fence: Fence  # for batches that write to this partition alone
    until_unix_s: float


@attrs.frozen
class Held:
    """What a store remembers of a partition's ownership."""

    owner: str = ""  # "" when nobody owns it
    nonce: str = ""
    number: int = 0  # the last that was given out: kept when the lease is over
    until_unix_s: float = CLAIMED


def draw_nonce() -> str:
    """Draw the part of a fence that tells processes apart."""
    return secrets.token_hex(NONCE_BYTES)


def check_partition(partition: int) -> None:
    """Assert that there is such a partition."""
    assert 0 <= partition < PARTITIONS, f"there are {PARTITIONS} partitions, {partition} is none of them"


def check_ttl(ttl_seconds: float) -> None:
    """Assert that a lease has a length."""
    assert 0 < ttl_seconds < math.inf, f"a lease of {ttl_seconds} seconds is none"


class LeaseTable:
    """The leases of a store that one process has to itself.

    Args:
      now_unix_s: the store's clock.
      save: keeps what changes, before it holds; whatever it raises, nothing has changed.
      kept: what was saved.
    """

    def __init__(
        self,
        now_unix_s: Callable[[], float],
        *,
        save: Save = lambda _: None,
        kept: Mapping[int, Held] | None = None,
        last_number: int = 0,
    ) -> None:
        self._now_unix_s = now_unix_s
        self._save = save
        self._held: dict[int, Held] = dict(kept or {})
        self._last_number = max([last_number, *(held.number for held in self._held.values())])
        self._nonce = draw_nonce()
        self._whole: Fence | None = None  # in force for every partition, while nobody has asked for one since

    def claim(self, owner: str) -> Fence:
        """Take every partition at once, whoever has it."""
        number = self._last_number + 1
        self._change(dict.fromkeys(range(PARTITIONS), Held(owner, self._nonce, number)))
        self._whole = Fence(owner, number, self._nonce)
        return self._whole

    def acquire(self, partition: int, owner: str, ttl_seconds: float) -> Lease:
        """Take a partition that nobody holds.

        Raises:
          LeaseHeld
        """
        check_ttl(ttl_seconds)
        held, now = self._of(partition), self._now_unix_s()
        mine = (held.owner, held.nonce) == (owner, self._nonce)
        if held.until_unix_s >= now and not mine:
            raise LeaseHeld(partition, held.owner, held.until_unix_s - now)
        lease = Lease(partition, Fence(owner, self._last_number + 1, self._nonce), now + ttl_seconds)
        self._change({partition: Held(owner, self._nonce, lease.fence.number, lease.until_unix_s)})
        return lease

    def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        """Prolong a lease from now.

        Raises:
          FenceLost
        """
        check_ttl(ttl_seconds)
        self.check([lease.partition], lease.fence)
        until_unix_s = self._now_unix_s() + ttl_seconds
        self._change({lease.partition: attrs.evolve(self._of(lease.partition), until_unix_s=until_unix_s)})
        return attrs.evolve(lease, until_unix_s=until_unix_s)

    def release(self, lease: Lease) -> None:
        """Give a lease back, unless it is over already."""
        if _matches(self._of(lease.partition), lease.fence):
            self._change({lease.partition: Held(number=lease.fence.number)})

    def margin_seconds(self) -> float | None:
        """Give the time until the first of our leases runs out; None: none does."""
        held = list(self._held.values())
        ends = [one.until_unix_s for one in held if one.nonce == self._nonce and one.until_unix_s != CLAIMED]
        return min(ends) - self._now_unix_s() if ends else None

    def check_batch(self, batch: Batch) -> None:
        """See whether a batch's fence is in force for all that it writes to.

        Raises:
          FenceLost
        """
        if batch.fence != self._whole:  # who has all of them need not have each looked up
            self.check(partitions_of(batch), batch.fence)

    def check(self, partitions: Iterable[int], fence: Fence) -> None:
        """See whether a fence is in force for all these partitions.

        Raises:
          FenceLost
        """
        now: float | None = None
        for partition in partitions:
            held = self._of(partition)
            if not _matches(held, fence):
                raise FenceLost(lost(partition, fence, held.owner))
            if held.until_unix_s != CLAIMED:
                now = self._now_unix_s() if now is None else now
                if held.until_unix_s < now:
                    raise FenceLost(ran_out(partition, fence))

    def _of(self, partition: int) -> Held:
        check_partition(partition)
        return self._held.get(partition, _NOBODY)

    def _change(self, changed: Mapping[int, Held]) -> None:
        self._save(changed)
        self._whole = None
        self._held.update(changed)
        self._last_number = max(self._last_number, *(held.number for held in changed.values()))


def lost(partition: int, fence: Fence, owner: str) -> str:
    """Say that another owns a partition now."""
    other = f"taken since by {owner}" if owner else "given back since, or never granted"
    return f"partition {partition}: {other}; fence {fence.number} of {fence.owner} is over"


def ran_out(partition: int, fence: Fence) -> str:
    """Say that a lease was not renewed in time."""
    return f"partition {partition}: the lease of {fence.owner} ran out; fence {fence.number} is over"


def _matches(held: Held, fence: Fence) -> bool:
    return held.owner != "" and (held.nonce, held.number) == (fence.nonce, fence.number)


_NOBODY = Held()
