"""The upstream ends and comes back: the client's session goes on, and it is told what is lost."""

from __future__ import annotations

import pytest
import trio

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.raw_client import RawClient, text_of
from tests.e2e.sdk_client import sdk_client, unique_key
from tests.e2e.waiting import wait_until, wait_until_asked

# Log levels are deprecated as of 2026-07-28; sessions speak what was before.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

# A request to an upstream that is down waits this long for it: here less than makes a stream of its answer.
SHORT_WAIT = {"OUTLAST_RESTORE_WAIT_SECONDS": "0.1"}


async def opened(gateway: Gateway) -> RawClient:
    client = RawClient(gateway.url())
    await client.open_session()
    return client


async def test_restarted_upstream_is_initialized_again_unseen(bed: Bed) -> None:
    upstream = await bed.upstream()
    gateway = await bed.gateway(only=upstream.target)
    async with sdk_client(gateway.url()) as peer:
        await peer.client.set_logging_level("error")
        assert [await peer.call("counter") for _ in range(2)] == ["1", "2"]
        upstream.kill()
        await upstream.start()
        assert await peer.call("counter") == "1", "what only the upstream knew is gone"
        assert await peer.call("log_level") == "error", "what the gateway knew was applied again"
        assert peer.methods_sent.count("initialize") == 1
        assert len(peer.session_ids) == 1
    assert upstream.journal.seen("initialize") == 2


async def test_upstream_that_is_down_is_503_until_it_is_back(bed: Bed) -> None:
    upstream = await bed.upstream()
    gateway = await bed.gateway(only=upstream.target, environment=SHORT_WAIT)
    client = await opened(gateway)
    upstream.kill()
    key = unique_key()
    answer = await client.post_whole(client.tool_call("echo", text="anyone?", key=key))
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json["error"]["message"]
    assert upstream.journal.executions()[key] == 0
    await upstream.start()

    async def is_back() -> bool:
        return (await client.post_whole(client.tool_call("echo", text="back"))).status == 200

    await wait_until_asked("the session works again", is_back)
    assert await client.call("counter") == "1"


@pytest.mark.parametrize("revision", ["2025-06-18", "2025-11-25"])
async def test_crashed_stdio_server_is_started_again(bed: Bed, revision: str) -> None:
    gateway = await bed.gateway(only=bed.stdio)
    client = RawClient(gateway.url(), protocol_version=revision)
    await client.open_session()
    level = {"level": "alert"}
    assert (await client.ask(client.request("logging/setLevel", level)))["result"] == {}
    assert await client.call("counter") == "1"
    crash = await client.ask(client.tool_call("crash", key=unique_key()))
    assert crash["error"]["message"]
    assert await client.call("counter") == "1"
    assert await client.call("log_level") == "alert"
    assert len(bed.journal.processes()) == 2


async def test_one_sessions_crash_does_not_touch_another(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.stdio)
    one, other = await opened(gateway), await opened(gateway)
    assert await other.call("counter") == "1"
    key = unique_key()
    held = other.tool_call("hold", key=key, hold=key)
    async with trio.open_nursery() as nursery:

        async def wait_for_it() -> None:
            assert text_of(await other.ask(held)) == f"done {key}"

        nursery.start_soon(wait_for_it)
        await wait_until("the other's call runs", lambda: bed.journal.has_run(key))
        await one.ask(one.tool_call("crash"))
        bed.journal.release(key)
    assert await other.call("counter") == "2"


async def test_session_opened_while_the_upstream_is_down_is_refused_and_not_kept(bed: Bed) -> None:
    upstream = await bed.upstream()
    gateway = await bed.gateway(only=upstream.target, environment=SHORT_WAIT)
    upstream.kill()
    client = RawClient(gateway.url())
    assert await client.initialize() in (502, 503)
    assert client.session_id == ""
    await upstream.start()
    await client.open_session()
    assert await client.call("counter") == "1"


async def test_restart_while_the_upstream_is_down_keeps_the_session(bed: Bed) -> None:
    upstream = await bed.upstream()
    gateway = await bed.gateway(only=upstream.target, environment=SHORT_WAIT)
    client = await opened(gateway)
    upstream.kill()
    gateway.kill()
    await gateway.start()
    assert (await client.post_whole(client.request("ping"))).status == 503
    await upstream.start()

    async def is_back() -> bool:
        return (await client.post_whole(client.request("ping"))).status == 200

    await wait_until_asked("the session works again", is_back)
