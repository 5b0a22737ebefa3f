"""2026-07-28 over an exchange without a connection, in virtual time: each request stands for itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS
from actors.link import Failure
from tests.actors.worlds import World, open_world
from tests.transport import fake_exchange
from tests.transport.clients.fake_stateless import FakeStateless
from tests.transport.fake_exchange import FakeExchange
from tests.transport.modern_messages import CAPABILITIES, META, PREFIX, VERSION, call, post, request
from transport import guard
from transport.clients.stateless import Stateless, StatelessOptions
from transport.exchange import ClientGone
from transport.gateway import Gateway
from transport.upstreams.era import Era
from transport.upstreams.stateless import Answer, NoAnswer

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
LISTEN = request("subscriptions/listen", "l-1", notifications={"toolsListChanged": True})
OPTIONS = StatelessOptions(calls_max=2, listening_max=1, call_seconds_max=100.0, keepalive_comment_seconds=15.0)


def face_of(upstream: FakeStateless) -> Stateless:
    return Stateless(upstream, OPTIONS)


async def handled(face: Stateless, exchange: FakeExchange) -> FakeExchange:
    await face.handle(exchange, ANONYMOUS)
    return exchange


async def hold(exchange: FakeExchange, face: Stateless) -> None:
    """Handle in the background: a client that goes away is nobody's failure."""
    try:
        await face.handle(exchange, ANONYMOUS)
    except* ClientGone:
        pass


def gateway_of(world: World, upstream: FakeStateless) -> Gateway:
    servers = {"linear": "streamable-http"}
    return Gateway(world.runtime, servers, guard.make_policy("127.0.0.1"), stateless={"linear": upstream})


# ---- by request, without a session ----


