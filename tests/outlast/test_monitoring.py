"""What watches a gateway, put together: it tells operators, and costs sessions nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from actors.index import SessionIndex
from outlast.health_tool import make_health_tool
from outlast.monitoring import Monitoring
from outlast.upstreams import Upstreams
from persistence.records import SnapshotHeader
from tests.actors.worlds import World, open_session, open_world, send
from tests.transport.fake_exchange import FakeExchange, get
from transport import guard
from transport.gateway import Gateway
from transport.operators import Operators
from transport.upstreams.http_pool import HttpPool

TOKEN = "a-long-secret"


@attrs.frozen
class Watched:
    """A gateway that is watched."""

    world: World
    gateway: Gateway
    monitoring: Monitoring

    async def ask(self, path: str, *, as_operator: bool = True) -> FakeExchange:
        exchange = get(path=path, **({"authorization": f"Bearer {TOKEN}"} if as_operator else {}))
        await self.gateway(exchange)
        return exchange


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    async with open_world(own_tools=make_health_tool()) as world, trio.open_nursery() as nursery:
        monitoring = Monitoring(world.runtime, Upstreams({}, HttpPool()), sessions_max=100_000)
        gateway = Gateway(
            world.runtime,
            {"linear": "stdio"},
            guard.make_policy("127.0.0.1"),
            operations=monitoring.operations,
            operators=Operators(TOKEN),
        )
        monitoring.vitals.not_ready_reason = gateway.not_ready_reason
        nursery.start_soon(monitoring.vitals.prober.run)
        yield Watched(world, gateway, monitoring)
        nursery.cancel_scope.cancel()


async def test_operators_get_all_of_it_and_others_how_the_areas_are(autojump_clock: MockClock) -> None:
    async with watched() as it:
        in_full = await it.ask("/health")
        assert (in_full.status, in_full.json["status"], in_full.json["ready"]) == (200, "healthy", True)
        assert in_full.json["store"]["reachable"] is True
        assert in_full.headers["cache-control"] == "no-store"
        in_short = await it.ask("/health", as_operator=False)
        assert set(in_short.json) == {"status", "ready", "areas"}
        assert (await it.ask("/metrics", as_operator=False)).status == 401


async def test_a_gateway_that_drains_is_degraded_and_not_ready(autojump_clock: MockClock) -> None:
    async with watched() as it:
        it.gateway.drain()
        report = await it.ask("/health")
        assert (report.status, report.json["status"], report.json["ready"]) == (200, "degraded", False)
        assert b"\noutlast_ready 0.0\n" in (await it.ask("/metrics")).answer


async def test_calls_are_in_the_metrics_of_their_server(autojump_clock: MockClock) -> None:
    async with watched() as it:
        session = await open_session(it.world)
        await send(session, 1, label="search").wait()
        text = (await it.ask("/metrics")).answer.decode()
        assert 'outlast_tool_calls_total{server="linear"} 1.0' in text
        assert 'outlast_requests_total{server="linear"} 2.0' in text  # the handshake is one
        assert session.id not in text


async def test_leases_are_told_of_where_there_are_some(autojump_clock: MockClock) -> None:
    async with watched() as it:
        assert b"outlast_lease_margin_seconds" not in (await it.ask("/metrics")).answer, "a claim does not run out"
        await it.world.runtime.store.acquire(1, "me", ttl_seconds=10.0)
        assert b"\noutlast_lease_margin_seconds " in (await it.ask("/metrics")).answer
        assert (await it.ask("/health")).json["store"]["lease_margin_seconds"] <= 10.0


async def test_the_health_tool_tells_of_this_gateway(autojump_clock: MockClock) -> None:
    async with watched() as it:
        own_tools = it.world.runtime.own_tools
        assert own_tools is not None
        assert "Storage Test: ✅ PASS" in (await own_tools.explain("linear", None)).text
        assert it.monitoring.vitals.with_tool_of_ours is own_tools.taken


async def test_other_verbs_are_405(autojump_clock: MockClock) -> None:
    async with watched() as it:
        for path in ("/health", "/metrics"):
            exchange = FakeExchange("PUT", path, headers={"authorization": f"Bearer {TOKEN}"})
            await it.gateway(exchange)
            assert (exchange.status, exchange.headers["allow"]) == (405, "GET, HEAD")


async def test_metrics_and_health_look_at_no_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watched() as it:
        headers = (SnapshotHeader(f"s{n}", 1, "linear", "owner", "", 1.0, 9e9) for n in range(1000))
        it.world.runtime.registry.learn(headers)
        monkeypatch.setattr(SessionIndex, "__iter__", looked)
        assert b'outlast_sessions{state="initialized"} 1000.0' in (await it.ask("/metrics")).answer
        assert (await it.ask("/health")).json["sessions"]["total"] == 1000
        with pytest.raises(AssertionError, match="looked at all sessions"):  # the control: what does look is noticed
            it.world.runtime.analytics()
        monkeypatch.undo()


def looked(index: SessionIndex) -> Iterator[SnapshotHeader]:
    raise AssertionError("looked at all sessions")
