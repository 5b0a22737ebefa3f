"""Servers asked for their tools at the start: who collides refuses it, who is away does not hold it up, and no session
of it is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from actors import jsonrpc
from outlast.endings import StartRefused
from outlast.health_tool import HEALTH_TOOL, make_health_tool
from outlast.serving import Serving, serve
from outlast.settings import Settings
from outlast.targets import HttpTarget, StdioTarget, Target
from outlast.tool_census import ENDING_SECONDS, ToolCensus, taking
from outlast.upstreams import Upstreams, open_stateless
from outlast.urls import Address
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from transport.upstreams.http_pool import HttpPool

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 5.0  # for what answers; a busy machine

# A server over stdio with one tool, named by its first argument; it says where it ran in the file of its second.
STDIO_SERVER = """
import json, os, sys
open(sys.argv[2], "a").write(f"{os.getpid()}\\n")
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {}}
    if message["method"] == "tools/list":
        result = {"tools": [{"name": sys.argv[1], "inputSchema": {}}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


@attrs.define
class Server:
    """The script of a server over HTTP whose list of tools has a page for each name."""

    names: tuple[str, ...]
    answers: trio.Event = attrs.field(factory=trio.Event)  # it answers nothing before
    offers_tools: bool = True
    modern_only: bool = False
    is_endless: bool = False
    keeps_connections: bool = True
    holds: str = ""  # the method that it takes its time for, until it is told to answer that, too
    holding: trio.Event = attrs.field(factory=trio.Event)
    streams: bool = False  # the answer to the handshake is an event stream

    async def __call__(self, request: SeenRequest, caller: Caller) -> None:
        if self.holds and self.holds.encode() in request.body:
            self.holding.set()
            await self.answers.wait()
        elif not self.holds:
            await self.answers.wait()
        await self._answer(request, caller)
        if not self.keeps_connections:
            await caller.close()

    async def _answer(self, request: SeenRequest, caller: Caller) -> None:
        message = json.loads(request.body or b"{}")
        method = message.get("method", "")
        if request.method == "GET":
            await caller.answer(405)
        elif request.method == "DELETE" or "id" not in message:
            await caller.answer(202)
        elif self.modern_only and method == "initialize":
            await caller.answer(400, jsonrpc.error(message["id"], -32022, "unsupported", {"supported": []}).raw)
        elif method == "initialize":
            capabilities: object = {"tools": {}} if self.offers_tools else {}
            result = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {}}
            headers = {"Mcp-Session-Id": "up-1", **({} if self.keeps_connections else {"Connection": "close"})}
            await self._welcome(caller, jsonrpc.result(message["id"], result).raw, headers)
        else:
            await caller.answer(200, jsonrpc.result(message["id"], self.page(message.get("params", {}))).raw)

    async def _welcome(self, caller: Caller, answer: bytes, headers: dict[str, str]) -> None:
        if self.streams:
            await caller.open_stream(headers)
            await caller.event(b"", id="1")
            await caller.event(answer)
            await caller.end_stream()
        else:
            await caller.answer(200, answer, headers)

    def page(self, params: Any) -> object:
        at = int(params.get("cursor", 0))
        tools = [{"name": self.names[at], "inputSchema": {}}] if self.names else []
        goes_on = self.is_endless or at + 1 < len(self.names)
        return {"tools": tools, **({"nextCursor": "0" if self.is_endless else str(at + 1)} if goes_on else {})}


def answering(*names: str, **how: Any) -> Server:
    server = Server(names, **how)
    server.answers.set()
    return server


@attrs.frozen
class Bed:
    servers: dict[str, ScriptedUpstream]
    upstreams: Upstreams
    pool: HttpPool
    census: ToolCensus
    taken: Callable[[], set[str]]
    close_connections: Callable[[], None]

    def methods(self, name: str) -> list[str]:
        """What a server was asked, DELETE among it."""
        seen = self.servers[name].requests
        return [json.loads(one.body)["method"] if one.body else one.method for one in seen]


async def _carry(pool: HttpPool, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        task_status.started(nursery.cancel_scope)


@asynccontextmanager
async def asked(servers: dict[str, Server], **others: Target) -> AsyncIterator[Bed]:
    async with trio.open_nursery() as nursery:
        scripted = {name: ScriptedUpstream(server) for name, server in servers.items()}
        for upstream in scripted.values():
            await nursery.start(upstream.run)
        pool = HttpPool()
        carrying = await nursery.start(_carry, pool)
        targets: dict[str, Target] = {name: HttpTarget(url=one.url) for name, one in scripted.items()}
        targets |= others
        upstreams = Upstreams(targets, pool)
        stateless = await open_stateless(targets, pool, nursery, idle_seconds=60.0)
        own_tools = make_health_tool()
        census = ToolCensus(own_tools, targets, upstreams, stateless)
        yield Bed(scripted, upstreams, pool, census, lambda: own_tools.taken, carrying.cancel)
        nursery.cancel_scope.cancel()


async def take(bed: Bed, patience_seconds: float = PATIENCE_SECONDS) -> None:
    async with taking(bed.census, bed.pool.wait_carried, patience_seconds=patience_seconds):
        pass


async def refusal(bed: Bed) -> str:
    with pytest.RaisesGroup(StartRefused) as refused:
        await take(bed)
    (error,) = refused.value.exceptions
    return str(error)


async def test_all_servers_that_collide_are_told_in_one_message() -> None:
    servers = {"wiki": answering("a", HEALTH_TOOL), "code": answering(HEALTH_TOOL), "good": answering("b")}
    async with asked(servers) as bed:
        said = await refusal(bed)
        assert said.startswith(
            "expose_health_tool: the servers 'wiki', 'code' have a tool session_health_check of their own"
        )
        assert "good" not in said
        assert bed.taken() == set(), "nothing is decided for a gateway that does not start"


async def test_one_is_told_as_one() -> None:
    async with asked({"wiki": answering(HEALTH_TOOL)}) as bed:
        assert "the server 'wiki' has a tool session_health_check of its own: rename it there" in await refusal(bed)


async def test_sessions_of_it_are_ended_with_the_server_also_where_the_start_is_refused() -> None:
    async with asked({"wiki": answering(HEALTH_TOOL), "good": answering("a", "b")}) as bed:
        await refusal(bed)
        opening = ["initialize", "notifications/initialized", "tools/list"]
        assert bed.methods("wiki") == [*opening, "DELETE"]
        assert bed.methods("good") == [*opening, "tools/list", "DELETE"]
        assert bed.servers["wiki"].requests[-1].session_id == "up-1"


@pytest.mark.parametrize("waits", [True, False])
async def test_the_end_of_a_session_leaves_before_the_connections_are_closed(waits: bool) -> None:
    """Where it needs a connection of its own, as with a server that keeps none. Without waiting it is cut off."""

    async def at_once() -> None:
        pass

    async with asked({"wiki": answering(HEALTH_TOOL, keeps_connections=False)}) as bed:
        wait_carried = bed.pool.wait_carried if waits else at_once
        with pytest.RaisesGroup(StartRefused):
            async with taking(bed.census, wait_carried, patience_seconds=PATIENCE_SECONDS):
                pass
        bed.close_connections()
        await trio.testing.wait_all_tasks_blocked()
        assert ("DELETE" in bed.methods("wiki")) is waits


async def test_a_process_that_was_started_for_it_is_gone(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = (sys.executable, "-c", STDIO_SERVER, HEALTH_TOOL, str(ran))
    async with asked({}, tool=StdioTarget(command=command)) as bed:
        assert "'tool' has a tool" in await refusal(bed)
        (pid,) = ran.read_text().split()
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


async def test_a_server_without_tools_is_not_asked_for_them() -> None:
    async with asked({"plain": answering(HEALTH_TOOL, offers_tools=False)}) as bed:
        await take(bed)
        assert "tools/list" not in bed.methods("plain")


async def test_a_server_of_the_revision_without_sessions_is_asked_without_one() -> None:
    async with asked({"new": answering("a", HEALTH_TOOL, modern_only=True)}) as bed:
        assert "'new' has a tool" in await refusal(bed)
        assert bed.methods("new") == ["initialize", "GET", "tools/list", "tools/list"], "400 may be HTTP+SSE"


async def test_a_server_that_is_away_holds_nothing_up_and_leaves_a_line(free_tcp_port: int) -> None:
    gone = HttpTarget(url=f"http://127.0.0.1:{free_tcp_port}/mcp")
    missing = StdioTarget(command=("/nonexistent/server",))
    with structlog.testing.capture_logs() as lines, trio.fail_after(PATIENCE_SECONDS):
        async with asked({"good": answering("a")}, gone=gone, missing=missing) as bed:
            await take(bed, 60.0)
    warned = {line["server"] for line in lines if line["event"].startswith("a server could not be asked")}
    assert warned == {"gone", "missing"}


async def test_a_list_without_an_end_is_a_server_that_cannot_be_asked() -> None:
    with structlog.testing.capture_logs() as lines:
        async with asked({"endless": answering("a", is_endless=True)}) as bed:
            await take(bed)
    assert any("has no end" in str(line.get("why")) for line in lines)


async def test_a_silent_server_is_asked_on_while_the_gateway_serves() -> None:
    silent = Server((HEALTH_TOOL,))
    async with asked({"silent": silent, "good": answering("a")}) as bed:
        async with taking(bed.census, bed.pool.wait_carried, patience_seconds=0.05):
            assert bed.taken() == set()
            silent.answers.set()
            with trio.fail_after(PATIENCE_SECONDS):
                while not bed.taken():
                    await trio.lowlevel.checkpoint()
            assert bed.taken() == {"silent"}, "it keeps its tool; ours is not offered there"
        with trio.fail_after(PATIENCE_SECONDS):
            while "DELETE" not in bed.methods("silent"):
                await trio.lowlevel.checkpoint()


async def test_who_still_says_nothing_when_the_gateway_stops_is_let_go() -> None:
    silent = Server(())
    async with asked({"silent": silent}) as bed:
        with trio.fail_after(PATIENCE_SECONDS):
            await take(bed, 0.05)


# ---- the gateway ----


async def test_nothing_of_it_is_in_the_store_and_the_gateway_serves(place: Path) -> None:
    async with trio.open_nursery() as nursery:
        upstream = ScriptedUpstream(answering("a"))
        await nursery.start(upstream.run)
        serving: Serving = await nursery.start(partial(serve, settings_for(upstream)))
        assert serving.sessions_restored == 0
        methods = [json.loads(one.body)["method"] if one.body else one.method for one in upstream.requests]
        assert methods[:3] == ["initialize", "notifications/initialized", "tools/list"]
        nursery.cancel_scope.cancel()


def settings_for(upstream: ScriptedUpstream) -> Settings:
    return Settings(
        listen=Address("127.0.0.1", 0),
        store="memory:",
        servers={"wiki": HttpTarget(url=upstream.url)},
        expose_health_tool=True,
    )


@pytest.mark.parametrize(("holds", "streams"), [("tools/list", False), ("initialize", False), ("initialize", True)])
async def test_a_start_that_is_given_up_in_the_middle_leaves_no_session_behind(
    holds: str, streams: bool, place: Path
) -> None:
    """As SIGTERM gives it up. Where the server has yet to tell the session's name, that is waited for, a little."""
    async with trio.open_nursery() as nursery:
        server = Server(("a",), holds=holds, streams=streams)
        upstream = ScriptedUpstream(server)
        await nursery.start(upstream.run)

        def give_up() -> None:
            starting.cancel()
            if holds == "initialize":
                server.answers.set()  # its answer is read when the link is closed

        with trio.CancelScope() as starting, trio.fail_after(2 * ENDING_SECONDS):
            nursery.start_soon(_when, server.holding, give_up)
            await nursery.start(partial(serve, settings_for(upstream)))
        assert starting.cancelled_caught
        ends = [one.session_id for one in upstream.requests if one.method == "DELETE"]
        assert ends == ["up-1"]
        nursery.cancel_scope.cancel()


async def test_a_start_that_is_given_up_waits_for_no_silent_server(autojump_clock: MockClock, place: Path) -> None:
    """The control: nothing is ended that was never told of."""
    async with trio.open_nursery() as nursery:
        server = Server(("a",), holds="initialize")
        upstream = ScriptedUpstream(server)
        await nursery.start(upstream.run)
        with trio.CancelScope() as starting:
            nursery.start_soon(_when, server.holding, starting.cancel)
            await nursery.start(partial(serve, settings_for(upstream)))
        assert trio.current_time() <= ENDING_SECONDS + 0.1
        assert [one.method for one in upstream.requests] == ["POST"]
        nursery.cancel_scope.cancel()


async def _when(event: trio.Event, do: Callable[[], object]) -> None:
    await event.wait()
    do()


@pytest.mark.parametrize("exposed", [True, False])
def test_a_collision_is_a_configuration_error_that_writes_nothing(exposed: bool, tmp_path: Path, place: Path) -> None:
    """The whole command: exit code 2, a line that says what to do. Without the option it starts: the control."""
    server = tmp_path / "server.py"
    server.write_text(STDIO_SERVER)
    target = f"tool=stdio:{sys.executable} {server} {HEALTH_TOOL} {tmp_path / 'ran'}"
    flags = ["--expose-health-tool"] if exposed else []
    command = [sys.executable, "-m", "outlast", "serve", "--listen", "127.0.0.1:0", "--server", target, *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        process.terminate()
        _, stderr = process.communicate(timeout=30)
    if exposed:
        assert ready == ""
        assert process.returncode == 2
        assert "the server 'tool' has a tool session_health_check of its own" in stderr
        assert list(place.iterdir()) == []
    else:
        assert ready.startswith("outlast: listening on")
        assert process.returncode == 0
