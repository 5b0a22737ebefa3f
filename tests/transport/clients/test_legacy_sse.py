"""HTTP+SSE in front of live sessions, over exchanges without connections, in virtual time.

Goal: what the revision of 2024-11-05 asks for, and beyond it that a session outlives its stream, its process, and
nobody but its owner gets it back.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.ids import ANONYMOUS, Principal
from actors.reaper import ReaperRules
from actors.state import Limits
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange, Frame, get, post
from transport.clients.legacy_sse import LegacySse
from transport.clients.sse_front import LegacySseOptions
from transport.exchange import ClientGone

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
SSE, MESSAGES = "/servers/linear/sse", "/servers/linear/messages"


def request(id: int | str, method: str = "echo", params: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}


@attrs.define
class Client:
    """A client with its stream; its requests are answered when `post` returns."""

    face: LegacySse
    nursery: trio.Nursery
    stream: FakeExchange = attrs.field(factory=lambda: get(path=SSE))
    principal: Principal = ANONYMOUS

    async def attach(self, stream: FakeExchange | None = None) -> FakeExchange:
        """Ask for a stream, and wait for what it says first."""
        self.stream = stream or get(path=SSE)
        self.nursery.start_soon(self._serve, self.stream)
        await wait_all_tasks_blocked()
        return self.stream

    async def _serve(self, stream: FakeExchange) -> None:
        try:
            await self.face.handle(stream, self.principal)
        except* ClientGone:
            pass

    async def open(self) -> Client:
        await self.attach()
        assert (await self.post(INITIALIZE)).status == 202
        await wait_all_tasks_blocked()
        return self

    async def post(self, message: object, *, to: str = "") -> FakeExchange:
        exchange = post(message, path=to or self.endpoint)
        await self.face.handle(exchange, self.principal)
        await wait_all_tasks_blocked()
        return exchange

    async def leave(self) -> None:
        """Lose the connection."""
        self.stream.gone.set()
        await wait_all_tasks_blocked()

    @property
    def endpoint(self) -> str:
        first = self.stream.frames[0]
        assert first.name == "endpoint"
        return first.data.decode()

    @property
    def session_id(self) -> str:
        return self.endpoint.partition("session_id=")[2]

    @property
    def heard(self) -> list[Frame]:
        """What came after the endpoint."""
        return self.stream.frames[1:]

    @property
    def results(self) -> list[Any]:
        return [frame.message["result"] for frame in self.heard if "result" in frame.message]

    @property
    def errors(self) -> list[int]:
        return [frame.message["error"]["code"] for frame in self.heard if "error" in frame.message]


def face_of(world: World, **options: Any) -> LegacySse:
    return LegacySse(world.runtime, "linear", upstream_transport="streamable-http", options=LegacySseOptions(**options))


async def test_stream_begins_with_the_endpoint_and_the_handshake_goes_over_it(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach()
        assert client.stream.headers["content-type"] == "text/event-stream"
        assert client.endpoint.startswith(f"{MESSAGES}?session_id=")
        assert b"retry: 2000\n" in client.stream.answer
        assert world.runtime.registry.statistics().resident == 0, "nothing exists before the handshake"

        accepted = await client.post(INITIALIZE)
        assert (accepted.status, accepted.answer) == (202, b"Accepted")
        assert client.results == [{"protocolVersion": "2025-11-25"}]
        state = await world.runtime.session(client.session_id).state()
        assert (state.client_transport, state.ttl_seconds) == ("sse", 300.0)
        nursery.cancel_scope.cancel()


async def test_endpoint_has_the_public_prefix(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = Client(face_of(world, public_path_prefix="/tools"), nursery)
        await client.attach(get(path="/sse"))

        assert client.endpoint.startswith("/tools/messages?session_id=")
        nursery.cancel_scope.cancel()


async def test_short_and_long_calls_are_answered_on_the_stream(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        assert (await client.post(request(1, params={"x": 1}))).answer == b"Accepted"
        assert (await client.post(request(2, "hold"))).answer == b"Accepted"
        world.link.say("notifications/progress", about=2)
        world.link.answer(2, "late")
        await wait_all_tasks_blocked()

        assert client.results[1:] == [{"x": 1}, "late"]
        assert client.heard[-2].message["method"] == "notifications/progress"
        assert len({frame.id for frame in client.stream.frames}) == len(client.stream.frames), "each has an id"
        nursery.cancel_scope.cancel()


async def test_nothing_is_sent_before_it_is_durable(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        await trio.sleep(5.0)
        nursery.start_soon(client.post, request(1))
        await trio.sleep(0.9)
        assert len(client.results) == 1
        await trio.sleep(0.2)
        assert len(client.results) == 2
        nursery.cancel_scope.cancel()


async def test_question_is_answered_by_a_post(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        await client.post(request(1, "hold"))
        world.link.ask("q", "sampling/createMessage", about=1)
        await wait_all_tasks_blocked()
        assert client.heard[-1].message["method"] == "sampling/createMessage"
        assert (await client.post({"jsonrpc": "2.0", "id": "q", "result": {"x": 1}})).status == 202

        assert world.upstream.journal[-1].message.id == "q"
        nursery.cancel_scope.cancel()


async def test_notifications_are_passed_on_and_cancel(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        await client.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        await client.post(request(1, "hold"))
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        assert (await client.post(cancel)).status == 202

        assert world.upstream.methods[-3:] == ["notifications/initialized", "hold", "notifications/cancelled"]
        nursery.cancel_scope.cancel()


async def test_session_outlives_its_stream_and_gives_exactly_what_was_missed(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        await client.post(request(1))
        await client.post(request(2, "hold"))
        session_id, seen = client.session_id, client.heard[-1].id
        await client.leave()
        world.link.answer(2, "missed")
        world.link.say("unasked")
        await trio.sleep(1.0)
        await client.attach(get(path=SSE, last_event_id=seen))

        assert client.session_id == session_id
        assert client.stream.frames[0].id == seen, "the same place, whichever event was seen last"
        assert client.results == ["missed"]
        assert client.heard[-1].message["method"] == "unasked"
        assert (await client.post(request(3))).status == 202
        assert len(client.results) == 2, "and it goes on live"
        nursery.cancel_scope.cancel()


async def test_session_goes_on_after_a_kill(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        await client.post(request(1, params={"x": 1}))
        first = client.heard[0].id
        await client.post(request(2, "hold"))
        world.kill()
        nursery.cancel_scope.cancel()
    async with open_world(upstream, disk) as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach(get(path=SSE, last_event_id=first))
        await trio.sleep(1.0)

        assert client.results == [{"x": 1}]
        assert client.errors == [jsonrpc.OUTCOME_UNKNOWN], "the call that was in flight"
        assert len(upstream.sent("hold")) == 1
        assert (await client.post(request(2))).status == 202, "its id is free again"
        nursery.cancel_scope.cancel()


async def test_client_that_saw_nothing_but_the_endpoint_gets_everything(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach()
        place, endpoint = client.stream.frames[0].id, client.endpoint
        await client.leave()
        gone = await client.post(INITIALIZE, to=endpoint)
        assert gone.status == 404, "a stream without a handshake leaves nothing"

        await client.open()
        place = client.stream.frames[0].id
        await client.post(request(1))
        await client.leave()
        await client.attach(get(path=SSE, last_event_id=place))
        assert len(client.results) == 2, "the handshake's answer, too"
        nursery.cancel_scope.cancel()


async def test_stream_may_break_during_the_handshake(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.connect_seconds = 2.0
    async with open_world(upstream) as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach()
        place = client.stream.frames[0].id
        nursery.start_soon(client.post, INITIALIZE)
        await trio.sleep(1.0)
        await client.leave()
        await client.attach(get(path=SSE, last_event_id=place))
        await trio.sleep(2.0)

        assert len(client.results) == 1
        nursery.cancel_scope.cancel()


async def test_session_id_in_the_url_gives_what_was_not_yet_sent(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        session_id = client.session_id
        await client.leave()
        world.link.say("missed")
        await trio.sleep(1.0)
        await client.attach(get(path=f"{SSE}?session_id={session_id}"))

        assert client.session_id == session_id
        assert [frame.message["method"] for frame in client.heard] == ["missed"]
        nursery.cancel_scope.cancel()


async def test_newer_stream_takes_over(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        older = client.stream
        await client.attach(get(path=f"{SSE}?session_id={client.session_id}"))

        assert older.finished
        assert not client.stream.finished
        nursery.cancel_scope.cancel()


async def test_stream_without_a_name_is_a_new_session(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        first, second = await Client(face, nursery).open(), await Client(face, nursery).open()

        assert first.session_id != second.session_id
        assert not first.stream.finished
        nursery.cancel_scope.cancel()


async def test_nobody_gets_anothers_session(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        client = await Client(face, nursery, principal=Principal("i", "c", "alice")).open()
        for principal in (Principal("i", "c", "bob"), ANONYMOUS):
            for stranger in (
                get(path=SSE, last_event_id=client.heard[0].id),
                get(path=f"{SSE}?session_id={client.session_id}"),
                post(request(1), path=client.endpoint),
            ):
                await face.handle(stranger, principal)
                assert stranger.status == 404
                assert stranger.json["error"]["code"] == jsonrpc.SESSION_NOT_FOUND
        assert not client.stream.finished
        nursery.cancel_scope.cancel()


async def test_nobody_opens_anothers_session(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        client = Client(face, nursery, principal=Principal("i", "c", "alice"))
        await client.attach()
        stranger = post(INITIALIZE, path=client.endpoint)
        await face.handle(stranger, ANONYMOUS)

        assert stranger.status == 404
        assert world.upstream.journal == []
        nursery.cancel_scope.cancel()


async def test_control_the_session_id_alone_would_do_for_its_principal(autojump_clock: MockClock) -> None:
    """The control of the two above: the same requests of its own principal are taken."""
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        client = await Client(face, nursery, principal=Principal("i", "c", "alice")).open()
        exchange = post(request(1), path=client.endpoint)
        await face.handle(exchange, Principal("i", "c", "alice"))

        assert exchange.status == 202
        nursery.cancel_scope.cancel()


async def test_made_up_names_and_cursors_are_refused(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        client = await Client(face, nursery).open()
        mine = client.session_id
        for headers, query, status in (
            ({"last_event_id": "x" * 32}, "", 404),
            ({"last_event_id": "x.0-0-0-000000000000"}, "", 404),
            ({}, "?session_id=" + "x" * 32, 404),
            ({"last_event_id": f"{mine}.0-0-0-000000000000"}, "", 400),
            ({"last_event_id": f"{mine}.ü"}, "", 400),
            ({"last_event_id": mine}, "?session_id=" + "x" * 32, 400),
        ):
            exchange = get(path=SSE + query, **headers)
            await face.handle(exchange, ANONYMOUS)
            assert exchange.status == status, (headers, query)
            assert exchange.json["error"]["message"]
        assert not client.stream.finished, "none of them took the stream over"
        nursery.cancel_scope.cancel()


async def test_cursor_that_fell_off_the_log_is_410(autojump_clock: MockClock) -> None:
    async with (
        open_world(limits=Limits(events_per_session_max=3)) as world,
        trio.open_nursery() as nursery,
    ):
        client = await Client(face_of(world), nursery).open()
        seen = client.heard[0].id
        for number in range(10):
            await client.post(request(number))
        await client.leave()
        again = await client.attach(get(path=SSE, last_event_id=seen))

        assert again.status == 410
        nursery.cancel_scope.cancel()


async def test_posts_without_a_session_are_400_and_to_an_unknown_one_404(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        face = face_of(world)
        for message in (request(7), INITIALIZE):
            missing, unknown = post(message, path=MESSAGES), post(message, path=f"{MESSAGES}?session_id=x")
            for exchange, status in ((missing, 400), (unknown, 404)):
                await face.handle(exchange, ANONYMOUS)
                assert exchange.status == status
                assert "error" in exchange.json
            assert unknown.json["id"] == message["id"]


async def test_what_is_no_message_is_refused(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        assert (await client.post({"nonsense": 1})).status == 400
        form = post(request(1), path=client.endpoint, content_type="text/plain")
        await client.face.handle(form, ANONYMOUS)
        assert form.status == 415
        nursery.cancel_scope.cancel()


async def test_each_path_has_one_method(autojump_clock: MockClock) -> None:
    """Clients of both transports post to the stream's URL first: 405 is what makes them speak this one."""
    async with open_world() as world:
        face = face_of(world)
        for exchange, allowed in ((post(INITIALIZE, path=SSE), "GET"), (get(path=MESSAGES), "POST")):
            await face.handle(exchange, ANONYMOUS)
            assert (exchange.status, exchange.headers["allow"]) == (405, allowed)


