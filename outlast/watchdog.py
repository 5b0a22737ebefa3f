"""The watchdog: notices when the event loop stands still, and says where it stood.

Every session waits while one piece of code holds the loop. A task beats, a thread listens: when a beat is late the
thread writes the main thread's stack to the log, which tells what held it (a full garbage collection shows as
whatever happened to allocate).
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

import attrs
import structlog
import trio

from outlast.lately import WorstLately

log = structlog.get_logger("outlast.watchdog")

BEAT_SECONDS = 0.1


@attrs.frozen
class Lag:
    """The loop stood still."""

    seconds: float  # so far
    stack: str  # of the thread that runs the loop


def log_lag(lag: Lag) -> None:
    log.warning("the event loop stands still", seconds=round(lag.seconds, 2), stack=lag.stack)


class Watchdog:
    """Watches the loop it runs in."""

    def __init__(
        self,
        *,
        lag_seconds: float = 0.25,
        report: Callable[[Lag], None] = log_lag,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
          lag_seconds: a beat later than this is reported, once for each standstill.
          report: is called in the watchdog's own thread.
        """
        self._lag_seconds = lag_seconds
        self._report = report
        self._now = now
        self._beat_at = now()
        self._reported_beat: float | None = None
        self._stopped = threading.Event()
        self._loop_thread = threading.get_ident()
        self._late = WorstLately()
        self.standstills = 0
        self.late_seconds = 0.0  # how late the last beat was

    def late_seconds_max(self) -> float:
        """Give how late a beat was at worst, in the last one to two minutes."""
        return self._late.worst(self._now())

    async def run(self) -> None:
        """Beat, and have a thread listen, until cancelled."""
        self._loop_thread = threading.get_ident()
        self._beat_at = self._now()
        thread = threading.Thread(target=self._listen, name="outlast-watchdog", daemon=True)
        thread.start()
        try:
            while True:
                await trio.sleep(BEAT_SECONDS)
                self._beat()
        finally:
            self._stopped.set()

    def _beat(self) -> None:
        now = self._now()
        self.late_seconds = max(0.0, now - self._beat_at - BEAT_SECONDS)
        self._late.note(self.late_seconds, now)
        self._beat_at = now

    def _listen(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            self.listen_once()

    def listen_once(self) -> None:
        """Report if the beat is late and this standstill was not reported yet."""
        beat_at = self._beat_at
        seconds = self._now() - beat_at - BEAT_SECONDS
        if seconds < self._lag_seconds or beat_at == self._reported_beat:
            return
        self._reported_beat = beat_at
        self.standstills += 1
        frame = sys._current_frames().get(self._loop_thread)
        self._report(Lag(seconds, "".join(traceback.format_stack(frame)) if frame is not None else ""))
