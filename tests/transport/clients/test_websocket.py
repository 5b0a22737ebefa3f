"""WebSocket in front of live sessions, over a connection without a network, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS, Principal
from actors.link import Failure
from actors.state import Limits
from persistence.memory import MemoryStore
from persistence.store import StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_session, open_world
from tests.transport.fake_socket import FakeSocket
from transport.clients.socket_conversation import WebSocketOptions
from transport.clients.socket_frames import PLAIN, WITH_IDS
from transport.clients.websocket import WebSocketFace

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
WELCOME = {"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-11-25"}}


def face_of(world: World, **options: Any) -> WebSocketFace:
    return WebSocketFace(
        world.runtime, "linear", upstream_transport="streamable-http", options=WebSocketOptions(**options)
    )


def request(id: int | str, method: str = "echo", params: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}


def answer(id: int | str, value: object = "done") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "result": value}


def error_codes(messages: list[Any]) -> list[tuple[Any, int]]:
    return [(message["id"], message["error"]["code"]) for message in messages]


@asynccontextmanager
async def served(
    face: WebSocketFace, socket: FakeSocket, principal: Principal = ANONYMOUS
) -> AsyncIterator[FakeSocket]:
    """Serve a connection beside the block, and cut it at its end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(face.serve, socket, principal)
        yield socket
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(face: WebSocketFace, subprotocol: str = PLAIN) -> AsyncIterator[FakeSocket]:
    """Open a session over a connection; what was said for that is forgotten."""
    async with served(face, FakeSocket(subprotocols=[subprotocol])) as socket:
        socket.say(INITIALIZE)
        socket.say(INITIALIZED)
        await socket.told(1 if subprotocol == PLAIN else 2)
        await wait_all_tasks_blocked()
        yield socket


def back(session_id: str, last_event_id: str | None = None, subprotocol: str = WITH_IDS) -> FakeSocket:
    """Make a connection that comes back as a page does, by its query."""
    query = f"session_id={session_id}" + (f"&last_event_id={last_event_id}" if last_event_id else "")
    return FakeSocket(query=query, subprotocols=[subprotocol])


async def code_of(face: WebSocketFace, socket: FakeSocket, principal: Principal = ANONYMOUS) -> int:
    async with served(face, socket, principal):
        return await socket.wait_closed()


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


# ---- coming back ----


async def test_ids_are_told_with_each_event(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world), WITH_IDS) as socket:
        assert socket.subprotocol == WITH_IDS
        greeting, welcome = socket.messages
        assert greeting["session_id"] == socket.headers["mcp-session-id"]
        assert (greeting["in_progress"], greeting["unanswered"]) == ([], [])
        assert greeting["event_id"] == greeting["last_event_id"]
        assert welcome == {"message": WELCOME}
        socket.say(request(1))
        frame = (await socket.told(3))[2]
        assert frame["message"] == answer(1, {})
        assert frame["event_id"] not in ("", greeting["event_id"])


