"""Recovery: open a store anew, as the next start would, and compare it with a ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from persistence.store import Store, StoreError, StoreFull
from tests.faults.facts import Fact, lost_facts
from tests.faults.fault import Trial
from tests.faults.ledger import read_ledger
from tests.faults.places import Place, open_place

Compare = Callable[[Store, list[Fact]], Awaitable[tuple[int, list[str]]]]

_CANNOT_WRITE = "there is no room to become its owner"


def recover(
    store: Place,
    ledger: Path,
    *,
    at: str = "",
    compare: Compare = lost_facts,
    broken: tuple[str, ...] = (),
) -> Trial:
    """Open the store and compare; a store that does not open has lost everything that was told.

    Args:
      broken: promises that were seen to be broken before.
    """
    told = read_ledger(ledger)
    try:
        lost, wrong = trio.run(_compare, store, told, compare)
    except StoreError as error:
        lost, wrong = len(told), [f"the store does not open: {error}"]
    return Trial(len(told), lost, (*broken, *wrong), at)


async def _compare(place: Place, told: list[Fact], compare: Compare) -> tuple[int, list[str]]:
    store = await open_place(place)
    try:
        lost, wrong = await compare(store, told)
        try:
            await store.claim("recovery")
        except StoreFull:
            wrong.append(_CANNOT_WRITE)
        return lost, wrong
    finally:
        with trio.CancelScope(shield=True):  # bounded by the device
            await store.aclose()
