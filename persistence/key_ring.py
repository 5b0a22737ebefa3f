"""The key ring: the keys that records are sealed with. The first one encrypts, all of them decrypt.

So a key is changed in three steps, each of which can be taken back: put the new key in front; have the records
rewritten (`outlast rekey`, or by and by as sessions commit); take the old key away once no record needs it.

A key's id is derived from the key, so nobody has to number keys, and two rings cannot mean different keys by one
number. It tells nothing of the key, and may be shown; a key itself is never part of a `repr` or of an error.

Knows nothing of records, and imports nothing that is slow to load: settings are read with it.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets

import attrs

KEY_BYTES = 32

_KEY_TEXT = re.compile(r"[A-Za-z0-9_-]{43}=?")  # 32 bytes as base64url, with or without its padding
_ID_BYTES = 4


class KeyRingInvalid(ValueError):
    """These are no keys; the message says which one and what is expected, and repeats nothing of them."""


@attrs.frozen
class Key:
    """One root key. What is encrypted is encrypted with keys derived from it."""

    secret: bytes = attrs.field(repr=False)
    id: int = attrs.field(init=False, repr=lambda number: key_name(number))

    @id.default
    def _derive_id(self) -> int:
        digest = hmac.digest(self.secret, b"outlast key id", "sha256")
        return int.from_bytes(digest[:_ID_BYTES], "big") or 1  # 0 says that there is no key

    @classmethod
    def read(cls, text: str) -> Key:
        """Read a key as `new_key` writes it.

        Raises:
          KeyRingInvalid
        """
        if not _KEY_TEXT.fullmatch(text):
            raise KeyRingInvalid(f"a key is {KEY_BYTES} random bytes as base64url: 43 characters")
        return cls(base64.urlsafe_b64decode(text.rstrip("=") + "="))


@attrs.frozen
class KeyRing:
    """Keys, the newest first.

    Raises:
      KeyRingInvalid: there is none, or two of them cannot be told apart.
    """

    keys: tuple[Key, ...]

    def __attrs_post_init__(self) -> None:
        if not self.keys:
            raise KeyRingInvalid("there is no key")
        if len({key.id for key in self.keys}) < len(self.keys):
            raise KeyRingInvalid("a key is given twice (or two have the same id, by a chance of 1 in 4 billion)")

    @classmethod
    def read(cls, text: str) -> KeyRing:
        """Read keys separated by commas.

        Raises:
          KeyRingInvalid
        """
        keys: list[Key] = []
        for position, part in enumerate(filter(None, map(str.strip, text.split(","))), start=1):
            try:
                keys.append(Key.read(part))
            except KeyRingInvalid as invalid:
                raise KeyRingInvalid(f"key {position} cannot be read: {invalid}") from None
        return cls(tuple(keys))

    @property
    def newest(self) -> Key:
        """The one that encrypts."""
        return self.keys[0]

    def find(self, key_id: int) -> Key | None:
        """Give the key with this id; None if it is not here."""
        for key in self.keys:
            if key.id == key_id:
                return key
        return None


def new_key() -> str:
    """Make a key, and give it as it is written in settings."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode().rstrip("=")


def key_name(key_id: int) -> str:
    """Write a key's id as people see it."""
    return f"{key_id:08x}"
