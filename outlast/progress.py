"""Shows how far restoring has come, on a terminal; elsewhere the log says it once, at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable

import structlog

from actors.restorer import RestoreProgress

log = structlog.get_logger("outlast.restorer")

_EVERY = 50  # sessions between two updates of the line: a terminal need not see each


def restoring_progress() -> Callable[[RestoreProgress], None]:
    """Give what to tell about restoring."""
    on_terminal = sys.stderr.isatty()

    def tell(progress: RestoreProgress) -> None:
        if progress.done:
            if on_terminal:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            on_use = {"on_first_use": progress.on_use} if progress.on_use else {}
            log.info("sessions restored", restored=progress.restored, uninitialized=progress.uninitialized, **on_use)
        elif on_terminal and (progress.total - progress.waiting) % _EVERY == 1:
            line = f"\r\033[Koutlast: restoring sessions {progress.total - progress.waiting}/{progress.total}"
            print(line, end="", file=sys.stderr, flush=True)

    return tell
