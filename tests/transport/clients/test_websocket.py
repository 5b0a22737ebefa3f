"""WebSocket in front of live sessions, over a connection without a network, in virtual time: opening, and calls."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS
from actors.link import Failure
from actors.state import Limits
from persistence.store import StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_world
from tests.transport.clients.socket_bed import (
    INITIALIZE,
    WELCOME,
    answer,
    code_of,
    error_codes,
    face_of,
    opened,
    request,
    served,
)
from tests.transport.fake_socket import FakeSocket

# ---- opening ----


async def test_first_initialize_opens_a_session_under_the_id_of_the_upgrade(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        assert (socket.status, socket.subprotocol) == (101, "mcp")
        assert socket.messages == [WELCOME]
        state = await world.runtime.session(socket.headers["mcp-session-id"]).state()
        assert (state.client_transport, state.server_id) == ("websocket", "linear")
        assert world.upstream.methods == ["initialize", "notifications/initialized"]


async def test_upgrade_alone_makes_no_session(autojump_clock: MockClock) -> None:
    async with open_world() as world, served(face_of(world), FakeSocket()) as socket:
        await wait_all_tasks_blocked()
        assert socket.status == 101
        assert world.runtime.registry.statistics().resident == 0


async def test_connection_without_initialize_is_closed(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        assert await code_of(face_of(world, initialize_seconds_max=7), FakeSocket()) == 4408
        assert trio.current_time() == pytest.approx(7)


async def test_messages_before_initialize_are_refused_with_their_id(autojump_clock: MockClock) -> None:
    async with open_world() as world, served(face_of(world), FakeSocket()) as socket:
        socket.say(request("early"))
        socket.say(INITIALIZE)
        refused, welcome = await socket.told(2)
        assert error_codes([refused]) == [("early", jsonrpc.INVALID_REQUEST)]
        assert welcome == WELCOME
        assert world.upstream.methods == ["initialize"]


async def test_second_initialize_is_refused_and_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        socket.say(INITIALIZE | {"id": 9})
        messages = await socket.told(2)
        assert error_codes(messages[1:]) == [(9, jsonrpc.INVALID_REQUEST)]


async def test_opening_that_the_upstream_refuses_is_told_and_closed(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.answers["initialize"] = lambda message: jsonrpc.error(message.id, -32602, "no such version")
    async with open_world(upstream) as world, served(face_of(world), FakeSocket()) as socket:
        socket.say(INITIALIZE)
        assert await socket.wait_closed() == 1000
        assert error_codes(socket.messages) == [(0, -32602)]
        assert world.runtime.registry.statistics().sessions == 0


async def test_opening_with_the_upstream_down_is_to_be_tried_again(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.down = "it is down"
    async with open_world(upstream) as world, served(face_of(world), FakeSocket()) as socket:
        socket.say(INITIALIZE)
        assert await socket.wait_closed() == 1013
        assert error_codes(socket.messages) == [(0, jsonrpc.UPSTREAM_UNAVAILABLE)]


async def test_too_many_sessions_are_to_be_tried_again(autojump_clock: MockClock) -> None:
    async with open_world(sessions_max=1) as world, opened(face_of(world)):
        socket = FakeSocket()
        async with served(face_of(world), socket):
            socket.say(INITIALIZE)
            assert await socket.wait_closed() == 1013
        assert error_codes(socket.messages) == [(0, jsonrpc.OVERLOADED)]


@pytest.mark.parametrize(
    ("socket", "status"),
    [
        (FakeSocket(subprotocols=[]), 400),
        (FakeSocket(subprotocols=["graphql-ws"]), 400),
        (FakeSocket(query="last_event_id=x"), 400),
        (FakeSocket(query="session_id=x&session_id=y"), 400),
        (FakeSocket(query="session_id=x", headers={"mcp-session-id": "x"}), 400),
        (FakeSocket(query="&".join(["a=b"] * 17)), 400),
    ],
)
async def test_upgrade_that_contradicts_itself_is_refused(
    socket: FakeSocket, status: int, autojump_clock: MockClock
) -> None:
    async with open_world() as world:
        await face_of(world).serve(socket, ANONYMOUS)
        assert socket.status == status
        assert b"error" in socket.body


# ---- calls ----


async def test_answer_is_on_the_sessions_stream_before_it_is_sent(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        socket.say(request(1, params={"a": 1}))
        assert (await socket.told(2))[1] == answer(1, {"a": 1})
        reading = await world.runtime.session(socket.headers["mcp-session-id"]).read(None)
        (entry,) = await reading.next_page()
        assert entry.body.decode() == socket.sent[1]


async def test_answer_waits_for_its_commit(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=3.0) as world, opened(face_of(world)) as socket:
        began = trio.current_time()
        socket.say(request(1))
        await socket.told(2)
        assert trio.current_time() - began >= 3.0


async def test_messages_keep_their_order_and_do_not_wait_for_each_other(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        for number in range(20):
            socket.say(request(number, "held"))
        await wait_all_tasks_blocked()
        assert [message.id for message in world.upstream.sent("held")] == list(range(20))


async def test_progress_and_questions_come_on_the_connection_and_answers_go_back(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        socket.say(request(1, "held"))
        await wait_all_tasks_blocked()
        world.link.say("notifications/progress", {"progress": 1}, about=1)
        world.link.ask("q", "sampling/createMessage", about=1)
        _, progress, question = await socket.told(3)
        assert (progress["method"], question["method"]) == ("notifications/progress", "sampling/createMessage")
        socket.say(answer(question["id"], "sampled"))
        await wait_all_tasks_blocked()
        assert world.upstream.journal[-1].message.id == "q"
        world.link.answer(1)
        assert (await socket.told(4))[3] == answer(1)


@pytest.mark.parametrize(
    ("raw", "refusal"),
    [
        ("{", (None, jsonrpc.PARSE_ERROR)),
        ("[]", (None, jsonrpc.INVALID_REQUEST)),
        ('{"jsonrpc":"1.0","id":7,"method":"x"}', (7, jsonrpc.INVALID_REQUEST)),
        ('{"jsonrpc":"2.0","id":"a","method":5}', ("a", jsonrpc.INVALID_REQUEST)),
    ],
)
async def test_malformed_message_is_answered_to_its_id_and_the_connection_goes_on(
    raw: str, refusal: tuple[object, int], autojump_clock: MockClock
) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        socket.say(raw)
        socket.say(request(1))
        messages = await socket.told(3)
        assert error_codes([m for m in messages if "error" in m]) == [refusal]
        assert answer(1, {}) in messages


async def test_binary_message_ends_the_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        socket.say(b"{}")
        assert await socket.wait_closed() == 1003


async def test_id_in_flight_is_refused(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        socket.say(request(1, "held"))
        socket.say(request(1))
        messages = await socket.told(2)
        assert error_codes(messages[1:]) == [(1, jsonrpc.INVALID_REQUEST)]


async def test_notification_that_was_not_passed_on_is_told(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.failures["note"].append(Failure.OUTCOME_UNKNOWN)
    async with open_world(upstream) as world, opened(face_of(world)) as socket:
        socket.say({"jsonrpc": "2.0", "method": "note"})
        messages = await socket.told(2)
        assert error_codes(messages[1:]) == [(None, jsonrpc.OUTCOME_UNKNOWN)]


async def test_client_beyond_its_bound_is_not_read(autojump_clock: MockClock) -> None:
    limits = Limits(calls_in_flight_max=100, streams_kept_max=100)
    async with open_world(limits=limits) as world, opened(face_of(world, messages_in_hand_max=2)) as socket:
        world.store.begin_outage(StoreUnavailable("away"))
        socket.say(request("first"))
        await wait_all_tasks_blocked()
        for number in range(5):
            socket.say(request(number))
        await wait_all_tasks_blocked()
        assert socket.unread == 3  # two are in hand, and the task that receives waits with the third
        world.store.end_outage()
        await socket.told(7)


async def test_slow_reader_holds_nobody_up_and_nothing_is_queued_for_it(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face) as slow, opened(face) as quick:
            slow.stop_reading()
            slow.say(request(1))
            link = world.upstream.links[0]
            for number in range(300):
                link.say("note", {"number": number})
            quick.say(request(2))
            assert (await quick.told(2))[1] == answer(2, {})
            await wait_all_tasks_blocked()
            assert len(slow.sent) == 1
            slow.reads.set()
            numbers = [m["params"]["number"] for m in await slow.told(302) if m.get("method") == "note"]
            assert numbers == list(range(300))
