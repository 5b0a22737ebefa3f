"""Records as the Redis store keeps them, and batches as its script takes them. Pure.

A log entry has its place before its sealed bytes, in clear, for the server to find it by: sequence, stream, offset, and
the time. A header is a msgpack array. The record itself is what the codec makes of it.
"""

from __future__ import annotations

import binascii
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgpack
from msgspec.structs import astuple

from persistence.codec import Codec
from persistence.partitions import partition_of
from persistence.records import HISTORY_STREAM, Batch, LogEntry, Quarantined, SnapshotHeader, log_start

# The server removes what nobody has removed. Whether a session goes is the reaper's choice, which keeps failed ones for
# a day and stops when it would remove many at once, for a person to look: the server must not overtake it, nor a
# gateway that was down over the holidays, nor a clock that jumped by a day. What is left for the server is a store
# whose gateway never came back: that one is empty after this time.
MARGIN_SECONDS = 14 * 24 * 3600

_TTL_SECONDS_MAX = 100 * 366 * 24 * 3600  # beyond, the server's arithmetic might end; nobody waits for it
_SLOTS = 16384  # of every cluster
_PLACE = struct.Struct(">QQQd")
PLACE_BYTES = _PLACE.size  # in front of an entry's sealed bytes


@attrs.define
class Share:
    """What a batch writes to one partition, as the script takes it."""

    snapshots: list[Any] = attrs.field(factory=list)
    logs: dict[str, list[bytes]] = attrs.field(factory=dict)  # entries by `log_key`, in order of their sequence
    trims: list[Any] = attrs.field(factory=list)
    tombstones: list[str] = attrs.field(factory=list)

    def session_ids(self) -> set[str]:
        """Name the sessions that it writes."""
        logged = [key[2:] for key in (*self.logs, *(key for key, _ in self.trims))]
        return {*(one[0] for one in self.snapshots), *logged, *self.tombstones}


def tag_of(partition: int) -> str:
    """Give what the names of a partition's keys have after the store's prefix: its hash tag."""
    return f"{{p{partition:03d}}}:"


def log_key(session_id: str, *, history: bool) -> str:
    """Give the name of a session's list of events, or of its history, after its partition's tag."""
    return f"{'h' if history else 'l'}:{session_id}"


def slot_of(tagged: str) -> int:
    """Give the slot of a cluster for a key, by its hash tag if it has one."""
    _, opened, rest = tagged.partition("{")
    tag, closed, _ = rest.partition("}")
    hashed = tag if opened and closed and tag else tagged
    return binascii.crc_hqx(hashed.encode(), 0) % _SLOTS


def shares_of(batch: Batch, codec: Codec, now_unix_s: float) -> dict[int, Share]:
    """Divide a batch by partitions, sealed.

    Raises:
      Unencodable
    """
    shares: dict[int, Share] = {}
    for snapshot in batch.snapshots:
        header, record = snapshot.header, codec.seal_snapshot(snapshot)
        ttl_ms = _ttl_ms(header.expires_unix_s - now_unix_s)
        row = (header.session_id, header.revision, pack_header(header), record, ttl_ms)
        _share(shares, header.session_id).snapshots.append(row)
    for entry in batch.entries:
        key = log_key(entry.session_id, history=entry.stream == HISTORY_STREAM)
        log = _share(shares, entry.session_id).logs.setdefault(key, [])
        log.append(pack_entry(entry, codec.seal_entry(entry)))
    for trim in batch.trims:
        key = log_key(trim.session_id, history=log_start(trim.through_sequence) > 0)
        _share(shares, trim.session_id).trims.append((key, trim.through_sequence))
    for tombstone in batch.tombstones:
        _share(shares, tombstone.session_id).tombstones.append(tombstone.session_id)
    return shares


def pack_shares(shares: Mapping[int, Share]) -> bytes:
    """Give the bytes that the script takes for some shares."""
    groups = [
        (tag_of(partition), share.snapshots, list(share.logs.items()), share.trims, share.tombstones)
        for partition, share in shares.items()
    ]
    packed: bytes = msgpack.packb(groups, use_bin_type=False)  # the server's reader knows texts only
    return packed


def pack_header(header: SnapshotHeader) -> bytes:
    """Give a header's bytes."""
    packed: bytes = msgpack.packb(astuple(header))
    return packed


def unpack_headers(joined: bytes) -> list[SnapshotHeader]:
    """Read headers that stand one behind the other."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(joined))
    unpacker.feed(joined)
    # Many sessions, few servers and few owners: one string for each of these, not one for each session.
    return [
        SnapshotHeader(session_id, revision, sys.intern(server_id), sys.intern(owner), failure, active, expires)
        for session_id, revision, server_id, owner, failure, active, expires in unpacker
    ]


def pack_entry(entry: LogEntry, sealed: bytes) -> bytes:
    """Give an entry's bytes; what it holds is sealed already."""
    return _PLACE.pack(entry.sequence, entry.stream, entry.offset, entry.at_unix_s) + sealed


def unpack_entry(session_id: str, packed: bytes) -> LogEntry:
    """Read an entry; its body is still sealed."""
    sequence, stream, offset, at_unix_s = _PLACE.unpack_from(packed)
    return LogEntry(session_id, sequence, stream, offset, at_unix_s, packed[_PLACE.size :])


def pack_quarantined(session_id: str, reason: str, at_unix_s: float, raw: bytes) -> bytes:
    """Give the bytes of what is set aside."""
    packed: bytes = msgpack.packb((session_id, reason, at_unix_s, raw))
    return packed


def unpack_quarantined(packed: bytes) -> Quarantined:
    """Read what was set aside."""
    session_id, reason, at_unix_s, raw = msgpack.unpackb(packed)
    return Quarantined(session_id, reason, at_unix_s, len(raw))


def joined_keys(prefix: str, partition: int, share: Share) -> Sequence[str]:
    """Name the keys of a share's sessions."""
    at = prefix + tag_of(partition)
    return [f"{at}{kind}:{session_id}" for session_id in sorted(share.session_ids()) for kind in ("s", "l", "h")]


def _share(shares: dict[int, Share], session_id: str) -> Share:
    partition = partition_of(session_id)
    share = shares.get(partition)
    if share is None:
        share = shares[partition] = Share()
    return share


def _ttl_ms(remaining_seconds: float) -> int:
    return int((min(max(remaining_seconds, 0.0), _TTL_SECONDS_MAX) + MARGIN_SECONDS) * 1000)
