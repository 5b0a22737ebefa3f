"""2026-07-28 between real peers: the public SDK's client in front, servers of both eras behind, over HTTP and stdio.

Each claim is also true without a gateway (E2E_ROADS=direct, for HTTP servers).
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import mcp_types as types
import pytest
import trio
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ToolsListChanged
from mcp.shared.exceptions import MCPError

from tests.e2e.bed import DIRECT, Bed, SharedBed
from tests.e2e.modern_bed import VERSION, ModernBed, Watched
from tests.e2e.modern_server import MODULE, STATE
from tests.e2e.raw_client import Json, RawClient
from tests.e2e.raw_client import text_of as raw_text_of
from tests.e2e.sdk_client import unique_key
from tests.e2e.upstream import Upstream
from tests.e2e.upstream_server import VENDOR_METHOD
from tests.e2e.waiting import DEADLINE_SECONDS, wait_until

EVERY_KIND = pytest.mark.parametrize("server", ["http", "json", "stdio"])
STREAMING_KINDS = pytest.mark.parametrize("server", ["http", "stdio"])
EVERY_MODE = pytest.mark.parametrize("mode", [VERSION, "auto"])
PREFIX = "io.modelcontextprotocol/"
META: Json = {f"{PREFIX}protocolVersion": VERSION, f"{PREFIX}clientCapabilities": {"vendor/x": {"big": 2**60}}}


@pytest.fixture(scope="session")
def _modern_bed(road: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModernBed]:
    bed = ModernBed(tmp_path_factory.mktemp("modern"), road)
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


@pytest.fixture
def modern(_modern_bed: ModernBed, request: pytest.FixtureRequest) -> Iterator[ModernBed]:
    if _modern_bed.gateway is None and "stdio" in request.node.callspec.params.get("server", ""):
        pytest.skip("there is no HTTP endpoint without a gateway")
    yield _modern_bed
    if _modern_bed.gateway is not None:
        _modern_bed.gateway.assert_is_well()


@contextlib.asynccontextmanager
async def client_of(url: str, mode: Any, watched: Watched | None = None) -> AsyncIterator[Client]:
    hooks: Any = (watched or Watched()).hooks

    async def on_elicitation(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"answer": "yes"})

    async with httpx2.AsyncClient(timeout=DEADLINE_SECONDS, event_hooks=hooks, verify=False) as http:
        client = Client(
            streamable_http_client(url, http_client=http),
            mode=mode,
            read_timeout_seconds=DEADLINE_SECONDS,
            elicitation_callback=on_elicitation,
        )
        async with client:
            yield client
    gc.collect()  # see sdk_client


async def text_of(client: Client, tool: str, **arguments: object) -> str:
    result = await client.call_tool(tool, dict(arguments))
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return content.text


# ---- the SDK's client ----


@EVERY_KIND
@EVERY_MODE
async def test_tools_are_listed_and_called_without_a_session(modern: ModernBed, server: str, mode: str) -> None:
    watched = Watched()
    async with client_of(modern.url(server), mode, watched) as client:
        assert client.protocol_version == VERSION
        assert {"echo", "ask"} <= {tool.name for tool in (await client.list_tools()).tools}
        assert await text_of(client, "echo", text="grüße 🌍") == "grüße 🌍"
        assert await text_of(client, "add", a=2**40, b=1) == str(2**40 + 1)
    assert watched.session_ids == set()
    assert {verb for verb, _ in watched.requests} == {"POST"}
    assert "initialize" not in {method for _, method in watched.requests}


@EVERY_KIND
async def test_errors_of_the_server_arrive_whole(modern: ModernBed, server: str) -> None:
    async with client_of(modern.url(server), VERSION) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("fail", {"detail": {"null": None}})
    assert (caught.value.code, caught.value.message) == (-31234, "asked to fail")
    assert caught.value.data == {"detail": {"null": None}, "big": 2**60}


@STREAMING_KINDS
async def test_progress_of_concurrent_calls_reaches_their_own_callers(modern: ModernBed, server: str) -> None:
    """Every client numbers its requests from 0, and uses these numbers as tokens, too."""
    heard: dict[int, list[float]] = {}

    async def one(number: int) -> None:
        steps = heard[number] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            steps.append(progress)

        async with client_of(modern.url(server), VERSION) as client:
            arguments = {"key": unique_key(), "count": number, "interval_seconds": 0.01}
            await client.call_tool("progress", arguments, progress_callback=on_progress)
            await wait_until("all progress was heard", lambda: len(steps) >= number)

    async with trio.open_nursery() as nursery:
        for number in range(1, 5):
            nursery.start_soon(one, number)
    assert heard == {number: [float(step) for step in range(1, number + 1)] for number in range(1, 5)}


@EVERY_KIND
async def test_input_that_the_server_requires_is_given_in_a_second_round(modern: ModernBed, server: str) -> None:
    async with client_of(modern.url(server), VERSION) as client:
        assert await text_of(client, "ask") == "accept: yes"


@EVERY_KIND
async def test_server_hears_of_the_client_what_the_client_says(modern: ModernBed, server: str) -> None:
    async with client_of(modern.direct_url("http"), VERSION) as client:
        direct = json.loads(await text_of(client, "client"))
    async with client_of(modern.url(server), VERSION) as client:
        assert json.loads(await text_of(client, "client")) == direct
    assert direct[f"{PREFIX}clientCapabilities"]


@EVERY_KIND
async def test_parameters_that_headers_mirror_are_checked_by_the_server(modern: ModernBed, server: str) -> None:
    async with client_of(modern.url(server), VERSION) as client:
        await client.list_tools()  # from here the client learns which parameter has a header
        assert await text_of(client, "region", region="Zürich") == "Zürich"


@EVERY_KIND
async def test_parameter_header_that_contradicts_the_body_is_refused_alike(modern: ModernBed, server: str) -> None:
    """Over HTTP the server checks, over stdio the gateway does: whoever calls cannot tell."""
    client = modern.raw(server)
    message = request("tools/call", name="region", arguments={"region": "Zürich"})
    encoded = "=?base64?WsO8cmljaA==?="
    for header, status in ((encoded, 200), ("Zurich", 400), (None, 400), (encoded, 200)):
        headers: dict[str, str | None] = {"mcp-method": "tools/call", "mcp-name": "region"}
        headers["mcp-param-region"] = header
        answer = await client.post_whole(message, headers=headers)
        assert answer.status == status, answer
        if status == 400:
            assert answer.json["error"]["code"] == -32020


# The SDK's servers do not notice a client that goes away from an answer of JSON alone; nobody can make them.
@STREAMING_KINDS
async def test_client_that_cancels_cancels_its_call_at_the_server(modern: ModernBed, server: str) -> None:
    journal = modern.journal(server)
    key = unique_key()
    async with client_of(modern.url(server), VERSION) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call_tool, "hold", {"key": key, "hold": key})
            await wait_until("the call runs", lambda: journal.has_run(key))
            nursery.cancel_scope.cancel()
        await wait_until("it was cancelled", lambda: any(each.get("cancelled") == key for each in journal.entries()))
        assert await text_of(client, "echo", text="still there") == "still there"


@EVERY_KIND
async def test_changes_reach_who_listens(modern: ModernBed, server: str) -> None:
    async with client_of(modern.url(server), VERSION) as client, client.listen(tools_list_changed=True) as listening:
        assert listening.honored.tools_list_changed
        await text_of(client, "announce")
        with trio.fail_after(DEADLINE_SECONDS):
            assert await anext(aiter(listening)) == ToolsListChanged()


async def test_clients_of_a_stdio_server_share_one_process(modern: ModernBed) -> None:
    if modern.gateway is None:
        pytest.skip("there is no HTTP endpoint without a gateway")
    async with (
        client_of(modern.url("stdio"), VERSION) as one,
        client_of(modern.url("stdio"), VERSION) as other,
    ):
        assert await text_of(one, "process") == await text_of(other, "process")


async def test_published_server_is_asked_without_a_session(shared: SharedBed) -> None:
    watched = Watched()
    async with client_of(shared.url("time"), "auto", watched) as client:
        assert client.protocol_version == VERSION
        assert {"get_current_time", "convert_time"} <= {tool.name for tool in (await client.list_tools()).tools}
        assert "timezone" in await text_of(client, "get_current_time", timezone="UTC")
    assert watched.session_ids == set()


# ---- servers of the handshake era ----


@pytest.mark.parametrize("server", ["old", "old_stdio"])
async def test_client_of_both_eras_falls_back_by_itself_where_the_server_is_older(
    modern: ModernBed, server: str
) -> None:
    watched = Watched()
    async with client_of(modern.url(server), "auto", watched) as client:
        assert client.protocol_version < VERSION
        assert await text_of(client, "echo", text="old") == "old"
    assert len(watched.session_ids) == 1


@pytest.mark.parametrize("server", ["old", "old_stdio"])
async def test_client_of_one_era_is_refused_where_the_server_is_older(modern: ModernBed, server: str) -> None:
    async with client_of(modern.url(server), VERSION) as client:
        with pytest.raises(MCPError):
            await client.call_tool("echo", {"text": "new"})


@EVERY_KIND
async def test_sessions_live_on_at_the_same_path(modern: ModernBed, server: str) -> None:
    async with client_of(modern.url(server), "legacy") as one, client_of(modern.url(server), VERSION) as other:
        assert [await text_of(one, "counter") for _ in range(2)] == ["1", "2"]
        await text_of(other, "echo", text="between")
        assert await text_of(one, "counter") == "3"


# ---- the wire, beside what the server itself says ----


def request(method: str, id: int | str = 1, **params: Any) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": META}}


WIRE: dict[str, tuple[str, Json, dict[str, str | None]]] = {
    "discover": ("POST", request("server/discover"), {}),
    "list": ("POST", request("tools/list"), {}),
    "call": ("POST", request("tools/call", "a", name="add", arguments={"a": 2**40, "b": 1}), {}),
    "stale session": ("POST", request("tools/list"), {"mcp-session-id": "stale", "last-event-id": "x"}),
    "encoded name": ("POST", request("tools/call", name="process?"), {"mcp-name": "=?base64?cHJvY2Vzcz8=?="}),
    "input required": ("POST", request("tools/call", name="ask", arguments={}), {}),
    "vendor method": ("POST", request(VENDOR_METHOD, x={"big": 2**60, "null": None}), {}),
    "unknown method": ("POST", request("no/such"), {}),
    "ping": ("POST", request("ping"), {}),
    "no meta": ("POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}, {}),
    "wrong method": ("POST", request("tools/list"), {"mcp-method": "tools/call"}),
    "no method": ("POST", request("tools/list"), {"mcp-method": None}),
    "wrong name": ("POST", request("tools/call", name="echo"), {"mcp-name": "add"}),
    "wrong version": ("POST", request("tools/list"), {"mcp-protocol-version": "2027-01-01"}),
    "wrong parameter": (
        "POST",
        request("tools/call", name="region", arguments={"region": "eu"}),
        {"mcp-param-region": "us"},
    ),
    "notification": ("POST", {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {}}, {}),
    "not acceptable": ("POST", request("tools/list"), {"accept": "application/json"}),
    "get": ("GET", {}, {}),
    "delete": ("DELETE", {}, {}),
}


async def said(client: RawClient, verb: str, message: Json, changes: dict[str, str | None]) -> tuple[Any, ...]:
    """Give status, Allow and the body's facts: everything but the words of an error."""
    params = message.get("params", {})
    headers: dict[str, str | None] = {"mcp-method": message.get("method"), "mcp-name": params.get("name")}
    body = json.dumps(message).encode() if message else b""
    answer = await client.whole(verb, body, headers={**headers, **changes})
    assert "mcp-session-id" not in answer.headers
    content = answer.json if answer.body and verb == "POST" and answer.status != 406 else {}
    content.get("error", {}).pop("message", None)
    if content.get("error", {}).get("code") in (-32020, -32602, -32022):
        content["error"].pop("data", None)
    return answer.status, answer.headers.get("allow"), content


