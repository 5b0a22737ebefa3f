"""Seeded: for the length of a block, chance and time come from the seed alone, so that a world can be replayed.

What is replaced is where chance and time come in from outside, and nothing else: trio's choice among tasks that can run
(as pytest-trio and Hypothesis do), the module `random` (backoff jitter), the runtime's random bytes (session ids), and
the wall clock, which then advances with trio's clock: a process that is started anew finds it later, not earlier.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import trio

import actors.clock

WALL_AT_START_UNIX_S = 1_700_000_000.0


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block in which whatever is random follows from `seed`."""
    kernel = trio._core._run
    state, random_bytes = random.getstate(), _Secrets(seed)
    random.seed(seed)
    kernel._r.seed(seed)
    try:
        with ExitStack() as stack:
            stack.enter_context(_replaced(kernel, "_ALLOW_DETERMINISTIC_SCHEDULING", True))
            stack.enter_context(_replaced(secrets, "token_bytes", random_bytes.token_bytes))
            stack.enter_context(_replaced(secrets, "token_hex", random_bytes.token_hex))
            stack.enter_context(_replaced(actors.clock, "time", _WallClock()))
            yield
    finally:
        random.setstate(state)


@contextmanager
def _replaced(where: object, name: str, value: object) -> Iterator[None]:
    before = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)


class _Secrets:
    """Stands where random bytes come from (`secrets`)."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"{seed}/secrets")

    def token_bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)

    def token_hex(self, count: int) -> str:
        return self._chance.randbytes(count).hex()


class _WallClock:
    """Stands where a process reads the wall clock as it starts (`time`)."""

    def time(self) -> float:
        return WALL_AT_START_UNIX_S + trio.current_time()
