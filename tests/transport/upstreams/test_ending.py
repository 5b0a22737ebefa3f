"""Ending a session tells its server, whether a link is open or not; and ends it here whatever the server says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from actors.administration import Administration
from actors.ids import SessionId
from actors.link import ConnectFailed, Inbox, Link
from actors.runtime import Runtime, RuntimeOptions, open_runtime
from actors.state import SessionState
from actors.upstream_ending import TELL_SECONDS_MAX, Told, UpstreamEnd, UpstreamEnding
from outlast.targets import HttpTarget, StdioTarget, Target
from outlast.upstreams import Upstreams
from tests.transport.fake_exchange import FakeExchange, delete, post
from tests.transport.upstreams.bed import handshake, new_session
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from tests.transport.upstreams.test_credentials import ASK, OPENING, Door
from transport import guard
from transport.gateway import Gateway
from transport.upstreams.http_pool import HttpPool


@attrs.define
class Server(Door):
    """A server that says what it is told to, when a session is to be ended."""

    end_status: int = 200

    async def __call__(self, request: SeenRequest, caller: Caller) -> None:
        if request.method == "DELETE":
            await caller.answer(self.end_status, b"as you wish", {"Content-Type": "text/plain"})
        else:
            await super().__call__(request, caller)


@attrs.frozen
class World:
    server: Server
    upstream: ScriptedUpstream
    runtime: Runtime
    gateway: Gateway
    upstreams: Upstreams

    async def ask(self, exchange: FakeExchange) -> FakeExchange:
        await self.gateway(exchange)
        return exchange

    async def open(self) -> SessionId:
        return SessionId((await self.ask(post(OPENING))).headers["mcp-session-id"])

    async def at_rest(self) -> SessionId:
        """Open a session, and have it leave memory."""
        session_id = await self.open()
        await self.runtime.settled()
        actor = self.runtime.registry.resident(session_id)
        assert actor is not None
        actor.stop("at rest")
        while self.runtime.registry.resident(session_id) is not None:
            await trio.lowlevel.checkpoint()
        return session_id

    async def close(self, session_id: SessionId) -> UpstreamEnd:
        end = await Administration(self.runtime).close(session_id)
        assert self.runtime.registry.header(session_id) is None, "it has ended here in any case"
        return end

    @property
    def ended(self) -> list[str | None]:
        return [seen.session_id for seen in self.upstream.requests if seen.method == "DELETE"]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    server = Server()
    upstream = ScriptedUpstream(server)
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        upstreams = Upstreams({"wiki": HttpTarget(url=upstream.url)}, pool)
        async with open_runtime("memory:", connect=upstreams, options=RuntimeOptions()) as runtime:
            gateway = Gateway(runtime, {"wiki": "streamable-http"}, guard.make_policy("127.0.0.1"))
            yield World(server, upstream, runtime, gateway, upstreams)
        nursery.cancel_scope.cancel()


async def test_a_session_at_rest_is_ended_at_its_server() -> None:
    async with world() as it:
        session_id = await it.at_rest()
        assert await it.close(session_id) == UpstreamEnd(Told.TOLD)
        assert it.ended == ["up-1"]
        assert it.upstream.requests[-1].headers["mcp-protocol-version"] == "2025-11-25"


async def test_one_with_a_link_is_ended_on_that_once() -> None:
    async with world() as it:
        session_id = await it.open()
        assert await it.close(session_id) == UpstreamEnd(Told.SENT)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert it.ended == ["up-1"]


async def test_what_a_client_ends_is_ended_at_its_server_as_well() -> None:
    async with world() as it:
        session_id = await it.at_rest()
        assert (await it.ask(delete(mcp_session_id=session_id))).status == 200
        with trio.fail_after(5):
            while not it.ended:
                await trio.lowlevel.checkpoint()


async def test_one_whose_time_is_over_is_ended_at_its_server_and_one_that_is_removed_is_not() -> None:
    async with world() as it:
        removed, expired = await it.at_rest(), await it.at_rest()
        it.runtime.registry.remove(removed, "as a control")
        await it.runtime.settled()
        assert it.ended == []
        it.runtime.registry.let_go(expired, "expired")
        assert it.runtime.registry.header(expired) is None
        with trio.fail_after(5):
            while len(it.runtime.registry.departures):
                await trio.lowlevel.checkpoint()
        assert it.ended == ["up-1"]
        assert it.runtime.registry.departures.statistics().told == 1


async def test_one_whose_server_is_known_to_be_away_is_removed_without_a_request() -> None:
    async with world() as it:
        session_id = await it.at_rest()
        for _ in range(5):
            it.upstreams.breakers["wiki"].failed("refused")
        it.runtime.registry.let_go(session_id, "expired")
        with trio.fail_after(5):
            while len(it.runtime.registry.departures):
                await trio.lowlevel.checkpoint()
        assert it.ended == []
        assert it.runtime.registry.departures.statistics().not_told == 1
        assert await it.runtime.store.load(session_id) is None


@pytest.mark.parametrize(("status", "told"), [(404, Told.TOLD), (405, Told.NOT_TOLD), (401, Told.NOT_TOLD)])
async def test_what_the_server_says_is_told_to_the_operator(status: int, told: Told) -> None:
    async with world() as it:
        session_id = await it.at_rest()
        it.server.end_status = status
        end = await it.close(session_id)
        assert end.told is told
        assert (f"HTTP {status}" in end.detail) is (told is Told.NOT_TOLD)


async def test_a_server_that_is_gone_holds_nothing_up() -> None:
    async with world() as it:
        session_id = await it.at_rest()
        for _ in range(5):
            it.upstreams.breakers["wiki"].failed("refused")
        end = await it.close(session_id)
        assert end == UpstreamEnd(Told.NOT_TOLD, "the upstream is not there: refused")
        assert it.ended == []


async def test_a_session_that_was_used_again_has_one_name_there() -> None:
    """The control: what is not ended goes on."""
    async with world() as it:
        session_id = await it.at_rest()
        assert (await it.ask(post(ASK, mcp_session_id=session_id))).status == 200
        assert it.ended == []


# ---- the ending ----


class Silent:
    """A connector whose server never answers."""

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        raise ConnectFailed("it is silent")

    async def end_session(self, session: SessionState) -> bool:
        await trio.sleep_forever()


async def test_telling_is_bounded_in_time(autojump_clock: MockClock) -> None:
    ending = UpstreamEnding()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.tell, Silent(), new_session(handshake=handshake()))
        began = trio.current_time()
        assert await ending.wait() == UpstreamEnd(Told.NOT_TOLD, "no answer within 5 s")
        assert trio.current_time() - began == TELL_SECONDS_MAX


class Broken(Silent):
    async def end_session(self, session: SessionState) -> bool:
        raise LookupError("a defect")


async def test_a_defect_of_a_connector_is_no_end_of_ours(autojump_clock: MockClock) -> None:
    ending = UpstreamEnding()
    await ending.tell(Broken(), new_session(handshake=handshake()))
    assert (await ending.wait()).told is Told.NOT_TOLD


async def test_servers_that_keep_nothing_need_not_be_told(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pool = HttpPool()
        await nursery.start(pool.run)
        servers: dict[str, Target] = {
            "tool": StdioTarget(command=("sh",)),
            "wiki": HttpTarget(url="http://127.0.0.1:9/mcp"),
        }
        upstreams = Upstreams(servers, pool)
        kept = handshake()
        assert not await upstreams.end_session(new_session(server_id="tool", handshake=kept))
        for name in ("", "sse /messages?id=1"):
            session = new_session(server_id="wiki", handshake=handshake(upstream_session_id=name))
            assert not await upstreams.end_session(session)
        with pytest.raises(ConnectFailed, match="no server named 'gone'"):
            await upstreams.end_session(new_session(server_id="gone", handshake=kept))
        nursery.cancel_scope.cancel()
