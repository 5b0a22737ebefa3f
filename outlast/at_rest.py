"""Records at rest as settings: how they are compressed, and the keys that they are encrypted with.

The kinds know how both are written by people; `codec_of` makes of them what a store writes and reads with. Keys are
shown nowhere: errors and `repr` name them by their ids at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlast.kinds import Kind, Refused
from persistence.key_ring import KeyRing, KeyRingInvalid, key_name

if TYPE_CHECKING:
    from outlast.settings import Settings
    from persistence.codec import Codec

_ZSTD = "zstd"
_NONE = "none"
_LEVEL = 3  # zstandard's own choice
_LEVEL_MAX = 19
_OFF = (_NONE, "off", "false", "no", "0")


def _read_compression(raw: object) -> str:
    """Give the one way of writing it: ``none``, or ``zstd:LEVEL``."""
    allowed = f"it must be {_ZSTD}, {_ZSTD}:LEVEL with a level from 1 to {_LEVEL_MAX}, or {_NONE}"
    text = _NONE if raw is False else raw.lower() if isinstance(raw, str) else ""
    if text in _OFF:
        return _NONE
    levels = {f"{_ZSTD}:{level}": level for level in range(1, _LEVEL_MAX + 1)} | {_ZSTD: _LEVEL}
    if text not in levels:
        raise Refused(allowed)
    return f"{_ZSTD}:{levels[text]}"


def _read_keys(raw: object) -> KeyRing | None:
    allowed = "it must be a key as `outlast keygen` makes it, or several, separated by commas, or none"
    if raw is None or isinstance(raw, KeyRing):
        return raw
    if isinstance(raw, str) and raw.lower() == _NONE:
        return None
    parts = raw if isinstance(raw, list | tuple) else [raw]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise Refused(allowed)
    try:
        return KeyRing.read(",".join(map(str, parts)))
    except KeyRingInvalid as invalid:
        raise Refused(f"{allowed}: {invalid}") from None


def _shown_keys(raw: object) -> str:
    """Name keys by their ids. Before they could be read, even a part of one may be all of another secret."""
    if isinstance(raw, KeyRing):
        return f"<keys {', '.join(key_name(key.id) for key in raw.keys)}>"
    return "none" if raw is None else "<not shown>"


COMPRESSION = Kind(_read_compression, metavar="WORD")
ENCRYPTION_KEYS = Kind(_read_keys, _shown_keys, "KEYS")


def record_codec(
    keys: KeyRing | str | None = None, *, compression: str = f"{_ZSTD}:{_LEVEL}", secrets_in_clear: bool = False
) -> Codec:
    """Make what a store writes and reads records with: `open_runtime(..., codec=record_codec(keys))`.

    Args:
      keys: what records are encrypted with, as `outlast keygen` makes a key; in one text several, separated by commas:
        the first encrypts, all of them decrypt. None: records are stored in clear.
      compression: as the setting: zstd, zstd:LEVEL, or none.
      secrets_in_clear: without keys, store even secrets (such as tokens for a server).

    Raises:
      ValueError: these are no keys, or no way to compress; nothing of a key is repeated.
    """
    # Imported here: the command line reads settings, and seldom needs a cipher.
    from persistence.codec import Codec
    from persistence.compression import Compression
    from persistence.sealing import Sealing

    ring = _read_keys(keys)
    name, _, level = _read_compression(compression).partition(":")
    return Codec(
        compression=Compression(int(level)) if name == _ZSTD else None,
        sealing=None if ring is None else Sealing(ring),
        secrets_in_clear=secrets_in_clear,
    )


def codec_of(settings: Settings) -> Codec:
    """Make what the settings say of records at rest."""
    return record_codec(
        settings.encryption_keys,
        compression=settings.compression,
        secrets_in_clear=settings.allow_secrets_in_clear,
    )
