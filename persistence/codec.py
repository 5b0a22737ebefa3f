"""Record <-> bytes: the one envelope around every blob that is stored.

    magic 2 | envelope 1 | flags 1 | schema version 2 | key id 4 | checksum 4 | payload

The checksum (crc32) covers what the record is *about* (kind, session id, position, the header columns that stores
keep in clear), then the envelope's own header, then the payload. So a record copied to another session, a changed
column and a flipped bit all fail alike. It is computed over the bytes as they lie in the store, after compression
and encryption: damage can be told from a missing key without having the key, and a session is never given up as
corrupt because a key is not at hand. For the same reason every later envelope keeps these 14 bytes in their places.

Flags and key id are 0 today; compression and AES-GCM get their bits without a change of format. Whatever sets a bit
that this version does not know is newer than this version: `SnapshotTooNew`, hands off.

The payload of a snapshot is msgpack; that of a log entry is its body as it came. Pure: no clock, no I/O, no state.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgpack

from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.store import SnapshotCorrupt, SnapshotTooNew

Fields = dict[str, Any]
Upcaster = Callable[[Fields], Fields]

SCHEMA_VERSION = 1
# From version v to v + 1: pure functions, kept for as long as records of version v may exist anywhere.
UPCASTERS: Mapping[int, Upcaster] = {}

_MAGIC = b"OL"
_ENVELOPE = 1
_KNOWN_FLAGS = 0
_HEAD = struct.Struct(">2sBBHI")  # all but the checksum, which follows it
_CHECKSUM = struct.Struct(">I")
_PAYLOAD_AT = _HEAD.size + _CHECKSUM.size

# What msgpack raises on bytes that it did not write: ExtraData, FormatError, StackError and bad UTF-8 are ValueErrors;
# a map key that cannot be hashed is a TypeError; some nestings reach Python's own recursion limit first.
_UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException)


class Unencodable(ValueError):
    """A record holds what cannot be stored: a foreign type, an integer over 64 bits, too deep a nesting, a NaN time.

    That is a mistake of whoever made the record; nothing was written.
    """


@attrs.frozen
class Codec:
    """Seals records into envelopes and opens them again. Safe to share between stores and threads."""

    version: int = SCHEMA_VERSION  # the schema version that is written; newer ones are not opened
    upcasters: Mapping[int, Upcaster] = UPCASTERS

    def seal_snapshot(self, snapshot: Snapshot) -> bytes:
        """Give the bytes of a snapshot's fields; its header is bound to them, but not among them.

        Raises:
          Unencodable
        """
        try:
            payload: bytes = _pack(snapshot.fields)
            return self._seal(_about_snapshot(snapshot.header), payload)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unencodable(f"snapshot of session {snapshot.header.session_id}: {error}") from error

    def open_snapshot(self, header: SnapshotHeader, record: bytes) -> Snapshot:
        """Read a snapshot back, brought up to the present schema version.

        Raises:
          SnapshotCorrupt: these are not the bytes that were sealed for this header.
          SnapshotTooNew: a newer version wrote it, or no upcaster could bring it up to date.
        """
        version, payload = self._open(_about_snapshot(header), record, header.session_id)
        fields = _unpack(payload, header.session_id)
        return Snapshot(header, self._upcast(fields, version, header.session_id))

    def seal_entry(self, entry: LogEntry) -> bytes:
        """Give the bytes of an entry's body, bound to its session and its place in the log.

        Raises:
          Unencodable
        """
        try:
            return self._seal(_about_entry(entry), entry.body)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unencodable(f"log entry {entry.sequence} of session {entry.session_id}: {error}") from error

    def open_entry(self, entry: LogEntry) -> LogEntry:
        """Read an entry back: `entry.body` holds the sealed bytes, the result's body what was sealed.

        Raises:
          SnapshotCorrupt, SnapshotTooNew
        """
        _, payload = self._open(_about_entry(entry), entry.body, entry.session_id)
        return LogEntry(entry.session_id, entry.sequence, entry.stream, entry.offset, entry.at_unix_s, bytes(payload))

    def _seal(self, about: bytes, payload: bytes) -> bytes:
        head = _HEAD.pack(_MAGIC, _ENVELOPE, 0, self.version, 0)
        return b"".join((head, _CHECKSUM.pack(_checksum(about, head, payload)), payload))

    def _open(self, about: bytes, record: bytes, session_id: str) -> tuple[int, memoryview]:
        if len(record) < _PAYLOAD_AT or record[:2] != _MAGIC:
            raise SnapshotCorrupt(f"session {session_id}: not a record ({len(record)} bytes)")
        payload = memoryview(record)[_PAYLOAD_AT:]
        head = record[: _HEAD.size]
        (checksum,) = _CHECKSUM.unpack_from(record, _HEAD.size)
        if checksum != _checksum(about, head, payload):
            raise SnapshotCorrupt(f"session {session_id}: the checksum does not fit ({len(record)} bytes)")
        _, envelope, flags, version, key_id = _HEAD.unpack(head)
        if envelope != _ENVELOPE or flags & ~_KNOWN_FLAGS or key_id:
            raise SnapshotTooNew(f"session {session_id}: sealed in a way that this version does not know")
        if version > self.version:
            raise SnapshotTooNew(f"session {session_id}: schema version {version}, this one knows {self.version}")
        return version, payload

    def _upcast(self, fields: Fields, version: int, session_id: str) -> Fields:
        try:
            for step in range(version, self.version):
                fields = self.upcasters[step](fields)
        except Exception as error:  # whatever an upcaster stumbles over, the record is to survive it, untouched
            raise SnapshotTooNew(
                f"session {session_id}: cannot be brought up from version {version}: {error!r}"
            ) from error
        return fields


def _pack(value: object) -> bytes:
    # No shared Packer: it would save 0.3 us of 6, and is not safe to use from two threads.
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(payload: memoryview, session_id: str) -> Fields:
    """Decode with bounds: sizes cannot exceed the payload's own, no extension types, nesting by msgpack's stack."""
    try:
        fields = msgpack.unpackb(payload, strict_map_key=False, max_ext_len=0)
    except _UNREADABLE as error:
        raise SnapshotCorrupt(f"session {session_id}: the payload cannot be decoded: {error}") from error
    if not isinstance(fields, dict):
        raise SnapshotCorrupt(f"session {session_id}: the payload is no map")
    return fields


def _about_snapshot(header: SnapshotHeader) -> bytes:
    return _pack(
        (
            "snapshot",
            header.session_id,
            _counted(header.revision),
            header.server_id,
            header.owner,
            header.failure,
            _settled(header.last_active_unix_s),
            _settled(header.expires_unix_s),
        )
    )


def _about_entry(entry: LogEntry) -> bytes:
    place = (_counted(entry.sequence), _counted(entry.stream), _counted(entry.offset))
    return _pack(("entry", entry.session_id, place, _settled(entry.at_unix_s)))


def _counted(number: int) -> int:
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{number} is no count that a database column holds")
    return number


def _settled(seconds: float) -> float:
    """Write a time in the one way that survives a database column: no integer, no negative zero, no NaN."""
    settled = seconds + 0.0
    if settled != settled:
        raise ValueError("a time is NaN")
    return settled


def _checksum(about: bytes, head: bytes, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(head, zlib.crc32(about)))
