"""Bad input over a real socket, on both roads: the status, the JSON-RPC error and the id that are specified, no session
made, nothing sent upstream, and the session that was there goes on.

Each row is a whole request, in the name of a client that has a session ("{session}").
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from tests.actors.worlds import World, open_world
from tests.transport.serving import Answer, connected, serving
from transport import guard
from transport.gateway import Gateway
from transport.handler import HttpLimits
from transport.server import HttpServer

BOTH_ROADS = pytest.mark.parametrize("hot", [True, False], ids=["hot", "hypercorn"])
PING: dict[str, Any] = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
INITIALIZE = {"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": {}}
DEEP = b"[" * 100_000 + b"]" * 100_000
LIMITS = HttpLimits(linger_seconds=0.05)
MIB = 1024 * 1024

INVALID, PARSE, NOT_FOUND, NO_METHOD = -32600, -32700, -32001, -32601


@attrs.frozen
class Bad:
    """A request that is refused, and how."""

    name: str
    request: bytes
    status: int
    code: int
    id: object = None


def post(body: object, **changes: str | None) -> bytes:
    """Write a POST that has all it should have; header names with underscores for hyphens, None leaves one out."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers: dict[str, str | None] = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "content-length": str(len(content)),
        "mcp-session-id": "{session}",
        "mcp-protocol-version": "2025-11-25",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return head("POST", headers) + content


def head(method: str, headers: dict[str, str | None], target: str = "/mcp") -> bytes:
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def with_line(line: str) -> bytes:
    """Write a ping with one more header line."""
    return post(PING).replace(b"\r\n\r\n", f"\r\n{line}\r\n\r\n".encode(), 1)


