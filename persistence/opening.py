"""open_store: from a store URL to a store.

Apart from `store.py`, because the stores import the protocol and this imports the stores.
"""

from __future__ import annotations

from pathlib import Path

from persistence import redis_url
from persistence.codec import Codec
from persistence.memory import MemoryStore
from persistence.sqlite import SqliteStore
from persistence.store import Store, StoreUrlInvalid

_EXPECTED = (
    'expected "memory:", or "sqlite:PATH" as in sqlite:./data/outlast.db or sqlite:/var/lib/outlast/outlast.db,'
    f" or {redis_url.EXPECTED}"
)


async def open_store(url: str, *, codec: Codec | None = None) -> Store:
    """Open the store that a URL names; a file that does not exist is made, with the directories above it.

    Args:
      url: ``memory:``, ``sqlite:PATH``, or ``redis://...``, ``rediss://...``, ``unix://...``,
        ``redis+sentinel://...`` as in `redis_url.py`.
      codec: how records are sealed; without one, as they are: in clear and not compressed.

    Returns:
      The store, unclaimed. The caller takes responsibility for closing it.

    Raises:
      StoreUrlInvalid: the URL cannot be understood. The message does not repeat it: it may hold a password.
      StoreInUse, StoreInvalid, StoreFull, StoreBroken, StoreUnavailable: see `SqliteStore.open` and
        `RedisStore.open`. A store that was written with a key that the codec lacks is invalid, too; it is not touched.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon and not rest:
        return MemoryStore(codec=codec)
    if scheme == "sqlite" and colon:
        return await SqliteStore.open(_path(rest), codec=codec)
    if redis_url.is_redis_url(url):
        return await _open_redis(url, codec)
    named = f'store URL with scheme "{scheme}"' if colon else "store URL without a scheme"
    raise StoreUrlInvalid(f"{named}: {_EXPECTED}")


def shown_url(url: str) -> str:
    """Give a store URL as people may see it: without user and password; of one that no store has, the scheme alone.

    Raises:
      StoreUrlInvalid: it is a Redis URL that cannot be understood.
    """
    if redis_url.is_redis_url(url):
        return redis_url.read_redis_url(url).shown
    scheme = url.partition(":")[0]
    return url if scheme in ("memory", "sqlite") else f"{scheme}:"


async def _open_redis(url: str, codec: Codec | None) -> Store:
    from persistence.redis import RedisStore  # here: it costs every start 60 ms that does not use it

    return await RedisStore.open(url, codec=codec)


def _path(text: str) -> Path:
    if not text or "\x00" in text:
        raise StoreUrlInvalid(f"store URL names no file: {_EXPECTED}")
    if text == ":memory:":
        raise StoreUrlInvalid(f'store URL "sqlite::memory:" would be lost with the process; say "memory:": {_EXPECTED}')
    if text.startswith("//") and not text.startswith("///"):
        raise StoreUrlInvalid(f"store URL names a host: {_EXPECTED}")
    if "?" in text:
        raise StoreUrlInvalid(f"store URL has options, and there are none: {_EXPECTED}")
    return Path(text)
