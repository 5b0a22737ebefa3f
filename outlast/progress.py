"""Shows how far restoring has come, on a terminal; elsewhere the log says it once, at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

import structlog

from actors.restorer import RestoreProgress

log = structlog.get_logger("outlast.restorer")

_EVERY = 50  # sessions between two updates of the line: a terminal need not see each
_ERASE = "\r\033[K"


def restoring_progress(stream: TextIO | None = None) -> Callable[[RestoreProgress], None]:
    """Give what to tell about restoring.

    Args:
      stream: where the line is drawn, if that is a terminal; None: stderr.
    """
    terminal = stream or sys.stderr
    on_terminal = terminal.isatty()

    def draw(line: str) -> None:
        # The cursor goes back to the line's begin: whatever is said next, a log line or a shell's prompt, stands
        # there in its place, and not behind it.
        print(f"{_ERASE}{line}\r", end="", file=terminal, flush=True)

    def tell(progress: RestoreProgress) -> None:
        if progress.done:
            if on_terminal:
                draw("")
            on_use = {"on_first_use": progress.on_use} if progress.on_use else {}
            log.info("sessions restored", restored=progress.restored, uninitialized=progress.uninitialized, **on_use)
        elif on_terminal and (progress.total - progress.waiting) % _EVERY == 1:
            draw(f"outlast: restoring sessions {progress.total - progress.waiting}/{progress.total}")

    return tell
