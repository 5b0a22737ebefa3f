"""Opening a link again over HTTP: resumed if the upstream still knows the session, re-initialized if not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.link import About, ConnectFailed, ConnectRejected
from actors.state import Ask
from tests.transport.upstreams.bed import ANSWER, CALL, INITIALIZE, TICKET, bed, handshake, initialize_result
from tests.transport.upstreams.recording_inbox import Received
from tests.transport.upstreams.scripted_upstream import Caller, Script, SeenRequest
from transport.upstreams.http_target import HttpTarget

OFFERS: dict[str, Any] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": False},
    "resources": {"subscribe": True, "listChanged": True},
    "logging": {},
}


def forgetful(
    offers: Mapping[str, Any] | None = None, *, initialize: Script | None = None, others: Script | None = None
) -> Script:
    """An upstream that has restarted: it knows only sessions that it opens now, as "up-2"."""

    async def script(request: SeenRequest, caller: Caller) -> None:
        if b'"initialize"' in request.body:
            if initialize is not None:
                await initialize(request, caller)
            else:
                await caller.answer(200, initialize_result(offers or OFFERS).raw, {"Mcp-Session-Id": "up-2"})
        elif request.session_id != "up-2":
            await caller.answer(404, jsonrpc.error(None, -32600, "Session not found").raw)
        elif others is not None:
            await others(request, caller)
        else:
            await accept(request, caller)

    return script


async def accept(request: SeenRequest, caller: Caller) -> None:
    fields = msgspec.json.decode(request.body) if request.body else {}
    if "id" in fields:
        await caller.answer(200, jsonrpc.result(fields["id"], {}).raw)
    else:
        await caller.answer(202)


def answering(status: int, body: bytes = b"") -> Script:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(status, body)

    return script


# ---- resuming ----


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, jsonrpc.result("x", {}).raw),
        (200, jsonrpc.error("x", -32601, "no ping here").raw),
        (202, b""),
        (400, jsonrpc.error("x", -32601, "no ping here").raw),
    ],
)
async def test_any_answer_to_the_ping_proves_the_session_alive(status: int, body: bytes) -> None:
    async with bed(answering(status, body)) as bench:
        link = await bench.open_link(handshake=handshake())
        assert link.established.resumed
        assert link.established.upstream_session_id == "up-1"
        (ping,) = bench.upstream.requests
        assert ping.session_id == "up-1"
        assert ping.headers["mcp-protocol-version"] == "2025-11-25"
        fields = msgspec.json.decode(ping.body)
        assert fields["method"] == "ping"
        assert fields["id"].startswith("outlast-ping-")


async def test_ping_answered_on_a_stream_proves_the_session_alive() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.wait_closed_by_peer()

    async with bed(script) as bench:
        link = await bench.open_link(handshake=handshake())
        assert link.established.resumed


async def test_upstream_without_sessions_has_nothing_to_resume() -> None:
    async with bed(answering(500)) as bench:
        link = await bench.open_link(handshake=handshake(upstream_session_id=""))
        assert link.established.resumed
        assert bench.upstream.requests == []


async def test_link_that_is_to_begin_anew_resumes_nothing_though_the_upstream_would() -> None:
    """The control is above: the same upstream, asked without `begin_anew`, is resumed."""

    async def script(request: SeenRequest, caller: Caller) -> None:
        if b'"initialize"' in request.body:
            await caller.answer(200, initialize_result(OFFERS).raw, {"Mcp-Session-Id": "up-2"})
        else:
            await accept(request, caller)

    async with bed(script) as bench:
        link = await bench.open_link(handshake=handshake(), begin_anew=True)
        assert not link.established.resumed
        assert link.established.upstream_session_id == "up-2"
        assert not any(b'"ping"' in request.body for request in bench.upstream.requests)


async def test_resumed_link_sends_under_the_kept_session() -> None:
    async with bed(accept) as bench:
        link = await bench.open_link(handshake=handshake())
        link.send(CALL, TICKET)
        assert isinstance(await bench.inbox.wait(), Received)
        assert bench.upstream.requests[-1].session_id == "up-1"


@pytest.mark.parametrize("status", [500, 502, 503, 429])
async def test_failing_upstream_is_tried_later(status: int) -> None:
    async with bed(answering(status)) as bench:
        with pytest.raises(ConnectFailed, match=str(status)):
            await bench.open_link(handshake=handshake())
        assert len(bench.upstream.requests) == 1  # a session that may be alive is not opened anew


async def test_absent_upstream_is_tried_later() -> None:
    async with bed(accept) as bench:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        await listeners[0].aclose()
        away = attrs.evolve(bench.connector, target=HttpTarget.parse(f"http://127.0.0.1:{port}/"))
        with pytest.raises(ConnectFailed):
            await attrs.evolve(bench, connector=away).open_link(handshake=handshake())


async def test_silent_upstream_is_tried_later(autojump_clock: MockClock) -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.wait_closed_by_peer()

    async with bed(script) as bench:
        with pytest.raises(ConnectFailed, match="no answer within"):
            await bench.open_link(handshake=handshake())


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_cost_no_session_since_they_are_the_operators(status: int) -> None:
    async with bed(answering(status)) as bench:
        with pytest.raises(ConnectFailed, match=str(status)):
            await bench.open_link(handshake=handshake())


# ---- re-initializing ----


async def test_forgotten_session_is_opened_anew_with_the_kept_handshake() -> None:
    level = jsonrpc.request("a", "logging/setLevel", {"level": "error"})
    asks = {5: Ask(client_id=5, upstream_id=4, method="sampling/createMessage", stream=0)}
    async with bed(forgetful()) as bench:
        link = await bench.open_link(
            handshake=handshake(capabilities=OFFERS), setup={"logging/setLevel": level.raw}, asks=asks
        )
        ping, initialize, initialized, setup = bench.upstream.requests
        link.send(CALL, TICKET)
        assert isinstance(await bench.inbox.wait(), Received)
        call = bench.upstream.requests[-1]
    established = link.established
    assert not established.resumed
    assert established.upstream_session_id == "up-2"
    assert established.handshake_result == initialize_result(OFFERS).raw
    assert established.protocol_version == "2025-11-25"
    assert [message.raw for message in established.announcements] == [
        jsonrpc.notification(
            "notifications/cancelled", {"requestId": 5, "reason": "the server has forgotten this request"}
        ).raw,
        b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}',
        b'{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}',
    ]
    assert initialize.body == INITIALIZE.raw
    assert [each.session_id for each in (ping, initialize, initialized, setup, call)] == [
        "up-1",
        None,
        "up-2",
        "up-2",
        "up-2",
    ]
    assert msgspec.json.decode(initialized.body)["method"] == "notifications/initialized"
    assert msgspec.json.decode(setup.body)["params"] == {"level": "error"}
    assert link._inbox is bench.inbox


async def test_unconfirmed_handshake_stays_unconfirmed() -> None:
    async with bed(forgetful()) as bench:
        await bench.open_link(handshake=handshake(ready=False))
        assert len(bench.upstream.requests) == 2


async def test_refused_handshake_ends_the_session() -> None:
    async with bed(forgetful(initialize=answering(200, jsonrpc.error(0, -32602, "not any more").raw))) as bench:
        with pytest.raises(ConnectRejected, match="not any more") as caught:
            await bench.open_link(handshake=handshake())
        assert caught.value.reason == "upstream_rejected"


async def test_lost_capability_ends_the_session_and_the_new_upstream_session() -> None:
    offers = {**OFFERS, "resources": {"listChanged": True}}
    async with bed(forgetful(offers)) as bench:
        with pytest.raises(ConnectRejected, match=r"offers less than before: no capability resources\.subscribe"):
            await bench.open_link(handshake=handshake(capabilities=OFFERS))
        await wait_all_tasks_blocked()
        last = bench.upstream.requests[-1]
        assert (last.method, last.session_id) == ("DELETE", "up-2")


async def test_more_capabilities_than_before_are_welcome() -> None:
    async with bed(forgetful({**OFFERS, "completions": {}})) as bench:
        assert not (await bench.open_link(handshake=handshake(capabilities=OFFERS))).established.resumed


async def test_credentials_refused_by_the_handshake_cost_no_session() -> None:
    async with bed(forgetful(initialize=answering(401, b"who are you"))) as bench:
        with pytest.raises(ConnectFailed, match="401"):
            await bench.open_link(handshake=handshake())


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_handshake_without_a_clear_answer_is_tried_later(status: int) -> None:
    async with bed(forgetful(initialize=answering(status))) as bench:
        with pytest.raises(ConnectFailed):
            await bench.open_link(handshake=handshake())


async def test_failing_setup_is_not_fatal() -> None:
    async def others(request: SeenRequest, caller: Caller) -> None:
        if b"setLevel" in request.body:
            await caller.answer(500, b"oops")
        elif b"subscribe" in request.body:
            await caller.answer(200, jsonrpc.error(None, -32602, "unknown resource").raw)
        else:
            await accept(request, caller)

    setup = {
        "logging/setLevel": jsonrpc.request(1, "logging/setLevel", {"level": "error"}).raw,
        "resources/subscribe x": jsonrpc.request(2, "resources/subscribe", {"uri": "x"}).raw,
        "roots": jsonrpc.notification("notifications/roots/list_changed").raw,
    }
    async with bed(forgetful(others=others)) as bench:
        await bench.open_link(handshake=handshake(), setup=setup)
        assert b"roots/list_changed" in bench.upstream.requests[-1].body


async def test_session_lost_again_while_being_set_up_is_tried_later() -> None:
    """Control for the above."""

    async def others(request: SeenRequest, caller: Caller) -> None:
        await (answering(404) if b"setLevel" in request.body else accept)(request, caller)

    setup = {"logging/setLevel": jsonrpc.request(1, "logging/setLevel", {"level": "error"}).raw}
    async with bed(forgetful(others=others)) as bench:
        with pytest.raises(ConnectFailed):
            await bench.open_link(handshake=handshake(), setup=setup)


async def test_what_the_upstream_says_while_being_re_opened_reaches_the_session_afterwards() -> None:
    roots = jsonrpc.request(1, "roots/list")

    async def others(request: SeenRequest, caller: Caller) -> None:
        if b"setLevel" not in request.body:
            await accept(request, caller)
            return
        await caller.open_stream()
        await caller.event(roots.raw)
        await caller.event(jsonrpc.result(msgspec.json.decode(request.body)["id"], {}).raw)
        await caller.end_stream()

    setup = {"logging/setLevel": jsonrpc.request(1, "logging/setLevel", {"level": "error"}).raw}
    async with bed(forgetful(others=others)) as bench:
        await bench.open_link(handshake=handshake(), setup=setup)
        assert bench.inbox.entries == []
        assert await bench.inbox.wait() == Received(roots, about=About.NOTHING)


async def test_cancelled_re_opening_ends_the_new_upstream_session() -> None:
    cancelled = trio.CancelScope()

    async def others(request: SeenRequest, caller: Caller) -> None:
        cancelled.cancel()
        await caller.answer(202)

    async with bed(forgetful(others=others)) as bench:
        with cancelled:
            await bench.open_link(handshake=handshake())
        assert cancelled.cancelled_caught
        await wait_all_tasks_blocked()
        assert bench.upstream.requests[-1].method == "DELETE"


async def test_answer_to_a_new_call_is_not_taken_for_the_handshakes() -> None:
    async with bed(forgetful(others=answering(200, ANSWER.raw))) as bench:
        link = await bench.open_link(handshake=handshake(ready=False))
        link.send(CALL, TICKET)
        assert await bench.inbox.wait() == Received(ANSWER, about=1)
