"""Streamable HTTP in front of live sessions, over an exchange without a connection, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS
from actors.state import Limits
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange, delete, get, post
from transport.clients.streamable_http import StreamableHttp, StreamableHttpOptions
from transport.exchange import ClientGone

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}


def face_of(world: World) -> StreamableHttp:
    options = StreamableHttpOptions(reconnect_milliseconds=1234)
    return StreamableHttp(world.runtime, "linear", upstream_transport="streamable-http", options=options)


def request(id: int | str, method: str = "echo", params: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}


async def handled(face: StreamableHttp, exchange: FakeExchange) -> FakeExchange:
    await face.handle(exchange, ANONYMOUS)
    return exchange


async def opened(face: StreamableHttp) -> str:
    """Open a session, and give its id."""
    exchange = await handled(face, post(INITIALIZE))
    assert exchange.status == 200, exchange.answer
    return exchange.headers["mcp-session-id"]


async def test_opening_mints_an_id_of_our_own(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        exchange = await handled(face_of(world), post(INITIALIZE, user_agent="test"))

        assert exchange.json == {"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-11-25"}}
        session_id = exchange.headers["mcp-session-id"]
        assert session_id not in world.upstream.known
        assert (await world.runtime.session(session_id).state()).metadata == {"user-agent": "test"}


async def test_refused_opening_gets_its_answer_and_no_id(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.answers["initialize"] = lambda message: jsonrpc.error(message.id, -32602, "no such version")
    async with open_world(upstream) as world:
        exchange = await handled(face_of(world), post(INITIALIZE))

        assert exchange.json["error"]["code"] == -32602
        assert "mcp-session-id" not in exchange.headers
        assert world.runtime.registry.statistics().sessions == 0


async def test_opening_with_the_upstream_down_is_503(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.down = "it is down"
    async with open_world(upstream) as world:
        exchange = await handled(face_of(world), post(INITIALIZE))

        assert exchange.status == 503
        assert int(exchange.headers["retry-after"]) >= 1
        assert exchange.json["id"] == 0
        assert "mcp-session-id" not in exchange.headers


async def test_too_many_sessions_are_503(autojump_clock: MockClock) -> None:
    async with open_world(sessions_max=1) as world:
        face = face_of(world)
        await opened(face)
        exchange = await handled(face, post(INITIALIZE))

        assert (exchange.status, exchange.json["error"]["code"]) == (503, jsonrpc.OVERLOADED)


async def test_quick_call_is_answered_as_json(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        session_id = await opened(face)
        exchange = await handled(face, post(request("a", params={"x": 1}), mcp_session_id=session_id))

        assert exchange.json == {"jsonrpc": "2.0", "id": "a", "result": {"x": 1}}
        assert exchange.headers["content-type"] == "application/json"
        assert exchange.headers["mcp-session-id"] == session_id


async def test_long_call_becomes_a_stream_primed_before_anything_else(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=0.1) as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        exchange = post(request(1, "hold"), mcp_session_id=session_id)
        nursery.start_soon(face.handle, exchange, ANONYMOUS)
        await trio.sleep(1.0)
        assert exchange.headers["content-type"] == "text/event-stream"
        assert [frame.message for frame in exchange.frames] == [None]
        assert b"retry: 1234" in exchange.answer

        world.link.say("notifications/progress", about=1)
        world.link.answer(1, "done")
        await trio.sleep(1.0)
        assert exchange.finished
        assert [frame.message.get("result") for frame in exchange.frames[1:]] == [None, "done"]
        assert len({frame.id for frame in exchange.frames}) == 3


async def test_older_clients_get_no_priming(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        exchange = post(request(1, "hold"), mcp_session_id=session_id, mcp_protocol_version="2025-06-18")
        nursery.start_soon(face.handle, exchange, ANONYMOUS)
        await trio.sleep(1.0)
        assert exchange.is_stream
        assert exchange.frames == []
        world.link.answer(1)


async def test_client_that_goes_away_ends_its_connection_and_not_its_call(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        first = post(request(1, "hold"), mcp_session_id=session_id)
        nursery.start_soon(handled_though_gone, face, first)
        await trio.sleep(1.0)
        first.gone.set()
        await trio.sleep(1.0)
        assert world.link.cancelled == []
        world.link.answer(1, "kept")
        again = await handled(face, get(mcp_session_id=session_id, last_event_id=first.frames[0].id))

        assert [frame.message["result"] for frame in again.frames] == ["kept"]
        assert again.finished, "a resumed stream ends with its answer"


async def handled_though_gone(face: StreamableHttp, exchange: FakeExchange) -> None:
    try:
        await face.handle(exchange, ANONYMOUS)
    except* ClientGone:
        pass


async def test_call_in_flight_at_a_kill_ends_in_an_error_for_whoever_resumes(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        exchange = post(request(1, "hold"), mcp_session_id=session_id)
        nursery.start_soon(face.handle, exchange, ANONYMOUS)
        await trio.sleep(1.0)
        world.kill()
        nursery.cancel_scope.cancel()
    async with open_world(upstream, disk) as world:
        cursor = exchange.frames[0].id
        again = await handled(face_of(world), get(mcp_session_id=session_id, last_event_id=cursor))

        assert [frame.message["error"]["code"] for frame in again.frames] == [jsonrpc.OUTCOME_UNKNOWN]
        assert again.finished


async def test_standalone_stream_is_live_kept_alive_and_taken_over(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        older, newer = get(mcp_session_id=session_id), get(mcp_session_id=session_id)
        nursery.start_soon(face.handle, older, ANONYMOUS)
        await wait_all_tasks_blocked()
        world.link.say("one")
        await trio.sleep(20.0)
        assert [frame.message["method"] for frame in older.frames] == ["one"]
        assert b": keep-alive\n\n" in older.answer

        nursery.start_soon(face.handle, newer, ANONYMOUS)
        await trio.sleep(1.0)
        assert older.finished
        world.link.say("two")
        await trio.sleep(1.0)
        assert [frame.message["method"] for frame in newer.frames] == ["two"], "what was shown is not shown again"
        face.end_standalone_streams()
        await trio.sleep(1.0)
        assert newer.finished
        assert newer.answer.endswith(b"retry: 1234\n\n")


async def test_streams_end_when_their_credential_expires_and_the_session_goes_on(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        listening, calling = get(mcp_session_id=session_id), post(request(1, "hold"), mcp_session_id=session_id)
        deadline = trio.current_time() + 50.0
        for exchange in (listening, calling):
            nursery.start_soon(face.handle, exchange, ANONYMOUS, (), deadline)
        await trio.sleep(49.0)
        assert [exchange.finished for exchange in (listening, calling)] == [False, False]
        await trio.sleep(2.0)
        assert [exchange.finished for exchange in (listening, calling)] == [True, True]
        assert listening.answer.endswith(b"retry: 1234\n\n")
        assert calling.answer.endswith(b"retry: 1234\n\n")
        [primed] = calling.frames

        world.link.say("meanwhile")
        world.link.answer(1)
        again = get(mcp_session_id=session_id, last_event_id=primed.id)
        await face.handle(again, ANONYMOUS, (), trio.current_time() + 50.0)
        assert [frame.message["id"] for frame in again.frames] == [1]


async def test_an_expired_credential_reads_nothing_that_is_kept(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        session_id = await opened(face)
        world.link.say("kept")
        await trio.sleep(1.0)
        expired = get(mcp_session_id=session_id)
        await face.handle(expired, ANONYMOUS, (), trio.current_time())
        assert (expired.frames, expired.finished) == ([], True)


@pytest.mark.parametrize("made_up", ["nonsense", "0-0-0-000000000000", "", "ü"])
async def test_made_up_cursor_is_400(made_up: str, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        session_id = await opened(face)
        exchange = await handled(face, get(mcp_session_id=session_id, last_event_id=made_up))

        assert exchange.status == 400


async def test_trimmed_cursor_is_410(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, limits=Limits(events_per_session_max=3)) as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        exchange = get(mcp_session_id=session_id)
        nursery.start_soon(face.handle, exchange, ANONYMOUS)
        await wait_all_tasks_blocked()
        for number in range(10):
            world.link.say(f"event {number}")
        await trio.sleep(1.0)
        assert len(exchange.frames) == 10
        nursery.cancel_scope.cancel()
    async with open_world(disk=disk) as world:
        again = get(mcp_session_id=session_id, last_event_id=exchange.frames[0].id)
        with trio.move_on_after(5.0):
            await face_of(world).handle(again, ANONYMOUS)

        assert again.status == 410


async def test_unknown_session_is_404_with_the_requests_id(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        for exchange in (post(request(7), mcp_session_id="x"), get(mcp_session_id="x"), delete(mcp_session_id="x")):
            await face.handle(exchange, ANONYMOUS)
            assert exchange.status == 404
            assert exchange.json["error"]["code"] == jsonrpc.SESSION_NOT_FOUND
            assert exchange.json["id"] == (7 if exchange.head.method == "POST" else None)


async def test_ended_session_is_404(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        session_id = await opened(face)
        ended = await handled(face, delete(mcp_session_id=session_id))
        assert ended.status == 200
        assert world.link.closed is True

        assert (await handled(face, post(request(1), mcp_session_id=session_id))).status == 404
        assert (await handled(face, delete(mcp_session_id=session_id))).status == 404


async def test_notifications_and_answers_are_202(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        session_id = await opened(face)
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        answer = {"jsonrpc": "2.0", "id": "q", "result": {}}
        for message in (note, answer):
            exchange = await handled(face, post(message, mcp_session_id=session_id))
            assert (exchange.status, exchange.answer) == (202, b"")
        assert world.upstream.methods[-1] == "notifications/initialized", "nobody had asked"


async def test_question_on_a_call_is_answered_by_another_post(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        exchange = post(request(1, "hold"), mcp_session_id=session_id)
        nursery.start_soon(face.handle, exchange, ANONYMOUS)
        await wait_all_tasks_blocked()
        world.link.ask("q", "sampling/createMessage", about=1)
        await trio.sleep(1.0)
        assert exchange.frames[-1].message["method"] == "sampling/createMessage"
        await handled(face, post({"jsonrpc": "2.0", "id": "q", "result": {"x": 1}}, mcp_session_id=session_id))
        assert world.upstream.journal[-1].message.id == "q"
        world.link.answer(1)


async def test_duplicate_request_id_is_400(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        session_id = await opened(face)
        nursery.start_soon(face.handle, post(request(1, "hold"), mcp_session_id=session_id), ANONYMOUS)
        await wait_all_tasks_blocked()
        exchange = await handled(face, post(request(1), mcp_session_id=session_id))

        assert (exchange.status, exchange.json["error"]["code"]) == (400, jsonrpc.INVALID_REQUEST)
        world.link.answer(1)


async def test_draining_is_503(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session_id = await opened(face_of(world))
    async with open_world(disk=disk) as world:
        world.runtime.registry.drain()
        face = face_of(world)
        for exchange in (
            post(INITIALIZE),
            post(request(1), mcp_session_id=session_id),
            get(mcp_session_id=session_id),
            delete(mcp_session_id=session_id),
        ):
            assert (await handled(face, exchange)).status == 503
            assert "retry-after" in exchange.headers


async def test_other_methods_are_405(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        exchange = await handled(face_of(world), FakeExchange("PUT"))

        assert (exchange.status, exchange.headers["allow"]) == (405, "GET, POST, DELETE")


async def test_extra_headers_are_on_every_answer(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        for exchange in (post(INITIALIZE), post(request(1)), get(mcp_session_id="x"), FakeExchange("PUT")):
            await face.handle(exchange, ANONYMOUS, ((b"vary", b"origin"),))
            assert exchange.headers["vary"] == "origin"


def test_options_have_units() -> None:
    options = StreamableHttpOptions()

    assert options.keepalive_comment_seconds <= 25.0, "proxies close what is silent for longer"
