"""Presence: who is at work on a store, for whoever is about to take it over.

A claim has no end, and gives way to whoever claims next; that is how a deploy hands a store on. But a command that an
operator runs must not take the store from a gateway that is serving by mistake. So an owner says every few seconds that
it is there, and the commands ask. It is no lock: what keeps a former owner from writing is the fence. Saying it also
tells a former owner soon that it is one, and an idle one that the server has gone back.

A store that one process locks for as long as it has it open (SQLite) needs none of this.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol, runtime_checkable

import attrs
import trio

from persistence.records import Fence
from persistence.store import Store, StoreFull, StoreInUse, StoreUnavailable

TEND_SECONDS = 5.0
PRESENT_SECONDS = 15.0  # two missed, and a pause: then it is taken to have ended


@attrs.frozen
class Holder:
    """Another owner that is there, or was a moment ago."""

    owner: str
    remaining_seconds: float  # until it counts as gone, if nothing more is heard of it


@runtime_checkable
class Tended(Protocol):
    """A store whose owner says that it is there. Waiting and cancellation as in `Store`."""

    async def tend(self, fence: Fence) -> None:
        """Say that the owner is there for another `PRESENT_SECONDS`, and see that all it wrote is.

        Raises:
          FenceLost, StoreUnavailable, StoreBroken
        """
        ...

    async def holder(self) -> Holder | None:
        """Give an owner beside this process that is there; None: there is none.

        Raises:
          StoreUnavailable
        """
        ...


async def keep_tending(store: Tended, fence: Fence) -> None:
    """Say that the owner is there, until cancelled.

    Raises:
      FenceLost: another has claimed the store; told here to an owner that writes nothing, too.
      StoreBroken
    """
    while True:
        with suppress(StoreUnavailable, StoreFull):  # then it is not there, for as long as that is so
            await store.tend(fence)
        await trio.sleep(TEND_SECONDS)


async def refuse_if_held(store: Store) -> None:
    """Refuse to go on with a store that another owner is at work on.

    Raises:
      StoreInUse: with who that is, and what to do.
      StoreUnavailable
    """
    held = await store.holder() if isinstance(store, Tended) else None
    if held is not None:
        raise StoreInUse(
            f"{store.url} is in use by {held.owner}, which was there less than {PRESENT_SECONDS:g} s ago: stop it"
            f" (if it was killed, wait {held.remaining_seconds:.0f} s), or take the store from it with --take-over"
        )
