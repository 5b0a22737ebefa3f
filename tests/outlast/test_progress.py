"""How far restoring has come, as a terminal shows it, and as it is said elsewhere."""

from __future__ import annotations

import io

from structlog.testing import capture_logs

from actors.restorer import RestoreProgress
from outlast.progress import restoring_progress


class Stream(io.StringIO):
    """A stream that is a terminal, or is none."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def shown(self) -> list[str]:
        """The lines as a terminal shows them: a return goes back, an erasure clears the rest, text overwrites."""
        lines = []
        for written in self.getvalue().split("\n"):
            line = ""
            for overwriting in written.replace("\r\033[K", "\r\0").split("\r"):
                line = overwriting[1:] if overwriting.startswith("\0") else overwriting + line[len(overwriting) :]
            lines.append(line)
        return lines


def after(count: int, *, total: int = 200, uninitialized: int = 0) -> RestoreProgress:
    return RestoreProgress(total, count - uninitialized, uninitialized, total - count)


def test_line_on_a_terminal_says_how_far_it_has_come_and_is_gone_at_the_end() -> None:
    terminal = Stream(terminal=True)
    tell = restoring_progress(terminal)
    for count in range(1, 120):
        tell(after(count))
    assert terminal.shown() == ["outlast: restoring sessions 101/200"]

    with capture_logs() as logs:
        tell(after(200, uninitialized=3))
    assert terminal.shown() == [""]
    assert [(line["event"], line["restored"], line["uninitialized"]) for line in logs] == [
        ("sessions restored", 197, 3)
    ]


def test_what_is_said_in_between_stands_in_a_line_of_its_own() -> None:
    terminal = Stream(terminal=True)
    tell = restoring_progress(terminal)
    tell(after(1))
    said = "2026-11-22T07:48:37.787024Z [error] session is uninitialized"
    terminal.write(f"{said}\n")
    tell(after(51))

    assert terminal.shown() == [said, "outlast: restoring sessions 51/200"]


def test_elsewhere_only_the_log_says_it_once() -> None:
    file = Stream(terminal=False)
    tell = restoring_progress(file)
    with capture_logs() as logs:
        for count in range(1, 201):
            tell(after(count))

    assert file.getvalue() == ""
    assert [line["event"] for line in logs] == ["sessions restored"]
