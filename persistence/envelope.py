"""The envelope: the few bytes in front of every stored blob that say how to open it, and whether it is whole.

    magic 2 | envelope 1 | flags 1 | schema version 2 | key id 4 | checksum 4 | payload

The checksum (crc32) covers what the record is *about* (kind, session id, position, the header columns that stores
keep in clear), then the envelope's own head, then the payload. So a record copied to another session, a changed
column and a flipped bit all fail alike. It is computed over the bytes as they lie in the store, after compression
and encryption: damage can be told from a missing key without having the key, and a session is never given up as
corrupt because a key is not at hand. For the same reason every later envelope keeps these 14 bytes in their places.

Whatever sets a bit that this version does not know is newer than this version: `SnapshotTooNew`, hands off. Key id 0
is no key: the payload is in clear. Pure: no clock, no I/O, no state.
"""

from __future__ import annotations

import struct
import zlib

import attrs

from persistence.shown import shown_id
from persistence.store import SnapshotCorrupt, SnapshotTooNew

COMPRESSED = 1  # the payload, as it was before it was encrypted, is a zstandard frame
ENCRYPTED = 2  # the payload is sealed with the key of the key id
CLEAR = 0  # the key id of a payload that is not encrypted

_MAGIC = b"OL"
_ENVELOPE = 1
_KNOWN_FLAGS = COMPRESSED | ENCRYPTED
_HEAD = struct.Struct(">2sBBHI")  # all but the checksum, which follows it
_CHECKSUM = struct.Struct(">I")
_PAYLOAD_AT = _HEAD.size + _CHECKSUM.size

HEAD_BYTES = _HEAD.size  # so many first bytes of a record say how it is sealed
KEY_ID_AT = 6  # where in them the key id stands
KEY_ID_BYTES = 4


@attrs.frozen
class Envelope:
    """An opened envelope: whole, and of a kind that this version knows."""

    head: bytes  # the first bytes as they are, for whoever binds the payload to them
    flags: int
    version: int  # schema version of the payload
    key_id: int
    payload: memoryview  # of the record that was opened


def make_head(flags: int, version: int, key_id: int) -> bytes:
    """Write a head.

    Raises:
      ValueError: a number does not fit.
    """
    try:
        return _HEAD.pack(_MAGIC, _ENVELOPE, flags, version, key_id)
    except struct.error as error:
        raise ValueError(f"no envelope holds this: {error}") from error


def wrap(about: bytes, head: bytes, payload: bytes) -> bytes:
    """Put a payload into its envelope.

    Args:
      about: what the record is about, in the one way of writing it; checked, not stored.
      head: as `make_head` gives it.
      payload: as it is to lie in the store.
    """
    return b"".join((head, _CHECKSUM.pack(_checksum(about, head, payload)), payload))


def unwrap(about: bytes, record: bytes, session_id: str) -> Envelope:
    """Open an envelope.

    Args:
      about: what the record should be about.
      record: as it lies in the store.
      session_id: whose it is, for the errors.

    Raises:
      SnapshotCorrupt: these are not the bytes that were wrapped for this.
      SnapshotTooNew: whole, but sealed in a way that this version does not know.
    """
    if len(record) < _PAYLOAD_AT or record[:2] != _MAGIC:
        raise SnapshotCorrupt(f"session {shown_id(session_id)}…: not a record ({len(record)} bytes)")
    payload = memoryview(record)[_PAYLOAD_AT:]
    head = record[:HEAD_BYTES]
    (checksum,) = _CHECKSUM.unpack_from(record, HEAD_BYTES)
    if checksum != _checksum(about, head, payload):
        raise SnapshotCorrupt(f"session {shown_id(session_id)}…: the checksum does not fit ({len(record)} bytes)")
    _, _, flags, version, key_id = _HEAD.unpack(head)
    if not is_known(head):
        raise SnapshotTooNew(f"session {shown_id(session_id)}…: sealed in a way that this version does not know")
    return Envelope(head, flags, version, key_id, payload)


def is_known(head: bytes) -> bool:
    """Tell whether a record with this head is sealed in a way that this version knows."""
    _, envelope, flags, _, key_id = _HEAD.unpack(head)
    return envelope == _ENVELOPE and not flags & ~_KNOWN_FLAGS and bool(flags & ENCRYPTED) == (key_id != CLEAR)


def read_head(head: bytes) -> tuple[int, int] | None:
    """Give the schema version and the key id of a record's first bytes; None: it is no record, or a cut one."""
    if len(head) < HEAD_BYTES or head[:2] != _MAGIC:
        return None
    _, _, _, version, key_id = _HEAD.unpack_from(head)
    return version, key_id


def _checksum(about: bytes, head: bytes, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(head, zlib.crc32(about)))
