"""A stage: where one flow of the matrix stands still while the fault strikes.

A flow names its points as it passes them. One run of it is for one of them: there it waits until the fault is
over. In a run for no point (the reference) it passes them all.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from tests.e2e.journal import Journal
from tests.e2e.sdk_client import unique_key
from tests.e2e.waiting import DEADLINE_SECONDS, wait_until


def _nothing() -> None:
    pass


@attrs.define(eq=False)
class Stage:
    """The stage of one run of one flow."""

    journal: Journal
    point: str = ""  # "": never stop
    patience_seconds: float = DEADLINE_SECONDS  # what takes longer is silence
    key: str = attrs.field(factory=unique_key)  # names this run's calls, and the gate that holds them
    arrived: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)
    meanwhile: Callable[[], None] = _nothing  # to be done between the end and the new start

    async def at(self, point: str, *, meanwhile: Callable[[], None] = _nothing) -> None:
        """Pass a point; the one that this run is for only when the fault is over."""
        if point == self.point:
            self.meanwhile = meanwhile
            self.arrived.set()
            await self.over.wait()

    def release(self) -> None:
        """Let the server go on with what it holds for this run."""
        self.journal.release(self.key)

    async def held(self) -> None:
        """Wait until the server holds a request for this run."""
        await wait_until("the server holds it", lambda: self.journal.has_reached(self.key))

    async def running(self, key: str) -> None:
        """Wait until the server runs a call."""
        await wait_until("the server runs it", lambda: self.journal.has_run(key))