async def test_client_that_comes_back_gets_exactly_what_it_missed_and_goes_on_live(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as socket:
            for number in range(3):
                world.link.say("note", {"number": number})
            frames = await socket.told(5)
            socket.leave()
            await wait_all_tasks_blocked()
        for number in range(3, 6):
            world.link.say("note", {"number": number})
        second = frames[3]["event_id"]
        async with served(face, back(frames[0]["session_id"], second)) as again:
            greeting, *missed = await again.told(5)
            assert greeting["event_id"] == second
            assert greeting["last_event_id"] == missed[-1]["event_id"]
            world.link.say("note", {"number": 6})
            *missed, _ = (await again.told(6))[1:]
            live = again.messages[-1]
        assert [frame["message"]["params"]["number"] for frame in [*missed, live]] == [2, 3, 4, 5, 6]


async def test_greeting_says_what_is_in_progress_and_unanswered(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as socket:
            socket.say(request("long", "held"))
            await wait_all_tasks_blocked()
            world.link.ask("q", about="long")
            await socket.told(3)
            socket.leave()
        async with served(face, back(socket.messages[0]["session_id"])) as again:
            (greeting,) = await again.told(1)
            assert greeting["in_progress"] == ["long"]
            assert greeting["unanswered"] == ["q"]


async def test_plain_client_goes_on_behind_what_was_last_put_on_a_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face) as socket:
            world.link.say("seen")
            await socket.told(2)
            socket.leave()
            await wait_all_tasks_blocked()
        world.link.say("missed")
        headers = {"mcp-session-id": socket.headers["mcp-session-id"]}
        async with served(face, FakeSocket(headers=headers)) as again:
            assert [message["method"] for message in await again.told(1)] == ["missed"]


async def test_newest_connection_takes_over_and_the_older_is_heard_no_more(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as older:
            async with served(face, back(older.messages[0]["session_id"])) as newer:
                await newer.told(1)
                assert await older.wait_closed() == 4409
                older.say(request("late"))
                world.link.say("note")
                assert (await newer.told(2))[1]["message"]["method"] == "note"
                await wait_all_tasks_blocked()
            assert not world.upstream.sent("echo")
            assert len(older.sent) == 2


async def test_reader_over_http_takes_the_stream_over_too(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        await world.runtime.session(socket.headers["mcp-session-id"]).read(None)
        assert await socket.wait_closed() == 4409


async def test_call_in_progress_at_a_kill_ends_with_an_error_on_the_next_connection(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    upstream = FakeUpstream()
    async with open_world(upstream, disk) as world, opened(face_of(world), WITH_IDS) as socket:
        socket.say(request("long", "held"))
        await trio.sleep(1.0)
        world.kill()
        session_id, event_id = socket.messages[0]["session_id"], socket.messages[0]["event_id"]
    async with open_world(upstream, disk) as world, served(face_of(world), back(session_id, event_id)) as again:
        frames = await again.told(2)
        assert error_codes([frames[1]["message"]]) == [("long", jsonrpc.OUTCOME_UNKNOWN)]
        assert len(upstream.sent("held")) == 1


async def test_greeting_names_events_by_the_ids_that_they_were_given_whichever_process_gave_them(
    autojump_clock: MockClock,
) -> None:
    # Over such a store each process gives ids of its own epoch; those of what was durable stay good.
    disk = MemoryStore()
    async with open_world(disk=disk, store_outage="degrade") as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as socket:
            world.link.say("seen")
            seen = (await socket.told(3))[2]["event_id"]
            session_id = socket.messages[0]["session_id"]
            socket.leave()
            await wait_all_tasks_blocked()
        world.link.say("missed")
        await wait_all_tasks_blocked()
    async with open_world(disk=disk, store_outage="degrade") as world:
        face = face_of(world)
        async with served(face, back(session_id, seen)) as again:
            greeting, missed = await again.told(2)
            assert greeting["event_id"] == seen
            assert greeting["last_event_id"] == missed["event_id"]
        async with served(face, back(session_id, greeting["last_event_id"])) as once_more:
            await wait_all_tasks_blocked()
            assert len(once_more.sent) == 1, "the greeting alone: it has all that there is"


async def test_crash_of_the_session_is_not_felt_by_its_client(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world), WITH_IDS) as socket:
        session_id = socket.messages[0]["session_id"]
        world.link.say("before")
        await socket.told(3)
        world.runtime.session(session_id).actor().stop("interrupted by the test")
        await wait_all_tasks_blocked()
        await trio.sleep(1.0)
        socket.say(request(1))
        frames = await socket.told(4)
        assert [frame["message"].get("id") for frame in frames[2:]] == [None, 1]
        assert socket.closed is None


# ---- the end ----


async def test_unknown_session_has_its_code(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        assert await code_of(face_of(world), back("made-up")) == 4404


async def test_connection_ends_with_its_credential_and_the_session_goes_on(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        socket = FakeSocket()
        nursery.start_soon(face_of(world).serve, socket, ANONYMOUS, trio.current_time() + 60)
        socket.say(INITIALIZE)
        assert await socket.wait_closed() == 4401
        assert trio.current_time() == pytest.approx(60)
        async with served(face_of(world), back(socket.headers["mcp-session-id"])) as again:
            assert (await again.told(1))[0]["in_progress"] == []


async def test_session_of_another_principal_or_server_does_not_exist(autojump_clock: MockClock) -> None:
    stranger = Principal("issuer", "client", "somebody else")
    async with open_world() as world, opened(face_of(world)) as socket:
        session_id = socket.headers["mcp-session-id"]
        assert await code_of(face_of(world), back(session_id), stranger) == 4404
        elsewhere = WebSocketFace(world.runtime, "files", upstream_transport="stdio")
        assert await code_of(elsewhere, back(session_id)) == 4404
        assert socket.closed is None, "whoever may not have it does not take it over"


async def test_session_of_another_transport_is_not_gone_on_with_here(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        assert await code_of(face_of(world), back(session.id)) == 4404


async def test_event_id_of_another_session_has_its_code(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face, WITH_IDS) as one, opened(face, WITH_IDS) as other:
            event_id = other.messages[0]["event_id"]
            assert await code_of(face, back(one.messages[0]["session_id"], event_id)) == 4400
            assert one.closed is None


async def test_events_that_are_no_longer_kept_have_their_code(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    limits = Limits(events_per_session_max=5)
    async with open_world(disk=disk, limits=limits) as world, opened(face_of(world), WITH_IDS) as socket:
        greeting = socket.messages[0]
        for _ in range(20):
            world.link.say("note")
        await socket.told(22)
    async with open_world(disk=disk, limits=limits) as world:  # in memory there may be a few more
        assert await code_of(face_of(world), back(greeting["session_id"], greeting["event_id"])) == 4410


async def test_end_of_the_session_ends_its_connection(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world)) as socket:
        await world.runtime.session(socket.headers["mcp-session-id"]).close()
        assert await socket.wait_closed() == 4404


async def test_failure_of_the_session_ends_the_connection_of_one_who_only_listens(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    async with open_world(upstream) as world, opened(face_of(world)) as socket:
        upstream.forget()
        upstream.rejects = ("upstream_rejected", "as scripted")
        world.link.lose()
        assert await socket.wait_closed() == 4404


async def test_draining_ends_idle_connections_at_once_and_busy_ones_behind_their_answer(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        face = face_of(world)
        async with opened(face) as idle, opened(face) as busy, served(face, FakeSocket()) as unopened:
            busy.say(request(1, "held"))
            await trio.sleep(1.0)
            world.runtime.registry.drain()
            face.drain()
            assert [await idle.wait_closed(), await unopened.wait_closed()] == [1012, 1012]
            busy.say(request(2))
            messages = await busy.told(2)
            assert error_codes(messages[1:]) == [(2, jsonrpc.UPSTREAM_UNAVAILABLE)]
            world.upstream.links[-1].answer(1)
            assert await busy.wait_closed() == 1012
            assert busy.messages[-1] == answer(1)
            late = FakeSocket()
            await face.serve(late, ANONYMOUS)
            assert late.status == 503


async def test_draining_waits_for_the_answer_to_an_opening(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.connect_seconds = 2.0
    async with open_world(upstream) as world:
        face = face_of(world)
        async with served(face, FakeSocket()) as socket:
            socket.say(INITIALIZE)
            await trio.sleep(1.0)
            world.runtime.registry.drain()
            face.drain()
            assert await socket.wait_closed() == 1012
            assert socket.messages == [WELCOME], "the session is there to come back to"


async def test_opening_that_outlasts_the_grace_is_refused_before_its_connection_ends(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.connect_seconds = 20.0
    async with open_world(upstream) as world:
        face = face_of(world)
        async with served(face, FakeSocket()) as socket:
            socket.say(INITIALIZE)
            await trio.sleep(1.0)
            face.drain()
            await world.runtime.registry.stop_actors()
            assert await socket.wait_closed() == 1012
            assert error_codes(socket.messages) == [(0, jsonrpc.UPSTREAM_UNAVAILABLE)]


async def test_client_that_goes_away_ends_its_connection_and_never_its_call(autojump_clock: MockClock) -> None:
    async with open_world() as world, opened(face_of(world), WITH_IDS) as socket:
        socket.say(request(1, "held"))
        await wait_all_tasks_blocked()
        socket.leave()
        await trio.sleep(1.0)
        assert world.link.cancelled == []
        world.link.answer(1)
        async with served(face_of(world), back(socket.messages[0]["session_id"])) as again:
            assert (await again.told(2))[1]["message"] == answer(1)
