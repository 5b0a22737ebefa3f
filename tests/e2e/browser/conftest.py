"""Which tests need a browser that this machine does not have."""

from __future__ import annotations

import pytest

from tests.e2e.browser.chromium import why_no_browser

_WHY_NOT = why_no_browser()

# Not collected rather than skipped: the summary says so in a line of its own, whatever else is printed.
collect_ignore_glob = ["test_*.py"] if _WHY_NOT else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, and why."""
    if _WHY_NOT:
        terminalreporter.write_line(f"tests with a browser were not collected: {_WHY_NOT}", yellow=True)
