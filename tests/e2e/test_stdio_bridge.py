"""`outlast stdio`: a client that only speaks stdio outlives `kill -9` of the gateway, and is always answered.

Method: the SDK's stdio client starts the bridge as its server, in front of a gateway that is killed in the middle of a
call and started again; the bare pipe where lines and ends are meant. The upstream's journal tells what was run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import mcp_types as types
import pytest
import trio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from tests.e2e.bed import Bed
from tests.e2e.process import ROOT
from tests.e2e.sdk_client import SdkPeer, sdk_stdio_client, unique_key
from tests.e2e.upstream import Upstream
from tests.e2e.waiting import DEADLINE_SECONDS, wait_until

OUTCOME_UNKNOWN = -32011
TOKEN = "a-token-of-thirty-two-characters-or-more"
HANDSHAKE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "pipe", "version": "1"}},
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Asked:
    """A call in another task."""

    def __init__(self, peer: SdkPeer, tool: str, **arguments: object) -> None:
        self._peer = peer
        self._tool = tool
        self._arguments = arguments
        self.text = ""
        self.code = 0

    async def run(self) -> None:
        try:
            self.text = await self._peer.call(self._tool, **self._arguments)
        except MCPError as error:
            self.code = error.error.code


def more_than(calls: list[tuple[str, Asked]], count: int) -> bool:
    return len(calls) > count


async def begun(upstream: Upstream, key: str) -> None:
    await wait_until("the tool runs", lambda: upstream.journal.has_run(key))


async def test_what_the_server_can_do_can_be_done_over_stdio(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    async with sdk_stdio_client("outlast", "stdio", "--url", gateway.url()) as peer:
        assert await peer.call("add", a=1, b=2) == "3"
        assert await peer.call("sample", prompt="loud") == "capitals: LOUD"
        assert await peer.call("list_roots"), "asked on the session's own stream"
        await peer.call("progress", key=unique_key(), count=3)
        assert len(peer.logged) == 3
        await peer.call("change_tools")
        await wait_until("it was told", lambda: bool(peer.heard(types.ToolListChangedNotification)))
        with pytest.raises(MCPError) as failed:
            await peer.call("fail", detail="x")
        assert failed.value.error.code == -31234


async def test_call_is_answered_once_through_a_kill_of_the_gateway(bed: Bed) -> None:
    """The upstream can resume: the client does not notice."""
    upstream = bed.lasting.resumable
    gateway = await bed.gateway(only=upstream.target)
    async with sdk_stdio_client("outlast", "stdio", "--url", gateway.url()) as peer, trio.open_nursery() as nursery:
        assert await peer.call("counter") == "1"
        initialized = upstream.journal.seen("initialize")
        key = unique_key()
        call = Asked(peer, "progress", key=key, count=3, hold=key)
        nursery.start_soon(call.run)
        await wait_until("all of its progress is told", lambda: len(peer.logged) == 3)
        gateway.kill()
        while_away = Asked(peer, "counter")
        nursery.start_soon(while_away.run)
        await gateway.start()
        upstream.journal.release(key)
        with trio.fail_after(DEADLINE_SECONDS):
            await wait_until("both are answered", lambda: bool(call.text and while_away.text))
        assert call.text == f"done {key}"
        assert len(peer.logged) == 3, "nothing was told twice"
        assert upstream.journal.executions()[key] == 1
        assert while_away.text == "2", "what was surely not taken was sent again, in the same session"
        assert upstream.journal.seen("initialize") == initialized


async def test_call_that_nobody_can_resume_ends_in_an_error_and_the_session_goes_on(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    async with sdk_stdio_client("outlast", "stdio", "--url", gateway.url()) as peer, trio.open_nursery() as nursery:
        assert await peer.call("counter") == "1"
        key = unique_key()
        call = Asked(peer, "hold", key=key, hold=key)
        nursery.start_soon(call.run)
        await begun(upstream, key)
        gateway.kill()
        await gateway.start()
        await wait_until("it is told", lambda: call.code != 0)
        assert call.code == OUTCOME_UNKNOWN
        assert await peer.call("counter") == "2"
        assert upstream.journal.executions()[key] == 1
        upstream.journal.release(key)


async def test_gateway_that_has_forgotten_the_session_is_given_the_handshake_again(bed: Bed) -> None:
    """It keeps nothing, so after the kill it answers 404: the specification has clients re-initialize."""
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target, store="memory:")
    async with sdk_stdio_client("outlast", "stdio", "--url", gateway.url()) as peer, trio.open_nursery() as nursery:
        assert await peer.call("counter") == "1"
        initialized = upstream.journal.seen("initialize")
        key = unique_key()
        call = Asked(peer, "hold", key=key, hold=key)
        nursery.start_soon(call.run)
        await begun(upstream, key)
        gateway.kill()
        await gateway.start()
        assert await peer.call("counter") == "1", "a new session upstream"
        await wait_until("it is told", lambda: call.code != 0)
        assert call.code == OUTCOME_UNKNOWN
        assert upstream.journal.seen("initialize") == initialized + 1
        assert upstream.journal.executions()[key] == 1
        await wait_until("lists are to be read again", lambda: bool(peer.heard(types.ToolListChangedNotification)))
        upstream.journal.release(key)


async def test_every_request_is_answered_or_told_its_error_through_kill_after_kill(bed: Bed) -> None:
    """Eight callers do not stop calling while the gateway is killed three times; no call runs twice."""
    upstream = bed.lasting.resumable
    gateway = await bed.gateway(only=upstream.target)
    calls: list[tuple[str, Asked]] = []
    async with sdk_stdio_client("outlast", "stdio", "--url", gateway.url()) as peer:
        enough = trio.Event()

        async def call_on() -> None:
            while not enough.is_set():
                key = unique_key()
                call = Asked(peer, "sleep", key=key, seconds=len(calls) % 8 * 0.1)
                calls.append((key, call))
                await call.run()

        async with trio.open_nursery() as callers:
            for _ in range(8):
                callers.start_soon(call_on)
            for _ in range(3):
                await wait_until("calls are answered", partial(more_than, calls, len(calls) + 8))
                gateway.kill()
                await gateway.start()
            enough.set()
        assert await peer.call("counter") == "1"
    executions = upstream.journal.executions()
    for key, call in calls:
        assert (call.text, call.code) in ((f"done {key}", 0), ("", OUTCOME_UNKNOWN)), call.code
        assert executions[key] == 1 if call.text else executions[key] <= 1
    assert sum(1 for _, call in calls if call.text) > len(calls) / 2


async def test_gateway_that_wants_a_token_gets_it_with_every_request(bed: Bed) -> None:
    gateway = await bed.gateway(environment={"OUTLAST_CLIENT_TOKENS": f"desk={TOKEN}"}, only=bed.lasting.plain.target)
    asked = lines(HANDSHAKE, READY, call(1, "add", a=1, b=2))
    with piped(gateway.url(), "--token-env", "DESK_TOKEN", environment={"DESK_TOKEN": TOKEN}) as process:
        out, errors = await trio.to_thread.run_sync(lambda: process.communicate(asked, timeout=DEADLINE_SECONDS))
    assert ["result" in json.loads(line) for line in out.splitlines()] == [True, True], errors
    with piped(gateway.url()) as process:
        out, errors = await trio.to_thread.run_sync(lambda: process.communicate(asked, timeout=DEADLINE_SECONDS))
    welcome, refusal = [json.loads(line) for line in out.splitlines()]
    assert "HTTP 401" in welcome["error"]["message"]
    assert "error" in refusal
    assert TOKEN not in out.decode() + errors.decode() + gateway.stderr


async def test_client_that_asks_for_the_sessionless_revision_first_falls_back_to_a_handshake(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    arguments = ["-m", "outlast", "stdio", "--url", gateway.url()]
    command = StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT)
    async with Client(stdio_client(command), mode="auto", read_timeout_seconds=DEADLINE_SECONDS) as client:
        result = await client.call_tool("add", {"a": 1, "b": 2})
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text == "3"


@contextmanager
def piped(url: str, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run the bridge with pipes, and end it for certain."""
    process = subprocess.Popen(
        [sys.executable, "-m", "outlast", "stdio", "--url", url, *flags],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(*messages: object) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def call(id: int, tool: str, **arguments: object) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


async def test_all_that_was_piped_in_is_answered_before_it_ends_and_the_session_is_ended(bed: Bed) -> None:
    """As `outlast stdio ... < file`: the calls are still running when the input ends."""
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    asked = lines(HANDSHAKE, READY, call(1, "sleep", seconds=0.5, key=unique_key()), call(2, "add", a=1, b=2))
    with piped(gateway.url(), "--log-level", "debug") as process:
        out, errors = await trio.to_thread.run_sync(lambda: process.communicate(asked, timeout=DEADLINE_SECONDS))
    answers = [json.loads(line) for line in out.splitlines()]
    assert sorted(answer["id"] for answer in answers) == [0, 1, 2]
    assert all("result" in answer for answer in answers)
    assert process.returncode == 0, errors
    with piped(gateway.url()) as process:
        await trio.to_thread.run_sync(lambda: process.communicate(b"", timeout=DEADLINE_SECONDS))
    assert process.returncode == 0
    assert await gateway.stop() == 0
    ready = await gateway.start()
    assert ready.restored == 0, "the one session was ended, and the second bridge has opened none"


async def test_a_signal_ends_it_with_an_answer_for_whoever_waits(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    key = unique_key()
    with piped(gateway.url()) as process:
        assert process.stdin is not None
        process.stdin.write(lines(HANDSHAKE, READY, call(1, "hold", key=key, hold=key)))
        process.stdin.flush()
        await begun(upstream, key)
        process.send_signal(signal.SIGTERM)
        out, _ = await trio.to_thread.run_sync(lambda: process.communicate(timeout=DEADLINE_SECONDS))
    _, answer = [json.loads(line) for line in out.splitlines()]
    assert (answer["id"], answer["error"]["code"]) == (1, OUTCOME_UNKNOWN)
    assert process.returncode == 0
    upstream.journal.release(key)


async def test_bridge_that_is_started_before_its_gateway_waits_for_it(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    gateway.kill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.start)
        async with sdk_stdio_client("outlast", "stdio", "--url", gateway.url()) as peer:
            assert await peer.call("add", a=1, b=2) == "3"


async def test_server_that_never_comes_is_told_after_the_wait(bed: Bed) -> None:
    with piped("http://127.0.0.1:1/mcp", "--wait-seconds", "1") as process:
        asked = lines(HANDSHAKE)
        out, errors = await trio.to_thread.run_sync(lambda: process.communicate(asked, timeout=DEADLINE_SECONDS))
    answer = json.loads(out)
    assert answer["error"]["code"] == -32010
    assert "Connection refused" in answer["error"]["message"]
    assert not re.search(r"Traceback", errors.decode())
