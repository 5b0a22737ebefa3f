"""Batches of clients of 2025-03-26, as HTTP has them (2025-03-26, basic/transports, Sending Messages)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from actors.link import Failure
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_world
from tests.transport.clients.test_streamable_http import face_of, handled, opened, request
from tests.transport.fake_exchange import FakeExchange, get, post
from transport import mcp

REVISION = "2025-03-26"
NOTE = {"jsonrpc": "2.0", "method": "notifications/x"}
ANSWER = {"jsonrpc": "2.0", "id": "nobody's", "result": {}}
HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-session-id": "s",
    "mcp-protocol-version": REVISION,
}


def batch(session_id: str, *entries: object, revision: str = REVISION) -> FakeExchange:
    return post(list(entries), mcp_session_id=session_id, mcp_protocol_version=revision)


def answers(exchange: FakeExchange) -> list[Any]:
    return [(frame.message["id"], frame.message.get("result")) for frame in exchange.frames]


@pytest.mark.parametrize(
    ("body", "changes", "code", "reason"),
    [
        ("[]", {}, -32600, "1 to 64"),
        ("[1,", {}, -32700, "JSON"),
        ("[" * 100_000, {}, -32700, "JSON"),
        ("[1, 2]", {}, -32600, "no entry"),
        (json.dumps([[NOTE]]), {}, -32600, "no entry"),
        (json.dumps([NOTE] * 65), {}, -32600, "1 to 64"),
        ("[" + "1," * 1_000_000 + "1]", {}, -32600, "1 to 64"),
        (json.dumps([NOTE, request(5, "initialize")]), {}, -32600, "initialize"),
        (json.dumps([request(5, "initialize")]), {"mcp-session-id": ""}, -32600, "Mcp-Session-Id"),
        (json.dumps([NOTE]), {"mcp-protocol-version": "2024-11-05"}, -32600, REVISION),
        (json.dumps([NOTE]), {"mcp-protocol-version": "2025-06-18"}, -32600, REVISION),
        (json.dumps([NOTE]), {"mcp-protocol-version": "2025-11-25"}, -32600, REVISION),
        (json.dumps([NOTE]), {"mcp-protocol-version": "1999-01-01"}, -32600, "unsupported"),
    ],
)
def test_batch_that_cannot_be_taken_as_one_is_refused_whole(
    body: str, changes: dict[str, str], code: int, reason: str
) -> None:
    refused = mcp.classify_post({**HEADERS, **changes}, body.encode())

    assert isinstance(refused, mcp.Rejection)
    assert (refused.status, refused.code) == (400, code)
    assert reason in refused.reason


def test_entries_are_checked_one_by_one() -> None:
    entries = [request(1, "tools/call", {"name": "t"}), 3, NOTE, {"jsonrpc": "1.0", "id": 4, "method": "x"}, ANSWER]
    found = mcp.classify_post(HEADERS, json.dumps(entries).encode())

    assert isinstance(found, mcp.Batch)
    assert [type(message) for message in found.messages] == [mcp.Request, mcp.Notification, mcp.Answer]
    assert [refusal.id for refusal in found.refusals] == [None, 4]


async def test_all_answers_come_on_one_stream(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        exchange = batch(session_id, request(1, params={"x": 1}), NOTE, request("1", "hold"))
        nursery.start_soon(handled, face, exchange)
        await trio.sleep(1.0)
        assert exchange.headers["content-type"] == "text/event-stream"
        assert answers(exchange) == [(1, {"x": 1})]
        assert not exchange.finished
        assert [message.method for message in world.upstream.sent("notifications/x")] == ["notifications/x"]
        world.link.answer("1", "late")
        await trio.sleep(1.0)
        assert answers(exchange) == [(1, {"x": 1}), ("1", "late")]
        assert exchange.finished


async def test_broken_stream_of_a_batch_is_resumed_after_a_kill(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        exchange = batch(session_id, request(1), request(2, "hold"), request(3, "hold"))
        nursery.start_soon(handled, face, exchange)
        await trio.sleep(1.0)
        world.link.answer(3, "seen")
        await trio.sleep(1.0)
        world.kill()
        nursery.cancel_scope.cancel()
    async with open_world(upstream, disk) as world:
        first = exchange.frames[0].id
        again = await handled(face_of(world), get(mcp_session_id=session_id, last_event_id=first))

        assert answers(again) == [(3, "seen"), (2, None)]
        assert again.frames[-1].message["error"]["code"] == jsonrpc.OUTCOME_UNKNOWN
        assert again.finished
        assert len(upstream.sent("hold")) == 2


async def test_batch_with_nothing_to_answer_is_202_when_the_upstream_has_all_of_it(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    async with open_world(upstream) as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        upstream.confirms = False
        exchange = batch(session_id, NOTE, ANSWER, NOTE)
        nursery.start_soon(handled, face, exchange)
        await trio.sleep(0.1)
        assert not exchange.status
        for ticket in world.link.unconfirmed:
            world.link.inbox.delivered(ticket)
        await trio.sleep(0.1)
        assert (exchange.status, exchange.answer) == (202, b"")
        assert len(upstream.sent("notifications/x")) == 2


async def test_notification_that_the_upstream_refuses_is_told(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.failures["notifications/x"] = [Failure.REFUSED]
    async with open_world(upstream) as world:
        face = face_of(world)
        exchange = await handled(face, batch(await opened(face), NOTE, NOTE))

        assert exchange.status == 502


async def test_entries_that_are_no_messages_are_answered_beside_the_others(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        exchange = await handled(face, batch(await opened(face), 3, NOTE, request(1)))

        assert exchange.status == 200
        assert [frame.message["id"] for frame in exchange.frames] == [None, 1]
        assert exchange.frames[0].message["error"]["code"] == jsonrpc.INVALID_REQUEST
        assert exchange.finished


@pytest.mark.parametrize(("negotiated", "status"), [("2025-03-26", 202), ("2025-06-18", 400), ("2025-11-25", 400)])
async def test_without_a_header_the_negotiated_revision_decides(
    negotiated: str, status: int, autojump_clock: MockClock
) -> None:
    upstream = FakeUpstream()
    upstream.answers["initialize"] = lambda message: jsonrpc.result(
        message.id if message.id is not None else 0, {"protocolVersion": negotiated}
    )
    async with open_world(upstream) as world:
        face = face_of(world)
        exchange = await handled(face, post([NOTE], mcp_session_id=await opened(face)))

        assert exchange.status == status
        assert len(upstream.sent("notifications/x")) == (status == 202)


async def test_batch_of_an_unknown_session_is_404(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        for entry in (NOTE, request(1)):
            exchange = await handled(face_of(world), batch("nobody", entry))
            assert exchange.status == 404
