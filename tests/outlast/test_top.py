"""outlast top: what is drawn, when it is drawn anew, how it ends. Method: a recorded console, a fake administration."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from rich.console import Console, RenderableType
from rich.text import Text
from trio.testing import MockClock, wait_all_tasks_blocked

from outlast import operators_view as view
from outlast import top
from outlast.admin_client import AskFailed
from tests.outlast.fake_admin import analytics, tool


def drawn(renderable: RenderableType) -> str:
    console = Console(record=True, width=120, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.export_text()


def test_rates_are_of_the_time_between_two_looks() -> None:
    """50 calls and 5 errors more in 10 s."""
    calls = {"requests": 150, "errors": 7, "errorRate": 7 / 150, "p50Seconds": 0.01, "p95Seconds": 0.25}
    now = analytics(at=1010.0, calls=calls, tools=[tool("search", 130), tool("new", 10)])
    text = drawn(top.render(now, analytics(), "http://gateway"))

    for words in ("http://gateway", "5.0", "0.5", "250 ms", "4.0", "1.0", "linear", "in use"):
        assert words in text


def test_without_an_earlier_look_there_are_no_rates() -> None:
    assert "–" in drawn(top.render(analytics(), None))


def test_gateway_that_began_anew_has_no_rates_yet() -> None:
    fewer = {"requests": 1, "errors": 0, "errorRate": 0.0, "p50Seconds": 0.0, "p95Seconds": 0.0}
    text = drawn(top.render(analytics(at=1010.0, calls=fewer), analytics()))

    assert "–" in text
    assert "-9" not in text


def test_an_outage_and_an_upstream_that_is_away_are_seen() -> None:
    store = {"lagSeconds": 3.0, "backlogRows": 4, "commits": 9, "outageSeconds": 90.0, "factsAtRisk": 5}
    away = {"server": "files", "transport": "stdio", "state": "open", "since": 940.0, "lastError": "connection refused"}
    found = analytics(store=store, upstreams=[away])

    text = drawn(top.render(found, None))
    for words in ("away 1.5 min", "files", "away", "1.0 min", "connection refused"):
        assert words in text
    assert "5 facts at risk" in drawn(view.analytics(found))


def test_busiest_tools_come_first_and_are_bounded() -> None:
    before = analytics(tools=[tool("old", 1000)])
    now = analytics(at=1001.0, tools=[tool("old", 1000), *[tool(f"tool-{n:02}", n) for n in range(1, 40)]])
    text = drawn(top.render(now, before))

    assert text.index("tool-39") < text.index("tool-38")
    assert "old" not in text
    assert "tool-39" in text
    assert "tool-01" not in text


def test_names_are_shown_as_text_and_command_no_terminal() -> None:
    hostile = "\x1b]0;title\x07[red]name[/red]"
    text = drawn(top.render(analytics(tools=[tool(hostile, 3)]), None))

    assert "[red]name[/red]" in text
    assert "\x1b" not in text


def test_control_what_is_not_cleaned_would_command_it() -> None:
    assert "\x1b" in drawn(Text("\x1b]0;title"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0"),
        (0.0123, "12 ms"),
        (1.0, "1.0 s"),
        (90.0, "1.5 min"),
        (7200.0, "2.0 h"),
        (1e6, "11.6 d"),
        (-5.0, "-5.0 s"),
    ],
)
def test_durations_are_as_exact_as_matters(seconds: float, words: str) -> None:
    assert view.duration(seconds) == words


def test_moments_beyond_the_calendar_are_numbers() -> None:
    assert view.moment(0.0) == "1970-01-01 00:00:00Z"
    assert view.moment(1e300) == "1e+300"


@attrs.define
class Looks:
    """Gives the next of its looks each time; the last one stays."""

    looks: Sequence[Any]
    asked: int = 0

    async def __call__(self) -> Any:
        await trio.lowlevel.checkpoint()
        look = self.looks[min(self.asked, len(self.looks) - 1)]
        self.asked += 1
        if isinstance(look, Exception):
            raise look
        return look


class Watching:
    """Somebody before a terminal."""

    def __init__(self) -> None:
        self.keys, self._read = trio.open_memory_channel[str](1)
        self.file = io.StringIO()
        terminal = {"TERM": "xterm"}  # whatever the tests run in: a dumb one cannot be drawn on
        self.console = Console(file=self.file, width=120, force_terminal=True, color_system=None, _environ=terminal)

    async def key(self) -> str:
        return await self._read.receive()

    async def watch(self, look: top.Look) -> None:
        await top.watch(look, "http://gateway", self.console, self.key, every_seconds=2.0)


async def test_it_is_drawn_anew_until_q(autojump_clock: MockClock) -> None:
    """Looks at 0, 2 and 4 s; q at 5 s."""
    look = Looks([analytics()])
    somebody = Watching()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(somebody.watch, look)
        await trio.sleep(5.0)
        await somebody.keys.send("x")  # any other key
        await wait_all_tasks_blocked(0.1)
        await somebody.keys.send("q")

    assert look.asked == 3
    assert trio.current_time() < 7.0
    assert "search" in somebody.file.getvalue()


async def test_a_gateway_that_is_away_for_a_while_is_waited_for(autojump_clock: MockClock) -> None:
    looks = [analytics(), AskFailed("connection refused", code=2), analytics()]
    look, somebody = Looks(looks), Watching()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(somebody.watch, look)
        await trio.sleep(5.0)
        await somebody.keys.send("q")

    assert look.asked == 3
    assert "no newer figures: connection refused" in somebody.file.getvalue()


async def test_a_gateway_that_is_not_there_at_all_is_refused(autojump_clock: MockClock) -> None:
    look = Looks([AskFailed("no token", code=2)])
    somebody = Watching()
    with pytest.raises(AskFailed):
        await somebody.watch(look)