def bare(method: str, **changes: str | None) -> bytes:
    """Write a request without a body."""
    headers: dict[str, str | None] = {
        "host": "127.0.0.1",
        "accept": "text/event-stream",
        "mcp-session-id": "{session}",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return head(method, headers)


TABLE = [
    # what is no message
    Bad("no JSON", post(b"{"), 400, PARSE),
    Bad("nothing", post(b""), 400, PARSE),
    Bad("no UTF-8", post(b'{"jsonrpc":"2.0","id":7,"method":"\xff"}'), 400, PARSE),
    Bad("deep array", post(DEEP, mcp_protocol_version="2025-03-26"), 400, PARSE),
    Bad("deep params", post(b'{"jsonrpc":"2.0","id":7,"method":"x","params":%b}' % DEEP), 400, PARSE),
    Bad("a number", post(3), 400, INVALID),
    Bad("no version", post({"id": 7, "method": "ping"}), 400, INVALID, 7),
    Bad("other version", post({**PING, "jsonrpc": "1.0"}), 400, INVALID, 7),
    Bad("null id", post({**PING, "id": None}), 400, INVALID),
    Bad("object id", post({**PING, "id": {}}), 400, INVALID),
    Bad("fraction id", post({**PING, "id": 1.5}), 400, INVALID),
    Bad("huge id", post({**PING, "id": 2**70}), 400, INVALID),
    Bad("method and result", post({**PING, "result": {}}), 400, INVALID),
    Bad("method of a wrong type", post({**PING, "method": 5}), 400, INVALID, 7),
    Bad("params of a wrong type", post({**PING, "params": 5}), 400, INVALID, 7),
    Bad("result and error", post({"jsonrpc": "2.0", "id": 7, "result": 1, "error": {}}), 400, INVALID, 7),
    Bad("answer to nothing", post({"jsonrpc": "2.0", "result": {}}), 400, INVALID),
    Bad("array, now", post([PING]), 400, INVALID),
    Bad("empty array, then", post([], mcp_protocol_version="2025-03-26"), 400, INVALID),
    Bad("opening in an array", post([INITIALIZE], mcp_protocol_version="2025-03-26"), 400, INVALID, 7),
    # out of order
    Bad("request without a session", post(PING, mcp_session_id=None), 400, INVALID, 7),
    Bad("request of another's session", post(PING, mcp_session_id="x" * 32), 404, NOT_FOUND, 7),
    Bad("text id of another's session", post({**PING, "id": "7"}, mcp_session_id="x" * 32), 404, NOT_FOUND, "7"),
    Bad(
        "confirming nothing",
        post({"jsonrpc": "2.0", "method": "notifications/initialized"}, mcp_session_id=None),
        400,
        INVALID,
    ),
    Bad("opening within a session", post(INITIALIZE), 400, INVALID, 7),
    Bad("stream without a session", bare("GET", mcp_session_id=None), 400, INVALID),
    Bad("stream of another's session", bare("GET", mcp_session_id="x" * 32), 404, NOT_FOUND),
    Bad("made-up cursor", bare("GET", last_event_id="17"), 400, INVALID),
    Bad("ending nothing", bare("DELETE", mcp_session_id=None), 400, INVALID),
    Bad("ending another's session", bare("DELETE", mcp_session_id="x" * 32), 404, NOT_FOUND),
    # headers
    Bad("unknown revision", post(PING, mcp_protocol_version="1999-01-01"), 400, INVALID, 7),
    Bad("unknown revision, opening", post(INITIALIZE, mcp_session_id=None, mcp_protocol_version="x"), 400, INVALID, 7),
    Bad("other content", post(PING, content_type="text/plain"), 415, INVALID),
    Bad("content not told", post(PING, content_type=None), 415, INVALID),
    Bad("takes no stream", post(PING, accept="application/json"), 406, INVALID),
    Bad("GET takes no stream", bare("GET", accept="text/html"), 406, INVALID),
    Bad("other verb", bare("PUT"), 405, INVALID),
    Bad("other path", head("GET", {"host": "127.0.0.1"}, "/nowhere"), 404, NO_METHOD),
    Bad("two sessions", with_line("Mcp-Session-Id: y"), 400, INVALID),
    Bad("two lengths", with_line("Content-Length: 1"), 400, INVALID),
    Bad("length and chunks", with_line("Transfer-Encoding: chunked"), 400, INVALID),
    # who asks
    Bad("no host", post(PING, host=None), 400, INVALID),
    Bad("another's name", post(INITIALIZE, mcp_session_id=None, host="evil.example"), 421, INVALID),
    Bad("another's page", post(INITIALIZE, mcp_session_id=None, origin="https://evil.example"), 403, INVALID),
    Bad("another's page listens", bare("GET", origin="https://evil.example"), 403, INVALID),
    # too much
    Bad("body too large", post(INITIALIZE, mcp_session_id=None, content_length=str(5 * MIB)), 413, INVALID),
    Bad("header flood", bare("GET", **{f"x_{number}": "1" for number in range(200)}), 431, INVALID),
    Bad("header too large", bare("GET", x_large="x" * 40_000), 431, INVALID),
    Bad("target too long", head("GET", {"host": "127.0.0.1"}, "/mcp?" + "x" * 10_000), 414, INVALID),
]


@asynccontextmanager
async def gateway(hot: bool, limits: HttpLimits = LIMITS) -> AsyncIterator[tuple[World, HttpServer, str]]:
    """A gateway on a socket, and one session of a client of it."""
    async with open_world() as world:
        handler = Gateway(world.runtime, {"linear": "streamable-http"}, guard.make_policy("127.0.0.1"))
        is_hot = handler.is_hot if hot else lambda head: False
        async with serving(handler, hot=hot, is_hot=is_hot, limits=limits) as server:
            opened = await ask(server, post(INITIALIZE, mcp_session_id=None))
            assert opened.status == 200
            yield world, server, opened.headers["mcp-session-id"]


async def ask(server: HttpServer, request: bytes) -> Answer:
    async with connected(server) as client:
        with trio.fail_after(10):
            return await client.ask(request)


def check(bad: Bad, answer: Answer) -> None:
    told = json.loads(answer.body)
    assert (answer.status, told["error"]["code"], told["id"]) == (bad.status, bad.code, bad.id), told
    assert told["jsonrpc"] == "2.0"
    assert told["error"]["message"]
    assert answer.headers["content-type"] == "application/json"
    assert "mcp-session-id" not in answer.headers


@BOTH_ROADS
@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
async def test_bad_input_is_refused_as_specified_and_costs_no_session(bad: Bad, hot: bool) -> None:
    async with gateway(hot) as (world, server, session_id):
        sent = len(world.upstream.journal)
        check(bad, await ask(server, bad.request.replace(b"{session}", session_id.encode())))

        assert world.runtime.registry.statistics().sessions == 1
        assert len(world.upstream.journal) == sent
        good = {"jsonrpc": "2.0", "id": 8, "method": "echo", "params": {"still": "there"}}
        answer = await ask(server, post(good).replace(b"{session}", session_id.encode()))
        assert json.loads(answer.body)["result"] == {"still": "there"}


@BOTH_ROADS
async def test_good_input_does_cost_a_session(hot: bool) -> None:
    # The control: what the table counts is there to be counted.
    async with gateway(hot) as (world, server, _):
        sent = len(world.upstream.journal)
        assert (await ask(server, post(INITIALIZE, mcp_session_id=None))).status == 200
        assert world.runtime.registry.statistics().sessions == 2
        assert len(world.upstream.journal) > sent


@BOTH_ROADS
@pytest.mark.parametrize("sent_bytes", [0, 20])
async def test_slow_body_is_408_and_costs_no_session(hot: bool, sent_bytes: int, autojump_clock: MockClock) -> None:
    whole = post(INITIALIZE, mcp_session_id=None)
    headers, _, body = whole.partition(b"\r\n\r\n")
    async with gateway(hot, HttpLimits(body_seconds=5.0, linger_seconds=0.05)) as (world, server, _):
        answer = await ask(server, headers + b"\r\n\r\n" + body[:sent_bytes])
        check(Bad("slow", b"", 408, jsonrpc.INVALID_REQUEST), answer)
        assert world.runtime.registry.statistics().sessions == 1


@BOTH_ROADS
async def test_endless_chunks_are_413_and_cost_no_session(hot: bool) -> None:
    opening = post(b"", mcp_session_id=None, content_length=None, transfer_encoding="chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    async with gateway(hot) as (world, server, _):
        async with connected(server) as client:
            await client.stream.send_all(opening)
            try:
                for _ in range(5 * MIB // 0x10000):
                    await client.stream.send_all(chunk)
            except trio.BrokenResourceError:
                pass  # it has answered, and reads no more
            with trio.fail_after(10):
                answer = await client.answer()
        check(Bad("endless", b"", 413, jsonrpc.INVALID_REQUEST), answer)
        assert world.runtime.registry.statistics().sessions == 1


@BOTH_ROADS
async def test_what_comes_late_or_twice_is_taken_and_harms_nothing(hot: bool) -> None:
    confirm = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    late = {"jsonrpc": "2.0", "id": "nobody's", "result": {}}
    cancels = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "gone"}}
    async with gateway(hot) as (_, server, session_id):
        for message in (confirm, confirm, late, cancels, {"jsonrpc": "2.0", "id": None, "error": {"code": 1}}):
            answer = await ask(server, post(message).replace(b"{session}", session_id.encode()))
            assert (answer.status, answer.body) == (202, b"")
