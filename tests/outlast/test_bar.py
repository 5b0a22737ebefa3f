"""The progress bar: on a terminal only, not drawn more often than it can be seen."""

from __future__ import annotations

import io

import trio
from trio.testing import MockClock

from outlast.bar import Bar


class Terminal(io.StringIO):
    """A terminal that remembers what was drawn."""

    def isatty(self) -> bool:
        return True


async def test_a_bar_shows_how_far_it_has_come(autojump_clock: MockClock) -> None:
    terminal = Terminal()
    bar = Bar("exporting", terminal=terminal)
    for done in (0, 1, 1000, 2000):
        bar(done, 2000)
        await trio.sleep(0.09)  # drawn at 0 s, not at 0.09, at 0.18, not at 0.27
    bar.clear()

    assert terminal.getvalue().split("\r\033[K") == [
        "",
        "outlast: exporting [..............................] 0/2,000",
        "outlast: exporting [###############...............] 1,000/2,000",
        "",
    ]


async def test_a_bar_of_nothing_is_full(autojump_clock: MockClock) -> None:
    terminal = Terminal()
    Bar("importing", terminal=terminal, show=lambda done, total: "100 %")(0, 0)
    assert "[##############################] 100 %" in terminal.getvalue()


async def test_what_is_no_terminal_gets_no_bar(autojump_clock: MockClock) -> None:
    file = io.StringIO()
    bar = Bar("exporting", terminal=file)
    bar(1, 2)
    bar.clear()
    assert file.getvalue() == ""
