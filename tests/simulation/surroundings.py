"""What a simulated client sees of the world, and how it behaves there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import attrs

from actors.runtime import Runtime
from tests.simulation.history import SessionHistory

Result = TypeVar("Result")


class ProcessDied(Exception):
    """The process that served this client is dead; what it was doing has no answer."""


class Surroundings(Protocol):
    """What a client sees of the world."""

    @property
    def finishing(self) -> bool:
        """Nothing new is to be begun."""
        ...

    async def attempt(self, ask: Callable[[Runtime], Awaitable[Result]]) -> Result:
        """Ask the process that serves now, or the next one.

        Raises:
          ProcessDied: it died before there was an answer.
        """
        ...

    def register(self, history: SessionHistory) -> None:
        """Take note of an acknowledged session."""
        ...

    def may_be_gone(self, history: SessionHistory) -> str:
        """Say why this session may be gone for all that the world knows; "": it may not."""
        ...

    def has_ended(self, session_id: str) -> bool:
        """Whether the end of this session is durable."""
        ...

    def was_lost(self, session_id: str, stream: int, after: int) -> bool:
        """Whether events of this stream after this offset are really no longer kept."""
        ...


@attrs.frozen
class Habits:
    """How clients behave; all of it for negative controls."""

    skips: bool = False  # a reader that now and then leaves an event out
    repeats: bool = False  # a reader that now and then comes back with the cursor before the last
    first_use_after_seconds: float = 0.0  # where sessions are acknowledged before they can be found
