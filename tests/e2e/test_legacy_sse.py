"""HTTP+SSE of 2024-11-05 with real peers on both sides, killed and restarted in the middle."""

from __future__ import annotations

import mcp_types as types
import pytest

from tests.e2e.bed import Bed, SharedBed
from tests.e2e.gateway import Gateway
from tests.e2e.raw_client import RawClient, text_of
from tests.e2e.raw_sse_client import RawSseClient
from tests.e2e.sdk_client import ROOT_URI, sdk_client, unique_key
from tests.e2e.waiting import wait_until, wait_until_asked

# Log levels and sampling are deprecated as of 2026-07-28; sessions speak what was before.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

OUTCOME_UNKNOWN = -32011


def sse_url(url: str) -> str:
    return url.removesuffix("mcp") + "sse"


# ---- clients ----


@pytest.mark.parametrize("server", ["plain", "json", "stdio"])
async def test_sdk_client_has_all_it_has_over_streamable_http(shared: SharedBed, server: str) -> None:
    async with sdk_client(sse_url(shared.url(server)), sse=True) as peer:
        assert await peer.call("echo", text="ü \u2028") == "ü \u2028"
        assert [await peer.call("counter") for _ in range(2)] == ["1", "2"]
        key = unique_key()
        assert await peer.call("sleep", seconds=0.5, key=key) == f"done {key}"
        await peer.client.set_logging_level("error")
        assert await peer.call("log_level") == "error"
        await peer.call("change_tools")
        await wait_until("the change was heard", lambda: len(peer.heard(types.ToolListChangedNotification)) == 1)
        if server != "json":  # which can ask nothing in the middle of a call
            assert await peer.call("sample", prompt="louder") == "capitals: LOUDER"
            assert await peer.call("elicit", question="sure?") == "accept: yes"
            assert await peer.call("list_roots") == ROOT_URI
            assert await peer.call("progress", key=key, count=2) == f"done {key}"
            assert peer.logged == [f"{key} step 1", f"{key} step 2"]
        [session_id] = peer.session_ids
        assert len(session_id) == 32


async def test_sdk_client_stays_when_the_upstream_restarts(bed: Bed) -> None:
    upstream = await bed.upstream()
    gateway = await bed.gateway(only=upstream.target)
    async with sdk_client(sse_url(gateway.url()), sse=True) as peer:
        assert await peer.call("counter") == "1"
        upstream.kill()
        await upstream.start()
        assert await peer.call("counter") == "1"
        assert await peer.call("echo", text="still here") == "still here"


async def opened(gateway: Gateway) -> RawSseClient:
    client = RawSseClient(sse_url(gateway.url()))
    async with client.stream():
        await client.open_session()
    return client


@pytest.mark.parametrize("resumable", [False, True])
async def test_call_in_flight_at_a_kill_is_answered_or_ends_in_an_error(bed: Bed, resumable: bool) -> None:
    upstream = bed.lasting.resumable if resumable else bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    client = await opened(gateway)
    key = unique_key()
    async with client.stream():
        session = client.endpoint
        call = client.tool_call("progress", key=key, count=2, hold=key)
        await client.post(call)
        for _ in range(2 * 2):
            await client.next_frame()
        gateway.kill()
    await gateway.start()
    before = len(client.frames)
    async with client.stream() as stream:
        assert stream.status == 200
        assert client.endpoint == session, "the same session"
        if resumable:
            upstream.journal.release(key)
        answer = await client.answer_to(call)
        assert len(client.frames) == before + 2, "the endpoint and the answer: nothing is sent twice"
        if resumable:
            assert text_of(answer) == f"done {key}"
        else:
            assert answer["error"]["code"] == OUTCOME_UNKNOWN
        counting = client.tool_call("counter")
        await client.post(counting)
        assert text_of(await client.answer_to(counting)) == "1"
    upstream.journal.release(key)
    assert upstream.journal.executions()[key] == 1


