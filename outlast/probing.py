"""Probing: one real write and read of the store for whoever asks how it is, however many ask.

A store has one thread or connection, which commits use. So probes are rationed: a result is good for a while, one probe
is under way at most, and who asks waits for it no longer than a moment; a store that does not answer by then is
reported as such, and asked by nobody else until it has answered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import attrs
import trio

from persistence.store import Store, StoreError

FRESH_SECONDS = 5.0  # a probe costs one durable commit: one every five seconds is nothing, whoever scrapes
WAIT_SECONDS = 2.0  # probes from outside are given 1 to 10 s


@attrs.frozen
class Probe:
    """What was found of the store."""

    at_seconds: float  # on trio's clock
    seconds: float | None  # how long a write and a read took; None: they were not done
    problem: str = ""  # why not; "" if the store answered
    notes: str = ""
    quarantined: int = 0
    bytes_free: int | None = None
    has_ballast: bool | None = None
    troubles: Mapping[str, bool] = attrs.field(factory=dict)
    primary: str = ""


class StoreProber:
    """Probes one store. `run` does the work, in a task of its own."""

    def __init__(
        self,
        store: Store,
        *,
        fresh_seconds: float = FRESH_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        free_bytes: Callable[[str], int | None] | None = None,
    ) -> None:
        """
        Args:
          store: stays the caller's to close.
          fresh_seconds: how long a result is good for.
          wait_seconds: how long who asks waits.
          free_bytes: tells the room on the device of a store's URL; None: as the file system says.
        """
        self._store = store
        self._fresh_seconds = fresh_seconds
        self._wait_seconds = wait_seconds
        self._free_bytes = free_bytes or free_bytes_of
        self._wanted = trio.Event()
        self._done = trio.Event()
        self._began_seconds: float | None = None  # of the probe under way
        self.last: Probe | None = None

    async def run(self) -> None:
        """Probe when asked to, until cancelled."""
        while True:
            await self._wanted.wait()
            self._began_seconds = trio.current_time()
            self.last = await self._probe()
            self._began_seconds = None
            done, self._wanted, self._done = self._done, trio.Event(), trio.Event()
            done.set()

    async def probe(self) -> Probe:
        """Give a result that is fresh, or say that the store does not answer. Cancellation: safe."""
        now = trio.current_time()
        if self.last is not None and self._began_seconds is None and now - self.last.at_seconds < self._fresh_seconds:
            return self.last
        waited = 0.0 if self._began_seconds is None else now - self._began_seconds
        self._wanted.set()
        done = self._done
        with trio.move_on_after(max(0.0, self._wait_seconds - waited)):
            await done.wait()
        if done.is_set() and self.last is not None:
            return self.last
        return self._unanswered()

    def _unanswered(self) -> Probe:
        now = trio.current_time()
        began = now if self._began_seconds is None else self._began_seconds
        return Probe(now, None, f"no answer for {now - began:.1f} s")

    async def _probe(self) -> Probe:
        store = self._store
        try:
            health = await store.probe()
            quarantined = len(await store.quarantined())
        except StoreError as error:
            return Probe(trio.current_time(), None, str(error) or type(error).__name__)
        room = self._free_bytes(store.url)
        now = trio.current_time()
        return Probe(
            now,
            health.latency_seconds,
            notes=health.detail,
            quarantined=quarantined,
            bytes_free=room,
            has_ballast=health.has_ballast,
            troubles=health.troubles,
            primary=health.primary,
        )


def free_bytes_of(url: str) -> int | None:
    """Give the room that the device of a SQLite store has; None for other stores, and where it is not told."""
    scheme, _, place = url.partition(":")
    if scheme != "sqlite":
        return None
    try:
        status = os.statvfs(os.path.dirname(place) or ".")
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
