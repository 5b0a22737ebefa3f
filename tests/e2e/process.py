"""A child process in a process group of its own: started, watched, and gone when it has to be.

Not async: one process may serve many tests, each with an event loop of its own. Threads collect what it
says, so it never blocks on a full pipe; waits have deadlines. Tests call what waits in a worker thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
# Against a hang. An interpreter with the SDK needs a second or two to start, and ten times that on a busy machine.
START_SECONDS = 60.0
STOP_SECONDS = 60.0


class ProcessFailed(Exception):
    """The process did not do what was waited for; the message has what it said."""


class ChildProcess:
    """One run of one Python module, or of another program, in its own process group."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self._popen = subprocess.Popen(
            [*(program or (sys.executable, "-m")), module, *arguments],
            cwd=ROOT,
            env={**neutral_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._said = threading.Condition()
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._threads = (
            self._collect(self._popen.stdout, self._stdout),
            self._collect(self._popen.stderr, self._stderr),
        )

    def _collect(self, pipe: IO[str] | None, lines: list[str]) -> threading.Thread:
        assert pipe is not None

        def collect() -> None:
            with pipe:
                for line in pipe:
                    with self._said:
                        lines.append(line)
                        self._said.notify_all()
            with self._said:
                self._said.notify_all()

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        return thread

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdout(self) -> str:
        with self._said:
            return "".join(self._stdout)

    @property
    def stderr(self) -> str:
        with self._said:
            return "".join(self._stderr)

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_line(self, pattern: str, *, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait until a line on standard output matches.

        Raises:
          ProcessFailed: it ended first, or said nothing like that within `seconds`.
        """

        def found() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in self._stdout)), None)

        with self._said:
            # The thread that reads standard output ends with the process: that wakes us, too.
            self._said.wait_for(lambda: found() or not self._threads[0].is_alive(), seconds)
            match = found()
        if match is None:
            raise ProcessFailed(f"no line like {pattern!r}; it said:\n{self.stdout}\n{self.stderr}")
        return match

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._popen.send_signal(number)

    def wait_exit(self, *, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end, and for the last of what it said.

        Returns:
          The exit code; minus the signal's number if a signal ended it.

        Raises:
          ProcessFailed: it still runs after `seconds`.
        """
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"still running after {seconds} s; it said:\n{self.stderr}") from None
        for thread in self._threads:
            thread.join(seconds)  # a grandchild may hold the pipe: then what is there is all there will be
        return code

    def kill(self) -> None:
        """End the process and its group at once, as `kill -9` does. Fine when it has ended already."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self.wait_exit()


def neutral_environment() -> dict[str, str]:
    """Ours, without what would be settings of the gateway: a developer's must not change what is tested."""
    settings = ("OUTLAST_", "SESSION_", "MAX_EVENTS_", "REDIS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    return {**kept, "PYTHONPATH": str(ROOT)}