async def test_requests_of_both_eras_are_served_at_one_path_and_no_session_is_minted(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    async with open_world() as world:
        gateway = gateway_of(world, upstream)
        modern = post(call(), mcp_session_id="stale", last_event_id="stale")
        await gateway(modern)
        assert modern.status == 200
        assert "mcp-session-id" not in modern.headers
        assert world.runtime.registry.statistics().sessions == 0
        assert world.upstream.journal == []

        opening = fake_exchange.post(INITIALIZE)
        await gateway(opening)
        session_id = opening.headers["mcp-session-id"]
        again = post(call(id=2), mcp_session_id=session_id)
        await gateway(again)
        assert (again.status, "mcp-session-id" in again.headers) == (200, False)
        echo = {"jsonrpc": "2.0", "id": 3, "method": "echo", "params": {}}
        of_session = fake_exchange.post(echo, mcp_session_id=session_id)
        await gateway(of_session)
        assert of_session.headers["mcp-session-id"] == session_id
        assert [each.id for each in upstream.requests] == [1, 2]


async def test_handshake_opens_a_session_whatever_its_header_claims(autojump_clock: MockClock) -> None:
    """A client that falls back may leave the header of its first attempt on."""
    async with open_world() as world:
        gateway = gateway_of(world, FakeStateless(Era.HANDSHAKE))
        opening = fake_exchange.post(INITIALIZE, mcp_protocol_version=VERSION)
        await gateway(opening)
        assert (opening.status, "mcp-session-id" in opening.headers) == (200, True)
        claiming = post(request("initialize"))
        await gateway(claiming)
        assert (claiming.status, "mcp-session-id" in claiming.headers) == (400, False)


async def test_a_relayed_request_costs_no_commit(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        commits = world.runtime.writer.statistics().commits
        await gateway_of(world, FakeStateless())(post(call()))
        await trio.sleep(10.0)
        assert world.runtime.writer.statistics().commits == commits


# ---- headers and body ----


async def test_header_that_contradicts_the_body_is_400_and_not_relayed() -> None:
    upstream = FakeStateless()
    for changes in ({"mcp_name": "other"}, {"mcp_method": "tools/list"}, {"mcp_name": None}, {"mcp_method": None}):
        exchange = await handled(face_of(upstream), post(call(), **changes))
        assert (exchange.status, exchange.json["error"]["code"], exchange.json["id"]) == (400, -32020, 1)
    assert upstream.requests == []


async def test_parameter_headers_are_passed_on(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    await handled(face_of(upstream), post(call(), mcp_param_region="eu", mcp_param_unknown="=?base64?w7w=?="))
    headers = dict(upstream.requests[0].headers)
    assert (headers["mcp-param-region"], headers["mcp-param-unknown"]) == ("eu", "=?base64?w7w=?=")


# ---- verbs, methods, versions ----


@pytest.mark.parametrize("verb", ["GET", "DELETE", "PUT"])
async def test_other_verbs_are_405_and_name_post(verb: str, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        headers = {"mcp-protocol-version": VERSION}
        exchange = FakeExchange(verb, headers=headers)
        await gateway_of(world, FakeStateless())(exchange)
        if verb == "PUT":  # no verb of MCP at all: refused as ever
            assert exchange.status == 405
        else:
            assert (exchange.status, exchange.headers["allow"]) == (405, "POST")


async def test_sessions_keep_their_get_and_delete_at_the_same_path(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        gateway = gateway_of(world, FakeStateless())
        opening = fake_exchange.post(INITIALIZE)
        await gateway(opening)
        session_id = opening.headers["mcp-session-id"]
        stream = fake_exchange.get(mcp_session_id=session_id, mcp_protocol_version="2025-11-25")
        nursery.start_soon(gateway, stream)
        await wait_all_tasks_blocked()
        assert stream.is_stream
        ending = fake_exchange.delete(mcp_session_id=session_id)
        await gateway(ending)
        assert ending.status == 200


async def test_unknown_version_is_told_what_is_supported() -> None:
    message = request(meta={f"{PREFIX}protocolVersion": "2027-01-01"})
    exchange = await handled(face_of(FakeStateless()), post(message, mcp_protocol_version="2027-01-01"))
    error = exchange.json["error"]
    assert (exchange.status, error["code"]) == (400, -32022)
    assert error["data"]["requested"] == "2027-01-01"
    assert VERSION in error["data"]["supported"]


@pytest.mark.parametrize(
    ("status", "code", "data"),
    [(404, -32601, None), (400, -32021, {"requiredCapabilities": {"elicitation": {}}}), (200, -31234, {"big": 2**60})],
)
async def test_what_the_server_refuses_keeps_code_status_and_data(status: int, code: int, data: Any) -> None:
    upstream = FakeStateless()
    error = jsonrpc.error(1, code, "no", data)
    upstream.ends["vendor/x"] = Answer(error, status)
    exchange = await handled(face_of(upstream), post(request("vendor/x")))
    assert (exchange.status, exchange.answer) == (status, error.raw)


# ---- what belongs to several rounds ----


async def test_input_required_and_its_state_go_through_byte_for_byte() -> None:
    upstream = FakeStateless()
    raw = (
        b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required",'
        b'"requestState":"v1.\\u00fc==","inputRequests":{"k":{"n":1.0e0}}}}'
    )
    upstream.ends["tools/call"] = Answer(jsonrpc.parse(raw), 200)
    first = await handled(face_of(upstream), post(call()))
    assert first.answer == raw

    body = (
        b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","requestState":"v1.\\u00fc==",'
        b'"inputResponses":{"k":{"action":"accept","n":1.0e0,"big":123456789012345678901}},"_meta":'
        + json.dumps(META).encode()
        + b"}}"
    )
    await handled(face_of(upstream), post(call(id=2), raw=body))
    assert upstream.requests[1].message.raw == body


# ---- the client's own capabilities ----


async def test_capabilities_of_the_client_are_neither_merged_nor_changed() -> None:
    upstream = FakeStateless()
    await handled(face_of(upstream), post(call()))
    sent = json.loads(upstream.requests[0].message.raw)["params"]["_meta"]
    assert sent == META
    assert sent[f"{PREFIX}clientCapabilities"] == CAPABILITIES


# ---- a client that goes away ----


@pytest.mark.parametrize("streaming", [False, True])
async def test_client_that_goes_away_cancels_its_request(streaming: bool, autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    async with trio.open_nursery() as nursery:
        exchange = post(request("hold", "h"))
        nursery.start_soon(hold, exchange, face_of(upstream))
        await trio.sleep(1.0)
        if streaming:
            upstream.say("notifications/progress")
            await wait_all_tasks_blocked()
        assert upstream.cancelled == []
        exchange.gone.set()
        await wait_all_tasks_blocked()
        assert upstream.cancelled == ["h"]


async def test_client_that_gets_its_answer_cancels_nothing(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    await handled(face_of(upstream), post(call()))
    assert upstream.cancelled == []


# ---- listening ----


async def test_listening_is_a_stream_that_begins_with_what_the_server_acknowledges(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    async with trio.open_nursery() as nursery:
        exchange = post(LISTEN)
        nursery.start_soon(hold, exchange, face_of(upstream))
        await wait_all_tasks_blocked()
        tag = {"_meta": {f"{PREFIX}subscriptionId": "l-1"}}
        upstream.say("notifications/subscriptions/acknowledged", tag)
        await trio.sleep(1000.0)
        upstream.say("notifications/tools/list_changed", tag)
        await wait_all_tasks_blocked()
        assert exchange.is_stream
        methods = [frame.message["method"].rpartition("/")[2] for frame in exchange.frames]
        assert methods == ["acknowledged", "list_changed"]
        assert [frame.message["params"] for frame in exchange.frames] == [tag, tag]
        assert {frame.id for frame in exchange.frames} == {""}, "nothing can be resumed, so nothing is named"
        assert exchange.answer.count(b": ping\n\n") >= 60, "a silent stream is kept alive, and never times out"
        exchange.gone.set()


async def test_listening_ends_with_an_empty_result_when_the_gateway_stops(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    face = face_of(upstream)
    async with trio.open_nursery() as nursery:
        exchange = post(LISTEN)
        nursery.start_soon(hold, exchange, face)
        await wait_all_tasks_blocked()
        upstream.say("notifications/subscriptions/acknowledged")
        await wait_all_tasks_blocked()
        face.end_standalone_streams()
        await face.wait_quiet()
    assert exchange.finished
    assert exchange.frames[-1].message == {
        "jsonrpc": "2.0",
        "id": "l-1",
        "result": {"resultType": "complete", "_meta": {f"{PREFIX}subscriptionId": "l-1"}},
    }
    assert upstream.cancelled == ["l-1"], "the server is told"


async def test_listening_ends_in_order_when_its_credential_expires_and_a_call_does_not(
    autojump_clock: MockClock,
) -> None:
    upstream = FakeStateless()
    face = face_of(upstream)
    deadline = trio.current_time() + 50.0
    async with trio.open_nursery() as nursery:
        listening, calling = post(LISTEN), post(request("hold", 5))
        nursery.start_soon(face.handle, listening, ANONYMOUS, (), deadline)
        await wait_all_tasks_blocked()
        nursery.start_soon(face.handle, calling, ANONYMOUS, (), deadline)
        await trio.sleep(49.0)
        assert not listening.finished
        await trio.sleep(2.0)
        assert listening.frames[-1].message["result"]["resultType"] == "complete"
        assert upstream.cancelled == ["l-1"]
        assert not calling.finished
        upstream.answer(jsonrpc.result(5, {}))
    assert calling.frames[-1].message["result"] == {}


# ---- caching ----


async def test_nothing_is_answered_from_a_cache() -> None:
    """Even where the server would allow it: so no answer can ever reach another principal."""
    upstream = FakeStateless()
    cacheable = jsonrpc.result(1, {"tools": [], "ttlMs": 3_600_000, "cacheScope": "public", "resultType": "complete"})
    upstream.ends["tools/list"] = Answer(cacheable, 200)
    face = face_of(upstream)
    for _ in range(3):
        assert (await handled(face, post(request()))).answer == cacheable.raw
    assert len(upstream.requests) == 3


# ---- older servers ----


async def test_client_of_an_older_server_is_sent_to_initialize_and_its_server_asked_once() -> None:
    upstream = FakeStateless(Era.HANDSHAKE)
    face = face_of(upstream)
    for message in (request("server/discover"), call(id=2)):
        exchange = await handled(face, post(message))
        error = exchange.json["error"]
        assert (exchange.status, exchange.json["id"]) == (400, message["id"])
        assert error["code"] not in (-32020, -32021, -32022, -32601), "clients would take it for a modern server's"
        assert "initialize" in error["message"]
    assert (upstream.asked, upstream.requests) == (1, [])


async def test_server_that_can_not_be_asked_is_503() -> None:
    exchange = await handled(face_of(FakeStateless(None)), post(call()))
    assert (exchange.status, exchange.json["error"]["code"]) == (503, jsonrpc.UPSTREAM_UNAVAILABLE)
    assert int(exchange.headers["retry-after"]) >= 1


# ---- answers ----


async def test_notification_is_202_and_goes_nowhere() -> None:
    upstream = FakeStateless()
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    exchange = await handled(face_of(upstream), post(note))
    assert (exchange.status, exchange.answer, upstream.requests) == (202, b"", [])


async def test_answer_behind_other_messages_is_a_stream(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    async with trio.open_nursery() as nursery:
        exchange = post(request("hold", 5))
        nursery.start_soon(hold, exchange, face_of(upstream))
        await wait_all_tasks_blocked()
        upstream.say("notifications/progress", {"big": 2**60})
        upstream.say("notifications/message")
        upstream.answer(jsonrpc.result(5, {"x": 1}))
    assert exchange.finished
    assert exchange.headers["content-type"] == "text/event-stream"
    assert [frame.message.get("method") for frame in exchange.frames][:2] == [
        "notifications/progress",
        "notifications/message",
    ]
    assert exchange.frames[-1].message["result"] == {"x": 1}


async def test_late_answer_alone_is_json_with_its_status(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    async with trio.open_nursery() as nursery:
        exchange = post(request("hold", 5))
        nursery.start_soon(hold, exchange, face_of(upstream))
        await trio.sleep(10.0)
        upstream.answer(jsonrpc.error(5, -32602, "no"), 400)
    assert (exchange.status, exchange.is_stream) == (400, False)


async def test_silent_call_becomes_a_stream_that_is_kept_alive(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    async with trio.open_nursery() as nursery:
        exchange = post(request("hold", 5))
        nursery.start_soon(hold, exchange, face_of(upstream))
        await trio.sleep(46.0)  # pings at 15, 30 and 45 s, and what the first look took
        assert exchange.answer == b": ping\n\n" * 3
        upstream.answer(jsonrpc.result(5, {}))
    assert exchange.frames[-1].message == {"jsonrpc": "2.0", "id": 5, "result": {}}


@pytest.mark.parametrize(("says", "ends_at_seconds"), [(False, 100.0), (True, 150.0)])
async def test_call_that_nothing_is_heard_of_ends_and_is_cancelled(
    says: bool, ends_at_seconds: float, autojump_clock: MockClock
) -> None:
    upstream = FakeStateless()
    async with trio.open_nursery() as nursery:
        exchange = post(request("hold", 5))
        nursery.start_soon(hold, exchange, face_of(upstream))
        begun = trio.current_time()
        await trio.sleep(50.0)
        if says:
            upstream.say("notifications/progress")
        while not exchange.finished:  # noqa: ASYNC110
            await trio.sleep(0.5)
    assert abs(trio.current_time() - begun - ends_at_seconds) < 1.0  # on the mock clock
    assert exchange.frames[-1].message["error"]["code"] == jsonrpc.REQUEST_TIMED_OUT
    assert upstream.cancelled == [5]


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Failure.NOT_SENT, 503, jsonrpc.UPSTREAM_UNAVAILABLE),
        (Failure.OUTCOME_UNKNOWN, 200, jsonrpc.OUTCOME_UNKNOWN),
        (Failure.REFUSED, 502, jsonrpc.INTERNAL_ERROR),
        (Failure.UNREADABLE, 200, jsonrpc.UNREADABLE_ANSWER),
    ],
)
async def test_failure_says_what_may_be_done(failure: Failure, status: int, code: int) -> None:
    upstream = FakeStateless()
    upstream.ends["tools/call"] = NoAnswer(failure, "it went away")
    exchange = await handled(face_of(upstream), post(call(id="c")))
    assert (exchange.status, exchange.json["id"]) == (status, "c")
    assert exchange.json["error"] == {"code": code, "message": "it went away"}


async def test_stream_that_breaks_ends_with_an_error(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    async with trio.open_nursery() as nursery:
        exchange = post(request("hold", 5))
        nursery.start_soon(hold, exchange, face_of(upstream))
        await wait_all_tasks_blocked()
        upstream.say("notifications/progress")
        upstream.ways[0].finish(NoAnswer(Failure.OUTCOME_UNKNOWN, "it broke"))
    assert exchange.finished
    assert exchange.frames[-1].message["error"] == {"code": jsonrpc.OUTCOME_UNKNOWN, "message": "it broke"}


# ---- bounds, and the end ----


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda id: request("hold", id), OPTIONS.calls_max),
        (lambda id: {**LISTEN, "id": id}, OPTIONS.listening_max),
    ],
)
async def test_requests_in_flight_are_bounded(
    make: Callable[[int], dict[str, Any]], bound: int, autojump_clock: MockClock
) -> None:
    upstream = FakeStateless()
    face = face_of(upstream)
    async with trio.open_nursery() as nursery:
        held = [post(make(id)) for id in range(bound)]
        for exchange in held:
            nursery.start_soon(hold, exchange, face)
        await wait_all_tasks_blocked()
        refused = await handled(face, post(make(99)))
        assert (refused.status, refused.json["error"]["code"]) == (503, jsonrpc.OVERLOADED)
        assert len(upstream.requests) == bound
        held[0].gone.set()
        await trio.sleep(1.0)
        again = post(make(100))
        nursery.start_soon(hold, again, face)
        await trio.sleep(1.0)
        assert len(upstream.requests) == bound + 1
        for exchange in (*held, again):
            exchange.gone.set()


async def test_call_that_outlives_the_grace_is_told_and_new_ones_are_not_taken(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    face = face_of(upstream)
    async with trio.open_nursery() as nursery:
        exchange = post(request("hold", 5))
        nursery.start_soon(hold, exchange, face)
        await wait_all_tasks_blocked()
        face.end_standalone_streams()
        assert (await handled(face, post(call()))).status == 503
        with trio.move_on_after(5.0) as grace:
            await face.wait_quiet()
        assert grace.cancelled_caught
        face.cut()
        await face.wait_quiet()
    assert exchange.json["error"]["code"] == jsonrpc.OUTCOME_UNKNOWN
    assert upstream.cancelled == [5]
