"""Sealing: AES-256-GCM under subkeys, so that what is stored can be read, and changed, by whoever has a key only.

    salt 16 | nonce 12 | ciphertext | tag 16

- A subkey is HKDF-SHA256 of a root key and a random salt. A process draws its salt as it starts, and another one after
  2^32 records. The store's incarnation would do in place of the salt, but for a store restored from a backup, or a
  copied one: it counts the same numbers again, and under one key a nonce must never come twice.
- The nonce is a counter of 64 bits and 32 random ones. The counter alone is enough within one life of a process; the
  random bits are for a machine that is resumed twice from one image, with salt and counter in it.
- What a record is about (session id, owner, revision, all columns in clear) and the envelope's head are associated
  data: a sealed record fits its own place only.

What this does not promise: whoever may write into the store can put back an older state of all of it, or leave a
record there that is not encrypted. Opening takes records in clear, since a store may have been begun without a key.

This is the only file that imports cryptography.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
from collections.abc import Iterator

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from persistence.key_ring import KEY_BYTES, Key, KeyRing, key_name
from persistence.shown import shown_id
from persistence.store import SnapshotTooNew

SUBKEY_RECORDS_MAX = 1 << 32
SUBKEYS_MAX = 1024  # kept at hand, of some 300 bytes; a store has one for each start of a process that wrote there

_SALT_BYTES = 16
_COUNTER_BYTES = 8
_CHANCE_BYTES = 4
_NONCE_BYTES = _COUNTER_BYTES + _CHANCE_BYTES
_BOX_AT = _SALT_BYTES + _NONCE_BYTES
_TAG_BYTES = 16
_PURPOSE = b"outlast record 1"

SEALING_BYTES = _BOX_AT + _TAG_BYTES  # what sealing adds to a payload


class KeyMissing(SnapshotTooNew):
    """The session's record is sealed with a key that is not here; its bytes stay as they are.

    As with a newer record, the session is unavailable, not gone: it is served again as soon as the key is back.
    """

    def __init__(self, session_id: str, key_id: int) -> None:
        super().__init__(f"session {shown_id(session_id)}…: sealed with key {key_name(key_id)}, which is not here")
        self.key_id = key_id


class SealBroken(Exception):
    """These bytes were not sealed with this key for this place."""


@attrs.frozen(eq=False)
class _Subkey:
    """What new records are sealed with."""

    salt: bytes
    cipher: AESGCM
    numbers: Iterator[int]


class Sealing:
    """Seals with a ring's newest key, opens with any. Safe to share between stores and threads."""

    def __init__(self, ring: KeyRing, *, subkey_records_max: int = SUBKEY_RECORDS_MAX) -> None:
        self._ring = ring
        self._subkey_records_max = subkey_records_max
        self._cipher = functools.lru_cache(maxsize=SUBKEYS_MAX)(_cipher)
        self._subkey = _new_subkey(ring.newest)

    def __repr__(self) -> str:
        return f"<Sealing with {', '.join(key_name(key.id) for key in self._ring.keys)}>"

    @property
    def key_id(self) -> int:
        """Of the key that seals."""
        return self._ring.newest.id

    def has(self, key_id: int) -> bool:
        """Tell whether what was sealed with this key can be opened."""
        return self._ring.find(key_id) is not None

    def seal(self, payload: bytes, about: bytes) -> bytes:
        """Encrypt a payload, bound to what it is about."""
        subkey = self._subkey
        number = next(subkey.numbers)
        if number >= self._subkey_records_max:  # two threads may both draw a new one: that does no harm
            subkey = self._subkey = _new_subkey(self._ring.newest)
            number = next(subkey.numbers)
        nonce = number.to_bytes(_COUNTER_BYTES, "big") + os.urandom(_CHANCE_BYTES)
        return b"".join((subkey.salt, nonce, subkey.cipher.encrypt(nonce, payload, about)))

    def open(self, key_id: int, sealed: bytes | memoryview, about: bytes) -> bytes:
        """Decrypt what was sealed for this place.

        Raises:
          LookupError: the key is not here; ask `has` first.
          SealBroken
        """
        key = self._ring.find(key_id)
        if key is None:
            raise LookupError(f"key {key_name(key_id)}")
        if len(sealed) < SEALING_BYTES:
            raise SealBroken(f"{len(sealed)} bytes are too few")
        salt, nonce = bytes(sealed[:_SALT_BYTES]), bytes(sealed[_SALT_BYTES:_BOX_AT])
        try:
            return self._cipher(key, salt).decrypt(nonce, bytes(sealed[_BOX_AT:]), about)
        except InvalidTag:
            raise SealBroken(f"not sealed with key {key_name(key_id)} for this place") from None


def _new_subkey(key: Key) -> _Subkey:
    salt = secrets.token_bytes(_SALT_BYTES)
    return _Subkey(salt, _cipher(key, salt), itertools.count())


def _cipher(key: Key, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_PURPOSE).derive(key.secret))
