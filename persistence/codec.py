"""Record <-> bytes: what every store writes and reads goes through here.

A snapshot's fields become msgpack, a log entry's body stays as it came; then, as the codec is set: compressed, sealed
with a key, and in any case put into an envelope with a checksum. Each step has a file of its own (`compression.py`,
`sealing.py`, `envelope.py`), as has what happens to fields of an older version (`schema.py`).

Reading does not depend on how a codec writes: it opens whatever is compressed, and whatever it has a key for. A record
that is not for this process to open (newer, or its key is missing) is never touched.

Fields may have a map `secrets` (tokens, headers for an upstream): without a key they are refused, unless the codec was
told to keep secrets in clear. Whoever takes secrets in asks `check_secrets` first: a refusal that comes only with the
commit would stop the writer, and with it everybody else's sessions.

Pure but for the random numbers of the sealing.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgpack
import msgspec

from persistence import envelope
from persistence.canary import check_canary, make_canary
from persistence.compression import Compression, CompressionBroken, DictionaryUnknown, decompress
from persistence.envelope import CLEAR, COMPRESSED, ENCRYPTED, Envelope
from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.schema import SCHEMA_VERSION, UPCASTERS, Fields, Upcaster, upcast
from persistence.sealing import KeyMissing, SealBroken, Sealing
from persistence.shown import shown_id
from persistence.store import SnapshotCorrupt, SnapshotTooNew, StoreUnavailable

__all__ = ["SECRETS", "Codec", "KeyMissing", "SecretsNeedKey", "Unencodable"]

SECRETS = "secrets"  # the field whose values are never to lie in a store in clear

# What msgpack raises on bytes that it did not write: ExtraData, FormatError, StackError and bad UTF-8 are ValueErrors;
# a map key that cannot be hashed is a TypeError; some nestings reach Python's own recursion limit first.
_UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException)


class Unencodable(ValueError):
    """A record holds what cannot be stored: a foreign type, an integer over 64 bits, too deep a nesting, a NaN time.

    That is a mistake of whoever made the record; nothing was written.
    """


class SecretsNeedKey(Unencodable):
    """Secrets were to be kept, and there is no key to keep them with. Nothing was written; the message says what to do.

    You do not get it from a codec with a key, or from one that was told to keep secrets in clear.
    """

    def __init__(self) -> None:
        super().__init__(
            "secrets are not kept in clear: make a key (outlast keygen) and set SESSION_ENCRYPTION_KEY to it,"
            " or allow it (allow_secrets_in_clear)"
        )


@attrs.frozen
class Codec:
    """Seals records into envelopes and opens them again. Safe to share between stores and threads."""

    version: int = SCHEMA_VERSION  # the schema version that is written; newer ones are not opened
    upcasters: Mapping[int, Upcaster] = UPCASTERS
    compression: Compression | None = None  # None: written as it is
    sealing: Sealing | None = None  # None: written in clear
    secrets_in_clear: bool = False  # keep secrets even so

    # ---- records ----

    def seal_snapshot(self, snapshot: Snapshot) -> bytes:
        """Give the bytes of a snapshot's fields; its header is bound to them, but not among them.

        Raises:
          Unencodable
          SecretsNeedKey: the last line of defence; see `check_secrets`.
        """
        secrets = snapshot.fields.get(SECRETS)
        if secrets:
            self.check_secrets()
        try:
            return self._seal(_about_snapshot(snapshot.header), _pack(snapshot.fields), compress=not secrets)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unencodable(f"snapshot of session {shown_id(snapshot.header.session_id)}…: {error}") from error

    def open_snapshot(self, header: SnapshotHeader, record: bytes) -> Snapshot:
        """Read a snapshot back, brought up to the present schema version.

        Raises:
          SnapshotCorrupt: these are not the bytes that were sealed for this header.
          KeyMissing: it is sealed with a key that is not here.
          SnapshotTooNew: a newer version wrote it, or no upcaster could bring it up to date.
        """
        version, payload = self._open(_about_snapshot(header), record, header.session_id)
        fields = _unpack(payload, header.session_id)
        return Snapshot(header, upcast(fields, version, self.version, self.upcasters, header.session_id))

    def seal_entry(self, entry: LogEntry) -> bytes:
        """Give the bytes of an entry's body, bound to its session and its place in the log.

        Raises:
          Unencodable
        """
        try:
            return self._seal(_about_entry(entry), entry.body, compress=True)
        except (ValueError, TypeError, OverflowError) as error:
            raise Unencodable(
                f"log entry {entry.sequence} of session {shown_id(entry.session_id)}…: {error}"
            ) from error

    def open_entry(self, entry: LogEntry) -> LogEntry:
        """Read an entry back: `entry.body` holds the sealed bytes, the result's body what was sealed.

        Raises:
          SnapshotCorrupt: these are not the bytes that were sealed for this place.
          StoreUnavailable: not for this process to open (newer, or its key is missing). A log that cannot be read for
            now is what readers of a stream have words for; they come back later.
        """
        try:
            _, payload = self._open(_about_entry(entry), entry.body, entry.session_id)
        except SnapshotTooNew as error:
            raise StoreUnavailable(f"log entry {entry.sequence}: {error}") from error
        return LogEntry(entry.session_id, entry.sequence, entry.stream, entry.offset, entry.at_unix_s, bytes(payload))

    # ---- secrets and keys ----

    def check_secrets(self) -> None:
        """Check that secrets can be kept; to be asked at the door, before a session takes any.

        Raises:
          SecretsNeedKey
        """
        if self.sealing is None and not self.secrets_in_clear:
            raise SecretsNeedKey

    @property
    def key_id(self) -> int:
        """Of the key that records are written with; 0: in clear."""
        return CLEAR if self.sealing is None else self.sealing.key_id

    def canary(self) -> bytes | None:
        """Make what a store is to keep beside its records from its next claim on; None: nothing, there is no key."""
        return None if self.sealing is None else make_canary(self.sealing)

    def check_canary(self, canary: bytes | None, where: str) -> None:
        """Check that a store's records can be opened, by its canary, before anything else is done with it.

        Raises:
          StoreInvalid: see `canary.check_canary`.
        """
        check_canary(canary, self.sealing, where)

    def obstacle(self, head: bytes) -> str:
        """Say why no record that begins with these bytes can be opened here: ``too_new``, ``key_missing``, or "".

        Args:
          head: its first `HEAD_BYTES`; damage does not show in them.
        """
        found = envelope.read_head(head)
        if found is None:
            return ""  # damaged: loading it finds out
        version, key_id = found
        if not envelope.is_known(head) or version > self.version:
            return "too_new"
        return "" if key_id == CLEAR or self._has(key_id) else "key_missing"

    def reseal_snapshot(self, header: SnapshotHeader, record: bytes) -> bytes:
        """Give a snapshot's record sealed with the present key, compressed or not as it was.

        What it holds is not looked at: a record of a newer schema version can be resealed, too.

        Raises:
          SnapshotCorrupt, KeyMissing, SnapshotTooNew: it cannot be opened.
        """
        return self._reseal(_about_snapshot(header), record, header.session_id)

    def reseal_entry(self, entry: LogEntry) -> bytes:
        """Give an entry's record (`entry.body`) sealed with the present key, compressed or not as it was.

        Raises:
          SnapshotCorrupt, KeyMissing, SnapshotTooNew: it cannot be opened.
        """
        return self._reseal(_about_entry(entry), entry.body, entry.session_id)

    # ---- the steps ----

    def _seal(self, about: bytes, payload: bytes, *, compress: bool) -> bytes:
        flags = 0
        if compress and self.compression is not None:
            frame = self.compression.compress(payload)
            if frame is not None:
                flags, payload = COMPRESSED, frame
        return self._close(about, payload, flags, self.version)

    def _close(self, about: bytes, payload: bytes, flags: int, version: int) -> bytes:
        sealing = self.sealing
        if sealing is None:
            return envelope.wrap(about, envelope.make_head(flags, version, CLEAR), payload)
        head = envelope.make_head(flags | ENCRYPTED, version, sealing.key_id)
        return envelope.wrap(about, head, sealing.seal(payload, _bound_to(about, head)))

    def _open(self, about: bytes, record: bytes, session_id: str) -> tuple[int, bytes | memoryview]:
        opened = envelope.unwrap(about, record, session_id)
        if opened.version > self.version:
            raise SnapshotTooNew(
                f"session {shown_id(session_id)}…: schema version {opened.version}, this one knows {self.version}"
            )
        payload = self._decrypt(about, opened, session_id)
        if opened.flags & COMPRESSED:
            try:
                payload = decompress(payload)
            except CompressionBroken as broken:
                raise SnapshotCorrupt(f"session {shown_id(session_id)}…: cannot be unpacked: {broken}") from broken
            except DictionaryUnknown as unknown:
                raise SnapshotTooNew(f"session {shown_id(session_id)}…: packed with {unknown}") from unknown
        return opened.version, payload

    def _decrypt(self, about: bytes, opened: Envelope, session_id: str) -> bytes | memoryview:
        if opened.key_id == CLEAR:
            return opened.payload
        if self.sealing is None or not self.sealing.has(opened.key_id):
            raise KeyMissing(session_id, opened.key_id)
        try:
            return self.sealing.open(opened.key_id, opened.payload, _bound_to(about, opened.head))
        except SealBroken as broken:
            raise SnapshotCorrupt(f"session {shown_id(session_id)}…: {broken}") from broken

    def _reseal(self, about: bytes, record: bytes, session_id: str) -> bytes:
        opened = envelope.unwrap(about, record, session_id)
        payload = bytes(self._decrypt(about, opened, session_id))
        return self._close(about, payload, opened.flags & ~ENCRYPTED, opened.version)

    def _has(self, key_id: int) -> bool:
        return self.sealing is not None and self.sealing.has(key_id)


def _pack(value: object) -> bytes:
    # Not with `_pack_place`, which takes what records may not hold (sets, dates, endless nesting), and not with a
    # shared Packer: it would save 0.3 us of 3, and is not safe to use from two threads.
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(payload: bytes | memoryview, session_id: str) -> Fields:
    """Decode with bounds: sizes cannot exceed the payload's own, no extension types, nesting by msgpack's stack."""
    try:
        fields = msgpack.unpackb(payload, strict_map_key=False, max_ext_len=0)
    except _UNREADABLE as error:
        raise SnapshotCorrupt(f"session {shown_id(session_id)}…: the payload cannot be decoded: {error}") from error
    if not isinstance(fields, dict):
        raise SnapshotCorrupt(f"session {shown_id(session_id)}…: the payload is no map")
    return fields


# The same bytes as msgpack's in a seventh of the time, which is a fifth of what sealing a small record takes.
_pack_place = msgspec.msgpack.Encoder().encode


def _about_snapshot(header: SnapshotHeader) -> bytes:
    return _pack_place(
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
    return _pack_place(("entry", entry.session_id, place, _settled(entry.at_unix_s)))


def _bound_to(about: bytes, head: bytes) -> bytes:
    """Give the associated data of a sealed payload: it opens for this place, and with this head, only."""
    return about + head


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
