"""The last SDK that speaks WebSocket (mcp 1.x), in a folder of its own: 2.x has dropped it, and is what the tests use.

It is installed with the other published peers (`peers/installing.py`), and reached by child processes alone through
PYTHONPATH, where it comes before the newer one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio

from tests.e2e.journal import Journal
from tests.e2e.process import ROOT, ChildProcess


class OldUpstream:
    """A WebSocket server built on it; a restart keeps the port and loses the sessions."""

    def __init__(self, directory: Path, packages: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(directory)
        self._packages = packages
        self._port = 0
        self._process: ChildProcess | None = None

    @property
    def target(self) -> str:
        """What `outlast serve --server NAME=TARGET` takes."""
        return f"ws://127.0.0.1:{self._port}/ws"

    async def start(self) -> None:
        """Start the server and wait until it takes connections."""
        await trio.to_thread.run_sync(self._start)

    def _start(self) -> None:
        arguments = ["--journal", str(self.journal.directory), "--port", str(self._port)]
        self._process = _run("tests.e2e.old_sdk_server", arguments, self._packages)
        self._port = int(self._process.wait_line(r"^port (\d+)$")[1])

    def kill(self) -> None:
        """End the server at once. Fine when it has ended already."""
        if self._process is not None:
            self._process.kill()


async def run_client(url: str, packages: Path) -> dict[str, Any]:
    """Have its WebSocket client open a session, list tools and call one; give what it saw."""

    def run() -> dict[str, Any]:
        process = _run("tests.e2e.old_sdk_client", [url], packages)
        try:
            seen: dict[str, Any] = json.loads(process.wait_line(r"^\{.*\}$")[0])
            return seen
        finally:
            process.kill()

    return await trio.to_thread.run_sync(run)


def _run(module: str, arguments: list[str], packages: Path) -> ChildProcess:
    return ChildProcess(module, arguments, environment={"PYTHONPATH": f"{packages}:{ROOT}"})
