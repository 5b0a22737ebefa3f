"""Clients from npm do all that server-everything offers, directly and through the gateway: they cannot tell which."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from tests.e2e.peers import installing
from tests.e2e.peers.peers_bed import PeersBed
from tests.e2e.peers.programs import output_of

_CLIENT = Path(__file__).parent / "npm_client.mjs"
_SESSION_ID = re.compile(r"for session [0-9a-f-]{36}")  # the server tells its own in a text

_INSPECTIONS = (
    ("--method", "tools/list"),
    ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=grüße"),
)


@pytest.mark.parametrize("server", ["everything", "everything_http"])
async def test_typescript_client_is_told_the_same(npm_bed: PeersBed, server: str) -> None:
    heard: dict[str, list[str]] = {}

    async def run(name: str, target: str) -> None:
        lines = await output_of(["node", str(_CLIENT), str(installing.node_modules()), target])
        heard[name] = [_SESSION_ID.sub("for session", line) for line in lines]

    direct = npm_bed.urls.get(server) or json.dumps(npm_bed.commands[server])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "direct", direct)
        for road, gateway in npm_bed.gateways.items():
            nursery.start_soon(run, road, gateway.url(server))
    npm_bed.assert_is_well()
    labels = [json.loads(line)[0] for line in heard["direct"]]
    assert {"server", "operation", "sampling", "elicitation", "updates on", "cancelled", "heard progress"} <= set(
        labels
    )
    for road in npm_bed.gateways:
        for through, direct_line in zip(heard[road], heard["direct"], strict=True):
            assert through == direct_line


@pytest.mark.parametrize("inspection", _INSPECTIONS, ids=["list", "call"])
async def test_inspector_shows_the_same(npm_bed: PeersBed, inspection: Sequence[str]) -> None:
    script = installing.node_modules() / "@modelcontextprotocol" / "inspector-cli" / "build" / "index.js"
    shown: dict[str, list[str]] = {}

    async def run(name: str, *target: str) -> None:
        shown[name] = await output_of(["node", str(script), *target, *inspection])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "direct", *npm_bed.commands["everything"])
        for road, gateway in npm_bed.gateways.items():
            nursery.start_soon(run, road, gateway.url("everything"), "--transport", "http")
    npm_bed.assert_is_well()
    assert json.loads("\n".join(shown["direct"]))
    assert all(lines == shown["direct"] for lines in shown.values())
