"""Places: where a window's store lies, and how its records are sealed. Each is new, and gone afterwards."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
from redis import Redis

from persistence.codec import Codec
from persistence.compression import Compression
from persistence.key_ring import Key, KeyRing, new_key
from persistence.opening import open_store
from persistence.sealing import Sealing
from persistence.store import Store

PLAIN = "plain"
COMPRESSED = "compressed"
_DELETED_AT_ONCE = 500


def _sealing() -> Sealing:
    return Sealing(KeyRing((Key.read(new_key()),)))


# In the words of `--codec`.
CODECS: Mapping[str, Codec] = {
    PLAIN: Codec(),
    COMPRESSED: Codec(compression=Compression()),
    "sealed": Codec(sealing=_sealing()),
    "both": Codec(compression=Compression(), sealing=_sealing()),
}


@attrs.frozen
class Place:
    """A store that nobody has used."""

    url: str
    codec: Codec = attrs.field(factory=Codec)
    folder: Path = attrs.field(factory=lambda: Path(tempfile.gettempdir()))  # on the disk that is measured beside it

    async def open(self) -> Store:
        """Open it; the caller closes it."""
        return await open_store(self.url, codec=self.codec)


@contextlib.contextmanager
def new_place(store: str, codec: str, folder: str) -> Iterator[Place]:
    """Have a place for the length of a block.

    Args:
      store: "sqlite", or the URL of a Redis server: keys with a prefix of their own are made there, and removed.
      codec: one of `CODECS`.
      folder: where a file lies; "": the system's temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="outlast-bench-", dir=folder or None) as directory:
        if store == "sqlite":
            yield Place(f"sqlite:{directory}/outlast.db", CODECS[codec], Path(directory))
            return
        prefix = f"bench-{secrets.token_hex(6)}"
        try:
            yield Place(f"{store}{'&' if '?' in store else '?'}prefix={prefix}", CODECS[codec], Path(directory))
        finally:
            _remove(store, prefix)


def _remove(store: str, prefix: str) -> None:
    with contextlib.closing(Redis.from_url(store.partition("?")[0])) as client:
        keys: list[bytes] = []
        for key in client.scan_iter(f"{prefix}:*", count=1000):
            keys.append(key)
            if len(keys) >= _DELETED_AT_ONCE:
                client.unlink(*keys)
                keys.clear()
        if keys:
            client.unlink(*keys)
