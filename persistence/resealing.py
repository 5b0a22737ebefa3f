"""Resealing: what a store can do besides `Store`, so that its keys can be changed and missing ones be seen.

Apart from the Store protocol, because a running gateway needs none of it: records are rewritten with the newest key as
their sessions commit. This is for the operator who wants it done (`outlast rekey`), and for the start, which asks what
cannot be opened here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import attrs
from msgspec.structs import replace

from persistence.codec import Codec
from persistence.envelope import CLEAR, read_head
from persistence.records import Fence, LogEntry, SnapshotHeader
from persistence.store import SnapshotCorrupt, SnapshotTooNew

PAGE_RECORDS = 500  # one commit of a rewriting; a gateway's own are as large
PAGE_BYTES_MAX = 4 << 20  # of records read for one page


@attrs.frozen
class SealedWith:
    """How many records a store holds under one key; quarantined ones apart, whose bytes stay as they are."""

    key_id: int  # 0: in clear
    snapshots: int
    entries: int

    @property
    def records(self) -> int:
        return self.snapshots + self.entries


@attrs.frozen
class Resealed:
    """What one step of a rewriting did."""

    after: str | None  # where the next step begins; None: that was the last
    rewritten: int
    left: int  # records that cannot be opened here (key missing, newer, damaged); untouched


@runtime_checkable
class Resealable(Protocol):
    """A store whose records can be sealed anew. Waiting and cancellation as in `Store`."""

    async def obstacles(self) -> Mapping[str, str]:
        """Give the sessions whose snapshots cannot be opened here, and why: ``key_missing`` or ``too_new``.

        Judged by how they are sealed, all of them, without opening any; damage shows only in loading.

        Raises:
          StoreUnavailable
        """
        ...

    async def sealed_with(self) -> Sequence[SealedWith]:
        """Count the records by key.

        Raises:
          StoreUnavailable
        """
        ...

    async def reseal(self, fence: Fence, *, after: str = "") -> Resealed:
        """Seal some of the records that are under another key, or in clear, with the codec's present key.

        One commit, durable on return. Revisions and headers stay as they are.

        Args:
          after: where the former step ended; "" for the first.

        Raises:
          FenceLost, StoreFull, StoreUnavailable, StoreBroken
        """
        ...


def count_by_key(snapshots: Iterable[tuple[bytes, int]], entries: Iterable[tuple[bytes, int]]) -> Sequence[SealedWith]:
    """Sum counts up by key.

    Args:
      snapshots, entries: first bytes of records (at least `envelope.HEAD_BYTES`), and how many begin with them.
    """
    counted: dict[int, list[int]] = {}
    for column, counts in enumerate((snapshots, entries)):
        for head, number in counts:
            counted.setdefault(_key_id(head), [0, 0])[column] += number
    return [SealedWith(key_id, *both) for key_id, both in sorted(counted.items())]


def marked(header: SnapshotHeader, obstacles: Mapping[str, str]) -> SnapshotHeader:
    """Give what the index is to know of a session that may be one of those that cannot be opened here.

    Such a session is not restored, and does not expire: whoever owns it could not have used it, for a cause of ours.
    The mark is in the index only; with the key, or the version, that it needs, the next start finds it as it was.
    """
    reason = obstacles.get(header.session_id)
    return header if reason is None else replace(header, failure=reason, expires_unix_s=math.inf)


def is_stale(codec: Codec, record: bytes) -> bool:
    """Tell whether a record is under another key than the codec's present one, or in clear, or unreadable."""
    found = read_head(record)
    return found is None or found[1] != codec.key_id


def resealed_snapshot(codec: Codec, header: SnapshotHeader, record: bytes) -> bytes | None:
    """Give a snapshot's record under the codec's key; None if it cannot be opened here."""
    try:
        return codec.reseal_snapshot(header, record)
    except (SnapshotCorrupt, SnapshotTooNew):
        return None


def resealed_entry(codec: Codec, entry: LogEntry) -> bytes | None:
    """Give an entry's record under the codec's key; None if it cannot be opened here."""
    try:
        return codec.reseal_entry(entry)
    except (SnapshotCorrupt, SnapshotTooNew):
        return None


def _key_id(head: bytes) -> int:
    found = read_head(head)
    return CLEAR if found is None else found[1]
