"""An upstream forgets a session while requests are in flight: each request's own answer decides what became of it.

The whole way, from a client's exchange to an upstream's socket, in virtual time. When the upstream forgets, the
session's own stream ends; it is asked for again a second later, and that is answered with 404. So what is answered
later than that was in flight when the link learned of the loss; it then waits for two seconds at most.
"""

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
from actors.ids import ANONYMOUS
from actors.runtime import RuntimeOptions, open_runtime
from persistence.memory import MemoryStore
from tests.transport.clients.test_streamable_http import request
from tests.transport.fake_exchange import FakeExchange, get, post
from tests.transport.test_relay import OPENING, RESULT
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from transport.clients.streamable_http import StreamableHttp
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.streamable_http import StreamableHttpConnector

NOT_FOUND = jsonrpc.error(None, -32001, "Session not found").raw


class Forgetful(ScriptedUpstream):
    """A server that runs what it knows the session of, and can be made to forget all sessions.

    Methods: `run` is run at once and answered after `seconds`; `judge` looks for its session after `seconds` only, as a
    server behind a slow proxy does; `hang` is run and never answered.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.ran: list[Any] = []  # ids, once for each time
        self.newest = 0  # of the sessions that were opened, or forgotten
        self._streams: list[Caller] = []

    async def _answer(self, seen: SeenRequest, caller: Caller) -> None:
        message: dict[str, Any] = json.loads(seen.body) if seen.body else {}
        method, seconds = message.get("method", ""), message.get("params", {}).get("seconds", 0)
        if method == "initialize":
            self.newest += 1
            await caller.answer(200, jsonrpc.result(message["id"], RESULT).raw, {"Mcp-Session-Id": self._name})
            return
        if method == "judge":
            await trio.sleep(seconds)
        if seen.session_id != self._name:
            await caller.answer(404, NOT_FOUND)
        elif seen.method == "GET":
            await caller.open_stream()
            self._streams.append(caller)
            await caller.wait_closed_by_peer()
        elif "id" in message:
            await self._run(message, method, seconds, caller)
        else:
            await caller.answer(202)

    async def _run(self, message: dict[str, Any], method: str, seconds: float, caller: Caller) -> None:
        self.ran.append(message["id"])
        if method == "hang":
            await caller.wait_closed_by_peer()
            return
        if method == "run":
            await trio.sleep(seconds)
        await caller.answer(200, jsonrpc.result(message["id"], {"session": self.newest}).raw)

    @property
    def _name(self) -> str:
        return f"up-{max(self.newest, 1)}"

    async def forget(self) -> None:
        """Know no session any more; streams end, what runs goes on."""
        self.newest += 1
        streams, self._streams = self._streams, []
        for caller in streams:
            await caller.end_stream()


@attrs.frozen
class Listening:
    """A client whose GET stream is open, and its server."""

    face: StreamableHttp
    upstream: Forgetful
    session_id: str
    nursery: trio.Nursery

    def ask(self, id: int, method: str, seconds: float = 0.0) -> FakeExchange:
        """Post a request beside all that is going on."""
        exchange = post(request(id, method, {"seconds": seconds}), mcp_session_id=self.session_id)
        self.nursery.start_soon(self.face.handle, exchange, ANONYMOUS)
        return exchange

    def count(self, id: int) -> int:
        """How often a request has run."""
        return self.upstream.ran.count(id)


def outcome(exchange: FakeExchange) -> Any:
    """In which upstream session the request was answered, or the code of its error; None: nothing yet."""
    [message] = [frame.message for frame in exchange.frames if frame.message] if exchange.is_stream else [exchange.json]
    return message["result"]["session"] if "result" in message else message["error"]["code"]


@asynccontextmanager
async def listening(limits: HttpLimits = HttpLimits()) -> AsyncIterator[Listening]:
    async with trio.open_nursery() as nursery:
        upstream = Forgetful()
        await nursery.start(upstream.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        connector = StreamableHttpConnector(pool, HttpTarget.parse(upstream.url), limits=limits)
        async with open_runtime(MemoryStore(), connect=connector, options=RuntimeOptions(restore=False)) as runtime:
            face = StreamableHttp(runtime, "linear", upstream_transport="streamable-http")
            opening = post(OPENING)
            await face.handle(opening, ANONYMOUS)
            session_id = opening.headers["mcp-session-id"]
            ready = post({"jsonrpc": "2.0", "method": "notifications/initialized"}, mcp_session_id=session_id)
            await face.handle(ready, ANONYMOUS)
            nursery.start_soon(face.handle, get(mcp_session_id=session_id), ANONYMOUS)
            await trio.sleep(0.1)
            yield Listening(face, upstream, session_id, nursery)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
async def test_answer_on_its_way_is_told_though_the_stream_says_that_the_session_is_gone(
    seconds: float, autojump_clock: MockClock
) -> None:
    async with listening() as client:
        call = client.ask(1, "run", seconds)
        await trio.sleep(0.1)
        await client.upstream.forget()
        await trio.sleep(10)
        assert outcome(call) == 2, "by the process that had begun it"
        assert client.count(1) == 1
        again = client.ask(2, "run")
        await trio.sleep(1)
        assert outcome(again) == 3, "the session goes on"


async def test_without_waiting_its_outcome_is_unknown(autojump_clock: MockClock) -> None:
    async with listening(HttpLimits(parting_seconds_max=0)) as client:
        call = client.ask(1, "run", 1.5)
        await trio.sleep(0.1)
        await client.upstream.forget()
        await trio.sleep(10)
        assert outcome(call) == jsonrpc.OUTCOME_UNKNOWN
        assert client.count(1) == 1


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5])
async def test_request_that_was_itself_answered_so_never_ran_and_runs_once(
    seconds: float, autojump_clock: MockClock
) -> None:
    async with listening() as client:
        call = client.ask(1, "judge", seconds)
        await trio.sleep(0.1)
        await client.upstream.forget()
        await trio.sleep(10)
        assert outcome(call) == 3, "in the session after"
        assert client.count(1) == 1


async def test_without_waiting_its_outcome_is_unknown_though_it_never_ran(autojump_clock: MockClock) -> None:
    async with listening(HttpLimits(parting_seconds_max=0)) as client:
        call = client.ask(1, "judge", 1.5)
        await trio.sleep(0.1)
        await client.upstream.forget()
        await trio.sleep(10)
        assert outcome(call) == jsonrpc.OUTCOME_UNKNOWN
        assert client.count(1) == 0


async def test_request_that_is_not_answered_in_time_is_in_doubt_and_runs_no_second_time(
    autojump_clock: MockClock,
) -> None:
    async with listening() as client:
        call = client.ask(1, "hang")
        await trio.sleep(0.1)
        await client.upstream.forget()
        await trio.sleep(0.9 + 2.2)  # a second until the stream is asked for, two for what is in flight
        assert outcome(call) == jsonrpc.OUTCOME_UNKNOWN
        await trio.sleep(60)
        assert client.count(1) == 1


async def test_of_several_requests_each_is_told_its_own(autojump_clock: MockClock) -> None:
    """The first 404 is that of a POST: the stream is asked for later."""
    async with listening() as client:
        answered, forgotten = client.ask(1, "run", 1.2), client.ask(2, "judge", 0.9)
        first = client.ask(3, "judge", 0.3)
        hanging = client.ask(4, "hang")
        await trio.sleep(0.1)
        await client.upstream.forget()
        await trio.sleep(20)
        assert [outcome(each) for each in (answered, forgotten, first)] == [2, 3, 3]
        assert outcome(hanging) == jsonrpc.OUTCOME_UNKNOWN
        assert sorted(client.upstream.ran) == [1, 2, 3, 4]
        assert client.upstream.newest == 3


async def test_what_comes_meanwhile_goes_to_the_next_session(autojump_clock: MockClock) -> None:
    async with listening() as client:
        call = client.ask(1, "run", 2)
        await trio.sleep(0.1)
        await client.upstream.forget()
        await trio.sleep(1.1)
        meanwhile = client.ask(2, "run")
        await trio.sleep(0.2)
        assert not client.count(2), "in the lost session it could not run"
        await trio.sleep(10)
        assert outcome(call) == 2
        assert outcome(meanwhile) == 3
        assert sorted(client.upstream.ran) == [1, 2]
        posted = [seen.session_id for seen in client.upstream.requests if b'"id": 2' in seen.body]
        assert posted == ["up-3"], "it was not tried in the lost one"


async def test_loss_that_holds_nobody_up_is_mended_at_once(autojump_clock: MockClock) -> None:
    async with listening() as client:
        await client.upstream.forget()
        call = client.ask(1, "run")
        await trio.sleep(0.1)
        assert outcome(call) == 3
        assert client.count(1) == 1
