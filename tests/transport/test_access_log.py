"""The access log: which requests are told of, and what of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange, get
from transport import guard
from transport.access_log import AccessLog
from transport.exchange import ClientGone, Exchange, Headers
from transport.gateway import Gateway
from transport.operation import Operation

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
