"""Before the gateway is there: probes are answered at once, everybody else waits for it, for a while."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.actors.worlds import open_world
from tests.transport.fake_exchange import FakeExchange, get
from transport import guard
from transport.exchange import RequestHead
from transport.front import Front
from transport.gateway import Gateway


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 503), ("/health", 503)])
async def test_probes_are_answered_before_the_gateway_is_there(path: str, status: int) -> None:
    exchange = get(path=path)
    await Front()(exchange)
    assert exchange.status == status
    assert exchange.json["status"] == ("alive" if status == 200 else exchange.json["status"])


async def test_requests_wait_for_the_gateway_and_are_answered_by_it(autojump_clock: MockClock) -> None:
    front, exchange = Front(), get(path="/nothing")
    async with open_world() as world, trio.open_nursery() as nursery:
        nursery.start_soon(front, exchange)
        await wait_all_tasks_blocked()
        assert not exchange.finished
        front.open(_gateway(world.runtime))
        assert not front.is_hot(exchange.head)
    assert exchange.status == 404
    assert b"there is nothing at this path" in exchange.answer


async def test_requests_do_not_wait_for_ever(autojump_clock: MockClock) -> None:
    exchange = FakeExchange("POST")
    await Front(wait_seconds=5.0)(exchange)
    assert trio.current_time() == pytest.approx(5.0)
    assert (exchange.status, exchange.headers["retry-after"]) == (503, "1")


async def test_a_probe_that_is_being_answered_when_the_gateway_comes_is_answered_once(
    autojump_clock: MockClock,
) -> None:
    front, exchange = Front(), get(path="/readyz")
    async with open_world() as world, trio.open_nursery() as nursery:
        nursery.start_soon(front, exchange)
        front.open(_gateway(world.runtime))
    assert exchange.status in (200, 503)


def test_before_the_gateway_only_what_needs_the_wide_road_takes_it() -> None:
    assert Front().is_hot(get(path="/readyz").head)
    assert not Front().is_hot(RequestHead("GET", "/ws", "", {"upgrade": "websocket"}, "peer"))


def _gateway(runtime: object) -> Gateway:
    return Gateway(runtime, {"linear": "stdio"}, guard.make_policy("127.0.0.1"))  # type: ignore[arg-type]
