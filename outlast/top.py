"""`outlast top`: a gateway at work, in a table that is drawn anew every second or two.

Rates come from the difference of two looks; the gateway only counts. In a pipe there is one look, and no rates. A
gateway that does not answer for a while (a restart) is waited for: the table says so, and goes on.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from outlast import operators_view as view
from outlast.admin_client import AskFailed

TOOLS_SHOWN_MAX = 15

Json = Mapping[str, Any]
Look = Callable[[], Awaitable[Json]]
Keys = Callable[[], Awaitable[str]]  # waits for keys; "" when there are no more


async def watch(look: Look, base: str, console: Console, keys: Keys, *, every_seconds: float) -> None:
    """Draw the table until somebody presses q.

    Args:
      look: gives a gateway's analytics, as they are now.
      base: where that gateway is.
      keys: what is pressed.
      every_seconds: between two looks.

    Raises:
      AskFailed: at the first look; later ones are shown, and tried again.

    Cancellation: leaves the terminal as it was.
    """
    before: Json | None = None
    now: Json = await look()
    trouble = ""
    with Live(render(now, before, base), console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while not await _pressed_q(keys, every_seconds):
            try:
                before, now, trouble = now, await look(), ""
            except AskFailed as failed:
                trouble = str(failed)
            live.update(render(now, before, base, trouble=trouble), refresh=True)


async def _pressed_q(keys: Keys, seconds: float) -> bool:
    with trio.move_on_after(seconds):
        while pressed := await keys():
            if pressed.lower() in ("q", "\x03", "\x04"):
                return True
        await trio.sleep_forever()  # no more keys: only time goes on
    return False


def render(now: Json, before: Json | None, base: str = "", *, trouble: str = "") -> RenderableType:
    """Draw what is known.

    Args:
      now: the newest look at a gateway's analytics.
      before: the one before it, for rates; None: there was none.
      base: where that gateway is.
      trouble: why there is no newer one.
    """
    seconds = now["at"] - before["at"] if before is not None else 0.0
    if seconds <= 0 or (before is not None and before["calls"]["requests"] > now["calls"]["requests"]):
        before = None  # the gateway began anew, and counts from nothing
    rates = None if before is None else _tool_rates(now, before, seconds)
    shown = sorted(now["tools"], key=lambda tool: _rank(tool, rates))[:TOOLS_SHOWN_MAX]
    head = _head(now, before, seconds)
    title = view.text(f"outlast top {base}".rstrip(), "bold")
    parts: list[RenderableType] = [title, head, view.upstreams(now["upstreams"], now["at"]), view.tools(shown, rates)]
    if trouble:
        parts.insert(1, view.text(f"no newer figures: {trouble}", "bold red"))
    return Group(*parts)


def _head(now: Json, before: Json | None, seconds: float) -> RenderableType:
    counts, calls, store = now["sessions"], now["calls"], now["store"]
    per_second = errors_per_second = "–"
    if before is not None:
        per_second = f"{(calls['requests'] - before['calls']['requests']) / seconds:.1f}"
        errors_per_second = f"{(calls['errors'] - before['calls']['errors']) / seconds:.1f}"
    names = ["sessions", "active", "in memory", "uninit.", "calls/s", "errors/s", "error rate", "p95", "store lag"]
    lag = view.text(
        f"away {view.duration(store['outageSeconds'])}"
        if store["outageSeconds"]
        else view.duration(store["lagSeconds"]),
        "bold red" if store["outageSeconds"] else "",
    )
    uninitialized = view.text(counts["uninitialized"], "yellow" if counts["uninitialized"] else "")
    row = [counts["known"], counts["active"], counts["resident"], uninitialized, per_second, errors_per_second]
    made: Table = view.table(
        [f">{name}" for name in names], [[*row, f"{calls['errorRate']:.1%}", view.duration(calls["p95Seconds"]), lag]]
    )
    return made


def _tool_rates(now: Json, before: Json, seconds: float) -> dict[tuple[str, str], float]:
    counted = {(tool["server"], tool["tool"]): tool["calls"] for tool in before["tools"]}
    names = [((tool["server"], tool["tool"]), tool["calls"]) for tool in now["tools"]]
    return {name: max(0, calls - counted.get(name, 0)) / seconds for name, calls in names}


def _rank(tool: Json, rates: Mapping[tuple[str, str], float] | None) -> tuple[float, int]:
    rate = 0.0 if rates is None else rates.get((tool["server"], tool["tool"]), 0.0)
    return (-rate, -tool["calls"])


async def keys_of_terminal() -> str:
    """Wait for keys on standard input. Cancellation: safe; nothing is read."""
    await trio.lowlevel.wait_readable(sys.stdin.fileno())
    return os.read(sys.stdin.fileno(), 1024).decode(errors="replace")[:1]


async def no_keys() -> str:
    """There are no keys to wait for."""
    await trio.sleep(math.inf)
    return ""


@contextmanager
def keys_at_once(terminal: TextIO) -> Iterator[None]:
    """Have a terminal give keys as they are pressed, unseen; it is as it was afterwards."""
    import termios
    import tty

    former = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, former)
