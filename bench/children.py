"""Children: the processes of a measurement, started, waited for and ended.

A child says on stdout where it listens (`...: listening on URL`); that line is its readiness. What it writes to stderr
is kept in a file and shown if it fails, so that a broken run explains itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from bench.cores import pinned

READY_SECONDS_MAX = 60.0  # a gateway with very many stored sessions may take its time
END_SECONDS_MAX = 20.0  # then it is killed
_READY = re.compile(rb"listening on (http://\S+)")
_READY_BYTES_MAX = 65536  # no ready line is that long: whoever says so much without it is no child of ours
_SHOWN_BYTES = 4000  # of a failed child's stderr


class ChildFailed(Exception):
    """A child did not start, or did not do its work; the message says what it said."""


@attrs.frozen
class Child:
    """A running child that is ready."""

    name: str
    pid: int
    url: str  # as its ready line has it
    ready_line: str
    ready_seconds: float  # from exec to the ready line


@contextlib.contextmanager
def child(
    name: str,
    arguments: Sequence[str],
    *,
    core: int | None,
    logs: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    """Run a Python module as a child for the length of the block; give it when it is ready.

    Args:
      name: for messages, and for its log's file name.
      arguments: what follows `python -m`.
      core: where it runs; None: anywhere.
      logs: the folder for its stderr.
      environment: variables beside our own.

    Raises:
      ChildFailed: it ended, or did not get ready in time.
    """
    log = logs / f"{name}.log"
    with log.open("wb") as stderr, pinned(core):
        begun_at = time.perf_counter()
        process = subprocess.Popen(
            _command(arguments),
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=_environment(environment),
            bufsize=0,
        )
    try:
        line, url = _wait_ready(name, process)
        yield Child(name, process.pid, url, line, time.perf_counter() - begun_at)
    except ChildFailed as error:
        if process.poll() is None:
            raise
        # What failed in the block most likely failed because this one is gone: say both.
        raise ChildFailed(f"{error}\n{name} ended with {process.returncode}\n{_last_words(log)}") from None
    finally:
        _end(process)


def run_to_end(name: str, arguments: Sequence[str], *, core: int | None, seconds_max: float) -> str:
    """Run a Python module to its end, and give what it wrote to stdout.

    Raises:
      ChildFailed: it did not end well, or not in time.
    """
    with pinned(core):
        process = subprocess.Popen(
            _command(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(None),
        )
    try:
        output, problem = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"{name} did not end within {seconds_max:.0f} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        raise ChildFailed(f"{name} ended with {process.returncode}: {problem.strip()}")
    return output


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Our own, with the folder we were started from on the path: children import what we do."""
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": root, **(more or {})}


def _wait_ready(name: str, process: subprocess.Popen[bytes]) -> tuple[str, str]:
    assert process.stdout is not None
    deadline = time.monotonic() + READY_SECONDS_MAX
    said = b""
    while not (found := _READY.search(said)) or b"\n" not in said[found.end() :]:
        left = deadline - time.monotonic()
        if left <= 0 or len(said) > _READY_BYTES_MAX:
            raise ChildFailed(f"{name} was not ready within {READY_SECONDS_MAX:.0f} s")
        if not select.select([process.stdout], [], [], left)[0]:
            continue
        chunk = os.read(process.stdout.fileno(), 4096)
        if not chunk:
            process.wait(END_SECONDS_MAX)
            raise ChildFailed(f"{name} said goodbye before it was ready")
        said += chunk
    line = next(line for line in said.splitlines() if _READY.search(line))
    return line.decode(), found.group(1).decode()


def _last_words(log: Path) -> str:
    return log.read_bytes()[-_SHOWN_BYTES:].decode(errors="replace").strip()


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_SECONDS_MAX)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
