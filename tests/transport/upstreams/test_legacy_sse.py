"""The link over HTTP+SSE, and the way to it from an http URL, against an upstream that follows a script.

Method: real sockets on the loopback, since the pool writes to them; waiting is for what the other side does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import pytest
import trio

from actors import jsonrpc
from actors.jsonrpc import Message
from actors.link import About, ConnectFailed, ConnectRejected, Failure, Link, LinkLost
from actors.state import Ask
from tests.transport.serving import until
from tests.transport.upstreams.bed import ANSWER, CALL, INITIALIZE, TICKET, handshake, initialize_result, new_session
from tests.transport.upstreams.recording_inbox import Delivered, Lost, Received, RecordingInbox, Refused
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from transport.upstreams.http_fallback import HttpConnector
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.legacy_sse import LegacySseConnector, NoEndpoint, is_sse_name
from transport.upstreams.streamable_http import StreamableHttpConnector

NOTE = jsonrpc.notification("notifications/x")
Posted = Callable[[SeenRequest, Caller], Awaitable[None]]


@attrs.define
class SseServer:
    """A server of 2024-11-05: a script. What is posted is accepted, and answered on the stream."""

    endpoint: bytes = b"/messages?session_id=up-1"
    first: bytes = b""  # said in place of the endpoint event
    get_status: int = 200
    post_statuses: dict[str, tuple[int, bytes]] = attrs.field(factory=dict)  # by method
    sse_post: tuple[int, bytes] = (405, b"")  # what a POST to the stream's own path is answered with
    offers: Mapping[str, Any] = attrs.field(factory=dict)
    silent: bool = False  # accepts requests and answers nothing
    streams: list[Caller] = attrs.field(factory=list)
    posted: list[Message] = attrs.field(factory=list)

    async def script(self, request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await self._stream(caller)
        elif not request.path.startswith("/messages"):
            await caller.answer(*self.sse_post)
        else:
            await self._take(jsonrpc.parse(request.body), caller)

    async def _stream(self, caller: Caller) -> None:
        if self.get_status != 200:
            await caller.answer(self.get_status, b"no")
            return
        await caller.open_stream()
        await caller.chunk(self.first or b"event: endpoint\r\ndata: " + self.endpoint + b"\r\n\r\n")
        self.streams.append(caller)
        await caller.wait_closed_by_peer()
        caller.closed = True

    async def _take(self, message: Message, caller: Caller) -> None:
        status, body = self.post_statuses.get(message.method, (202, b"Accepted"))
        if status == 202:
            self.posted.append(message)
        await caller.answer(status, body)
        if status == 202 and message.kind is jsonrpc.Kind.REQUEST and not self.silent:
            assert message.id is not None
            opens = message.method == "initialize"
            await self.say(initialize_result(self.offers, id=message.id) if opens else jsonrpc.result(message.id, {}))

    async def stream(self) -> Caller:
        """Give the newest stream, once its endpoint is said: that it was read does not mean that it was all written."""
        await until(lambda: bool(self.streams))
        return self.streams[-1]

    async def say(self, message: Message) -> None:
        await (await self.stream()).chunk(b"event: message\r\ndata: " + message.raw + b"\r\n\r\n")

    @property
    def methods(self) -> list[str]:
        return [message.method for message in self.posted]


@attrs.frozen
class Bed:
    server: SseServer
    upstream: ScriptedUpstream
    inbox: RecordingInbox
    sse: LegacySseConnector
    either: HttpConnector

    async def open(self, **facts: Any) -> Link:
        return await self.sse(new_session(**facts), self.inbox)

    async def open_session(self) -> Link:
        link = await self.open()
        link.send(INITIALIZE, 1)
        assert isinstance(await self.inbox.wait(), Received)
        return link


@asynccontextmanager
async def bed(server: SseServer, **limits: Any) -> AsyncIterator[Bed]:
    async with trio.open_nursery() as nursery:
        upstream = ScriptedUpstream(server.script)
        await nursery.start(upstream.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        inbox = RecordingInbox(nursery)
        bounds = HttpLimits(**{"probe_seconds_max": 5.0, **limits})
        sse = LegacySseConnector(pool, upstream.url, {"X-Key": "k"}, bounds)
        streamable = StreamableHttpConnector(pool, HttpTarget.parse(upstream.url), {"X-Key": "k"}, bounds)
        yield Bed(server, upstream, inbox, sse, HttpConnector(streamable, sse))
        nursery.cancel_scope.cancel()


async def test_messages_go_to_the_endpoint_and_answers_come_by_the_stream() -> None:
    async with bed(SseServer()) as test:
        link = await test.open()
        link.send(INITIALIZE, 1)
        assert await test.inbox.wait() == Received(initialize_result(), 0)
        link.send(NOTE, 2)
        assert await test.inbox.wait() == Delivered(2)
        post = test.upstream.requests[-1]

        assert (post.path, post.body) == ("/messages?session_id=up-1", NOTE.raw)
        assert post.headers["x-key"] == "k"
        assert test.upstream.requests[0].headers["accept"] == "text/event-stream"
        assert is_sse_name(link.established.upstream_session_id)
        assert not link.resumable


async def test_endpoint_may_be_relative_to_the_stream() -> None:
    async with bed(SseServer(endpoint=b"messages?x=1")) as test:
        link = await test.open_session()

        assert link.established.upstream_session_id == "sse /messages?x=1"


@pytest.mark.parametrize(
    "endpoint", [b"http://elsewhere.example/messages", b"//elsewhere.example/messages", b"https://127.0.0.1/messages"]
)
async def test_endpoint_of_another_origin_is_refused(endpoint: bytes) -> None:
    async with bed(SseServer(endpoint=endpoint)) as test:
        with pytest.raises(ConnectFailed, match="another origin"):
            await test.open()


async def test_control_whole_url_of_the_same_origin_is_taken() -> None:
    """The control of the one above: it is the origin that counts, not the form."""
    async with bed(SseServer()) as test:
        test.server.endpoint = test.upstream.url.replace("/mcp", "/messages?y=2").encode()
        link = await test.open_session()

        assert link.established.upstream_session_id == "sse /messages?y=2"


@pytest.mark.parametrize("endpoint", [b"/\xff", b"/a b", b"/" + b"x" * 5000, b"http://[::1"])
async def test_endpoint_that_is_no_url_is_refused(endpoint: bytes) -> None:
    async with bed(SseServer(endpoint=endpoint)) as test:
        with pytest.raises(ConnectFailed, match="cannot be used"):
            await test.open()


@pytest.mark.parametrize("status", [404, 405, 400, 204])
async def test_upstream_without_a_stream_offers_no_endpoint(status: int) -> None:
    async with bed(SseServer(get_status=status)) as test:
        with pytest.raises(NoEndpoint):
            await test.open()


async def test_stream_that_begins_with_something_else_offers_no_endpoint() -> None:
    async with bed(SseServer(first=b"data: {}\n\n")) as test:
        with pytest.raises(NoEndpoint):
            await test.open()


async def test_upstream_that_names_no_endpoint_in_time_is_tried_later() -> None:
    async with bed(SseServer(first=b": wait\n\n"), probe_seconds_max=0.05) as test:
        with pytest.raises(ConnectFailed, match="no endpoint within"):
            await test.open()


async def test_overloaded_upstream_is_tried_later_and_so_is_one_that_refuses_our_credentials() -> None:
    async with bed(SseServer(get_status=503)) as test:
        with pytest.raises(ConnectFailed) as failed:
            await test.open()
        assert not isinstance(failed.value, NoEndpoint)
        test.server.get_status = 401
        with pytest.raises(ConnectFailed, match="401") as refused:
            await test.open()
        assert not isinstance(refused.value, NoEndpoint)
        assert test.inbox.entries == [], "a link that never was cannot be lost"


async def test_upstream_that_is_not_there_is_tried_later() -> None:
    async with bed(SseServer()) as test:
        gone = attrs.evolve(test.sse, url="http://127.0.0.1:1/sse")
        with pytest.raises(ConnectFailed, match="no connection"):
            await gone(new_session(), test.inbox)
        assert test.inbox.entries == []


async def test_progress_belongs_to_its_request_and_other_messages_to_nobody() -> None:
    async with bed(SseServer(silent=True)) as test:
        link = await test.open()
        call = jsonrpc.request(1, "tools/call", {"name": "x", "_meta": {"progressToken": "t"}})
        link.send(call, TICKET)
        await until(lambda: bool(test.server.posted))
        progress = jsonrpc.notification("notifications/progress", {"progressToken": "t", "progress": 1})
        question = jsonrpc.request("q", "sampling/createMessage")
        for message in (progress, question, ANSWER, ANSWER):
            await test.server.say(message)

        assert [await test.inbox.wait() for _ in range(3)] == [
            Received(progress, 1),
            Received(question, About.UNKNOWN),
            Received(ANSWER, 1),
        ]


async def test_lost_stream_is_a_lost_session() -> None:
    async with bed(SseServer(silent=True)) as test:
        link = await test.open()
        link.send(CALL, TICKET)
        await until(lambda: bool(test.server.posted))
        await (await test.server.stream()).reset()
        lost = await test.inbox.wait()

        assert isinstance(lost, Lost)
        with pytest.raises(LinkLost):
            link.send(CALL, TICKET)


async def test_malformed_messages_and_stray_answers_are_counted_and_left_out() -> None:
    async with bed(SseServer()) as test:
        link = await test.sse(new_session(), test.inbox)
        stream = await test.server.stream()
        for raw in (b"{", b"[1]", b'{"jsonrpc":"2.0","id":9,"result":{}}'):
            await stream.chunk(b"event: message\ndata: " + raw + b"\n\n")
        await test.server.say(NOTE)
        assert await test.inbox.wait() == Received(NOTE, About.UNKNOWN)

        assert (link.statistics().malformed, link.statistics().stray) == (2, 1)


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (404, b"Could not find session", Failure.SESSION_LOST),
        (400, b"Invalid session ID", Failure.SESSION_LOST),
        (503, b"", Failure.NOT_SENT),
        (502, b"", Failure.OUTCOME_UNKNOWN),
        (403, b"", Failure.REFUSED),
        (413, b"too large", Failure.REFUSED),
    ],
)
async def test_post_that_is_not_accepted_says_what_may_be_done(status: int, body: bytes, failure: Failure) -> None:
    async with bed(SseServer(post_statuses={"tools/call": (status, body), NOTE.method: (status, body)})) as test:
        link = await test.open_session()
        link.send(CALL, TICKET)
        link.send(NOTE, TICKET + 1)
        refusals = [await test.inbox.wait() for _ in range(2)]

        assert {(one.ticket, one.failure) for one in refusals if isinstance(one, Refused)} == {
            (TICKET, failure),
            (TICKET + 1, failure),
        }


async def test_error_in_the_body_of_a_refusal_is_the_answer() -> None:
    error = jsonrpc.error(1, -32602, "no such tool")
    async with bed(SseServer(post_statuses={"tools/call": (400, error.raw)})) as test:
        link = await test.open_session()
        link.send(CALL, TICKET)

        assert await test.inbox.wait() == Received(error, 1)


async def test_cancelling_is_a_notification() -> None:
    async with bed(SseServer(silent=True)) as test:
        link = await test.open()
        link.send(CALL, TICKET)
        link.cancel(1, "not wanted")
        await until(lambda: "notifications/cancelled" in test.server.methods)


async def test_closing_ends_the_stream() -> None:
    async with bed(SseServer()) as test:
        link = await test.open_session()
        entries = len(test.inbox.entries)
        link.close(end_session=False)
        stream = await test.server.stream()
        await until(lambda: stream.closed)

        assert len(test.inbox.entries) == entries, "a link that is closed is not lost"
        with pytest.raises(LinkLost):
            link.send(NOTE, 1)


# ---- opening a session again ----


async def test_session_is_initialized_again_with_its_setup() -> None:
    offers = {"tools": {"listChanged": True}}
    level = jsonrpc.request(5, "logging/setLevel", {"level": "debug"})
    async with bed(SseServer(offers=offers)) as test:
        link = await test.open(
            opened=True,
            handshake=handshake(upstream_session_id="sse /messages?session_id=old", capabilities=offers),
            setup={"logging/setLevel": level.raw},
            asks={"q": Ask("q", "q", "sampling/createMessage", 0)},
        )

        assert test.server.methods == ["initialize", "notifications/initialized", "logging/setLevel"]
        established = link.established
        assert (established.resumed, established.upstream_session_id) == (False, "sse /messages?session_id=up-1")
        assert [message.method for message in established.announcements] == [
            "notifications/cancelled",
            "notifications/tools/list_changed",
        ]
        link.send(CALL, TICKET)
        assert await test.inbox.wait() == Received(jsonrpc.result(1, {}), 1)


async def test_upstream_that_offers_less_than_before_is_refused_and_left() -> None:
    async with bed(SseServer()) as test:
        with pytest.raises(ConnectRejected, match="offers less"):
            await test.open(opened=True, handshake=handshake(capabilities={"tools": {}}))
        stream = await test.server.stream()
        await until(lambda: stream.closed)


async def test_stream_lost_while_it_is_initialized_again_is_tried_later() -> None:
    server = SseServer(silent=True)

    async def lose(request: SeenRequest, caller: Caller) -> None:
        if request.method == "POST":
            await (await server.stream()).reset()
        await server.script(request, caller)

    async with bed(server) as test:
        test.upstream.script = lose
        with pytest.raises(ConnectFailed):
            await test.open(opened=True, handshake=handshake())
        assert test.inbox.entries == []


# ---- an http URL, whichever transport is behind it ----


async def first_answer(test: Bed) -> Link:
    link = await test.either(new_session(), test.inbox)
    link.send(INITIALIZE, TICKET)
    assert await test.inbox.wait() == Received(initialize_result(), 0)
    return link


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_upstream_that_declines_the_handshake_and_offers_an_endpoint_speaks_http_sse(status: int) -> None:
    async with bed(SseServer(sse_post=(status, b"not here"))) as test:
        link = await first_answer(test)
        assert [request.method for request in test.upstream.requests] == ["POST", "GET", "POST"]
        assert is_sse_name(link.established.upstream_session_id)
        link.send(CALL, TICKET)
        assert await test.inbox.wait() == Received(jsonrpc.result(1, {}), 1)


async def test_it_is_remembered_for_the_upstream() -> None:
    async with bed(SseServer()) as test:
        await first_answer(test)
        before = len(test.upstream.requests)
        await first_answer(test)

        assert [request.method for request in test.upstream.requests[before:]] == ["GET", "POST"]


async def test_it_is_remembered_with_the_session_when_we_were_restarted() -> None:
    async with bed(SseServer()) as test:
        kept = handshake(upstream_session_id="sse /messages?session_id=old")
        link = await test.either(new_session(opened=True, handshake=kept), test.inbox)

        assert test.server.methods == ["initialize", "notifications/initialized"]
        assert not link.established.resumed


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_upstream_that_declines_and_offers_no_endpoint_has_declined(status: int) -> None:
    error = jsonrpc.error(0, -32602, "unsupported version")
    async with bed(SseServer(sse_post=(status, error.raw), get_status=405)) as test:
        link = await test.either(new_session(), test.inbox)
        link.send(INITIALIZE, TICKET)

        assert await test.inbox.wait() == Received(error, 0)


async def test_other_refusals_are_not_asked_about() -> None:
    async with bed(SseServer(sse_post=(500, b"broken"))) as test:
        link = await test.either(new_session(), test.inbox)
        link.send(INITIALIZE, TICKET)
        refused = await test.inbox.wait()

        assert isinstance(refused, Refused)
        assert [request.method for request in test.upstream.requests] == ["POST"]


async def test_upstream_that_has_learned_streamable_http_is_spoken_to_so_again() -> None:
    async with bed(SseServer()) as test:
        await first_answer(test)
        test.server.get_status = 405
        test.server.sse_post = 200, initialize_result().raw
        link = await first_answer(test)
        assert not is_sse_name(link.established.upstream_session_id)

        async def streamable(request: SeenRequest, caller: Caller) -> None:
            if request.method != "POST":
                await caller.answer(405)
            elif b'"id"' in request.body:
                id = msgspec.json.decode(request.body)["id"]
                await caller.answer(200, initialize_result(id=id).raw, {"Mcp-Session-Id": "up-2"})
            else:
                await caller.answer(202)

        test.upstream.script = streamable
        kept = handshake(upstream_session_id="sse /messages?session_id=old")
        again = await test.either(new_session(opened=True, handshake=kept), test.inbox)
        assert again.established.upstream_session_id == "up-2"


@pytest.mark.parametrize("silence_seconds_max", [None, 0.05])
async def test_silent_stream_is_kept_and_with_a_limit_it_would_not_be(silence_seconds_max: float | None) -> None:
    """With the control: the limit that other streams have would end the session of a server that says nothing."""
    bounds = {} if silence_seconds_max is None else {"sse_silence_seconds_max": silence_seconds_max}
    async with bed(SseServer(), **bounds) as test:
        link = await test.open_session()
        stream = await test.server.stream()
        assert link.established.upstream_session_id
        if silence_seconds_max is None:
            assert attrs.fields(HttpLimits).sse_silence_seconds_max.default == float("inf")
            await test.server.say(NOTE)
            assert await test.inbox.wait() == Received(NOTE, About.UNKNOWN)
        else:
            assert isinstance(await test.inbox.wait(), Lost)
            await until(lambda: stream.closed)