async def test_accepted_call_has_its_answer_or_an_error_after_a_kill(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    client = await opened(gateway)
    away, key = client.tool_call("echo", text="away"), unique_key()
    await client.post(away)
    async with client.stream():
        assert text_of(await client.answer_to(away)) == "away"
    call = client.tool_call("echo", text=key, key=key)
    await client.post(call)  # accepted: which of the two it is depends on who was quicker, that it is one does not
    gateway.kill()
    await gateway.start()
    async with client.stream():
        answer = await client.answer_to(call)
        assert answer.get("error", {"code": OUTCOME_UNKNOWN})["code"] == OUTCOME_UNKNOWN
        assert "error" in answer or text_of(answer) == key
    assert upstream.journal.executions()[key] <= 1


async def test_orderly_restart_ends_the_stream_and_the_session_goes_on(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    client = await opened(gateway)
    async with client.stream() as stream:
        assert await gateway.stop() == 0
        await stream.wait_ended()
    await gateway.start()
    async with client.stream():
        call = client.tool_call("echo", text="again")
        await client.post(call)
        assert text_of(await client.answer_to(call)) == "again"


async def test_unknown_sessions_are_404_and_missing_ones_400(shared: SharedBed) -> None:
    base = shared.url("plain").removesuffix("mcp")
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    missing = await RawClient(base + "messages").post_whole(message)
    unknown = await RawClient(base + "messages?session_id=nobody").post_whole(message)
    stream = await RawClient(base + "sse").whole("GET", headers={"last-event-id": "nobody.0"})
    post = await RawClient(base + "sse").post_whole(message)

    assert [answer.status for answer in (missing, unknown, stream, post)] == [400, 404, 404, 405]
    assert all("error" in answer.json for answer in (missing, unknown, stream, post))


# ---- upstreams ----


@pytest.mark.parametrize("fallback", [False, True])
async def test_sdk_server_over_http_sse_is_reached(bed: Bed, fallback: bool) -> None:
    upstream = await bed.upstream(sse=True)
    gateway = await bed.gateway(only=upstream.url if fallback else f"sse+{upstream.url}")
    async with sdk_client(gateway.url()) as peer, sdk_client(sse_url(gateway.url()), sse=True) as other:
        assert [await peer.call("counter") for _ in range(2)] == ["1", "2"]
        assert await other.call("counter") == "1", "sessions are kept apart"
        assert await peer.call("sample", prompt="louder") == "capitals: LOUDER"
        assert await peer.call("elicit", question="sure?") == "accept: yes"
        assert await peer.call("list_roots") == ROOT_URI
        key = unique_key()
        assert await peer.call("progress", key=key, count=2) == f"done {key}"
        assert await peer.call("sleep", seconds=0.5, key=key) == f"done {key}"


@pytest.mark.parametrize("fallback", [False, True])
async def test_session_goes_on_when_either_side_of_http_sse_is_killed(bed: Bed, fallback: bool) -> None:
    upstream = await bed.upstream(sse=True)
    gateway = await bed.gateway(only=upstream.url if fallback else f"sse+{upstream.url}")
    client = RawClient(gateway.url())
    await client.open_session()
    assert await client.call("counter") == "1"
    gateway.kill()
    await gateway.start()
    assert await client.call("counter") == "1", "the same session, initialized again: its server's memory is gone"
    assert upstream.journal.seen("initialize") == 2
    key = unique_key()
    call = client.tool_call("progress", key=key, count=1, hold=key)
    async with client.post(call) as stream:
        await stream.next_message()
        upstream.kill()
        await upstream.start()
        while (answer := await stream.next_message()).get("id") != call["id"]:
            pass
    assert answer["error"]["code"] == OUTCOME_UNKNOWN
    assert upstream.journal.executions()[key] == 1

    async def is_back() -> bool:
        return (await client.post_whole(client.tool_call("echo", text="back"))).status == 200

    await wait_until_asked("the session works again", is_back)
    assert await client.call("counter") == "1"
