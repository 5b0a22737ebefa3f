"""What is known of a server's tools: when it is asked, by whom, and what holds when it cannot be. In virtual time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import attrs
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.jsonrpc import Message
from tests.transport.modern_messages import call, headers_of, request
from tests.transport.test_param_headers import mirrored, schema
from transport import modern
from transport.upstreams.tool_headers import ToolHeaders, ToolHeadersLimits, ToolsUnknown

LIMITS = ToolHeadersLimits(fresh_seconds=300.0, unknown_seconds=30.0, asking_seconds_max=10.0, pages_max=3)
REGION = {"name": "deploy", "inputSchema": schema(region=mirrored())}
PLAIN = {"name": "echo", "inputSchema": schema(text={"type": "string"})}


@attrs.define
class Server:
    """Lists the tools that the test gives it, a page each."""

    pages: list[list[Any]] = attrs.Factory(lambda: [[PLAIN, REGION]])
    ttl_ms: int | None = None
    asked: list[str] = attrs.Factory(list)
    answer: Callable[[str], Message] | None = None
    delay_seconds: float = 0.0

    async def ask(self, cursor: str) -> Message:
        self.asked.append(cursor)
        await trio.sleep(self.delay_seconds)
        if self.answer is not None:
            return self.answer(cursor)
        number = int(cursor or 0)
        result: dict[str, Any] = {"tools": self.pages[number]}
        if number + 1 < len(self.pages):
            result["nextCursor"] = str(number + 1)
        if self.ttl_ms is not None:
            result["ttlMs"] = self.ttl_ms
        return jsonrpc.result(1, result)


def knowledge_of(server: Server, limits: ToolHeadersLimits = LIMITS) -> ToolHeaders:
    return ToolHeaders("test", server.ask, limits)


def calling(name: str = "deploy", header: str | None = None, **arguments: Any) -> modern.ModernRequest:
    message = call(name, **arguments)
    headers = headers_of(message) | ({} if header is None else {"mcp-param-region": header})
    route = modern.classify(headers, json.dumps(message).encode())
    assert isinstance(route, modern.ModernRequest)
    return route


RIGHT, WRONG = calling(header="here", region="here"), calling(header="there", region="here")


async def test_server_is_asked_once_and_its_answer_holds_for_a_while(autojump_clock: MockClock) -> None:
    server = Server()
    knowledge = knowledge_of(server)
    for _ in range(3):
        assert await knowledge.difference(RIGHT) == ""
        assert await knowledge.difference(calling("echo", text="x")) == ""
    assert server.asked == [""]
    await trio.sleep(301)
    assert await knowledge.difference(RIGHT) == ""
    assert server.asked == ["", ""]


async def test_server_says_how_long_its_list_is_good(autojump_clock: MockClock) -> None:
    server = Server(ttl_ms=60_000)
    knowledge = knowledge_of(server)
    await knowledge.difference(RIGHT)
    await trio.sleep(59)
    await knowledge.difference(RIGHT)
    assert len(server.asked) == 1
    await trio.sleep(2)
    await knowledge.difference(RIGHT)
    assert len(server.asked) == 2


async def test_server_that_says_never_is_not_asked_with_every_call(autojump_clock: MockClock) -> None:
    server = Server(ttl_ms=0)
    knowledge = knowledge_of(server)
    for _ in range(10):
        await knowledge.difference(RIGHT)
    assert len(server.asked) == 1


async def test_all_who_want_to_know_wait_for_one_who_asks(autojump_clock: MockClock) -> None:
    server = Server(delay_seconds=1.0)
    knowledge = knowledge_of(server)
    found: list[str] = []

    async def one() -> None:
        found.append(await knowledge.difference(WRONG))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one)
    assert len(found) == 10
    assert all(found)
    assert server.asked == [""]


async def test_one_who_asks_and_goes_away_leaves_it_to_the_next(autojump_clock: MockClock) -> None:
    server = Server(delay_seconds=1.0)
    knowledge = knowledge_of(server)
    found: list[str] = []

    async def one() -> None:
        found.append(await knowledge.difference(WRONG))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            nursery.start_soon(one)
            await knowledge.difference(WRONG)
    assert all(found)
    assert len(found) == 1


async def test_what_cannot_be_wrong_asks_nothing(autojump_clock: MockClock) -> None:
    server = Server()
    knowledge = knowledge_of(server)
    assert await knowledge.difference(calling()) == ""
    listing = request("tools/list")
    route = modern.classify(headers_of(listing), json.dumps(listing).encode())
    assert isinstance(route, modern.ModernRequest)
    assert await knowledge.difference(route) == ""
    assert server.asked == []


async def test_all_pages_are_read(autojump_clock: MockClock) -> None:
    server = Server(pages=[[PLAIN], [], [REGION]])
    assert await knowledge_of(server).difference(WRONG)
    assert server.asked == ["", "1", "2"]


async def test_client_that_knows_a_newer_list_is_not_refused_by_an_older_one(autojump_clock: MockClock) -> None:
    server = Server()
    knowledge = knowledge_of(server)
    moved = calling(header="there", region="here", target="there")
    assert await knowledge.difference(moved)
    server.pages = [[{"name": "deploy", "inputSchema": schema(target=mirrored())}]]
    assert await knowledge.difference(moved), "asked a moment ago"
    await trio.sleep(1.0)
    assert await knowledge.difference(moved) == ""
    assert len(server.asked) == 2


async def test_change_that_is_announced_is_known_with_the_next_call(autojump_clock: MockClock) -> None:
    server = Server(pages=[[PLAIN]])
    knowledge = knowledge_of(server)
    assert await knowledge.difference(WRONG) == ""
    server.pages = [[REGION]]
    assert await knowledge.difference(WRONG) == "", "the control: nobody has said so"
    knowledge.forget()
    assert await knowledge.difference(WRONG)


async def test_server_that_cannot_be_asked_is_held_to_nothing_and_asked_again_later(autojump_clock: MockClock) -> None:
    def unable(cursor: str) -> Message:
        raise ToolsUnknown("it went away")

    server = Server(answer=unable)
    knowledge = knowledge_of(server)
    with capture_logs() as logs:
        for _ in range(3):
            assert await knowledge.difference(WRONG) == ""
    assert [(line["event"], line["why"]) for line in logs] == [("upstream_tools_unknown", "it went away")]
    server.answer = None
    await trio.sleep(31)
    assert await knowledge.difference(WRONG)


async def test_what_was_known_holds_while_the_server_cannot_be_asked_again(autojump_clock: MockClock) -> None:
    server = Server()
    knowledge = knowledge_of(server)
    assert await knowledge.difference(WRONG)
    server.answer = lambda cursor: jsonrpc.error(1, -32603, "busy")
    await trio.sleep(301)
    assert await knowledge.difference(WRONG)
    assert await knowledge.difference(RIGHT) == ""


async def test_asking_takes_no_longer_than_it_may(autojump_clock: MockClock) -> None:
    server = Server(delay_seconds=math.inf)
    began = trio.current_time()
    assert await knowledge_of(server).difference(WRONG) == ""
    assert trio.current_time() - began == 10.0


async def test_list_without_an_end_is_not_read_to_it(autojump_clock: MockClock) -> None:
    server = Server(answer=lambda cursor: jsonrpc.result(1, {"tools": [REGION], "nextCursor": "again"}))
    assert await knowledge_of(server).difference(WRONG) == ""
    assert len(server.asked) == LIMITS.pages_max


async def test_too_many_tools_are_not_kept(autojump_clock: MockClock) -> None:
    server = Server(pages=[[REGION, REGION | {"name": "other"}]])
    assert await knowledge_of(server, attrs.evolve(LIMITS, tools_max=1)).difference(WRONG) == ""
    assert await knowledge_of(server, attrs.evolve(LIMITS, tools_max=2)).difference(WRONG)


async def test_error_and_nonsense_are_no_list(autojump_clock: MockClock) -> None:
    for answer in (jsonrpc.error(1, -32601, "no"), jsonrpc.result(1, {"tools": 5}), jsonrpc.result(1, [])):
        server = Server(answer=lambda cursor, answer=answer: answer)  # type: ignore[misc]
        assert await knowledge_of(server).difference(WRONG) == ""


async def test_tool_that_is_malformed_is_left_out_and_the_others_hold(autojump_clock: MockClock) -> None:
    invalid = {"name": "invalid", "inputSchema": schema(region=mirrored("number"))}
    server = Server(pages=[[5, {"name": "x"}, invalid, REGION]])
    knowledge = knowledge_of(server)
    with capture_logs() as logs:
        assert await knowledge.difference(WRONG)
    assert [(line["event"], line["tool"]) for line in logs] == [("upstream_tool_invalid", "invalid")]
    assert await knowledge.difference(calling("invalid", "there", region=5)) == ""
    await wait_all_tasks_blocked()
