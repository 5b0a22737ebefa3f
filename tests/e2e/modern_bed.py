"""The bed of 2026-07-28: real servers of both eras, over HTTP and stdio, with one gateway in front of all of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2

from tests.e2e.bed import DIRECT
from tests.e2e.gateway import Gateway
from tests.e2e.journal import Journal
from tests.e2e.modern_server import MODULE
from tests.e2e.raw_client import RawClient
from tests.e2e.upstream import Upstream, stdio_target

VERSION = "2026-07-28"

# A server of the handshake era that answers what it does not know by an error of its own making.
_OLD_STDIO = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    method, params = message["method"], message.get("params", {})
    if method == "initialize":
        info = {"name": "old", "version": "1"}
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": params["arguments"]["text"]}]}
    else:
        result = None
    if "id" in message:
        answer = {"result": result} if result else {"error": {"code": 0, "message": "not initialized"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
"""


class ModernBed:
    """Started once for all tests that leave it as it is."""

    def __init__(self, directory: Path, road: str) -> None:
        self.stdio_journal = Journal(directory)
        self.upstreams: Mapping[str, Upstream] = {
            "http": Upstream(directory / "http", module=MODULE),
            "json": Upstream(directory / "json", module=MODULE, json_answers=True),
            "old": Upstream(directory / "old", module=MODULE, flags=["--handshake-only"]),
        }
        self._directory = directory
        self._road = road
        self.gateway: Gateway | None = None

    def start(self) -> None:
        """Start the servers, then the gateway, and wait until all of them serve."""
        for upstream in self.upstreams.values():
            upstream.start_blocking()
        if self._road == DIRECT:
            return
        servers = {name: upstream.target for name, upstream in self.upstreams.items()}
        servers["stdio"] = stdio_target(self.stdio_journal, MODULE)
        servers["old_stdio"] = f"stdio:{shlex.join([sys.executable, '-c', _OLD_STDIO])}"
        self.gateway = Gateway(self._directory / "gateway", servers, road=self._road)
        self.gateway.start_blocking()

    def close(self) -> None:
        """Kill everything."""
        if self.gateway is not None:
            self.gateway.kill()
        for upstream in self.upstreams.values():
            upstream.kill()

    def url(self, server: str) -> str:
        return self.direct_url(server) if self.gateway is None else self.gateway.url(server)

    def direct_url(self, server: str) -> str:
        """The server's own endpoint, with no gateway between."""
        return self.upstreams[server].url

    def journal(self, server: str) -> Journal:
        return self.stdio_journal if server == "stdio" else self.upstreams[server].journal

    def raw(self, server: str, *, direct: bool = False) -> RawClient:
        """A bare client that sends what it is told to, under this revision's header."""
        return RawClient(self.direct_url(server) if direct else self.url(server), protocol_version=VERSION)


class Watched:
    """What an SDK client's HTTP looked like."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []  # verb, Mcp-Method
        self.session_ids: set[str] = set()

    @property
    def hooks(self) -> dict[str, Sequence[object]]:
        async def on_request(request: httpx2.Request) -> None:
            self.requests.append((request.method, request.headers.get("mcp-method", "")))

        async def on_response(response: httpx2.Response) -> None:
            if "mcp-session-id" in response.headers:
                self.session_ids.add(response.headers["mcp-session-id"])

        return {"request": [on_request], "response": [on_response]}