@pytest.mark.parametrize("server", ["http", "json"])
@pytest.mark.parametrize("case", WIRE)
async def test_gateway_says_what_the_server_itself_would_say(modern: ModernBed, case: str, server: str) -> None:
    verb, message, changes = WIRE[case]
    if case == "not acceptable":
        server = "http"  # the SDK's servers of JSON alone take less
    direct = await said(modern.raw(server, direct=True), verb, message, changes)
    assert await said(modern.raw(server), verb, message, changes) == direct
    assert direct[0] in (200, 202) or direct[0] >= 400


async def test_requests_of_several_rounds_keep_their_bytes(modern: ModernBed) -> None:
    client = modern.raw("http")
    headers: dict[str, str | None] = {"mcp-method": "tools/call", "mcp-name": "ask"}
    first = await client.post_whole(request("tools/call", name="ask", arguments={}), headers=headers)
    assert (first.json["result"]["resultType"], first.json["result"]["requestState"]) == ("input_required", STATE)
    answers = {"sure": {"action": "accept", "content": {"answer": "ü"}}}
    retry = request("tools/call", 2, name="ask", arguments={}, requestState=STATE, inputResponses=answers)
    second = await client.post_whole(retry, headers=headers)
    assert second.json["result"]["content"][0]["text"] == "accept: ü"


