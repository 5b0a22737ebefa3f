"""The bed of published peers: their servers, and one gateway in front of all of them."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import trio

from tests.e2e.bed import DIRECT
from tests.e2e.conftest import ROADS
from tests.e2e.gateway import Gateway
from tests.e2e.peers.http_talk import http_talk
from tests.e2e.peers.stdio_talk import stdio_talk
from tests.e2e.peers.talk import Scenario, Talk, Transcript
from tests.e2e.process import ChildProcess
from tests.e2e.waiting import DEADLINE_SECONDS

# Roads through a gateway. Here "direct" is no road to choose: it is what every one of them is compared with.
GATEWAY_ROADS = [road for road in ROADS if road != DIRECT] or ["hot"]

_CONNECT_PAUSE_SECONDS = 0.05


class PeersBed:
    """Started once for all tests that leave it as it is: a gateway for each road, in front of the same servers."""

    def __init__(
        self,
        directory: Path,
        roads: Sequence[str],
        commands: Mapping[str, Sequence[str]],
        urls: Mapping[str, str] | None = None,
    ) -> None:
        urls = urls or {}
        self.commands = commands
        self.urls = urls
        self._direct: dict[object, Transcript] = {}
        servers = {name: f"stdio:{shlex.join(command)}" for name, command in commands.items()} | dict(urls)
        self.gateways = {road: Gateway(directory / road, servers, road=road) for road in roads}

    def start(self) -> None:
        """Start the gateways and wait until they serve."""
        for gateway in self.gateways.values():
            gateway.start_blocking()

    def close(self) -> None:
        """Kill everything."""
        for gateway in self.gateways.values():
            gateway.kill()

    def assert_is_well(self) -> None:
        """Fail if a gateway has ended, or has written a traceback since this was last asked."""
        for gateway in self.gateways.values():
            gateway.assert_is_well()

    @contextlib.asynccontextmanager
    async def talk(self, server: str, road: str | None) -> AsyncIterator[Talk]:
        """Talk with a server through the gateway, or, without a road, with the server itself."""
        if road is not None:
            async with http_talk(self.gateways[road].url(server)) as talk:
                yield talk
            self.gateways[road].assert_is_well()
        elif server in self.urls:
            async with http_talk(self.urls[server]) as talk:
                yield talk
        else:
            async with stdio_talk(self.commands[server]) as direct:
                yield direct

    async def transcript(self, server: str, scenario: Scenario, road: str | None) -> Transcript:
        """Run a scenario and give what was heard."""
        async with self.talk(server, road) as talk:
            await scenario(talk)
        return talk.transcript

    async def compare(self, server: str, scenario: Scenario, *, together: bool = False) -> None:
        """Run a scenario with the server itself and through every gateway; what was heard has to be the same.

        Args:
          together: at the same time; right for scenarios that do not see what another one did.
        """
        heard: dict[str | None, Transcript] = {}

        async def run(road: str | None) -> None:
            heard[road] = await self.transcript(server, scenario, road)

        async with trio.open_nursery() as nursery:
            for road in (None, *self.gateways):
                if together:
                    nursery.start_soon(run, road)
                else:
                    await run(road)
        for road in self.gateways:
            assert_same(heard[None], heard[road], one_stream=server in self.commands)


def assert_same(direct: Transcript, through: Transcript, *, one_stream: bool) -> None:
    """Assert that two transcripts are equal, and show what is not.

    Args:
      one_stream: the server itself was heard over stdio, which has no streams to compare.
    """
    if one_stream:
        direct, through = direct.as_one_stream(), through.as_one_stream()
    assert list(through.replies) == list(direct.replies)
    for label, heard in direct.replies.items():
        assert through.replies[label] == heard, label
    assert set(through.asides) == set(direct.asides)
    for method in direct.asides:
        assert through.asides[method] == direct.asides[method], method


class EverythingServer:
    """server-everything over Streamable HTTP, on a port of its own."""

    def __init__(self, node_modules: Path) -> None:
        self._script = node_modules / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
        self._process: ChildProcess | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/mcp"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        environment = {"PORT": str(self._port)}
        self._process = ChildProcess(str(self._script), ["streamableHttp"], environment=environment, program=["node"])
        # It says that it listens on standard error, before it does.
        for _ in range(int(DEADLINE_SECONDS / _CONNECT_PAUSE_SECONDS)):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1.0):
                return
            time.sleep(_CONNECT_PAUSE_SECONDS)
        raise AssertionError(f"server-everything takes no connections; it said:\n{self._process.stderr}")

    def close(self) -> None:
        """Kill the server."""
        if self._process is not None:
            self._process.kill()


def npm_commands(node_modules: Path, directory: Path) -> dict[str, Sequence[str]]:
    """The servers from npm over stdio, with what they keep in `directory`."""
    scope = node_modules / "@modelcontextprotocol"
    files = directory / "files"
    files.mkdir()
    kept = f"MEMORY_FILE_PATH={directory / 'memory.jsonl'}"
    return {
        "everything": ["node", str(scope / "server-everything" / "dist" / "index.js"), "stdio"],
        "memory": ["env", kept, "node", str(scope / "server-memory" / "dist" / "index.js")],
        "filesystem": ["node", str(scope / "server-filesystem" / "dist" / "index.js"), str(files)],
    }


def python_commands(programs: Path, directory: Path) -> dict[str, Sequence[str]]:
    """The servers from PyPI, all of them on version 1 of the SDK, and a repository for one of them."""
    repository = directory / "repository"
    repository.mkdir()
    identity = ("-c", "user.name=peer", "-c", "user.email=peer@localhost", "-c", "commit.gpgsign=false")
    (repository / "file.txt").write_text("grüße\n")
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "."),
        (*identity, "commit", "--quiet", "-mone"),
    ):
        subprocess.run(["git", *arguments], cwd=repository, check=True, timeout=DEADLINE_SECONDS, capture_output=True)
    (repository / "file.txt").write_text("grüße\nund mehr\n")
    return {
        "time": [str(programs / "mcp-server-time"), "--local-timezone", "UTC"],
        "git": [str(programs / "mcp-server-git"), "--repository", str(repository)],
    }
