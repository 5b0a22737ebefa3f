"""What the documents tell users to write into their clients' configurations connects, as it stands.

Method: each snippet is read as a client reads it; its programs are started and its URLs asked by the public SDK's
client, in front of a live gateway. Only what a reader would replace, too, is replaced: the addresses, the path of the
program, and `...` where a token goes.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from tests.e2e.bed import TIME_TARGET, Bed, LastingUpstreams
from tests.e2e.process import ROOT
from tests.e2e.sdk_client import SdkPeer, connected, sdk_client
from tests.e2e.test_oauth import Bearer
from tests.outlast.test_document_commands import CLIENTS, SHELL, Block

TOKEN = "a-token-that-a-reader-was-given"
HERE, THERE = "http://127.0.0.1:8080", "https://mcp.example.com"  # the reader's own machine; where tokens are asked for
PROGRAMS = {"outlast", "/opt/outlast/bin/outlast"}


@attrs.frozen
class Configured:
    """One server in one client's configuration."""

    place: str  # document:line
    name: str
    server: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.place}-{self.name}"


def configured_in(block: Block) -> Iterator[Configured]:
    """Give the servers of a JSON snippet."""
    document = json.loads(block.text)
    for name, server in document.get("mcpServers", document.get("servers", {})).items():
        yield Configured(block.place, name, server)


def added_in(block: Block) -> Iterator[Configured]:
    """Give the servers that commands of Claude Code's would add."""
    for line in block.text.splitlines():
        if line.startswith("claude mcp add"):
            words = shlex.split(line)
            name, url, *rest = [word for word in words[3:] if word not in ("--transport", "http", "--header")]
            headers = dict(header.split(": ", 1) for header in rest)
            yield Configured(block.place, f"{name}-by-command", {"url": url, "headers": headers})


ALL = [one for block in CLIENTS for one in configured_in(block)] + [one for block in SHELL for one in added_in(block)]


@pytest.fixture
def bed(tmp_path: Path, _lasting: LastingUpstreams) -> Iterator[Bed]:
    """On one road: what is tried is what stands in documents."""
    bed = Bed(tmp_path, "hot", _lasting)
    try:
        yield bed
    finally:
        bed.close()


@asynccontextmanager
async def client_of(configured: Configured, places: Mapping[str, str], folder: Path) -> AsyncIterator[SdkPeer]:
    """Connect as a client with this configuration would."""
    text = json.dumps(configured.server)
    for written, meant in {**places, "...": TOKEN}.items():
        text = text.replace(written, meant)
    server: dict[str, Any] = json.loads(text)
    match server:
        case {"command": command, "args": arguments}:
            assert command in PROGRAMS
            parameters = StdioServerParameters(
                command=str(installed(folder)), args=arguments, env={**os.environ, **server.get("env", {})}
            )
            async with connected(stdio_client(parameters), set(), []) as peer:
                yield peer
        case {"url": url}:
            authorization = server.get("headers", {}).get("Authorization", "")
            auth = Bearer(authorization.removeprefix("Bearer ")) if authorization else None
            async with sdk_client(url, auth=auth) as peer:
                yield peer
        case _:
            pytest.fail(f"{configured}: neither a program nor a URL: {server}")


def installed(folder: Path) -> Path:
    """Make what an installation has at its path."""
    program = folder / "outlast"
    if not program.exists():
        program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {sys.executable} -m outlast "$@"\n')
        program.chmod(0o755)
    return program


async def test_every_server_in_a_configuration_can_be_called(bed: Bed, tmp_path: Path) -> None:
    own = await bed.gateway(time=TIME_TARGET)
    guarded = await bed.gateway(environment={"OUTLAST_CLIENT_TOKENS": f"reader={TOKEN}"}, wiki=TIME_TARGET)
    places = {HERE: f"http://{own.address}", THERE: f"http://{guarded.address}"}
    ways = set()
    for configured in ALL:
        async with client_of(configured, places, tmp_path) as peer:
            told = json.loads(await peer.call("get_current_time", timezone="UTC"))
        assert told["timezone"] == "UTC", configured
        ways.add((configured.place.partition(":")[0], "command" in configured.server, "wiki" in configured.name))
    assert ("docs/getting-started.md", True, False) in ways, "Claude Desktop starts a program"
    assert ("docs/getting-started.md", False, True) in ways, "Cursor asks a URL with a token"
    assert ("docs/stdio-bridge.md", True, True) in ways, "the bridge presents a token of its environment"


async def test_a_configuration_that_leads_elsewhere_or_has_no_token_is_found(bed: Bed, tmp_path: Path) -> None:
    guarded = await bed.gateway(environment={"OUTLAST_CLIENT_TOKENS": f"reader={TOKEN}"}, wiki=TIME_TARGET)
    for url, headers in ((f"{THERE}/servers/wiky/mcp", {"Authorization": "Bearer ..."}), (f"{THERE}/mcp", {})):
        wrong = Configured("invented", "wrong", {"url": url, "headers": headers})
        with pytest.RaisesGroup(MCPError, allow_unwrapped=True, flatten_subgroups=True):
            async with client_of(wrong, {THERE: f"http://{guarded.address}"}, tmp_path):
                pass


def test_snippets_are_found_in_the_documents() -> None:
    assert len(ALL) >= 8
    assert {urlsplit(one.server["url"]).netloc for one in ALL if "url" in one.server} == {
        *("127.0.0.1:8080", "mcp.example.com")
    }
