"""The bridge and its command: what reaches the server, how it ends, and what it says of bad input.

Method: streams in memory for stdin and stdout, and a scripted server on a loopback socket (so no clock jumps here).
What a process of its own shows (signals, restarts of a gateway) is in tests/e2e/test_stdio_bridge.py.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from actors import jsonrpc
from outlast.bridge import BridgeOptions, bridge
from outlast.cli import main
from outlast.header_files import FILE_BYTES_MAX, read_headers
from outlast.kinds import Refused
from outlast.stderr import LINE_BYTES_MAX, never_waiting
from tests.transport.upstreams.bed import ANSWER, CALL, INITIALIZE, initialize_result
from tests.transport.upstreams.scripted_upstream import Caller, Script, ScriptedUpstream, SeenRequest
from transport.clients.stdio import StdioEnd

ROOT = Path(__file__).parents[2]
READY = jsonrpc.notification("notifications/initialized")
DEADLINE_SECONDS = 20.0
HASTY = BridgeOptions(wait_seconds=1.0, grace_seconds=1.0)


@attrs.define(eq=False)
class Bridged:
    server: ScriptedUpstream
    stdin: trio.testing.MemorySendStream
    stdout: trio.testing.MemoryReceiveStream
    ends: list[StdioEnd]
    ended: trio.Event
    buffered: bytes = b""

    async def say(self, *messages: jsonrpc.Message) -> None:
        await self.stdin.send_all(b"".join(message.raw + b"\n" for message in messages))

    async def next(self) -> jsonrpc.Message:
        while b"\n" not in self.buffered:
            data = await self.stdout.receive_some()
            assert data, "it ended instead"
            self.buffered += bytes(data)
        line, _, self.buffered = self.buffered.partition(b"\n")
        return jsonrpc.parse(line)

    async def open(self) -> None:
        await self.say(INITIALIZE, READY)
        assert (await self.next()).id == INITIALIZE.id

    async def end(self) -> StdioEnd:
        await self.stdin.aclose()
        await self.ended.wait()
        return self.ends[0]

    @property
    def methods(self) -> list[str]:
        """HTTP methods that reached the server, but for its listening stream, which comes whenever it comes."""
        return [request.method for request in self.server.requests if request.method != "GET"]


@asynccontextmanager
async def bridged(script: Script, *, headers: dict[str, str] | None = None) -> AsyncIterator[Bridged]:
    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            server = ScriptedUpstream(script)
            await nursery.start(server.run)
            stdin, source = trio.testing.memory_stream_one_way_pair()
            sink, stdout = trio.testing.memory_stream_one_way_pair()
            wired = Bridged(server, stdin, stdout, [], trio.Event())

            async def run() -> None:
                wired.ends.append(await bridge(server.url, headers or {}, source, sink, options=HASTY))
                await sink.aclose()
                wired.ended.set()

            nursery.start_soon(run)
            yield wired
            nursery.cancel_scope.cancel()


async def serve(request: SeenRequest, caller: Caller, *, delete_status: int = 200) -> None:
    """A server with one tool and no stream of its own."""
    if request.method == "DELETE":
        await caller.answer(delete_status)
    elif request.method == "GET":
        await caller.answer(405)
    else:
        message = jsonrpc.parse(request.body)
        if message.method == "initialize":
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-1"})
        elif message.kind is jsonrpc.Kind.REQUEST:
            await caller.answer(200, ANSWER.raw)
        else:
            await caller.answer(202)


async def test_headers_and_session_go_with_every_request_and_the_session_is_ended() -> None:
    async with bridged(serve, headers={"Authorization": "Bearer secret"}) as wired:
        await wired.open()
        await wired.say(CALL)
        assert (await wired.next()).raw == ANSWER.raw
        assert await wired.end() is StdioEnd.INPUT_ENDED
        assert wired.methods == ["POST", "POST", "POST", "DELETE"]
        assert {request.headers["authorization"] for request in wired.server.requests} == {"Bearer secret"}
        opening, *others = wired.server.requests
        assert opening.session_id is None
        assert {request.session_id for request in others} == {"up-1"}


@pytest.mark.parametrize("status", [404, 405, 503])
async def test_server_that_does_not_end_sessions_holds_nobody_up(status: int) -> None:
    async with bridged(partial(serve, delete_status=status)) as wired:
        await wired.open()
        assert await wired.end() is StdioEnd.INPUT_ENDED
        assert wired.methods[-1] == "DELETE"


async def test_server_that_refuses_the_handshake_is_quoted_and_no_session_is_ended() -> None:
    async def refuse(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(401, b"who are you?", {"Content-Type": "text/plain"})

    async with bridged(refuse) as wired:
        await wired.say(INITIALIZE)
        error = await wired.next()
        assert error.is_error
        assert b"HTTP 401: who are you?" in error.raw
        assert await wired.end() is StdioEnd.INPUT_ENDED
        assert wired.methods == ["POST"]


async def test_credentials_that_are_refused_later_end_it_with_an_error_for_each_request() -> None:
    """The server forgets the session, and then does not let us in: only another process, with others, can go on."""
    gone = False

    async def forgetful(request: SeenRequest, caller: Caller) -> None:
        if not gone:
            await serve(request, caller)
        elif jsonrpc.parse(request.body).method == "ping":
            await caller.answer(401)
        else:
            await caller.answer(404)

    async with bridged(forgetful) as wired:
        await wired.open()
        await wired.say(CALL)
        await wired.next()
        gone = True
        await wired.say(CALL)
        error = json.loads((await wired.next()).raw)["error"]
        assert error["code"] == jsonrpc.SESSION_NOT_FOUND
        await wired.ended.wait()
        assert wired.ends == [StdioEnd.SESSION_LOST]
        assert "DELETE" not in wired.methods


# ---- headers ----


def test_headers_are_read_from_files_and_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# who asks\nX-Team: storage: a\n\n  X-Other :b  \n")
    assert read_headers((file,), "TOKEN", {"TOKEN": "t0ken\n"}) == {
        "X-Team": "storage: a",
        "X-Other": "b",
        "Authorization": "Bearer t0ken",
    }
    assert read_headers((), None, {}) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("secret", "line 1: write NAME: VALUE"),
        ("A: secret\nB b: secret", "line 2: header 'B b' has characters"),
        ("A: secret\x00", "line 1: header 'A' has characters"),
        ("Mcp-Session-Id: secret", "header 'Mcp-Session-Id' is set by the gateway itself"),
        ("A: secret\na: secret", "line 2: header 'a' is there twice"),
        ("Authorization: secret", "--token-env TOKEN: header 'Authorization' is there twice"),
        ("A: " + "secret" * FILE_BYTES_MAX, "has more than"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused_and_not_shown(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text(text)
    with pytest.raises(Refused) as refused:
        read_headers((file,), "TOKEN", {"TOKEN": "secret"})
    [said] = refused.value.problems
    assert problem in said
    assert "secret" not in said


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"A: \xe9\n")
    files = (tmp_path / "none", tmp_path / "latin")
    with pytest.raises(Refused) as refused:
        read_headers(files, "TOKEN", {})
    none, latin, token = refused.value.problems
    assert "No such file" in none
    assert "not UTF-8" in latin
    assert "--token-env TOKEN: this variable is not set" in token


# ---- the command ----


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "Missing option '--url'"),
        (("--url", "stdio:sh"), "a program needs no bridge"),
        (("--url", "ftp://host"), "'ftp' is no kind of server"),
        (("--url", "https://user:pass@host/"), "user and password"),
        (("--url", "http://host/", "--token-env", "OUTLAST_NOT_THERE"), "not set, or empty"),
        (("--url", "http://host/", "--wait-seconds", "0"), "0.0 is not in the range"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_started(
    arguments: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stdio", *arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    [line] = written.err.splitlines()
    assert problem in line
    assert "pass" not in line.replace("password", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_standard_streams_are_refused(closed: str) -> None:
    command = f"{sys.executable} -m outlast stdio --url http://127.0.0.1:1/mcp {closed}"
    ran = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert b"stdin and stdout must be open" in ran.stderr


def test_stderr_that_nobody_reads_holds_nobody_up() -> None:
    reader, writer = os.pipe()
    try:
        stream = never_waiting(writer)
        stream.write("heard\n")
        for _ in range(1000):  # a pipe takes 64 KiB
            stream.write("x" * 10_000 + "\n")
        assert select.select([], [writer], [], 0)[1] == [], "as a control: a plain write would wait here, for ever"
        stream.write("dropped\n")
        heard = os.read(reader, 1 << 20)
        assert heard.startswith(b"heard\n")
        assert max(map(len, heard.splitlines())) < LINE_BYTES_MAX
        stream.write("there is room again\n")
        assert os.read(reader, 1 << 20) == b"there is room again\n"
    finally:
        os.close(reader)
        stream.write("nobody will ever hear this\n")
        os.close(writer)


def test_stdout_carries_the_protocol_alone() -> None:
    """Whoever prints in this process, prints on stderr; whoever reads, reads nothing of the client's."""
    source = """
import os, sys
import trio
from outlast.bridging import take_standard_streams

async def main():
    source, sink = take_standard_streams()
    print("a banner", flush=True)
    os.write(1, b"from below\\n")
    assert sys.stdin.read() == ""
    await sink.send_all(await source.receive_some())

trio.run(main)
"""
    ran = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, input=b"message\n", capture_output=True, timeout=60, check=True
    )
    assert (ran.stdout, ran.stderr) == (b"message\n", b"a banner\nfrom below\n")
