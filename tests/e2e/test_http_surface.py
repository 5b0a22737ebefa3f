"""Every refusal has its status, a JSON-RPC body that says why, and disturbs nothing else (PROTOCOL 2.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import trio

from tests.e2e.bed import SharedBed
from tests.e2e.raw_client import Answer, Json, RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.upstream_server import VENDOR_METHOD
from tests.e2e.waiting import wait_until

SERVER = "plain"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
BODY_BYTES_MAX = 4 * 1024 * 1024


def assert_refused(answer: Answer, status: int) -> Json:
    """A refusal is JSON-RPC: clients decide by its body what to try next. Gives the error."""
    assert answer.status == status, answer
    assert answer.headers["content-type"].startswith("application/json"), answer
    content = answer.json
    assert content["jsonrpc"] == "2.0"
    error: Json = content["error"]
    assert isinstance(error["code"], int)
    assert error["message"]
    return error


async def test_request_without_session_is_400_and_names_no_session(shared: SharedBed) -> None:
    answer = await RawClient(shared.url(SERVER)).post_whole(PING)
    assert_refused(answer, 400)
    assert "mcp-session-id" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_unknown_session_is_404(shared: SharedBed, method: str) -> None:
    client = RawClient(shared.url(SERVER), session_id="no-such-session")
    body = json.dumps(PING).encode() if method == "POST" else b""
    assert_refused(await client.whole(method, body), 404)


async def test_session_of_another_server_is_404(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    stranger = RawClient(shared.url("json"), session_id=client.session_id)
    assert_refused(await stranger.post_whole(PING), 404)
    assert (await client.ask(client.request("ping")))["result"] == {}


async def test_deleted_session_is_404_for_everything(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    assert (await client.delete()).status in (200, 204)
    assert_refused(await client.post_whole(PING), 404)
    assert_refused(await client.whole("GET"), 404)
    assert_refused(await client.delete(), 404)


async def test_deleting_a_session_ends_its_streams(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    async with client.get() as stream:
        assert stream.status == 200
        await client.delete()
        await stream.wait_ended()


@pytest.mark.parametrize("version", ["1999-01-01", "2025-11-25, 2025-11-25", "latest"])
async def test_bad_protocol_version_is_400(shared: SharedBed, version: str) -> None:
    client = await shared.open_session(SERVER)
    answer = await client.post_whole(client.request("ping"), headers={"mcp-protocol-version": version})
    assert_refused(answer, 400)


async def test_absent_protocol_version_is_the_sessions(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    async with client.post(client.request("ping"), headers={"mcp-protocol-version": None}) as stream:
        assert stream.status == 200


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "text/html", None])
async def test_post_that_does_not_accept_both_kinds_is_406(shared: SharedBed, accept: str | None) -> None:
    client = await shared.open_session(SERVER)
    assert_refused(await client.post_whole(client.request("ping"), headers={"accept": accept}), 406)


async def test_get_that_does_not_accept_streams_is_406(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    assert_refused(await client.whole("GET", headers={"accept": "application/json"}), 406)


@pytest.mark.parametrize("accept", ["*/*", "application/*, text/*", "text/event-stream;q=0.5,application/json"])
async def test_accept_is_read_as_http_means_it(shared: SharedBed, accept: str) -> None:
    client = await shared.open_session(SERVER)
    async with client.post(client.request("ping"), headers={"accept": accept}) as stream:
        assert stream.status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", None])
async def test_body_that_is_not_declared_json_is_415(shared: SharedBed, content_type: str | None) -> None:
    client = await shared.open_session(SERVER)
    answer = await client.post_whole(client.request("ping"), headers={"content-type": content_type})
    assert_refused(answer, 415)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"", -32700),
        (b"3", None),
        (b'{"hello": "world"}', None),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', None),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', None),
        (b'{"jsonrpc": "2.0", "id": [1], "method": "ping"}', None),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', None),  # batches ended with 2025-03-26
    ],
)
async def test_body_that_is_no_message_is_400(shared: SharedBed, body: bytes, code: int | None) -> None:
    client = await shared.open_session(SERVER)
    answer = await client.whole("POST", body, headers={"content-type": "application/json"})
    error = assert_refused(answer, 400)
    assert code is None or error["code"] == code
    assert (await client.ask(client.request("ping")))["result"] == {}


async def test_body_over_the_limit_is_413(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    message = client.tool_call("echo", text="x" * BODY_BYTES_MAX)
    assert_refused(await client.post_whole(message), 413)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_other_methods_are_405(shared: SharedBed, method: str) -> None:
    client = await shared.open_session(SERVER)
    answer = await client.whole(method, b"{}")
    assert answer.status == 405
    assert {"GET", "POST", "DELETE"} <= {verb.strip() for verb in answer.headers["allow"].split(",")}


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [({"origin": "https://evil.example"}, {403}), ({"host": "evil.example"}, {403, 421})],
)
async def test_foreign_pages_and_names_are_kept_out(
    shared: SharedBed, headers: Mapping[str, str], statuses: set[int]
) -> None:
    client = await shared.open_session(SERVER)
    answer = await client.post_whole(client.request("ping"), headers=headers)
    assert answer.status in statuses


async def test_notifications_and_answers_are_202_without_a_body(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    notification = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    late = {"jsonrpc": "2.0", "id": "never asked", "result": {}}
    for message in (notification, late):
        answer = await client.post_whole(message)
        assert (answer.status, answer.body) == (202, b"")


async def test_id_that_is_in_flight_is_refused_and_the_call_goes_on(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    key = unique_key()
    call = client.tool_call("hold", key=key, hold=key)
    async with client.post(call) as stream:
        again = {**client.tool_call("echo", text="impostor"), "id": call["id"]}
        assert assert_refused(await client.post_whole(again), 400)["code"] == -32600
        shared.journal(SERVER).release(key)
        while (message := await stream.next_message()).get("id") != call["id"]:
            pass
        assert message["result"]["content"][0]["text"] == f"done {key}"


async def test_number_and_text_are_different_ids(shared: SharedBed) -> None:
    # Over stdio: the SDK's HTTP server confuses 1 with "1" itself.
    client = await shared.open_session("stdio")
    answers: dict[object, Json] = {}

    async def call(request_id: object, key: str) -> None:
        answers[request_id] = await client.ask({**client.tool_call("hold", key=key, hold=key), "id": request_id})

    keys = {1: unique_key(), "1": unique_key()}
    async with trio.open_nursery() as nursery:
        for request_id, key in keys.items():
            nursery.start_soon(call, request_id, key)
        await wait_until("both run", lambda: all(map(shared.journal("stdio").has_run, keys.values())))
        for key in reversed(keys.values()):
            shared.journal("stdio").release(key)
    for request_id, key in keys.items():
        assert answers[request_id]["id"] == request_id
        assert answers[request_id]["result"]["content"][0]["text"] == f"done {key}"


async def test_what_the_gateway_does_not_know_goes_through_untouched(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    params: Json = {
        "big": 2**63 + 1,
        "fraction": 0.1,
        "null": None,
        "text": "\u2028 \U0001f30d",
        "$defs": {"a": [{}, []]},
        "_meta": {"vendor/key": {"kept": True}},
    }
    answer = await client.ask({**client.request(VENDOR_METHOD, params), "id": "text id"})
    assert answer["id"] == "text id"
    assert answer["result"] == {"reflected": params}


async def test_method_that_nobody_knows_is_refused_by_the_upstream(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    before = shared.journal(SERVER).seen("vendor/unknown")
    answer = await client.ask(client.request("vendor/unknown"))
    assert answer["error"]["code"] == -32601
    assert shared.journal(SERVER).seen("vendor/unknown") == before + 1


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_revision_with_sessions_is_served_as_asked(shared: SharedBed, version: str) -> None:
    client = RawClient(shared.url(SERVER), protocol_version=version)
    await client.open_session()
    assert client.handshake["protocolVersion"] == version
    assert await client.call("counter") == "1"
