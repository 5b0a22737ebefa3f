"""rekey: has a store's records sealed with the newest key, and counts how many are under which.

A gateway rewrites each session's record as it commits; this is for the rest, so that an old key can be taken away, or
so that nothing written before there was a key stays in clear. It works on the store itself, so the gateway has to be
stopped meanwhile (a SQLite store is one process's). Cut short, it goes on where it was: what is rewritten is durable
page by page, and all keys that are given open what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from outlast.at_rest import codec_of
from outlast.endings import StartRefused
from outlast.settings import Settings
from persistence.envelope import CLEAR
from persistence.key_ring import KeyRing, key_name
from persistence.opening import open_store
from persistence.presence import refuse_if_held
from persistence.resealing import Resealable, SealedWith
from persistence.store import Store

_OWNER = "outlast rekey"


@attrs.frozen
class Rekeyed:
    """What became of a store's records."""

    counts: Sequence[SealedWith]  # now, by key
    rewritten: int
    left: int  # not rewritten: their key is missing, they are newer than this version, or damaged


async def rekey(
    settings: Settings, *, take_over: bool = False, tell: Callable[[int, int], None] = lambda _, __: None
) -> Rekeyed:
    """Seal all records with the newest key.

    Args:
      settings: names the store and the keys.
      take_over: take the store from an owner that is at work on it, too; else it is refused (`StoreInUse`).
      tell: told, after each page, how many records are done, of how many.

    Raises:
      StartRefused: there is no store, or no key. Nothing was written.
      StoreError: the store cannot be used, or failed on the way.

    Cancellation: between two pages; what is rewritten stays so.
    """
    if settings.encryption_keys is None:
        raise StartRefused("there is no key to encrypt with: make one with outlast keygen, set SESSION_ENCRYPTION_KEY")
    store, resealable = await _open(settings)
    try:
        if not take_over:
            await refuse_if_held(store)
        fence = await store.claim(_OWNER)
        newest = settings.encryption_keys.newest.id
        total = sum(count.records for count in await resealable.sealed_with() if count.key_id != newest)
        rewritten = left = 0
        after: str | None = ""
        while after is not None:
            step = await resealable.reseal(fence, after=after)
            after, rewritten, left = step.after, rewritten + step.rewritten, left + step.left
            tell(rewritten + left, total)
        return Rekeyed(await resealable.sealed_with(), rewritten, left)
    finally:
        await store.aclose()


async def count_by_key(settings: Settings) -> Sequence[SealedWith]:
    """Count a store's records by key, and change nothing.

    Raises:
      StartRefused, StoreError: as `rekey`.
    """
    store, resealable = await _open(settings)
    try:
        return await resealable.sealed_with()
    finally:
        await store.aclose()


def describe(counts: Sequence[SealedWith], ring: KeyRing | None) -> Iterator[str]:
    """Say in lines how many records are under which key, and which keys no record needs."""
    if not counts:
        yield "the store holds no records"
    for count in counts:
        yield f"{_about_key(count.key_id, ring)}: {count.snapshots} sessions, {count.entries} log entries"
    used = {count.key_id for count in counts}
    for key in ring.keys[1:] if ring is not None else ():
        if key.id not in used:
            yield f"key {key_name(key.id)}: no record needs it; it can be taken out of SESSION_ENCRYPTION_KEY"


def _about_key(key_id: int, ring: KeyRing | None) -> str:
    if key_id == CLEAR:
        return "in clear"
    if ring is None or ring.find(key_id) is None:
        return f"key {key_name(key_id)} (missing: these sessions are unavailable, and kept)"
    return f"key {key_name(key_id)}{' (newest)' if key_id == ring.newest.id else ''}"


async def _open(settings: Settings) -> tuple[Store, Resealable]:
    """Open the store, but make none."""
    _check_place(settings.store)
    store = await open_store(settings.store, codec=codec_of(settings))
    if not isinstance(store, Resealable):
        await store.aclose()
        raise StartRefused("the records of this store cannot be rewritten by command, only as sessions commit")
    return store, store


def _check_place(url: str) -> None:
    kind, _, place = url.partition(":")
    if kind == "sqlite" and not Path(place).exists():
        raise StartRefused(f"store {url}: there is none; name another with --store")
    if kind == "memory":
        raise StartRefused("store memory: keeps nothing that could be encrypted; name another with --store")
