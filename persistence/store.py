"""The Store protocol and its errors: what every keeping place promises. `persistence/opening.py` opens them.

A store keeps session snapshots, their event logs and tombstones. One owner writes at a time: it claims the
store, gets a fence, and every commit carries it; a later claim makes the former owner's commits fail
(`FenceLost`). That is what keeps a paused process from overwriting its successor. Several owners can share a store
by its partitions, with leases (`leases.py`); a claim is a lease on all of them.

Every store passes one suite of claims: `tests/persistence/contract.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from persistence.records import Batch, Fence, LogEntry, Quarantined, Snapshot, SnapshotHeader, StoreHealth

if TYPE_CHECKING:
    from persistence.leases import Lease


class StoreError(Exception):
    """Anything a store can refuse with; the subclasses say who has to act."""


class StoreUnavailable(StoreError):
    """The store does not answer or could not finish; nothing is known of the outcome: send the same batch again."""


class StoreDamaged(StoreUnavailable):
    """A part of the store cannot be read, whoever asks again; the message says what to do.

    It is an outage for whoever needs that part, and never the end of their sessions: a backup has them.
    """


class StoreFull(StoreError):
    """There is no room; the batch was rolled back whole. Room must be made before anything can be written."""


class StoreBroken(StoreError):
    """What the store holds is unknown until it is opened anew: an fsync failed, say.

    The process stops acknowledging and ends; recovery is the daily road. Retrying would be wrong: a failed fsync may
    have dropped the very pages it was asked to keep.
    """


class StoreReplaced(StoreBroken):
    """What the store holds is not what this process has opened: emptied, exchanged, an older copy, another's data.

    Going on would answer that no session exists, which clients take for good.
    """


class FenceLost(StoreError):
    """Another owner has claimed the store since, or the lease ran out: this process must stop writing there."""


class LeaseHeld(StoreError):
    """Another owner's lease on the partition is running."""

    def __init__(self, partition: int, owner: str, remaining_seconds: float) -> None:
        super().__init__(f"partition {partition} is leased to {owner} for another {remaining_seconds:.3f} s")
        self.partition = partition
        self.owner = owner
        self.remaining_seconds = remaining_seconds


class StoreInUse(StoreError):
    """Another process holds this store; the message says which and what to do."""


class StoreInvalid(StoreError):
    """This is not a store, or one of a newer format than this version knows; it was not touched."""


class StoreUrlInvalid(StoreError):
    """The store URL cannot be understood; the message says what is expected."""


class SnapshotCorrupt(StoreError):
    """The session's record cannot be read; its bytes were set aside (quarantined) and will not be served."""


class EntryCorrupt(SnapshotCorrupt):
    """An entry of a session's log cannot be read. It stays where it is: without it a replay would have a gap."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset  # its place in its stream: what is before it, and behind it, can be read


class SnapshotTooNew(StoreError):
    """The session's record was written by a newer version; its bytes stay as they are."""


class Store(Protocol):
    """Where sessions are kept.

    All methods may wait. Cancellation: reading is safe to cancel; `commit` runs to its end once it has begun
    (it is bounded by the device or by the store's own timeouts), because a half-known outcome helps nobody.
    """

    @property
    def url(self) -> str:
        """Where this store is, without secrets: for people and health reports."""
        ...

    @property
    def survives(self) -> str:
        """The durability level that a returned `commit` has reached: ``memory``, ``local``, ``redis``, ``replicated``.

        ``memory``: none. ``local``: synced to this machine's disk. ``redis``: acknowledged by the primary, which keeps
        it by its own append-only file. ``replicated``: counted on that many replicas too.
        """
        ...

    async def claim(self, owner: str) -> Fence:
        """Become the one owner of all partitions. Every fence given out before is worthless from now on.

        Raises:
          StoreUnavailable: it cannot be reached, or nothing is known of the outcome: claim again.
        """
        ...

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        """Become the owner of one partition for a while; its former fences are worthless from now on.

        Does not wait for another's lease to end. Whoever holds the lease already gets a new one, with a new fence.

        Raises:
          LeaseHeld: another's lease is running; the error says for how long.
          StoreUnavailable: nothing is known of the outcome: acquire again.
        """
        ...

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        """Prolong a lease: it runs out so many seconds from now. The fence stays.

        Raises:
          FenceLost: another has it, or it had run out already: acquire anew, and load what is stored anew.
          StoreUnavailable
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give a lease back, for another to acquire at once. If it is over already, nothing happens.

        Raises:
          StoreUnavailable: nothing is known of the outcome: release again.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """Write the whole batch durably.

        Rules, in this order: the batch's fence must be in force for every partition that it writes to (else
        `FenceLost`); snapshots, entries and trims of a session with a tombstone are ignored; a snapshot replaces the
        stored one only if its revision is higher; an entry whose (session, sequence) is stored is ignored; trims
        delete; tombstones delete the session's snapshot and log and remember the id.

        All or nothing: what a batch says of one session, and of all sessions of one partition, is written whole or
        not at all, in every store and after any crash. On return all of it is written. `StoreFull` and what cannot be
        encoded leave nothing of the whole batch. After `StoreUnavailable` some partitions may have been written and
        others not: the same batch again completes it. A store that has all partitions in one place (memory, SQLite, a
        Redis that is no cluster) writes the whole batch or nothing also then; one that is spread over machines cannot.

        Raises:
          FenceLost, StoreFull, StoreUnavailable, StoreBroken
        """
        ...

    async def load(self, session_id: str) -> Snapshot | None:
        """Give the newest durable snapshot, or None if there is none (unknown or ended).

        Raises:
          SnapshotCorrupt: it cannot be read. Its bytes have been moved to quarantine.
          SnapshotTooNew: a newer version wrote it. Nothing was changed.
          StoreUnavailable
        """
        ...

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        """Give entries of one stream with an offset greater than `after`, in order, at most `limit`.

        Raises:
          EntryCorrupt: one of them cannot be read: the first such, by its offset.
          StoreUnavailable
        """
        ...

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        """Give one page of headers of all sessions, and where the next page starts (None: that was the last).

        Every session that is stored throughout comes once, in an order of the store's own.

        Args:
          after: the position the former page gave; 0 for the first.
          limit: headers a page, at most.
        """
        ...

    async def quarantined(self) -> Sequence[Quarantined]:
        """List what was set aside because it could not be read."""
        ...

    async def probe(self) -> StoreHealth:
        """Do one real write and one real read, and say how long they took.

        Raises:
          StoreFull, StoreUnavailable, StoreBroken
        """
        ...

    async def aclose(self) -> None:
        """Leave the store so that another process can claim it. Committed facts stay; closing twice is fine."""
        ...
