"""Servers that refuse our credentials: what becomes of sessions, by whose credentials those are; and who is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from actors import jsonrpc
from actors.ids import SessionId
from actors.link import ConnectFailed, ConnectRejected
from actors.runtime import Runtime, RuntimeOptions, open_runtime
from actors.state import Limits
from outlast.health_report import CREDENTIALS_ADVICE, report
from outlast.probing import StoreProber
from outlast.targets import HttpTarget as HttpServer
from outlast.targets import SseTarget, Target
from outlast.upstreams import Upstreams
from outlast.vitals import Vitals
from outlast.watchdog import Watchdog
from tests.transport.fake_exchange import FakeExchange, delete, post
from tests.transport.upstreams.bed import ANSWER, CALL, TICKET, bed, handshake, initialize_result, new_session
from tests.transport.upstreams.recording_inbox import RecordingInbox
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from transport import guard
from transport.gateway import Gateway
from transport.modern import ModernRequest
from transport.upstreams.breaker import Breaker
from transport.upstreams.credentials import Credentials, CredentialsRefused
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.stateless_http import StatelessHttp

OPENING = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
}
ASK = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@attrs.define
class Door:
    """The script of a server that lets its callers in, or not."""

    status: int = 0  # 0: it lets them in
    forgets: bool = False  # it knows no session that it opened

    async def __call__(self, request: SeenRequest, caller: Caller) -> None:
        message = json.loads(request.body or b"{}")
        if self.status:
            await caller.answer(self.status, b"who are you", {"Content-Type": "text/plain"})
        elif request.method == "DELETE":
            await caller.answer(200)
        elif message.get("method") == "initialize":
            result = json.loads(initialize_result({}).raw)["result"]
            await caller.answer(200, jsonrpc.result(message["id"], result).raw, {"Mcp-Session-Id": "up-1"})
        elif self.forgets:
            await caller.answer(404, jsonrpc.error(None, -32600, "Session not found").raw)
        else:
            await caller.answer(200, jsonrpc.result(message["id"], {}).raw) if "id" in message else (
                await caller.answer(202)
            )


@attrs.frozen
class Guarded:
    """A gateway in front of such a server."""

    door: Door
    runtime: Runtime
    upstreams: Upstreams
    gateway: Gateway

    async def ask(self, exchange: FakeExchange) -> FakeExchange:
        await self.gateway(exchange)
        return exchange

    async def open(self) -> str:
        return (await self.ask(post(OPENING))).headers["mcp-session-id"]

    async def at_rest(self, session_id: str) -> None:
        """Have the session leave memory, so that its next use opens a link."""
        actor = self.runtime.registry.resident(SessionId(session_id))
        if actor is not None:
            actor.stop("at rest")
        while self.runtime.registry.resident(SessionId(session_id)) is not None:
            await trio.lowlevel.checkpoint()

    def vitals(self) -> Vitals:
        return Vitals(self.runtime, self.upstreams, StoreProber(self.runtime.store), Watchdog(), 10)


@asynccontextmanager
async def guarded() -> AsyncIterator[Guarded]:
    door = Door()
    upstream = ScriptedUpstream(door)
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        upstreams = Upstreams({"wiki": HttpServer(url=upstream.url)}, pool)
        options = RuntimeOptions(limits=Limits(link_wait_seconds=0.05))
        async with open_runtime("memory:", connect=upstreams, options=options) as runtime:
            policy = guard.make_policy("127.0.0.1")
            gateway = Gateway(runtime, {"wiki": "streamable-http"}, policy, breakers=upstreams.breakers)
            yield Guarded(door, runtime, upstreams, gateway)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("forgets", [False, True])
async def test_sessions_are_kept_and_go_on_when_the_credentials_are_right_again(status: int, forgets: bool) -> None:
    async with guarded() as it:
        session_id = await it.open()
        await it.at_rest(session_id)
        it.door.status = status
        refused = await it.ask(post(ASK, mcp_session_id=session_id))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert f"refuses the gateway's credentials: HTTP {status}" in refused.json["error"]["message"]
        header = it.runtime.registry.header(SessionId(session_id))
        assert header is not None
        assert not header.failure, "nothing is held against the session"

        it.door.status = 0
        await it.at_rest(session_id)
        assert (await it.ask(post(ASK, mcp_session_id=session_id))).status == 200
        assert (await it.ask(delete(mcp_session_id=session_id))).status == 200


async def test_opening_is_told_to_come_again() -> None:
    async with guarded() as it:
        it.door.status = 401
        refused = await it.ask(post(OPENING))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "HTTP 401" in refused.json["error"]["message"]
        it.door.status = 0
        assert await it.open()


async def test_health_and_metrics_name_the_server_until_it_lets_us_in() -> None:
    async with guarded() as it:
        session_id = await it.open()
        vitals = it.vitals()
        assert [server.refuses_credentials for server in vitals.facts().servers] == [False]
        await it.at_rest(session_id)
        it.door.status = 401
        await it.ask(post(ASK, mcp_session_id=session_id))
        (server,) = vitals.facts().servers
        assert (server.refuses_credentials, server.state) == (True, "closed"), "it is there"
        finding = next(one for one in report(vitals.facts()) if one.about == "server wiki")
        assert "refuses the gateway's credentials" in finding.said
        assert finding.advice == CREDENTIALS_ADVICE
        it.door.status = 0
        await it.open()
        assert [server.refuses_credentials for server in vitals.facts().servers] == [False]


# ---- connectors ----


@pytest.mark.parametrize("status", [401, 403])
async def test_control_credentials_of_a_user_end_the_session(status: int) -> None:
    """What the option is for: with it, a process that cannot get others says so at once."""
    async with bed(Door(status)) as bench:
        connector = attrs.evolve(bench.connector, credentials=Credentials.USERS)
        with pytest.raises(ConnectRejected, match="auth_gone"):
            await connector(new_session(handshake=handshake()), bench.inbox)
        with pytest.raises(CredentialsRefused):
            await bench.open_link(handshake=handshake())


@pytest.mark.parametrize("target", [HttpServer, SseTarget])
async def test_server_that_does_not_let_us_in_is_not_taken_for_away(target: type[HttpServer | SseTarget]) -> None:
    async with bed(Door(401)) as bench:
        servers: dict[str, Target] = {"wiki": target(url=bench.upstream.url)}
        upstreams = Upstreams(servers, bench.pool)
        session = new_session(server_id="wiki", handshake=handshake())
        for _ in range(6):  # one more than failures open the breaker
            with pytest.raises(ConnectFailed):
                await upstreams(session, RecordingInbox(bench.nursery))
        breaker = upstreams.breakers["wiki"]
        assert breaker.is_closed
        assert breaker.health.refuses_credentials


@pytest.mark.parametrize(("status", "noted"), [(401, True), (403, False)])
async def test_403_in_answer_to_a_call_may_be_about_that_call_alone(status: int, noted: bool) -> None:
    async with bed(Door(status)) as bench:
        link = await bench.open_link(handshake=handshake(upstream_session_id=""))
        link.send(CALL, TICKET)
        await bench.inbox.wait()
        assert bench.connector.breaker.health.refuses_credentials is noted


async def test_requests_without_a_session_tell_of_it_as_well() -> None:
    async with bed(Door(401)) as bench:
        breaker = Breaker()
        stateless = StatelessHttp(bench.pool, HttpTarget.parse(bench.upstream.url), breaker=breaker)
        request = ModernRequest(CALL, ())

        async def end() -> None:
            call = await stateless.send(request)
            while call.end is None:
                await trio.lowlevel.checkpoint()

        await end()
        assert breaker.health.refuses_credentials

        async def accept(seen: SeenRequest, caller: Caller) -> None:
            await caller.answer(200, ANSWER.raw)

        bench.upstream.script = accept
        await end()
        assert not breaker.health.refuses_credentials
