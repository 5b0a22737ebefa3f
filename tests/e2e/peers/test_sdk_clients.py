"""Both versions of the Python SDK's client, directly and through the gateway: they cannot tell which.

Version 1 runs in an environment of its own; version 2 is the project's, in its two modes: sessions from the start, and
a look first whether the server still needs them.
"""

from __future__ import annotations

import gc
import json
import shlex
from collections.abc import Awaitable
from pathlib import Path
from typing import Literal

import httpx2
import pydantic
import pytest
import trio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.e2e.bed import SharedBed
from tests.e2e.journal import Journal
from tests.e2e.peers import installing
from tests.e2e.peers.peers_bed import PeersBed
from tests.e2e.peers.programs import output_of
from tests.e2e.process import ROOT
from tests.e2e.upstream import stdio_target
from tests.e2e.waiting import DEADLINE_SECONDS

_SDK_1_CLIENT = Path(__file__).parent / "sdk_1_client.py"
_Mode = Literal["legacy", "auto"]


@pytest.mark.parametrize("server", ["plain", "stdio"])
async def test_client_of_version_1_is_told_the_same(shared: SharedBed, tmp_path: Path, server: str) -> None:
    python = str(installing.python_peers() / "python")
    target = _command(tmp_path) if server == "stdio" else shared.direct_url(server)
    heard: dict[str, list[str]] = {}

    async def run(name: str, target: str) -> None:
        heard[name] = await output_of([python, str(_SDK_1_CLIENT), target])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "direct", target)
        nursery.start_soon(run, "through", shared.url(server))
    assert {"progress", "sampling", "elicitation", "heard"} <= {json.loads(line)[0] for line in heard["direct"]}
    assert heard["through"] == heard["direct"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_client_of_version_2_is_told_the_same(python_bed: PeersBed, mode: _Mode) -> None:
    command, *arguments = python_bed.commands["time"]
    direct = await _sdk_2_answers(StdioServerParameters(command=command, args=arguments), mode)
    for gateway in python_bed.gateways.values():
        assert await _sdk_2_answers(gateway.url("time"), mode) == direct
    python_bed.assert_is_well()


async def _sdk_2_answers(target: StdioServerParameters | str, mode: _Mode) -> list[str]:
    if isinstance(target, StdioServerParameters):
        async with Client(target, mode=mode, read_timeout_seconds=DEADLINE_SECONDS) as client:
            return await _answers(client)
    async with httpx2.AsyncClient(timeout=DEADLINE_SECONDS, verify=False) as http:
        transport = streamable_http_client(target, http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=DEADLINE_SECONDS) as client:
            answers = await _answers(client)
    gc.collect()  # see sdk_client
    return answers


async def _answers(client: Client) -> list[str]:
    assert client.server_info is not None
    converted = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    return [
        client.protocol_version,
        client.server_info.model_dump_json(),
        client.server_capabilities.model_dump_json(),
        await _dumped(client.list_tools()),
        await _dumped(client.call_tool("convert_time", converted)),
        await _dumped(client.call_tool("convert_time", {"source_timezone": "Nowhere"})),
        await _dumped(client.call_tool("no_such_tool", {})),
        await _dumped(client.list_prompts()),
    ]


async def _dumped(answer: Awaitable[pydantic.BaseModel]) -> str:
    try:
        return (await answer).model_dump_json()
    except MCPError as refused:
        return f"{refused.code} {refused.message} {refused.data}"


def _command(directory: Path) -> str:
    command = shlex.split(stdio_target(Journal(directory)).removeprefix("stdio:"))
    return json.dumps(["env", f"PYTHONPATH={ROOT}", *command])
