"""Through: what a store that stands in front of another passes on to it, since memory could not do it in its place.

Leases, keys and presence are about the store behind; while that is away they raise its error, or say that there is
nothing to be said.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress

from persistence.lease_margin import Leasing
from persistence.leases import Lease
from persistence.presence import Holder, Tended
from persistence.records import Fence, Quarantined
from persistence.resealing import Resealable, Resealed, SealedWith
from persistence.store import Store, StoreUnavailable


class Through(ABC):
    """Passes on what concerns the store behind alone."""

    @abstractmethod
    def _behind(self) -> Store:
        """Give the store behind. Raises StoreUnavailable, if it was never reached."""

    @abstractmethod
    def _fence_behind(self, fence: Fence) -> Fence | None:
        """Give the store's own fence for one that was given out here; None: it has none now."""

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        """Become the owner of one partition: there is no owning what is away."""
        return await self._behind().acquire(partition, owner, ttl_seconds=ttl_seconds)

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        """Prolong a lease of the store's."""
        return await self._behind().renew(lease, ttl_seconds=ttl_seconds)

    async def release(self, lease: Lease) -> None:
        """Give a lease of the store's back."""
        await self._behind().release(lease)

    def lease_margin_seconds(self) -> float | None:
        """Give the time until the first lease of the store behind runs out; None: none does, or it was never there."""
        with suppress(StoreUnavailable):
            behind = self._behind()
            return behind.lease_margin_seconds() if isinstance(behind, Leasing) else None
        return None

    async def quarantined(self) -> Sequence[Quarantined]:
        """List what the store behind has set aside."""
        return await self._behind().quarantined()

    async def obstacles(self) -> Mapping[str, str]:
        """Give the stored sessions that cannot be opened here; none, where the store behind cannot tell."""
        behind = self._behind()
        return await behind.obstacles() if isinstance(behind, Resealable) else {}

    async def sealed_with(self) -> Sequence[SealedWith]:
        """Count the stored records by key; none, where the store behind cannot tell."""
        behind = self._behind()
        return await behind.sealed_with() if isinstance(behind, Resealable) else ()

    async def reseal(self, fence: Fence, *, after: str = "") -> Resealed:
        """Have the store behind seal some of its records anew."""
        behind, own = self._behind(), self._fence_behind(fence)
        if own is None:
            raise StoreUnavailable(f"{behind.url} is away")
        return await behind.reseal(own, after=after) if isinstance(behind, Resealable) else Resealed(None, 0, 0)

    async def tend(self, fence: Fence) -> None:
        """Say that the owner is there, where the store behind wants to know."""
        behind, own = self._behind(), self._fence_behind(fence)
        if own is not None and isinstance(behind, Tended):
            await behind.tend(own)

    async def holder(self) -> Holder | None:
        """Give another owner that is there, where the store behind knows."""
        behind = self._behind()
        return await behind.holder() if isinstance(behind, Tended) else None
