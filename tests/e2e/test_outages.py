"""The gateway while its store is away, under the policy `degrade`: a Redis killed or hanging, a file without a place.

Real processes: `outlast serve`, a Valkey server, and an upstream of the SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.process import ProcessFailed
from tests.e2e.raw_client import LATEST, Answer, RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.server_sent_events import Frame
from tests.e2e.waiting import wait_until_asked
from tests.persistence.redis_servers import RedisServer

pytestmark = pytest.mark.one_road  # what a store keeps does not depend on how it was asked for

DEGRADE = {"OUTLAST_STORE_OUTAGE": "degrade", "OUTLAST_STORE_OUTAGE_PATIENCE_SECONDS": "0.2"}
COUNT = 4
INITIALIZE = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "late", "version": "1"}}


async def serving(bed: Bed, redis_server: RedisServer, environment: Mapping[str, str] = DEGRADE) -> Gateway:
    return await bed.gateway(store=redis_server.url, environment=environment, only=bed.lasting.plain.target)


async def progress(client: RawClient) -> list[Frame]:
    """Make a call that becomes a stream, and give its events."""
    async with client.post(client.tool_call("progress", key=unique_key(), count=COUNT)) as stream:
        assert stream.status == 200, await stream.body()
        frames = await stream.rest()
    assert frames[-1].message is not None
    assert "result" in frames[-1].message, frames[-1]
    return frames


async def readiness(gateway: Gateway) -> Answer:
    assert gateway.ready_line is not None
    return await RawClient(f"{gateway.ready_line.url}/readyz").whole("GET")


async def degraded(gateway: Gateway) -> Any:
    return (await readiness(gateway)).json.get("degraded")


async def wait_until_over(gateway: Gateway) -> None:
    async def is_over() -> bool:
        return await degraded(gateway) is None

    await wait_until_asked("everything is written back", is_over)


def go_away(redis_server: RedisServer, kind: str) -> None:
    if kind == "killed":
        redis_server.kill()
    else:
        redis_server.stop_answering()


def come_back(redis_server: RedisServer, kind: str) -> None:
    if kind == "killed":
        redis_server.start()
    else:
        redis_server.answer_again()


@pytest.mark.parametrize("kind", ["killed", "hanging"])
async def test_sessions_go_on_in_an_outage_and_all_of_it_is_kept_after(
    kind: str, bed: Bed, redis_server: RedisServer
) -> None:
    gateway = await serving(bed, redis_server)
    client, late = RawClient(gateway.url()), RawClient(gateway.url())
    await client.open_session()
    before = await progress(client)
    assert await degraded(gateway) is None
    go_away(redis_server, kind)
    during = await progress(client)
    await late.open_session()
    assert (await degraded(gateway))["facts_not_durable"] > 0
    come_back(redis_server, kind)
    await wait_until_over(gateway)
    gateway.kill()
    ready = await gateway.start()
    assert (ready.restored, ready.uninitialized) == (2, 0)
    for told in (before, during):
        async with client.get(told[0].id) as replay:
            assert await replay.rest() == told[1:]
    assert (await late.post_whole(late.request("ping"))).status == 200


async def test_a_crash_in_an_outage_takes_back_what_was_told_in_it_and_no_id_lies(
    bed: Bed, redis_server: RedisServer
) -> None:
    # The control of the one above, and what `degrade` says of itself: a crash loses what was told since.
    gateway = await serving(bed, redis_server)
    client, late = RawClient(gateway.url()), RawClient(gateway.url())
    await client.open_session()
    before = await progress(client)
    go_away(redis_server, "killed")
    during = await progress(client)
    await late.open_session()
    gateway.kill()
    come_back(redis_server, "killed")
    ready = await gateway.start()
    assert (ready.restored, ready.uninitialized) == (1, 0)
    assert (await late.post_whole(late.request("ping"))).status == 404
    again = await progress(client)  # a stream of the same number, with events at the same offsets
    for frame in during[:-1]:
        async with client.get(frame.id) as lost:
            assert lost.status == 410
    for told in (before, again):
        async with client.get(told[0].id) as replay:
            assert await replay.rest() == told[1:]


async def test_a_file_whose_volume_comes_late_gets_all_that_was_told_before(bed: Bed, tmp_path: Path) -> None:
    # The data directory leads to where a volume is going to be mounted: until then there is no place for a file.
    volume, data = tmp_path / "volume", tmp_path / "data"
    data.symlink_to(volume)
    store = f"sqlite:{data}/outlast.db"
    gateway = await bed.gateway(store=store, environment=DEGRADE, only=bed.lasting.plain.target)
    client = RawClient(gateway.url())
    await client.open_session()
    during = await progress(client)
    assert (await degraded(gateway))["facts_not_durable"] > 0
    volume.mkdir()
    await wait_until_over(gateway)
    after = await progress(client)
    gateway.kill()
    ready = await gateway.start()
    assert (ready.restored, ready.uninitialized) == (1, 0)
    for told in (during, after):
        async with client.get(told[0].id) as replay:
            assert await replay.rest() == told[1:]


async def test_without_degrade_a_file_without_a_place_is_refused_at_the_start(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    store = f"sqlite:{tmp_path}/data/outlast.db"
    gateway = Gateway(tmp_path / "gateway", {"only": bed.lasting.plain.target}, store=store)
    with pytest.raises(ProcessFailed, match="data is no directory, or leads to none that is there"):
        await gateway.start()
    gateway.kill()


async def test_refusing_nothing_new_is_told_in_an_outage(bed: Bed, redis_server: RedisServer) -> None:
    gateway = await serving(bed, redis_server, {"OUTLAST_RESTORE_WAIT_SECONDS": "5"})
    client, late = RawClient(gateway.url()), RawClient(gateway.url())
    await client.open_session()
    go_away(redis_server, "killed")
    refused = await late.post_whole(late.request("initialize", INITIALIZE), headers={"mcp-protocol-version": None})
    assert "error" in refused.json
    assert "mcp-session-id" not in refused.headers
    assert (await readiness(gateway)).status == 503
    come_back(redis_server, "killed")

    async def is_ready() -> bool:
        return (await readiness(gateway)).status == 200

    await wait_until_asked("it is ready again", is_ready)
    await progress(client)
