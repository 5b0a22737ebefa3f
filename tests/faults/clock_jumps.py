"""Clock jumps: the wall clock is set a day forward or back while sessions live; in virtual time.

Time in a process is the wall clock of its start, carried on by a clock that does not jump (`actors/clock.py`). So a
step must not expire a session that was used a minute ago, and must not keep alive one that was not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import trio
from trio.testing import MockClock

import outlast
from persistence.memory import MemoryStore
from tests.faults.fault import Control, Fault, Trial
from tests.faults.weaknesses import WALL_CLOCK, weakened

_SESSIONS = 50  # few enough for the reaper's brake to let a mass expiry pass: the clock alone protects here
_TTL_SECONDS = 3600.0
_WAIT_SECONDS = 1800.0  # the reaper sweeps several times meanwhile
_STEPS_SECONDS = (86_400.0, -86_400.0, 7200.0, -7200.0)


def step_clock(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Set the clock under living sessions."""
    for number in range(runs):
        step_seconds = _STEPS_SECONDS[number % len(_STEPS_SECONDS)]
        with weakened(weakness):
            yield trio.run(_live, step_seconds, clock=MockClock(autojump_threshold=0))


async def _live(step_seconds: float) -> Trial:
    options = outlast.RuntimeOptions(session_ttl_seconds=_TTL_SECONDS)
    async with outlast.open_runtime(MemoryStore(), options=options) as runtime:
        sessions = [await runtime.create(server_id="faults") for _ in range(_SESSIONS)]
        with _clock_set(step_seconds):
            await trio.sleep(_WAIT_SECONDS)
            lost = sum([not await _is_there(session) for session in sessions])
            # Used just now, each for the last time: after their time they go, whatever the wall clock says.
            await trio.sleep(_TTL_SECONDS + _WAIT_SECONDS)
            kept = sum([await _is_there(session) for session in sessions])
    broken = (f"{kept} sessions were kept beyond their time",) if kept else ()
    return Trial(_SESSIONS, lost, broken, f"{step_seconds:+.0f} s")


async def _is_there(session: outlast.SessionHandle) -> bool:
    try:
        async with session.update() as values:
            values["used"] = True
    except (outlast.SessionNotFound, outlast.SessionUnavailable):
        return False
    return True


@contextlib.contextmanager
def _clock_set(step_seconds: float) -> Iterator[None]:
    """Let the wall clock be off by so much, for everything in this process."""
    true = time.time
    time.time = lambda: true() + step_seconds
    try:
        yield
    finally:
        time.time = true


CLOCK_JUMP = Fault(
    "the wall clock jumps by hours or a day",
    "nothing expires before its time, nothing lives beyond it",
    step_clock,
    4,
    (Control(WALL_CLOCK, "a clock that asks time.time()"),),
    control_runs=4,
    quick_runs=2,
)
