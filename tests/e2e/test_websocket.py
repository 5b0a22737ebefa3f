"""WebSocket, both sides, through whole processes: real peers, and `kill -9` in the middle.

The requirements that a gateway is held to have numbers (row 57: who may come; row 62: what WebSocket owes its clients).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio_websocket

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.old_sdk import OldUpstream, run_client
from tests.e2e.peers.installing import python_packages
from tests.e2e.raw_client import Json, RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.socket_client import WITH_IDS, SocketClient, connect
from tests.e2e.waiting import wait_until

OUTCOME_UNKNOWN = -32011


@pytest.fixture(scope="session")
def old_packages() -> Path:
    """mcp 1.x."""
    return python_packages()


@pytest.fixture
def old_upstream(tmp_path: Path, old_packages: Path) -> Iterator[OldUpstream]:
    upstream = OldUpstream(tmp_path / "old", old_packages)
    yield upstream
    upstream.kill()


def events(client: SocketClient) -> list[Json]:
    """The frames that are events."""
    return [frame for frame in client.frames if "event_id" in frame and "message" in frame]


# ---- row 62 ----


async def test_row_62_subprotocol_is_required_and_chosen(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    with pytest.raises(trio_websocket.ConnectionRejected, match="400"):
        async with connect(gateway, subprotocols=["graphql-ws"]):
            pass
    async with connect(gateway, subprotocols=["mcp"]) as client:
        assert client.connection.subprotocol == "mcp"
        await client.open_session()
        assert await client.call("add", a=1, b=2) == "3"
        assert client.frames[-1]["result"]["content"][0]["text"] == "3", "frames are bare JSON-RPC"


async def test_row_62_frames_are_text_of_a_bounded_size_and_pings_are_answered(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target, environment={"OUTLAST_BODY_BYTES_MAX": "4096"})
    async with connect(gateway) as client:
        await client.open_session()
        with trio.fail_after(10):
            await client.connection.ping()
        await client.connection.send_message(b"{}")
        assert await client.end_code() == 1003
    async with connect(gateway) as client:
        await client.open_session()
        await client.connection.send_message("x" * 5000)
        assert await client.end_code() == 1009
    gateway.assert_is_well()


async def test_bounds_of_a_connection_are_the_operators_to_set(bed: Bed) -> None:
    environment = {
        "OUTLAST_WEBSOCKET_MESSAGE_BYTES_MAX": "2048",
        "OUTLAST_WEBSOCKET_INITIALIZE_SECONDS_MAX": "0.2",
        "OUTLAST_WEBSOCKET_PING_SECONDS": "0.5",
        "OUTLAST_WEBSOCKET_PONG_SECONDS": "0.5",
    }
    gateway = await bed.gateway(only=bed.lasting.plain.target, environment=environment)
    async with connect(gateway) as client:
        assert await client.end_code() == 4408
    async with connect(gateway) as client:
        await client.open_session()
        await client.connection.send_message("x" * 3000)
        assert await client.end_code() == 1009
    raw = RawClient(gateway.url())
    await raw.open_session()
    assert await raw.call("echo", text="x" * 3000) == "x" * 3000, "bodies have a bound of their own"
    async with connect(gateway) as client:
        await client.open_session()
        client.connection._wsproto.send = lambda event: b""  # type: ignore[method-assign]  # answers no ping
        assert await client.end_code() == 1006
    gateway.assert_is_well()


async def test_row_62_loss_of_the_session_has_its_close_code(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    async with connect(gateway, query="session_id=made-up") as client:
        assert await client.end_code() == 4404
    async with connect(gateway) as older:
        await older.open_session()
        session_id = older.session_id
        async with connect(gateway, query=f"session_id={session_id}") as newer:
            assert await older.end_code() == 4409
            assert (await RawClient(gateway.url(), session_id).delete()).status == 200
            assert await newer.end_code() == 4404


async def test_row_62_stop_of_the_gateway_has_its_close_code(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    async with connect(gateway) as client:
        await client.open_session()
        assert await client.call("counter") == "1"
        gateway.begin_stop()
        assert await client.end_code() == 1012
        session_id, seen = client.session_id, events(client)[-1]["event_id"]
    assert await trio.to_thread.run_sync(gateway.process.wait_exit) == 0
    await gateway.start()
    async with connect(gateway, query=f"session_id={session_id}&last_event_id={seen}") as client:
        assert await client.call("counter") == "2"


# ---- row 57 ----


async def test_row_57_host_and_origin_are_checked_before_the_upgrade(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    for origin in ("https://evil.example", "null"):
        with pytest.raises(trio_websocket.ConnectionRejected, match="403"):
            async with connect(gateway, headers=[("Origin", origin)]):
                pass
    with pytest.raises(trio_websocket.ConnectionRejected, match="421"):
        async with connect(gateway, names="evil.example"):
            pass
    async with connect(gateway, headers=[("Origin", f"http://{gateway.address}")]) as client:
        await client.open_session()


# ---- kill -9 ----


async def heard_until_killed(client: SocketClient, call: Json, gateway: Gateway) -> None:
    """Make a call, hear three steps of progress and their log lines, and kill the gateway."""
    await client.say(call)
    while sum("method" in frame["message"] for frame in events(client)) < 6:
        await client.next()
    gateway.kill()
    assert await client.end_code() == 1006


async def test_call_in_progress_at_a_kill_is_answered_once_if_the_upstream_can_resume(bed: Bed) -> None:
    upstream = bed.lasting.resumable
    gateway = await bed.gateway(only=upstream.target)
    key = unique_key()
    async with connect(gateway) as client:
        await client.open_session()
        call = client.tool_call("progress", key=key, count=3, hold=key)
        await heard_until_killed(client, call, gateway)
    await gateway.start()
    upstream.journal.release(key)
    seen = events(client)
    query = f"session_id={client.session_id}&last_event_id={seen[2]['event_id']}"
    async with connect(gateway, query=query) as again:
        answer = await again.answer_to(call)
        assert answer["result"]["content"][0]["text"] == f"done {key}"
        greeting = again.frames[0]
        assert greeting["session_id"] == client.session_id
        assert events(again)[: len(seen) - 3] == seen[3:], "exactly what came behind the named event"
        assert len(events(again)) == len(seen) - 3 + 1, "and the answer"
    assert upstream.journal.executions()[key] == 1


async def test_call_in_progress_at_a_kill_ends_with_an_error_if_the_upstream_cannot_resume(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    key = unique_key()
    async with connect(gateway) as client:
        await client.open_session()
        call = client.tool_call("progress", key=key, count=3, hold=key)
        await heard_until_killed(client, call, gateway)
    await gateway.start()
    seen = events(client)
    query = f"session_id={client.session_id}&last_event_id={seen[-1]['event_id']}"
    async with connect(gateway, query=query) as again:
        assert (await again.answer_to(call))["error"]["code"] == OUTCOME_UNKNOWN
        upstream.journal.release(key)
        assert await again.call("add", a=2, b=2) == "4"
    assert upstream.journal.executions()[key] == 1


async def test_silent_call_in_progress_at_a_kill_ends_with_an_error_for_a_plain_client_too(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    key = unique_key()
    async with connect(gateway, subprotocols=["mcp"]) as client:
        await client.open_session()
        call = client.tool_call("hold", key=key, hold=key)
        await client.say(call)
        await wait_until("the upstream runs it", lambda: upstream.journal.has_run(key))
        await trio.sleep(0.5)  # the call is promised after 20 ms; there is nothing outside to see it by
        gateway.kill()
        assert await client.end_code() == 1006
    await gateway.start()
    headers = [("Mcp-Session-Id", client.session_id)]
    async with connect(gateway, subprotocols=["mcp"], headers=headers) as again:
        assert (await again.answer_to(call))["error"]["code"] == OUTCOME_UNKNOWN
    upstream.journal.release(key)
    assert upstream.journal.executions()[key] == 1


# ---- published peers: the SDK that still speaks it ----


async def test_sdk_client_speaks_to_the_gateway(bed: Bed, old_packages: Path) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    seen = await run_client(f"ws://{gateway.address}/ws", old_packages)
    assert seen["answers"] == ["hello 0", "hello 1", "hello 2"]
    assert seen["version"] == "2025-11-25"
    assert "echo" in seen["tools"]


async def test_sdk_server_stands_behind_the_gateway_and_survives_its_kill(bed: Bed, old_upstream: OldUpstream) -> None:
    await old_upstream.start()
    gateway = await bed.gateway(only=old_upstream.target)
    key = unique_key()
    async with connect(gateway, subprotocols=[WITH_IDS]) as client:
        await client.open_session()
        assert [await client.call("counter"), await client.call("counter")] == ["1", "2"]
        call = client.tool_call("hold", key=key, hold=key)
        await client.say(call)
        await wait_until("the upstream runs it", lambda: old_upstream.journal.has_run(key))
        await trio.sleep(0.5)  # as above
        gateway.kill()
        assert await client.end_code() == 1006
    await gateway.start()
    seen = events(client)[-1]["event_id"]
    async with connect(gateway, query=f"session_id={client.session_id}&last_event_id={seen}") as again:
        assert (await again.answer_to(call))["error"]["code"] == OUTCOME_UNKNOWN
        assert await again.call("counter") == "1", "a new connection upstream, opened with the kept handshake"
    old_upstream.journal.release(key)
    assert old_upstream.journal.executions()[key] == 1
    assert old_upstream.journal.seen("connection") == 2


async def test_restart_of_a_websocket_server_is_survived(bed: Bed, old_upstream: OldUpstream) -> None:
    await old_upstream.start()
    gateway = await bed.gateway(only=old_upstream.target)
    client = RawClient(gateway.url())
    await client.open_session()
    assert await client.call("counter") == "1"
    old_upstream.kill()
    await old_upstream.start()
    assert await client.call("counter") == "1"
    assert await client.call("counter") == "2"
