"""Requests that carry a token: over every transport, waiting where there is none, asked again once where it is refused.

Method: real sockets on the loopback, an authorization server without a network, and a clock that moves when it is told.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.link import ConnectFailed, Failure, Link
from tests.transport.modern_messages import call, parsed
from tests.transport.upstreams.bed import ANSWER, CALL, INITIALIZE, TICKET, handshake, initialize_result, new_session
from tests.transport.upstreams.collecting import collected
from tests.transport.upstreams.recording_inbox import Entry, Received, RecordingInbox, Refused
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from tests.transport.upstreams.test_websocket import Server as SocketServer
from tests.transport.upstreams.test_websocket import echo, serving
from tests.transport.upstreams.token_server import TokenServer, client
from transport.upstreams.authorized_pool import WAITING_MAX, AuthorizedPool
from transport.upstreams.breaker import Breaker
from transport.upstreams.client_credentials import ClientCredentials
from transport.upstreams.era import EraUnknown
from transport.upstreams.http_fallback import HttpConnector
from transport.upstreams.http_pool import HttpPool, RequestFailed
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.legacy_sse import LegacySseConnector
from transport.upstreams.stateless import Answer, NoAnswer
from transport.upstreams.stateless_http import StatelessHttp
from transport.upstreams.streamable_http import StreamableHttpConnector
from transport.upstreams.token_requests import TokenRequests
from transport.upstreams.websocket import WebSocketConnector

DISCOVERED = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}
LATER_SECONDS = 10.0  # after this a token is not fresh any more, and is good for long


@attrs.define
class Door:
    """A server of all HTTP transports that lets in whoever has one of its tokens."""

    lets_in: set[str] = attrs.field(factory=lambda: {f"Bearer token-{number}" for number in range(1, 9)})
    seen: list[tuple[str, str]] = attrs.field(factory=list)  # method of HTTP or of the message, and the credentials
    stream: Caller | None = None  # of HTTP+SSE

    async def __call__(self, request: SeenRequest, caller: Caller) -> None:
        message = json.loads(request.body or b"{}")
        credentials = request.headers.get("authorization", "")
        self.seen.append((message.get("method", request.method), credentials))
        assert request.raw_head.lower().count(b"authorization:") == 1
        if credentials not in self.lets_in:
            await caller.answer(401, f"who is {credentials}".encode(), {"Content-Type": "text/plain"})
        elif request.path.startswith("/sse"):
            await self._speak_sse(request, caller, message)
        elif request.method == "DELETE":
            await caller.answer(200)
        elif message.get("method") == "initialize":
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-1"})
        elif "id" in message:
            result = DISCOVERED if message["method"] == "server/discover" else {"content": []}
            await caller.answer(200, jsonrpc.result(message["id"], result).raw)
        else:
            await caller.answer(202)

    async def _speak_sse(self, request: SeenRequest, caller: Caller, message: dict[str, object]) -> None:
        if request.method == "GET":
            self.stream = caller
            await caller.open_stream()
            await caller.chunk(b"event: endpoint\ndata: /sse/messages\n\n")
            return
        if self.stream is None:
            await caller.answer(405)
            return
        await caller.answer(202)
        if "id" in message:
            await self.stream.event(ANSWER.raw if message["id"] == 1 else initialize_result().raw)

    def credentials(self) -> list[str]:
        return [credentials for _, credentials in self.seen]


@attrs.frozen
class Bed:
    door: Door
    tokens: TokenServer
    pool: HttpPool
    carrier: AuthorizedPool
    upstream: ScriptedUpstream
    inbox: RecordingInbox
    told: list[str]

    @property
    def target(self) -> HttpTarget:
        return HttpTarget.parse(self.upstream.url)

    @property
    def streamable(self) -> StreamableHttpConnector:
        return StreamableHttpConnector(self.carrier, self.target)

    @property
    def sse_url(self) -> str:
        return self.upstream.url.replace("/mcp", "/sse")

    async def open_session(self) -> Link:
        link = await self.streamable(new_session(), self.inbox)
        link.send(INITIALIZE, 1)
        assert isinstance(await self.inbox.wait(), Received)
        return link


@asynccontextmanager
async def bed(tokens: TokenServer | None = None) -> AsyncIterator[Bed]:
    door, tokens, told = Door(), tokens or TokenServer(lasts_seconds=1000), list[str]()
    async with trio.open_nursery() as nursery:
        upstream = ScriptedUpstream(door)
        await nursery.start(upstream.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        requests = TokenRequests("wiki", client(), tokens)
        authorization = ClientCredentials(requests, pool.start_soon, server="wiki", told=told.append)
        inbox = RecordingInbox(nursery, patience_seconds=600)
        yield Bed(door, tokens, pool, AuthorizedPool(pool, authorization), upstream, inbox, told)
        nursery.cancel_scope.cancel()


def answered(entry: Entry) -> bool:
    return isinstance(entry, Received) and entry.message.raw == ANSWER.raw


# ---- over every transport ----


async def test_every_request_over_streamable_http_carries_the_token(mock_clock: MockClock) -> None:
    async with bed() as it:
        link = await it.open_session()
        link.send(CALL, TICKET)
        assert answered(await it.inbox.wait())
        link.listen()
        link.cancel(1, "no more")
        await wait_all_tasks_blocked(0.01)
        link.close(end_session=True)
        await wait_all_tasks_blocked(0.01)
        assert set(it.door.credentials()) == {"Bearer token-1"}
        methods = {method for method, _ in it.door.seen}
        assert methods >= {"initialize", "tools/call", "GET", "notifications/cancelled", "DELETE"}
        assert len(it.tokens.forms) == 1


async def test_so_does_a_session_that_is_resumed_or_ended_without_a_link(mock_clock: MockClock) -> None:
    async with bed() as it:
        session = new_session(handshake=handshake())
        link = await it.streamable(session, it.inbox)
        assert link.established.resumed
        assert await it.streamable.end_session(session)
        assert it.door.seen == [("ping", "Bearer token-1"), ("DELETE", "Bearer token-1")]


async def test_and_over_http_and_sse(mock_clock: MockClock) -> None:
    async with bed() as it:
        link = await LegacySseConnector(it.carrier, it.sse_url)(new_session(), it.inbox)
        link.send(CALL, TICKET)
        assert answered(await it.inbox.wait())
        assert it.door.seen == [("GET", "Bearer token-1"), ("tools/call", "Bearer token-1")]


async def test_and_where_it_is_found_out_which_of_the_two_it_is(mock_clock: MockClock) -> None:
    async with bed() as it:
        url = it.sse_url
        connector = HttpConnector(
            StreamableHttpConnector(it.carrier, HttpTarget.parse(url)), LegacySseConnector(it.carrier, url)
        )
        link = await connector(new_session(), it.inbox)
        link.send(INITIALIZE, 1)
        assert isinstance(await it.inbox.wait(), Received)
        assert it.door.seen == [(method, "Bearer token-1") for method in ("initialize", "GET", "initialize")]


async def test_and_over_websocket(mock_clock: MockClock) -> None:
    async with bed() as it, serving(echo) as server:
        await opened_socket(it, server)
        assert [head["authorization"] for head in server.heads] == ["Bearer token-1"]


async def opened_socket(it: Bed, server: SocketServer) -> Link:
    authorization = ClientCredentials(
        TokenRequests("wiki", client(), it.tokens), it.pool.start_soon, server="wiki", told=it.told.append
    )
    await authorization.of_request().obtain()
    trio.lowlevel.current_clock().jump(LATER_SECONDS)  # type: ignore[attr-defined]  # the test's clock
    return await WebSocketConnector(server.url, authorization=authorization)(new_session(), it.inbox)


async def test_a_websocket_is_asked_for_once_more_with_another_token(mock_clock: MockClock) -> None:
    async with bed() as it, serving(echo, reject=401) as server:
        with pytest.raises(ConnectFailed, match="refuses the gateway's credentials"):
            await opened_socket(it, server)
        assert [head["authorization"] for head in server.heads] == ["Bearer token-1", "Bearer token-2"]
        server.reject = 0
        await opened_socket(it, server)


async def test_and_without_a_session(mock_clock: MockClock) -> None:
    async with bed() as it:
        upstream = StatelessHttp(it.carrier, it.target)
        assert (await upstream.era.find()).value == "modern"
        _, end = await collected(await upstream.send(parsed(call())))
        assert isinstance(end, Answer)
        assert it.door.seen == [("server/discover", "Bearer token-1"), ("tools/call", "Bearer token-1")]


# ---- a token that the server refuses ----


async def test_a_call_that_was_refused_is_sent_once_more_with_another_token(mock_clock: MockClock) -> None:
    async with bed() as it:
        link = await it.open_session()
        it.door.lets_in = {"Bearer token-2"}
        mock_clock.jump(LATER_SECONDS)
        for ticket in (7, 8, 9):
            link.send(CALL, ticket)
        for _ in range(3):
            assert answered(await it.inbox.wait())
        calls = [credentials for method, credentials in it.door.seen if method == "tools/call"]
        assert sorted(calls) == ["Bearer token-1"] * 3 + ["Bearer token-2"] * 3
        assert len(it.tokens.forms) == 2


async def test_and_then_the_answer_is_what_it_always_was(mock_clock: MockClock) -> None:
    """Twice refused: told, with nothing of the token in it, and health says so."""
    async with bed() as it:
        link = await it.open_session()
        it.door.lets_in = set()
        mock_clock.jump(LATER_SECONDS)
        link.send(CALL, TICKET)
        entry = await it.inbox.wait()
        assert isinstance(entry, Refused)
        assert (entry.failure, entry.detail) == (Failure.REFUSED, "HTTP 401: who is Bearer <hidden>")
        assert it.door.credentials()[-2:] == ["Bearer token-1", "Bearer token-2"]


async def test_control_a_quoted_page_would_repeat_the_token(mock_clock: MockClock) -> None:
    async with bed() as it:
        link = await it.open_session()
        link._target = it.target  # type: ignore[attr-defined]  # which does not know what it is shown
        it.door.lets_in = set()
        mock_clock.jump(LATER_SECONDS)
        link.send(CALL, TICKET)
        entry = await it.inbox.wait()
        assert isinstance(entry, Refused)
        assert "Bearer token-2" in entry.detail


async def test_a_token_that_is_refused_when_it_is_new_is_not_replaced(mock_clock: MockClock) -> None:
    async with bed() as it:
        it.door.lets_in = set()
        link = await it.streamable(new_session(), it.inbox)
        link.send(INITIALIZE, TICKET)
        assert isinstance(await it.inbox.wait(), Refused)
        assert len(it.tokens.forms) == 1
        assert len(it.door.seen) == 1


async def test_a_session_is_looked_for_with_another_token_as_well(mock_clock: MockClock) -> None:
    async with bed() as it:
        await it.carrier.prepare()
        it.door.lets_in = {"Bearer token-2"}
        mock_clock.jump(LATER_SECONDS)
        link = await it.streamable(new_session(handshake=handshake()), it.inbox)
        assert link.established.resumed
        assert it.door.credentials() == ["Bearer token-1", "Bearer token-2"]


async def test_so_is_what_goes_over_http_and_sse(mock_clock: MockClock) -> None:
    async with bed() as it:
        await it.carrier.prepare()
        it.door.lets_in = {"Bearer token-2"}
        mock_clock.jump(LATER_SECONDS)
        link = await LegacySseConnector(it.carrier, it.sse_url)(new_session(), it.inbox)
        it.door.lets_in = {"Bearer token-3"}
        mock_clock.jump(LATER_SECONDS)
        link.send(CALL, TICKET)
        assert answered(await it.inbox.wait())
        assert it.door.seen == [
            *[("GET", "Bearer token-1"), ("GET", "Bearer token-2")],
            *[("tools/call", "Bearer token-2"), ("tools/call", "Bearer token-3")],
        ]


async def test_and_what_belongs_to_no_session(mock_clock: MockClock) -> None:
    async with bed() as it:
        await it.carrier.prepare()
        it.door.lets_in = {"Bearer token-2"}
        mock_clock.jump(LATER_SECONDS)
        _, end = await collected(await StatelessHttp(it.carrier, it.target).send(parsed(call())))
        assert isinstance(end, Answer)
        assert it.door.credentials() == ["Bearer token-1", "Bearer token-2"]


# ---- no token ----


async def test_what_waits_for_a_token_leaves_in_order(mock_clock: MockClock) -> None:
    come = trio.Event()
    async with bed(TokenServer(before_answer=come.wait)) as it:
        link = await it.streamable(new_session(handshake=handshake(upstream_session_id="")), it.inbox)
        for ticket in range(10):
            link.send(jsonrpc.notification(f"notifications/{ticket}"), ticket)
        await wait_all_tasks_blocked()
        assert it.door.seen == []
        come.set()
        for _ in range(10):
            await it.inbox.wait()
        assert len(it.tokens.forms) == 1
        assert {method for method, _ in it.door.seen} == {f"notifications/{ticket}" for ticket in range(10)}


async def test_what_waits_is_bounded(mock_clock: MockClock) -> None:
    never = trio.Event()
    async with bed(TokenServer(before_answer=never.wait)) as it:
        link = await it.streamable(new_session(handshake=handshake(upstream_session_id="")), it.inbox)
        for ticket in range(WAITING_MAX + 1):
            link.send(jsonrpc.notification("notifications/x"), ticket)
        entry = await it.inbox.wait()
        assert isinstance(entry, Refused)
        assert (entry.ticket, entry.failure) == (WAITING_MAX, Failure.NOT_SENT)
        assert f"{WAITING_MAX} requests already wait for a token" in entry.detail


async def test_what_was_given_up_meanwhile_is_not_sent(mock_clock: MockClock) -> None:
    come = trio.Event()
    async with bed(TokenServer(before_answer=come.wait)) as it:
        link = await it.streamable(new_session(), it.inbox)
        link.send(INITIALIZE, TICKET)
        await wait_all_tasks_blocked()
        link.close(end_session=False)
        come.set()
        await wait_all_tasks_blocked(0.01)
        assert it.door.seen == []


@pytest.mark.parametrize(
    ("tokens", "failure", "why"),
    [
        (TokenServer(is_away=True), Failure.NOT_SENT, "cannot be asked"),
        (TokenServer(refusal=(401, {"error": "invalid_client"})), Failure.REFUSED, "(invalid_client): look at"),
    ],
)
async def test_without_a_token_nothing_is_sent_and_it_is_said_why(
    tokens: TokenServer, failure: Failure, why: str, mock_clock: MockClock
) -> None:
    async with bed(tokens) as it:
        link = await it.streamable(new_session(), it.inbox)
        link.send(INITIALIZE, TICKET)
        entry = await it.inbox.wait()
        assert isinstance(entry, Refused)
        assert entry.failure is failure
        assert why in entry.detail
        with pytest.raises(ConnectFailed) as failed:
            await it.streamable(new_session(handshake=handshake()), it.inbox)
        assert why in str(failed.value)
        with pytest.raises(ConnectFailed):
            await LegacySseConnector(it.carrier, it.sse_url)(new_session(), it.inbox)
        with pytest.raises(RequestFailed):
            await it.carrier.prepare()
        assert it.door.seen == []
        assert why in it.told[-1]


async def test_without_a_token_nothing_is_learned_of_a_server_s_era(mock_clock: MockClock) -> None:
    async with bed(TokenServer(refusal=(401, {"error": "invalid_client"}))) as it:
        upstream = StatelessHttp(it.carrier, it.target)
        with pytest.raises(EraUnknown, match="invalid_client"):
            await upstream.era.find()
        _, end = await collected(await upstream.send(parsed(call())))
        assert isinstance(end, NoAnswer)
        assert end.failure is Failure.REFUSED


async def test_health_tells_of_a_missing_token_and_forgets_it_with_the_next(mock_clock: MockClock) -> None:
    breaker = Breaker()
    breaker.credentials_missing("no token: look at client_id")
    assert breaker.health.refuses_credentials
    assert breaker.is_closed
    assert breaker.health.last_error == "no token: look at client_id"
    breaker.credentials_accepted()
    assert not breaker.health.refuses_credentials


async def test_a_pool_that_does_not_run_fails_what_waits() -> None:
    pool = HttpPool()
    authorization = ClientCredentials(TokenRequests("wiki", client(), TokenServer()), pool.start_soon, server="wiki")
    with pytest.raises(RequestFailed, match="stopping"):
        await AuthorizedPool(pool, authorization).prepare()
