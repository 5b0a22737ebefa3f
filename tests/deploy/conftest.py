"""Which tests need a program that this machine does not have."""

from __future__ import annotations

import shutil

import pytest

_WHY_NOT = "" if shutil.which("systemd-analyze") else "systemd-analyze is not installed (Debian: apt install systemd)"

# Not collected rather than skipped: the summary says so in a line of its own, whatever else is printed.
collect_ignore = ["test_systemd.py"] if _WHY_NOT else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, and why."""
    if _WHY_NOT:
        terminalreporter.write_line(
            f"tests of the unit with systemd's own tools were not collected: {_WHY_NOT}", yellow=True
        )
