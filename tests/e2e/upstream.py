"""The upstream test server as a test sees it: a process that can be started, killed and started again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from tests.e2e.journal import Journal
from tests.e2e.process import ChildProcess

MODULE = "tests.e2e.upstream_server"


class Upstream:
    """An HTTP upstream on a port of its own; a restart keeps the port and loses the sessions."""

    def __init__(
        self,
        directory: Path,
        *,
        event_store: bool = False,
        json_answers: bool = False,
        sse: bool = False,
        module: str = MODULE,
        flags: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(directory)
        self._module = module
        self._flags = ["--event-store"] * event_store + ["--json"] * json_answers + ["--sse"] * sse + [*flags]
        self._path = "/sse" if sse else "/mcp"
        self._port = 0
        self._process: ChildProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._path}"

    @property
    def target(self) -> str:
        """What `outlast serve --server NAME=TARGET` takes."""
        return self.url

    def start_blocking(self) -> None:
        """Start the server and wait until it takes connections."""
        arguments = ["--journal", str(self.journal.directory), "--port", str(self._port), *self._flags]
        self._process = ChildProcess(self._module, arguments)
        self._port = int(self._process.wait_line(r"^port (\d+)$")[1])

    async def start(self) -> None:
        """As `start_blocking`, while the test's other tasks go on."""
        await trio.to_thread.run_sync(self.start_blocking)

    def kill(self) -> None:
        """End the server at once. Fine when it has ended already."""
        if self._process is not None:
            self._process.kill()


def stdio_target(journal: Journal, module: str = MODULE) -> str:
    """What `outlast serve --server NAME=TARGET` takes for the same server over stdio.

    The gateway's working directory is the project's root, and its children's: the module is found there.
    """
    command = [sys.executable, "-m", module, "--stdio", "--journal", str(journal.directory)]
    return f"stdio:{shlex.join(command)}"
