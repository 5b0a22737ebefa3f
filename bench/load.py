"""The load: many sessions that each call `echo` again and again, and check every answer.

Run as a process of its own: `python -m bench.load --url URL`; what it measured is one line of JSON on stdout. Each
session has one kept-alive connection and one call in flight. The CPU account of the watched process is read here, at
the very edges of the window, so that opening and closing sessions are no part of it.

An answer counts only if it has the call's own id and gives back the call's own text: a gateway that mixes up sessions
is not fast but wrong. Whatever went otherwise is counted by kind in `errors`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from time import perf_counter
from typing import Any

import attrs
import click

from bench.caller import Caller, SessionFailed, Window
from bench.procfs import cpu_seconds

OPENING_AT_ONCE = 32  # as the peers' session creation was measured; more only fills the listen queue


@attrs.frozen
class Plan:
    """What to do, and to whom."""

    url: str
    sessions: int = 1
    seconds: float = 3.0  # the measured window
    warm_up_seconds: float = 0.3
    watched_pid: int = 0  # whose CPU time is read; 0: nobody's
    token: str = ""  # presented with each request; "": none


@attrs.frozen
class Measured:
    """What came of one plan. Only answers that were right are calls."""

    sessions: int
    calls: int
    seconds: float
    cpu_seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    opening_seconds: float
    errors: Mapping[str, int]

    @property
    def calls_per_second(self) -> float:
        return self.calls / self.seconds if self.seconds else 0.0

    @property
    def cpu_ms_per_call(self) -> float:
        """The same number as CPU seconds per 1,000 calls."""
        return self.cpu_seconds / self.calls * 1000.0 if self.calls else 0.0


async def run(plan: Plan) -> Measured:
    """Carry out a plan.

    Raises:
      SessionFailed: a session could not be opened.
      bench.procfs.ProcessGone: the watched process has ended.
    """
    window = Window()
    sessions = [Caller(plan.url, number, window, plan.token) for number in range(plan.sessions)]
    try:
        begun_at = perf_counter()
        await _each(sessions, lambda session: session.open())
        opening_seconds = perf_counter() - begun_at
        seconds, cpu = await _measure(plan, sessions, window)
        await window.drain()
        await _each(sessions, lambda session: session.close())
    finally:
        await _each(sessions, lambda session: session.leave())
    percentiles = window.latencies.percentiles()
    return Measured(
        sessions=plan.sessions,
        calls=len(window.latencies),
        seconds=seconds,
        cpu_seconds=cpu,
        p50_ms=percentiles.p50_ms,
        p99_ms=percentiles.p99_ms,
        max_ms=percentiles.max_ms,
        opening_seconds=opening_seconds,
        errors=dict(window.errors),
    )


async def run_populate(plan: Plan) -> Measured:
    """Open the sessions, call once in each, and leave: they stay open, and no connection does.

    That is what an idle session is: its client is still there, and says nothing.

    Raises:
      SessionFailed
    """
    window = Window()
    sessions = (Caller(plan.url, number, window, plan.token) for number in range(plan.sessions))
    cpu_before, begun_at = _cpu(plan), perf_counter()
    await _each(sessions, _visit)
    seconds = perf_counter() - begun_at
    return Measured(plan.sessions, plan.sessions, seconds, _cpu(plan) - cpu_before, 0.0, 0.0, 0.0, seconds, {})


async def _visit(session: Caller) -> None:
    try:
        await session.open()
        await session.call_once()
    finally:
        await session.leave()


async def _measure(plan: Plan, sessions: list[Caller], window: Window) -> tuple[float, float]:
    """Call for the length of the window; give its true length and the CPU time of the watched process."""
    for session in sessions:
        session.call_until_over()
    await asyncio.sleep(plan.warm_up_seconds)
    cpu_before, begun_at = _cpu(plan), perf_counter()
    window.measuring = True
    await asyncio.sleep(plan.seconds)
    window.measuring = False
    return perf_counter() - begun_at, _cpu(plan) - cpu_before


def _cpu(plan: Plan) -> float:
    return cpu_seconds(plan.watched_pid) if plan.watched_pid else 0.0


async def _each(sessions: Iterable[Caller], do: Callable[[Caller], Coroutine[Any, Any, None]]) -> None:
    """Do something with every session, a few at a time."""
    waiting = iter(sessions)

    async def work() -> None:
        for session in waiting:  # shared: each session is taken once
            await do(session)

    try:
        async with asyncio.TaskGroup() as group:  # the first failure ends the others
            for _ in range(OPENING_AT_ONCE):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # one tells enough: the others failed for the same cause, or of it


@click.command()
@click.option("--url", required=True)
@click.option("--sessions", default=1)
@click.option("--seconds", default=3.0)
@click.option("--warm-up-seconds", default=0.3)
@click.option("--watched-pid", default=0)
@click.option("--token", default="", help="Present it with each request.")
@click.option("--populate", is_flag=True, help="Only open the sessions, and leave them open and unconnected.")
def main(populate: bool, **options: Any) -> None:
    """Put load on an MCP server and say in JSON what came of it."""
    plan = Plan(**options)
    try:
        measured = asyncio.run(run_populate(plan) if populate else run(plan))
    except (SessionFailed, OSError) as error:
        sys.exit(f"load: {error}")
    print(json.dumps(attrs.asdict(measured)))


if __name__ == "__main__":
    main()
