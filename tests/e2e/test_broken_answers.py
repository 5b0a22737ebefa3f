"""Servers that answer with what is no JSON-RPC, behind a real gateway: every call ends, with an answer or an error."""

from __future__ import annotations

import shlex
import sys

import pytest

from tests.e2e.bed import Bed
from tests.e2e.raw_client import RawClient
from tests.e2e.socket_client import connect

UNREADABLE_ANSWER, OUTCOME_UNKNOWN = -32014, -32011

# Over stdio; "Listening..." and the like are what servers print that were written to be looked at.
SERVER = """
import json, sys
def say(message): print(json.dumps(message), flush=True)
print("Listening on stdio...", flush=True)
for line in sys.stdin:
    message = json.loads(line)
    tool = message.get("params", {}).get("name")
    answer = {"jsonrpc": "2.0", "id": message.get("id")}
    if message["method"] == "initialize":
        info = {"name": "broken", "version": "1"}
        say({**answer, "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}})
    elif tool == "no_result":
        say(answer)
    elif tool == "no_jsonrpc":
        say({"id": message["id"], "result": {"content": []}})
    elif tool == "chatty":
        print("calling chatty", {"id": message["id"]}, flush=True)
        say({"level": "debug", "id": message["id"]})
        say({**answer, "result": {"content": [{"type": "text", "text": "fine"}]}})
    elif tool == "torn":
        print(json.dumps({**answer, "result": {"content": []}})[:40], flush=True)
        sys.exit(1)
"""
TARGET = f"stdio:{shlex.join([sys.executable, '-c', SERVER])}"


@pytest.mark.parametrize("tool", ["no_result", "no_jsonrpc"])
async def test_call_whose_answer_cannot_be_read_is_told_so_and_the_session_goes_on(bed: Bed, tool: str) -> None:
    gateway = await bed.gateway(only=TARGET)
    client = RawClient(gateway.url())
    await client.open_session()
    error = (await client.ask(client.tool_call(tool)))["error"]
    assert error["code"] == UNREADABLE_ANSWER
    assert "no JSON-RPC answer" in error["message"]
    assert await client.call("chatty") == "fine"


async def test_call_over_a_websocket_is_told_so_too(bed: Bed) -> None:
    gateway = await bed.gateway(only=TARGET)
    async with connect(gateway) as client:
        await client.open_session()
        call = client.tool_call("no_result")
        await client.say(call)
        assert (await client.answer_to(call))["error"]["code"] == UNREADABLE_ANSWER
        assert await client.call("chatty") == "fine"


async def test_half_an_answer_of_a_program_that_ends_is_an_outcome_that_nobody_knows(bed: Bed) -> None:
    gateway = await bed.gateway(only=TARGET)
    client = RawClient(gateway.url())
    await client.open_session()
    assert (await client.ask(client.tool_call("torn")))["error"]["code"] == OUTCOME_UNKNOWN
    assert await client.call("chatty") == "fine", "by another process, opened with the kept handshake"
