"""A workload as the harness holds it: a process to wait for, to stop, to kill, and the files that it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.places import Place

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60.0  # against a hang; a start takes half a second, traced and on a busy machine some seconds
_POLL_SECONDS = 0.002  # what is waited for happens in another process's files: nothing there can wake us


class HarnessFailed(Exception):
    """The harness could not do what it wanted to; nothing was found out about the product."""


class Child:
    """One process that works on a store.

    Args:
      store: its file or URL.
      ledger: where it notes what it was told.
      options: of tests/faults/workload.py.
      prefix: what it is run under (strace).
    """

    def __init__(self, store: Place, ledger: Path, options: Sequence[str] = (), prefix: Sequence[str] = ()) -> None:
        self.store = store
        self.ledger = ledger
        command = [
            sys.executable,
            "-m",
            "tests.faults.workload",
            "--store",
            str(store),
            "--ledger",
            str(ledger),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [*prefix, *command, *options],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._process.stderr is not None:
            self._process.stderr.close()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_noted(self, facts: int) -> None:
        """Wait until so many more facts are noted.

        Raises:
          HarnessFailed: it ended first, or took too long.
        """
        aim = self._noted() + facts
        self._wait_until(lambda: self._noted() >= aim, f"{facts} facts were noted")

    def wait_end(self) -> int:
        """Wait until it ends by itself, and give its exit code (minus the signal's number)."""
        try:
            return self._process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            raise HarnessFailed(f"the workload did not end within {DEADLINE_SECONDS} s") from None

    def stop(self) -> None:
        """SIGSTOP, and wait until every thread stands still: one in the middle of a system call ends that first."""
        os.kill(self._process.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        self._wait_until(lambda: all(_state(task) == "T" for task in tasks.iterdir()), "it stood still")

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to it and to all that it started. Fine when it has ended already."""
        if self.is_running:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(DEADLINE_SECONDS)

    def _noted(self) -> int:
        return self.ledger.read_bytes().count(b"\n") if self.ledger.exists() else 0

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if not self.is_running:
                said = self._process.stderr.read() if self._process.stderr else ""
                raise HarnessFailed(f"ended with {self._process.returncode} before {what}: {said[-2000:]}")
            if time.monotonic() > deadline:
                raise HarnessFailed(f"waited {DEADLINE_SECONDS} s in vain until {what}")
            time.sleep(_POLL_SECONDS)


def run_to_end(store: Place, ledger: Path, options: Sequence[str], prefix: Sequence[str] = ()) -> int:
    """Run a workload until it ends, by itself or by what it is run under; give its exit code."""
    with Child(store, ledger, options, prefix) as child:
        return child.wait_end()


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]
