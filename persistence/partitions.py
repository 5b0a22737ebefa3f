"""Partitions: which of 256 shares of the store a session belongs to. Pure.

Ownership, leases and fences go by partition and not by session: with 100,000 sessions, heartbeats for each would be
30,000 operations a second, for 256 partitions they are some 77. The number is part of the format: changing it would
move every session. 256 is enough for instances to share the load evenly, and few enough to claim all of them at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from persistence.records import Batch

PARTITIONS = 256


def partition_of(session_id: str) -> int:
    """Give the partition of a session: the same on every machine, in every version.

    crc32, because it is in every language's library and spreads random ids evenly. It is no protection against
    someone who chooses ids, and needs none: ids are ours to draw.
    """
    return zlib.crc32(session_id.encode("utf-8", "surrogatepass")) % PARTITIONS


def partitions_of(batch: Batch) -> set[int]:
    """Give the partitions that a batch writes to."""
    return {partition_of(session_id) for session_id in _named(batch)}


def _named(batch: Batch) -> Iterable[str]:
    yield from (snapshot.header.session_id for snapshot in batch.snapshots)
    yield from (entry.session_id for entry in batch.entries)
    yield from (trim.session_id for trim in batch.trims)
    yield from (tombstone.session_id for tombstone in batch.tombstones)
