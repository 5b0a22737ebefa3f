"""The gateway while its store is away and the outage policy is `degrade`: it serves, and says what is at stake."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from actors.runtime import RuntimeOptions, open_runtime
from persistence.memory import MemoryStore
from persistence.store import StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_world
from tests.persistence.faulty import FaultyStore
from tests.transport.fake_exchange import FakeExchange, delete, get, post
from tests.transport.test_gateway import INITIALIZE, ONE, asked, gateway_of
from transport import guard
from transport.gateway import Gateway

NOTE = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


async def ready(gateway: Gateway) -> FakeExchange:
    return await asked(gateway, get(path="/readyz"))


async def test_degraded_is_ready_and_says_what_is_not_durable(autojump_clock: MockClock) -> None:
    async with open_world(store_outage="degrade") as world:
        gateway = gateway_of(world)
        assert (await ready(gateway)).json == {"status": "ready"}
        world.store.begin_outage(StoreUnavailable("away"))
        opened = await asked(gateway, post(INITIALIZE))
        assert opened.headers["mcp-session-id"]
        told = await ready(gateway)
        assert (told.status, told.json["status"]) == (200, "ready")
        assert told.json["degraded"]["facts_not_durable"] > 0
        assert told.json["degraded"]["since_unix_s"] > 0
        world.store.end_outage()
        await trio.sleep(10.0)
        assert (await ready(gateway)).json == {"status": "ready"}


async def test_refusing_it_is_not_ready_and_opens_nothing(autojump_clock: MockClock) -> None:
    async with open_world(store_outage="refuse") as world:
        gateway = gateway_of(world)
        world.store.begin_outage(StoreUnavailable("away"))
        refused = await asked(gateway, post(INITIALIZE))
        assert "error" in refused.json
        assert "mcp-session-id" not in refused.headers
        told = await ready(gateway)
        assert told.status == 503
        assert "degraded" not in told.json
        world.store.end_outage()


async def test_session_that_may_be_stored_is_not_said_to_be_gone(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session_id = (await asked(gateway_of(world), post(INITIALIZE))).headers["mcp-session-id"]
    store = FaultyStore(disk)
    store.begin_outage(StoreUnavailable("away"))
    options = RuntimeOptions(store_outage="degrade")
    async with open_runtime(store, connect=upstream.connect, options=options) as runtime:
        gateway = Gateway(runtime, ONE, guard.make_policy("127.0.0.1"))
        for exchange in (
            post(PING, mcp_session_id=session_id),
            post(NOTE, mcp_session_id=session_id),
            get(mcp_session_id=session_id),
            delete(mcp_session_id=session_id),
        ):
            told = await asked(gateway, exchange)
            assert told.status == 503
            assert "not all sessions are known" in told.json["error"]["message"], "and nobody is restarting"
        store.end_outage()
        await trio.sleep(10.0)
        assert (await asked(gateway, post(PING, mcp_session_id=session_id))).status == 200
        assert (await asked(gateway, post(PING, mcp_session_id="never-there"))).status == 404
