"""`outlast serve` as a test sees it: a process that can be killed at any moment and started again.

A restart keeps the port, the store and the servers, as a supervisor of processes would. What it says on
standard error is kept over all its runs: a traceback there fails the test that saw it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import trio

from tests.e2e.process import STOP_SECONDS, ChildProcess

_READY = (
    r"^outlast: listening on (?P<url>https?://\S+) "
    r"\((?P<restored>\d+) sessions? restored, (?P<uninitialized>\d+) uninitialized, (?P<seconds>[\d.]+) s\)"
)

WEAKENED = "tests.e2e.weakened_gateway"
SLOW_COMMITS = "--slow-commits"
OPEN_GATE = "--open-gate"
FORGET_CALLS = "--forget-calls"
RUN_AGAIN = "--run-again"
NO_LOOKS = "--no-looks"
FORGET_PLACES = "--forget-places"
NO_OWNERS = "--no-owners"

# How each road is chosen: the hot one is the default.
ROAD_ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "hot": {},
    "hypercorn": {"OUTLAST_HOT_ROAD": "false"},
}


@attrs.frozen
class ReadyLine:
    """What the gateway said of itself when it began to serve."""

    url: str
    restored: int
    uninitialized: int
    seconds: float


class Gateway:
    """One gateway over all its runs."""

    def __init__(
        self,
        directory: Path,
        servers: Mapping[str, str],
        *,
        road: str = "hot",
        store: str = "",
        weakened: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._module, self._flags = (WEAKENED, weakened) if weakened else ("outlast", ())
        # A store of the environment is named there alone: its password is nothing for a command line.
        by_environment = "SESSION_STORE" in (environment or {})
        self._store = store or ("" if by_environment else f"sqlite:{directory / 'outlast.db'}")
        self._servers = servers
        self._environment = {
            "SESSION_DATA_DIR": str(directory),
            # On a busy machine, a server with the SDK in it starts in more than the usual five seconds. Tests of what
            # is answered then choose less.
            "OUTLAST_RESTORE_WAIT_SECONDS": "30",
            **ROAD_ENVIRONMENTS[road],
            **(environment or {}),
        }
        self._address = "127.0.0.1:0"
        self._process: ChildProcess | None = None
        self._asked_to_end = False
        self._earlier_stderr = ""
        self._checked_characters = 0
        self.ready_line: ReadyLine | None = None

    def url(self, server: str | None = None) -> str:
        """Where a server's MCP endpoint is; without a name, that of the only server."""
        assert self.ready_line is not None, "not started"
        path = "/mcp" if server is None else f"/servers/{server}/mcp"
        return self.ready_line.url + path

    @property
    def address(self) -> str:
        """Host and port."""
        return self._address

    @property
    def stderr(self) -> str:
        """What all runs said on standard error."""
        return self._earlier_stderr + (self._process.stderr if self._process else "")

    @property
    def process(self) -> ChildProcess:
        """The present run."""
        assert self._process is not None, "not started"
        return self._process

    def start_blocking(self) -> ReadyLine:
        """Start a run and wait for its ready line."""
        if self._process is not None:
            assert not self._process.is_running, "one run at a time: it owns the store"
            self._earlier_stderr += self._process.stderr
        self._asked_to_end = False
        arguments = [*self._flags, "serve", "--listen", self._address]
        arguments += ["--store", self._store] if self._store else []
        for name, target in self._servers.items():
            arguments += ["--server", f"{name}={target}"]
        self._process = ChildProcess(self._module, arguments, environment=self._environment)
        match = self._process.wait_line(_READY)
        self.ready_line = ReadyLine(
            match["url"], int(match["restored"]), int(match["uninitialized"]), float(match["seconds"])
        )
        self._address = urlsplit(match["url"]).netloc
        return self.ready_line

    async def start(self) -> ReadyLine:
        """As `start_blocking`, while the test's other tasks go on."""
        return await trio.to_thread.run_sync(self.start_blocking)

    def kill(self) -> None:
        """`kill -9`, to the whole group. Fine when it has ended already."""
        self._asked_to_end = True
        if self._process is not None:
            self._process.kill()

    def begin_stop(self) -> None:
        """Ask for an orderly end (SIGTERM)."""
        self._asked_to_end = True
        self.process.signal(signal.SIGTERM)

    async def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """Ask for an orderly end and wait for it.

        Returns:
          The exit code.
        """
        self.begin_stop()
        return await trio.to_thread.run_sync(lambda: self.process.wait_exit(seconds=seconds))

    def assert_is_well(self) -> None:
        """Fail if the process has ended by itself, or if a traceback was written since this was last asked."""
        assert self._process is None or self._process.is_running or self._asked_to_end, self.stderr
        said = self.stderr
        fresh, self._checked_characters = said[self._checked_characters :], len(said)
        assert not re.search(r"Traceback \(most recent call last\)|AssertionError", fresh), fresh