async def test_nothing_but_the_handshake_is_taken_before_it(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach()
        early = await client.post(request(1))

        assert early.status == 400
        assert "initialize" in early.json["error"]["message"]
        nursery.cancel_scope.cancel()


async def test_refused_handshake_is_told_on_the_stream_and_can_be_tried_again(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    welcome = upstream.answers["initialize"]
    upstream.answers["initialize"] = lambda message: jsonrpc.error(message.id, -32602, "no such version")
    async with open_world(upstream) as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach()
        assert (await client.post(INITIALIZE)).status == 202
        assert client.errors == [-32602]
        assert world.runtime.registry.statistics().sessions == 0
        upstream.answers["initialize"] = welcome
        assert (await client.post(INITIALIZE)).status == 202

        assert len(client.results) == 1
        nursery.cancel_scope.cancel()


async def test_handshake_with_the_upstream_down_is_told_on_the_stream(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.down = "it is down"
    async with open_world(upstream) as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach()
        assert (await client.post(INITIALIZE)).status == 202

        assert client.errors == [jsonrpc.UPSTREAM_UNAVAILABLE]
        nursery.cancel_scope.cancel()


async def test_second_handshake_is_refused_on_the_stream(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        assert (await client.post({**INITIALIZE, "id": "again"})).status == 202

        assert client.heard[-1].message["id"] == "again"
        assert client.errors == [jsonrpc.INTERNAL_ERROR]
        assert len(world.upstream.sent("initialize")) == 1
        nursery.cancel_scope.cancel()


async def test_too_many_calls_are_told_on_the_stream_and_a_duplicate_is_not(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(calls_in_flight_max=1)) as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        await client.post(request(1, "hold"))
        assert (await client.post(request(2))).status == 202
        assert (client.heard[-1].message["id"], client.errors) == (2, [jsonrpc.OVERLOADED])
        duplicate = await client.post(request(1))

        assert (duplicate.status, duplicate.json["error"]["code"]) == (400, jsonrpc.INVALID_REQUEST)
        assert client.errors == [jsonrpc.OVERLOADED], "an error there would answer the call in progress"
        nursery.cancel_scope.cancel()


async def test_stream_on_which_nothing_is_opened_ends(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach()
        await trio.sleep(100.0)

        assert client.stream.finished
        assert b": keep-alive\n\n" in client.stream.answer
        gone = await client.post(INITIALIZE)
        assert gone.status == 404
        nursery.cancel_scope.cancel()


async def test_session_whose_stream_stays_away_is_reaped_and_one_that_is_read_is_not(
    autojump_clock: MockClock,
) -> None:
    rules = ReaperRules(sweep_every_seconds=30.0)
    async with open_world(reaper_rules=rules) as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        await trio.sleep(3600.0)
        assert world.runtime.registry.statistics().sessions == 1, "its stream is there"
        seen = client.heard[-1].id
        await client.leave()
        await trio.sleep(400.0)
        assert world.runtime.registry.statistics().sessions == 0
        again = await client.attach(get(path=SSE, last_event_id=seen))

        assert again.status == 404
        nursery.cancel_scope.cancel()


async def test_draining_ends_idle_streams_at_once_and_others_with_their_answers(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        waiting, idle, unopened = [Client(face, nursery) for _ in range(3)]
        await waiting.open()
        await idle.open()
        await unopened.attach()
        await waiting.post(request(1, "hold"))
        world.runtime.registry.drain()
        face.end_standalone_streams()
        await wait_all_tasks_blocked()
        assert (idle.stream.finished, unopened.stream.finished, waiting.stream.finished) == (True, True, False)
        world.upstream.links[0].answer(1, "in time")
        await wait_all_tasks_blocked()
        assert waiting.results[-1] == "in time"
        refused = get(path=SSE)
        await face.handle(refused, ANONYMOUS)

        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        nursery.cancel_scope.cancel()


async def test_extra_headers_are_on_every_answer(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        accepted = post(request(1), path=client.endpoint)
        for exchange in (post({}, path=MESSAGES), get(path=f"{SSE}?session_id=x"), post({}, path=SSE), accepted):
            await client.face.handle(exchange, ANONYMOUS, ((b"vary", b"origin"),))
            assert exchange.headers["vary"] == "origin"
        nursery.cancel_scope.cancel()


async def test_session_that_was_interrupted_is_read_on_over_the_same_stream(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        actor = world.runtime.registry.residents()[0]
        actor.stop("interrupted")
        await trio.sleep(5.0)
        assert not client.stream.finished
        assert (await client.post(request(1))).status == 202

        assert len(client.results) == 2
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("gate_open_always", [False, True])
async def test_answer_that_was_shown_is_there_after_a_kill_and_without_the_gate_it_is_not(
    gate_open_always: bool, autojump_clock: MockClock
) -> None:
    """With the negative control: where the gate stands open, what was shown may be lost."""
    disk = MemoryStore()
    async with (
        open_world(disk=disk, commit_seconds=1.0, gate_open_always=gate_open_always) as world,
        trio.open_nursery() as nursery,
    ):
        client = Client(face_of(world), nursery)
        await client.attach()
        session_id = client.session_id
        await client.post(INITIALIZE)
        await trio.sleep(3.0)
        await client.attach(get(path=SSE, last_event_id=session_id))
        nursery.start_soon(client.post, request(1, params={"x": 1}))
        await trio.sleep(0.5 if gate_open_always else 1.5)  # a commit takes 1.0
        assert {"x": 1} in client.results
        world.kill()
        nursery.cancel_scope.cancel()
    async with open_world(disk=disk) as world, trio.open_nursery() as nursery:
        client = Client(face_of(world), nursery)
        await client.attach(get(path=SSE, last_event_id=session_id))
        await trio.sleep(1.0)

        assert ({"x": 1} in client.results) is not gate_open_always
        nursery.cancel_scope.cancel()


async def test_streams_end_with_the_credential_and_sessions_do_not(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        face = face_of(world)
        opening = get(path=SSE)
        nursery.start_soon(face.handle, opening, ANONYMOUS, (), trio.current_time() + 20.0)
        client = await Client(face, nursery).open()
        stream = client.stream
        again = get(path=f"{SSE}?session_id={client.session_id}")
        nursery.start_soon(face.handle, again, ANONYMOUS, (), trio.current_time() + 20.0)
        await trio.sleep(19.0)
        assert (stream.finished, opening.finished, again.finished) == (True, False, False)
        await trio.sleep(2.0)
        assert (opening.finished, again.finished) == (True, True)

        assert (await client.post(request(1))).status == 202
        nursery.cancel_scope.cancel()


# ---- credentials that expire ----


async def test_a_stream_ends_when_its_credential_expires_and_the_session_goes_on(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        client = await Client(face_of(world), nursery).open()
        seen = client.stream.frames[-1].id
        expiring = get(path=SSE, last_event_id=seen)
        nursery.start_soon(client.face.handle, expiring, ANONYMOUS, (), trio.current_time() + 50.0)
        await trio.sleep(49.0)
        assert not expiring.finished
        await trio.sleep(2.0)
        assert [expiring.finished, expiring.status] == [True, 200]

        world.link.say("meanwhile")
        await trio.sleep(1.0)
        fresh = await client.attach(get(path=SSE, last_event_id=expiring.frames[-1].id))
        assert [frame.message["method"] for frame in fresh.frames if isinstance(frame.message, dict)] == ["meanwhile"]
        nursery.cancel_scope.cancel()


async def test_a_stream_over_which_nothing_was_opened_ends_with_its_credential_too(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        expiring = get(path=SSE)
        await face_of(world).handle(expiring, ANONYMOUS, (), trio.current_time() + 5.0)
        assert [expiring.finished, trio.current_time() >= 5.0] == [True, True]
