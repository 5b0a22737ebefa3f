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


class Failing:
    """Implements `transport.operation.Operation`: answers as it is told to, or raises."""

    operators_only = False

    def __init__(self, outcome: int | Exception) -> None:
        self.outcome = outcome

    def serves(self, path: str) -> bool:
        return path == "/odd"

    async def operate(self, exchange: Exchange, is_operator: bool, extra_headers: Headers) -> None:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        await exchange.respond(self.outcome, (), b"")


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as captured:
        yield captured  # type: ignore[misc]  # MutableMappings, of which it makes dicts


async def ask(world: World, outcome: int | Exception, access_log: AccessLog | None) -> None:
    operation: Operation = Failing(outcome)
    policy = guard.make_policy("127.0.0.1")
    gateway = Gateway(world.runtime, {"a": "streamable-http"}, policy, operations=[operation], access_log=access_log)
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