async def test_header_that_is_there_twice_is_refused(modern: ModernBed) -> None:
    if modern.gateway is None:
        pytest.skip("about the gateway's own reading of heads")
    address = urlsplit(modern.url("http"))
    body = json.dumps(request("tools/list")).encode()
    lines = [
        *(f"POST {address.path} HTTP/1.1", f"Host: {address.netloc}", f"Content-Length: {len(body)}"),
        *("Content-Type: application/json", "Accept: application/json, text/event-stream"),
        *(f"MCP-Protocol-Version: {VERSION}", "Mcp-Method: tools/list", "Mcp-Method: tools/list", "", ""),
    ]
    stream = await trio.open_tcp_stream(str(address.hostname), address.port or 80)
    async with stream:
        await stream.send_all("\r\n".join(lines).encode() + body)
        received = b""
        with trio.fail_after(DEADLINE_SECONDS):
            while data := await stream.receive_some():
                received += data
    assert received.startswith(b"HTTP/1.1 400 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == -32020


@STREAMING_KINDS
async def test_connection_that_breaks_cancels_its_call(modern: ModernBed, server: str) -> None:
    journal, key = modern.journal(server), unique_key()
    client = modern.raw(server)
    call = request("tools/call", name="hold", arguments={"key": key, "hold": key})
    headers = {
        *(("host", urlsplit(client.url).netloc), ("mcp-method", "tools/call"), ("mcp-name", "hold")),
        *(("mcp-protocol-version", VERSION), ("content-type", "application/json")),
        ("accept", "application/json, text/event-stream"),
    }
    body = json.dumps(call).encode()
    address = urlsplit(client.url)
    head = f"POST {address.path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    stream = await trio.open_tcp_stream(str(address.hostname), address.port or 80)
    await stream.send_all(head.encode() + b"\r\n" + body)
    await wait_until("the call runs", lambda: journal.has_run(key))
    await stream.aclose()
    await wait_until("it was cancelled", lambda: any(each.get("cancelled") == key for each in journal.entries()))


# ---- the end ----


async def test_who_listens_is_told_of_the_end_and_calls_get_their_grace(bed: Bed, tmp_path: Any, road: str) -> None:
    if road == DIRECT:
        pytest.skip("about the gateway's own end")
    upstream = Upstream(tmp_path / "modern", module=MODULE)
    await upstream.start()
    try:
        gateway = await bed.gateway(only=upstream.target)
        key = unique_key()
        answers: list[str] = []

        async def call() -> None:
            caller = RawClient(gateway.url(), protocol_version=VERSION)
            message = request("tools/call", name="hold", arguments={"key": key, "hold": key})
            headers: dict[str, str | None] = {"mcp-method": "tools/call", "mcp-name": "hold"}
            answers.append(raw_text_of((await caller.post_whole(message, headers=headers)).json))

        async with client_of(gateway.url(), VERSION) as client, trio.open_nursery() as nursery:
            async with client.listen(tools_list_changed=True) as listening:
                nursery.start_soon(call)
                await wait_until("the call runs", lambda: upstream.journal.has_run(key))
                gateway.begin_stop()
                with trio.fail_after(DEADLINE_SECONDS):
                    assert [event async for event in listening] == [], "a graceful end, no SubscriptionLost"
            upstream.journal.release(key)
        assert answers == [f"done {key}"]
        assert await trio.to_thread.run_sync(gateway.process.wait_exit) == 0
    finally:
        upstream.kill()
