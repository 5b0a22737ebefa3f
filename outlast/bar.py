"""A progress bar in one line of a terminal. rich would do it, too, and takes longer to load than it would be shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

import trio

_EVERY_SECONDS = 0.1
_WIDTH = 30


class Bar:
    """Shows how far something has come; where there is no terminal, nothing.

    Args:
      label: what is being done.
      show: how the two numbers are written beside the bar.
    """

    def __init__(
        self,
        label: str,
        *,
        show: Callable[[int, int], str] = lambda done, total: f"{done:,}/{total:,}",
        terminal: TextIO | None = None,
    ) -> None:
        self._label = label
        self._show = show
        self._terminal = sys.stderr if terminal is None else terminal
        self._on = self._terminal.isatty()
        self._drawn_at = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        """Draw it, if it was not drawn just now."""
        if not self._on:
            return
        now = trio.current_time()
        if now - self._drawn_at < _EVERY_SECONDS:
            return
        self._drawn_at = now
        filled = _WIDTH * done // total if total else _WIDTH
        bar = "#" * filled + "." * (_WIDTH - filled)
        print(
            f"\r\033[Koutlast: {self._label} [{bar}] {self._show(done, total)}", end="", file=self._terminal, flush=True
        )

    def clear(self) -> None:
        """Give the line back."""
        if self._on:
            print("\r\033[K", end="", file=self._terminal, flush=True)
