"""The whole way, from a client's exchange to an upstream's socket: what of a request reaches the upstream, and under
which names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from actors.ids import ANONYMOUS, Principal
from actors.runtime import RuntimeOptions, open_runtime
from persistence.memory import MemoryStore
from tests.persistence.faulty import FaultyStore
from tests.transport.clients.test_streamable_http import request
from tests.transport.fake_exchange import FakeExchange, delete, get, post
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from transport import mcp
from transport.clients.streamable_http import StreamableHttp
from transport.revisions import HANDSHAKE_REVISIONS
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.streamable_http import StreamableHttpConnector

PARAMS = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"sampling": {"tools": {}}, "roots": {"listChanged": True}, "tasks": {"x": 2**60}, "vendor": None},
    "clientInfo": {"name": "c", "version": "1", "unheard-of": [1.0]},
}
OPENING = {"jsonrpc": "2.0", "id": "open", "method": "initialize", "params": PARAMS}
RESULT = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": True}, "experimental": {"y": {}}},
    "serverInfo": {"name": "u", "version": "1", "icons": []},
    "instructions": "none",
}


class Upstream(ScriptedUpstream):
    """A server with sessions, which it can be made to forget."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.session_id = "secret-of-the-upstream-1"
        self.redirects = False

    async def _answer(self, seen: SeenRequest, caller: Caller) -> None:
        message: dict[str, Any] = json.loads(seen.body) if seen.body else {}
        if self.redirects:
            await caller.answer(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
        elif message.get("method") == "initialize":
            answer = jsonrpc.result(message["id"], {**RESULT, "protocolVersion": message["params"]["protocolVersion"]})
            await caller.answer(200, answer.raw, {"Mcp-Session-Id": self.session_id})
        elif seen.session_id != self.session_id:
            await caller.answer(404, jsonrpc.error(None, -32001, "Session not found").raw)
        elif "id" in message:
            await caller.answer(200, jsonrpc.result(message["id"], {}).raw)
        else:
            await caller.answer(202)

    def forget(self) -> None:
        self.session_id = "secret-of-the-upstream-2"

    def messages(self, method: str) -> list[SeenRequest]:
        return [seen for seen in self.requests if seen.body and json.loads(seen.body).get("method") == method]


@attrs.frozen
class Way:
    """A client's face, and the upstream behind it."""

    face: StreamableHttp
    upstream: Upstream
    store: FaultyStore

    async def ask(self, exchange: FakeExchange, principal: Principal = ANONYMOUS) -> FakeExchange:
        await self.face.handle(exchange, principal)
        return exchange

    async def open(self, principal: Principal = ANONYMOUS, **changes: object) -> str:
        """Open a session; gives its id."""
        opening = {**OPENING, "params": {**PARAMS, **changes}}
        return (await self.ask(post(opening), principal)).headers["mcp-session-id"]


@asynccontextmanager
async def open_way(upstream: Upstream | None = None, disk: MemoryStore | None = None) -> AsyncIterator[Way]:
    async with trio.open_nursery() as nursery:
        if upstream is None:
            upstream = Upstream()
            await nursery.start(upstream.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        connector = StreamableHttpConnector(pool, HttpTarget.parse(upstream.url))
        options = RuntimeOptions(restore=False)
        store = FaultyStore(disk or MemoryStore())
        async with open_runtime(store, connect=connector, options=options) as runtime:
            yield Way(StreamableHttp(runtime, "linear", upstream_transport="streamable-http"), upstream, store)
        nursery.cancel_scope.cancel()


async def test_opening_and_its_answer_go_through_as_they_are() -> None:
    async with open_way() as way:
        exchange = await way.ask(post(OPENING))

        assert way.upstream.requests[0].body == json.dumps(OPENING).encode()
        assert exchange.json["result"] == RESULT
        assert exchange.json["id"] == "open"


@pytest.mark.parametrize("asked", ["2026-07-28", "2099-01-01", "1999-01-01", ""])
async def test_revision_that_the_gateway_does_not_carry_is_not_agreed_on(asked: str) -> None:
    async with open_way() as way:
        exchange = await way.ask(post({**OPENING, "params": {**PARAMS, "protocolVersion": asked}}))

        seen = json.loads(way.upstream.requests[0].body)
        assert seen == OPENING, "nothing else is changed"
        assert exchange.json["result"]["protocolVersion"] == "2025-11-25"


@pytest.mark.parametrize("revision", HANDSHAKE_REVISIONS)
async def test_revision_that_it_carries_is_for_the_upstream_to_choose(revision: str) -> None:
    async with open_way() as way:
        opening = {**OPENING, "params": {**PARAMS, "protocolVersion": revision}}
        exchange = await way.ask(post(opening))

        assert json.loads(way.upstream.requests[0].body) == opening
        assert exchange.json["result"]["protocolVersion"] == revision


@pytest.mark.parametrize("params", [None, [], {"protocolVersion": 5}, {"capabilities": {}}])
async def test_malformed_opening_is_for_the_upstream_to_refuse(params: object) -> None:
    raw = jsonrpc.request(1, "initialize", params).raw
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    found = mcp.classify_post(headers, raw)

    assert isinstance(found, mcp.Initialize)
    assert found.message.raw == raw


@pytest.mark.parametrize(
    "method",
    [
        *("tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "completion/complete", "resources/templates/list"),
        *("vendor/method", "", "rpc.x", "日本"),
    ],
)
async def test_any_method_goes_through_with_its_bytes(method: str) -> None:
    name = json.dumps(method, ensure_ascii=False)
    raw = f'{{ "id" : 1,"params": {{"task":{{"ttl":60000}},"_meta":{{}}}}, "method":{name},"jsonrpc":"2.0","x":1.0}}'
    async with open_way() as way:
        headers = {"mcp-session-id": await way.open()}
        exchange = await way.ask(FakeExchange("POST", body=raw.encode(), headers=headers))

        assert exchange.json["result"] == {}
        assert way.upstream.requests[-1].body == raw.encode()


async def test_no_header_of_the_client_reaches_the_upstream() -> None:
    secrets = {
        "authorization": "Bearer s3cret",
        "cookie": "s3cret=1",
        "x_forwarded_for": "s3cret",
        "forwarded": "for=s3cret",
        "x_anything": "s3cret",
        "accept_encoding": "gzip",
        "origin": "http://localhost",
        "connection": "x-anything",
    }
    async with open_way() as way:
        session_id = (await way.ask(post(OPENING, **secrets))).headers["mcp-session-id"]
        await way.ask(post(request(1), mcp_session_id=session_id, **secrets))

        assert len(way.upstream.requests) == 2
        for seen in way.upstream.requests:
            assert b"s3cret" not in seen.raw_head
            assert session_id.encode() not in seen.raw_head
            assert seen.headers["accept-encoding"] == "identity"
            assert seen.headers["host"] in way.upstream.url


async def test_no_id_of_the_upstream_reaches_the_client() -> None:
    async with open_way() as way:
        exchanges = [await way.ask(post(OPENING))]
        session_id = exchanges[0].headers["mcp-session-id"]
        exchanges.append(await way.ask(post(request(1), mcp_session_id=session_id)))
        assert way.upstream.requests[-1].session_id == way.upstream.session_id
        for exchange in exchanges:
            said = exchange.answer + repr(exchange.headers).encode()
            assert b"secret-of-the-upstream" not in said


async def test_redirect_is_not_followed() -> None:
    async with open_way() as way:
        session_id = await way.open()
        way.upstream.redirects = True
        exchange = await way.ask(post(request(1), mcp_session_id=session_id))

        assert "redirects are not followed" in exchange.json["error"]["message"]
        assert len(way.upstream.requests) == 2


async def test_new_id_of_a_re_opened_session_is_kept_across_a_kill(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with trio.open_nursery() as nursery:
        upstream = Upstream()
        await nursery.start(upstream.run)
        async with open_way(upstream, disk) as way:
            session_id = await way.open()
            upstream.forget()
            assert (await way.ask(post(request(1), mcp_session_id=session_id))).json["result"] == {}
            way.store.crash()
        async with open_way(upstream, disk) as way:
            assert (await way.ask(post(request(2), mcp_session_id=session_id))).json["result"] == {}
        assert len(upstream.messages("initialize")) == 2, "it is resumed, not opened a third time"
        nursery.cancel_scope.cancel()


async def test_session_of_another_principal_does_not_exist_for_any_verb() -> None:
    mine = Principal("https://issuer", "client", "me")
    others = [
        ANONYMOUS,
        attrs.evolve(mine, subject="you"),
        attrs.evolve(mine, client="other"),
        attrs.evolve(mine, issuer="https://other"),
    ]
    async with open_way() as way:
        session_id = await way.open(mine)
        headers = {"mcp_session_id": session_id, "mcp_protocol_version": "2025-03-26"}
        sent = len(way.upstream.requests)
        note = {"jsonrpc": "2.0", "method": "notifications/x"}
        for stranger in others:
            for exchange in (
                *(post(body, **headers) for body in (request(1), note, [request(1)], [note])),
                get(**headers),
                delete(**headers),
            ):
                unknown = post(request(1), mcp_session_id="unknown")
                assert (await way.ask(exchange, stranger)).status == 404
                await way.ask(unknown, stranger)
                assert exchange.json["error"] == unknown.json["error"], "as if there were none"
        assert len(way.upstream.requests) == sent
        assert (await way.ask(post(request(1), **headers), mine)).status == 200


class StalledExchange(FakeExchange):
    """A client that takes the head of a stream, and then no more."""

    async def send(self, chunk: bytes) -> None:
        await trio.sleep_forever()


async def test_client_that_does_not_read_stalls_neither_its_session_nor_others(autojump_clock: MockClock) -> None:
    async with open_way() as way, trio.open_nursery() as nursery:
        mine, other = await way.open(), await way.open()
        stalled = StalledExchange("GET", headers={"mcp-session-id": mine})
        nursery.start_soon(way.ask, stalled)
        await trio.sleep(1)
        assert stalled.is_stream
        for session_id in (mine, other):
            assert (await way.ask(post(request(1), mcp_session_id=session_id))).json["result"] == {}
        nursery.cancel_scope.cancel()
