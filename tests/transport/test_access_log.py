"""The access log: which requests are told of, and what of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from persistence.shown import shown_id
from tests.actors.worlds import World, open_world
from tests.transport.clients.socket_bed import INITIALIZE
from tests.transport.fake_exchange import FakeExchange, get
from tests.transport.fake_socket import FakeSocket
from transport import guard
from transport.access_log import AccessLog
from transport.clients.socket_conversation import Conversation
from transport.exchange import ClientGone, Exchange, Headers
from transport.front import Front
from transport.gateway import Gateway
from transport.operation import Operation
from transport.socket_exchange import ABNORMAL, INTERNAL_ERROR, UNSUPPORTED_DATA

Lines = list[dict[str, object]]


def answering(outcome: int | Exception) -> Operation:
    """Answer as it is told to, or raise."""

    async def operate(exchange: Exchange, is_operator: bool, extra_headers: Headers) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        await exchange.respond(outcome, (), b"")

    return Operation("/odd", operate, operators_only=False)


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as captured:
        yield captured  # type: ignore[misc]  # MutableMappings, of which it makes dicts


async def ask(world: World, outcome: int | Exception, access_log: AccessLog | None) -> None:
    policy = guard.make_policy("127.0.0.1")
    gateway = Gateway(
        world.runtime, {"a": "streamable-http"}, policy, operations=[answering(outcome)], access_log=access_log
    )
    exchange: FakeExchange = get(path="/odd")
    with suppress(LookupError, ClientGone):  # what it is told to raise goes on to whoever serves the connection
        await gateway(exchange)


def told(lines: Lines) -> list[tuple[object, object]]:
    return [(line["status"], line["log_level"]) for line in lines if line["event"] == "request answered"]


OUTCOMES = (200, 404, 503, LookupError("x"), ClientGone())


async def test_only_what_failed_is_told_of_by_default(autojump_clock: MockClock, lines: Lines) -> None:
    async with open_world() as world:
        for outcome in OUTCOMES:
            await ask(world, outcome, AccessLog("errors"))

    assert told(lines) == [(503, "warning"), (500, "warning")]


async def test_all_is_told_of_when_asked_for(autojump_clock: MockClock, lines: Lines) -> None:
    async with open_world() as world:
        for outcome in OUTCOMES:
            await ask(world, outcome, AccessLog("all"))

    # 0: the client went away before it was answered
    assert told(lines) == [(200, "info"), (404, "info"), (503, "warning"), (500, "warning"), (0, "info")]


async def test_nothing_is_told_of_when_it_is_off(autojump_clock: MockClock, lines: Lines) -> None:
    async with open_world() as world:
        for outcome in OUTCOMES:
            await ask(world, outcome, None)

    assert told(lines) == []


async def test_a_line_has_neither_headers_nor_query(autojump_clock: MockClock, lines: Lines) -> None:
    async with open_world() as world:
        await ask(world, 200, AccessLog("all"))
    (line,) = [line for line in lines if line["event"] == "request answered"]

    assert set(line) == {"event", "log_level", "status", "method", "path", "peer", "seconds"}


# ---- WebSocket ----


async def talk(
    world: World,
    access_log: AccessLog | None,
    socket: FakeSocket,
    *,
    leaves: bool = True,
    says: tuple[object, ...] = (),
) -> None:
    """Have a client open a session over a WebSocket, say something, and leave; or wait until it is closed."""
    gateway = Gateway(world.runtime, {"a": "streamable-http"}, guard.make_policy("127.0.0.1"), access_log=access_log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.serve_socket, socket)
        socket.say(INITIALIZE)
        for message in says:
            socket.say(message)
        if socket.head.path == "/ws" and leaves:
            await socket.told(1)
            socket.leave()


def about(lines: Lines, event: str) -> list[dict[str, object]]:
    return [line for line in lines if line["event"] == event]


async def test_a_websocket_is_told_of_when_it_opens_and_when_it_closes(autojump_clock: MockClock, lines: Lines) -> None:
    socket = FakeSocket()
    async with open_world() as world:
        await talk(world, AccessLog("all"), socket)
    (opened,), (closed,) = about(lines, "websocket opened"), about(lines, "websocket closed")
    session = shown_id(socket.headers["mcp-session-id"])
    common = {"path": "/ws", "peer": "peer", "session": session, "log_level": "info"}
    assert opened == {"event": "websocket opened", **common}
    assert isinstance(closed.pop("seconds"), float)
    assert closed == {
        "event": "websocket closed",
        **common,
        "code": ABNORMAL,  # the client went away without a word
        "by": "client",
        "messages_received": 1,
        "messages_sent": 1,
        "bytes_received": len(json.dumps(INITIALIZE)),
        "bytes_sent": len(socket.sent[0]),
    }


async def test_a_websocket_that_comes_back_is_told_of_with_its_session(autojump_clock: MockClock, lines: Lines) -> None:
    async with open_world() as world:
        first = FakeSocket()
        await talk(world, AccessLog("errors"), first)
        session_id = first.headers["mcp-session-id"]
        again = FakeSocket(query=f"session_id={session_id}", subprotocols=("mcp.outlast.v1",))
        await talk(world, AccessLog("all"), again, leaves=False, says=(b"binary",))
    (closed,) = about(lines, "websocket closed")
    assert (closed["session"], closed["by"], closed["code"]) == (shown_id(session_id), "gateway", UNSUPPORTED_DATA)
    assert session_id not in str(lines)


async def test_only_a_websocket_that_the_gateway_fails_is_told_of_by_default(
    autojump_clock: MockClock, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world() as world:
        await talk(world, AccessLog("errors"), FakeSocket())
        assert (about(lines, "websocket opened"), about(lines, "websocket closed")) == ([], [])

        async def broken(*_: object) -> None:
            raise LookupError("a defect")

        monkeypatch.setattr(Conversation, "_open", broken)
        with pytest.RaisesGroup(pytest.RaisesExc(LookupError), flatten_subgroups=True):
            await talk(world, AccessLog("errors"), FakeSocket(), leaves=False)
    (closed,) = about(lines, "websocket closed")
    assert (closed["code"], closed["log_level"]) == (INTERNAL_ERROR, "warning")


async def test_an_upgrade_that_is_refused_is_a_request_that_was_answered(
    autojump_clock: MockClock, lines: Lines
) -> None:
    async with open_world() as world:
        await talk(world, AccessLog("all"), FakeSocket(path="/nowhere"))
        await talk(world, None, FakeSocket(path="/nowhere"))
    assert told(lines) == [(404, "info")]


# ---- before the gateway is there ----


async def test_what_is_answered_before_the_gateway_is_there_is_told_of(autojump_clock: MockClock, lines: Lines) -> None:
    front = Front(wait_seconds=1.0, access_log=AccessLog("all"))
    for path in ("/healthz", "/readyz", "/mcp"):
        await front(get(path=path))
    await front.serve_socket(FakeSocket())
    answered = [(line["path"], line["status"]) for line in about(lines, "request answered")]
    assert answered == [("/healthz", 200), ("/readyz", 503), ("/mcp", 503), ("/ws", 503)]


async def test_what_waited_for_the_gateway_is_told_of_once(autojump_clock: MockClock, lines: Lines) -> None:
    access_log = AccessLog("all")
    front = Front(access_log=access_log)
    async with open_world() as world, trio.open_nursery() as nursery:
        nursery.start_soon(front, get(path="/nothing"))
        nursery.start_soon(front.serve_socket, FakeSocket(path="/nothing"))
        await trio.testing.wait_all_tasks_blocked()
        policy = guard.make_policy("127.0.0.1")
        front.open(Gateway(world.runtime, {"a": "stdio"}, policy, access_log=access_log))
    assert told(lines) == [(404, "info"), (404, "info")]


async def test_control_without_a_log_the_front_tells_nobody(autojump_clock: MockClock, lines: Lines) -> None:
    await Front(wait_seconds=1.0)(get(path="/readyz"))
    assert told(lines) == []
