"""The circuit breaker: when it opens, for how long, who may try; and what clients and links make of it.

Times are virtual. Chance is fixed where it matters: 0.0 is half the ceiling, 1.0 (never drawn) would be all of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from actors.link import ConnectFailed, Failure
from outlast.targets import HttpTarget, StdioTarget, Target
from outlast.upstreams import Upstreams
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_world
from tests.transport.clients.test_streamable_http import INITIALIZE, handled, opened, request
from tests.transport.fake_exchange import delete, get, post
from tests.transport.upstreams.bed import ANSWER, CALL, TICKET, Bed, bed, handshake, new_session
from tests.transport.upstreams.recording_inbox import Received, RecordingInbox, Refused
from tests.transport.upstreams.scripted_upstream import Caller, Script, SeenRequest
from transport.clients.streamable_http import StreamableHttp
from transport.upstreams.breaker import Breaker, BreakerRules, BreakerState
from transport.upstreams.http_pool import HttpPool

RULES = BreakerRules(failures_max=3, first_seconds=1.0, most_seconds=4.0, trial_seconds=1.0)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed("refused")


async def test_failures_in_a_row_open_it(autojump_clock: MockClock) -> None:
    breaker = Breaker(RULES, draw_chance=lambda: 0.0)
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.admit() == 0.0
    fail(breaker)
    assert breaker.health.state is BreakerState.OPEN
    assert breaker.admit() == pytest.approx(0.5)
    assert breaker.blocked_seconds() == pytest.approx(0.5)


async def test_one_tries_when_the_pause_is_over(autojump_clock: MockClock) -> None:
    breaker = Breaker(RULES, draw_chance=lambda: 0.0)
    fail(breaker, 3)
    await trio.sleep(0.6)
    assert breaker.admit() == 0.0
    assert breaker.health.state is BreakerState.HALF_OPEN
    assert breaker.admit() == pytest.approx(1.0), "the others wait for what becomes of it"
    assert breaker.blocked_seconds() == 0.0, "what was let in before may go"
    await trio.sleep(1.1)
    assert breaker.admit() == 0.0, "nothing was heard of that trial"


async def test_success_closes_it_and_failure_opens_it_for_longer(autojump_clock: MockClock) -> None:
    breaker = Breaker(RULES, draw_chance=lambda: 0.0)
    fail(breaker, 3)
    pauses = []
    for _ in range(5):
        await trio.sleep(breaker.blocked_seconds() + 0.01)
        assert breaker.admit() == 0.0
        fail(breaker)
        pauses.append(breaker.blocked_seconds())
    assert pauses == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0])  # half of 2, 4, 4, ...: the first was 0.5

    await trio.sleep(2.1)
    assert breaker.admit() == 0.0
    breaker.succeeded()
    assert breaker.is_closed
    fail(breaker, 3)
    assert breaker.blocked_seconds() == pytest.approx(0.5), "it begins anew"


async def test_pauses_carry_jitter(autojump_clock: MockClock) -> None:
    chances = iter([0.0, 0.25, 0.75])
    pauses = []
    for _ in range(3):
        breaker = Breaker(RULES, draw_chance=lambda: next(chances))
        fail(breaker, 3)
        pauses.append(breaker.blocked_seconds())
    assert pauses == pytest.approx([0.5, 0.625, 0.875])


async def test_failures_of_what_was_sent_before_do_not_prolong_it(autojump_clock: MockClock) -> None:
    breaker = Breaker(RULES, draw_chance=lambda: 0.0)
    fail(breaker, 30)
    assert breaker.blocked_seconds() == pytest.approx(0.5)


async def test_health_tells_since_when_and_why(autojump_clock: MockClock) -> None:
    times = iter([100.0, 200.0, 300.0])
    breaker = Breaker(RULES, draw_chance=lambda: 0.0, wall_clock=lambda: next(times))
    assert breaker.health == attrs.evolve(breaker.health, state=BreakerState.CLOSED, since_unix_s=100.0, last_error="")
    fail(breaker, 3)
    await trio.sleep(0.6)
    breaker.admit()
    fail(breaker)  # a trial that fails: away since 200 all the same
    assert (breaker.health.state, breaker.health.since_unix_s) == (BreakerState.OPEN, 200.0)
    breaker.succeeded()
    assert (breaker.health.state, breaker.health.since_unix_s) == (BreakerState.CLOSED, 300.0)
    assert breaker.health.last_error == "refused"


# ---- clients ----


@asynccontextmanager
async def face_and_breaker() -> AsyncIterator[tuple[StreamableHttp, Breaker, FakeUpstream, str]]:
    """A face with one session."""
    async with open_world() as world:
        breaker = Breaker(RULES, draw_chance=lambda: 0.0)
        face = StreamableHttp(world.runtime, "linear", upstream_transport="streamable-http", breaker=breaker)
        yield face, breaker, world.upstream, await opened(face)


async def test_open_breaker_answers_503_at_once_and_nothing_is_sent(autojump_clock: MockClock) -> None:
    async with face_and_breaker() as (face, breaker, upstream, session_id):
        fail(breaker, 3)
        sent = len(upstream.journal)
        began = trio.current_time()
        note = {"jsonrpc": "2.0", "method": "notifications/x"}
        headers = {"mcp_session_id": session_id}
        for exchange in (post(request(5), **headers), post(INITIALIZE), post(note, **headers)):
            await handled(face, exchange)
            assert (exchange.status, exchange.json["error"]["code"]) == (503, jsonrpc.UPSTREAM_UNAVAILABLE)
            assert exchange.headers["retry-after"] == "1"
            assert "refused" in exchange.json["error"]["message"]
        assert trio.current_time() == began
        assert len(upstream.journal) == sent
        assert (await handled(face, post(request(5), **headers))).json["id"] == 5

        await trio.sleep(0.6)
        assert (await handled(face, post(request(6), **headers))).status == 200, "the trial"
        assert (await handled(face, post(request(7), **headers))).status == 503, "nobody has told how it went"
        breaker.succeeded()
        assert (await handled(face, post(request(8), **headers))).status == 200


async def test_what_does_not_go_upstream_is_served_all_the_same(autojump_clock: MockClock) -> None:
    async with face_and_breaker() as (face, breaker, _, session_id):
        fail(breaker, 3)
        assert (await handled(face, post(b"no JSON".decode(), mcp_session_id=session_id))).status == 400
        assert (await handled(face, post(request(9), mcp_session_id="nobody"))).status == 404
        stream = get(mcp_session_id=session_id)
        with trio.move_on_after(1.0):
            await handled(face, stream)
        assert stream.is_stream
        assert (await handled(face, delete(mcp_session_id=session_id))).status == 200


async def test_strangers_use_up_no_trial(autojump_clock: MockClock) -> None:
    async with face_and_breaker() as (face, breaker, _, session_id):
        fail(breaker, 3)
        await trio.sleep(0.6)
        assert (await handled(face, post(request(9), mcp_session_id="nobody"))).status == 404
        assert (await handled(face, post(request(9), mcp_session_id=session_id))).status == 200


# ---- links and connectors ----


def saying(status: int, body: bytes = b"") -> Script:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(status, body)

    return script


async def fate_of_calls(bench: Bed, count: int) -> None:
    link = await bench.open_link(handshake=handshake(upstream_session_id=""))
    for _ in range(count):
        link.send(CALL, TICKET)
        await bench.inbox.wait()


@pytest.mark.parametrize(
    ("status", "body", "opens"),
    [
        (503, b"busy", True),
        (502, b"", True),
        (504, b"", True),
        (503, b"Session not found", False),
        (500, b"", False),
        (429, b"", False),
        (404, b"", False),
        (200, ANSWER.raw, False),
    ],
)
async def test_only_what_says_that_the_server_is_away_opens_it(status: int, body: bytes, opens: bool) -> None:
    async with bed(saying(status, body)) as bench:
        await fate_of_calls(bench, BreakerRules().failures_max)
        assert bench.connector.breaker.is_closed is not opens


async def test_refused_connections_open_it_and_then_nobody_knocks(autojump_clock: MockClock) -> None:
    async with bed(saying(200, ANSWER.raw)) as bench:
        breaker = bench.connector.breaker
        link = await bench.open_link(handshake=handshake(upstream_session_id=""))
        fail(breaker, BreakerRules().failures_max)
        link.send(CALL, TICKET)
        refused = await bench.inbox.wait()
        assert isinstance(refused, Refused)
        assert refused.failure is Failure.NOT_SENT
        assert bench.upstream.connections == 0
        await trio.sleep(BreakerRules().first_seconds)
        link.send(CALL, TICKET)
        assert await bench.inbox.wait() == Received(ANSWER, about=1)
        assert breaker.is_closed


async def test_each_server_has_its_own(mock_clock: MockClock, free_tcp_port: int) -> None:
    servers: dict[str, Target] = {
        "gone": HttpTarget(url=f"http://127.0.0.1:{free_tcp_port}/mcp"),
        "missing": StdioTarget(command=("/nonexistent/server",)),
    }
    async with trio.open_nursery() as nursery:
        pool = HttpPool()
        await nursery.start(pool.run)
        upstreams = Upstreams(servers, pool)
        inbox = RecordingInbox(nursery)
        for name in servers:
            session = new_session(server_id=name, handshake=handshake())
            for _ in range(BreakerRules().failures_max):
                with pytest.raises(ConnectFailed):
                    await upstreams(session, inbox)
        gone, missing = upstreams.health()
        assert (gone.name, gone.transport, gone.state) == ("gone", "streamable-http", BreakerState.OPEN)
        assert "refused" in gone.last_error
        assert (missing.name, missing.transport, missing.state) == ("missing", "stdio", BreakerState.OPEN)
        with pytest.raises(ConnectFailed, match="the upstream is not there"):
            await upstreams(new_session(server_id="gone", handshake=handshake()), inbox)
        nursery.cancel_scope.cancel()
