"""Client programs of others: run to their end, with what they printed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

import trio

from tests.e2e.process import neutral_environment

_PROGRAM_SECONDS = 60.0


class ProgramFailed(Exception):
    """A client program did not end well; the message has all it said."""


async def output_of(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> list[str]:
    """Run a program and give the lines that it printed.

    Raises:
      ProgramFailed: it ended with an error, or not at all.
    """
    with trio.move_on_after(_PROGRAM_SECONDS):
        done = await trio.run_process(
            list(command),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=b"",
            env={**neutral_environment(), "PYTHONPATH": "", **(environment or {})},
        )
        if done.returncode != 0:
            raise ProgramFailed(f"{subprocess.list2cmdline(command)}\n{done.stdout.decode()}\n{done.stderr.decode()}")
        return done.stdout.decode().splitlines()
    raise ProgramFailed(f"no end after {_PROGRAM_SECONDS} s: {subprocess.list2cmdline(command)}")
