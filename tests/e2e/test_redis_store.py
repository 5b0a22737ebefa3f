"""The gateway over Redis: killed and started again, on its machine or on another, its clients go on.

The scenarios of restarts in small, on a real Valkey server: what they show in full on a file is shown there
(`test_gateway_restart.py`); here it is the store that is another.
"""

from __future__ import annotations

import pytest

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.process import ProcessFailed
from tests.e2e.raw_client import ConnectionBroken, RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.waiting import wait_until
from tests.persistence.redis_servers import RedisServer

pytestmark = pytest.mark.one_road  # what a store keeps does not depend on how it was asked for

COUNT = 4


async def test_session_on_redis_outlasts_kill_and_replays_exactly(bed: Bed, redis_server: RedisServer) -> None:
    gateway = await bed.gateway(store=redis_server.url, only=bed.lasting.plain.target)
    client = RawClient(gateway.url())
    await client.open_session()
    async with client.post(client.tool_call("progress", key=unique_key(), count=COUNT)) as stream:
        told = await stream.rest()
    for _ in range(2):
        gateway.kill()
        ready = await gateway.start()
        assert (ready.restored, ready.uninitialized) == (1, 0)
        async with client.get(told[0].id) as replay:
            assert await replay.rest() == told[1:]
    assert (await client.post_whole(client.request("ping"))).status == 200


async def test_session_goes_on_with_another_gateway_on_the_same_redis(bed: Bed, redis_server: RedisServer) -> None:
    # As after the loss of a machine: nothing but the server is what the two have in common.
    first = await bed.gateway(store=redis_server.url, only=bed.lasting.plain.target)
    client = RawClient(first.url())
    await client.open_session()
    async with client.post(client.tool_call("progress", key=unique_key(), count=COUNT)) as stream:
        told = await stream.rest()
    first.kill()
    second = await bed.gateway(store=redis_server.url, only=bed.lasting.plain.target)
    client.url = second.url()
    async with client.get(told[0].id) as replay:
        assert await replay.rest() == told[1:]


async def test_former_owner_is_told_and_ends(bed: Bed, redis_server: RedisServer) -> None:
    first = await bed.gateway(store=redis_server.url, only=bed.lasting.plain.target)
    second = await bed.gateway(store=redis_server.url, only=bed.lasting.plain.target)
    # Opening a session is a fact to be kept, and the first one may not keep any more: it says so, or is gone already.
    client = RawClient(first.url())
    with pytest.raises((ConnectionBroken, AssertionError, KeyError)):
        await client.open_session()
    assert not client.session_id
    await wait_until("the former owner ended", lambda: not first.process.is_running)
    assert "taken over the store" in first.stderr
    await RawClient(second.url()).open_session()
    first.kill()


async def test_gateway_waits_for_a_redis_that_is_away_and_loses_nothing(bed: Bed, redis_server: RedisServer) -> None:
    gateway = await bed.gateway(store=redis_server.url, only=bed.lasting.plain.target)
    client = RawClient(gateway.url())
    await client.open_session()
    redis_server.kill()
    redis_server.start()
    async with client.post(client.tool_call("progress", key=unique_key(), count=COUNT)) as stream:
        told = await stream.rest()
    gateway.kill()
    await gateway.start()
    async with client.get(told[0].id) as replay:
        assert await replay.rest() == told[1:]


async def test_server_that_evicts_is_refused_with_what_to_set(bed: Bed, redis_server: RedisServer) -> None:
    redis_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    gateway = Gateway(redis_server.directory / "gateway", {"only": bed.lasting.plain.target}, store=redis_server.url)
    with pytest.raises(ProcessFailed, match="CONFIG SET maxmemory-policy noeviction"):
        await gateway.start()
    gateway.kill()
