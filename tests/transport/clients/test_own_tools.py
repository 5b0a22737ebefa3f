"""A tool of the gateway's own, as clients of both eras meet it; and the counts of requests without a session."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from actors import jsonrpc
from actors.analytics import ServerUsage
from actors.ids import ANONYMOUS
from actors.link import Failure
from actors.own_tools import Explanation, OwnTools
from actors.state import SessionState
from tests.actors.worlds import open_world
from tests.transport import fake_exchange
from tests.transport.clients.fake_stateless import FakeStateless
from tests.transport.modern_messages import call, post, request
from transport import guard
from transport.clients.stateless import Stateless
from transport.gateway import Gateway
from transport.upstreams.breaker import Breaker
from transport.upstreams.stateless import Answer, NoAnswer

NAME = "session_health_check"


async def explain(server_id: str, session: SessionState | None) -> Explanation:
    return Explanation(f"{server_id}: {'no session' if session is None else 'a session'}", {"status": "healthy"})


def own_tools() -> OwnTools:
    return OwnTools(NAME, "how it is", explain)


def face_of(upstream: FakeStateless, usage: ServerUsage | None = None, own: OwnTools | None = None) -> Stateless:
    return Stateless(upstream, server_id="linear", own_tools=own, usage=usage)


async def test_a_request_without_a_session_is_answered_here_and_never_sent(autojump_clock: MockClock) -> None:
    upstream, usage, exchange = FakeStateless(), ServerUsage(), post(call(NAME))
    await face_of(upstream, usage, own_tools()).handle(exchange, ANONYMOUS)
    assert exchange.status == 200
    assert exchange.json["result"]["content"][0]["text"] == "linear: no session"
    assert exchange.json["result"]["resultType"] == "complete"
    assert upstream.requests == []
    assert (usage.tool_calls, usage.errors) == (1, 0)


async def test_without_it_the_same_request_is_sent(autojump_clock: MockClock) -> None:
    upstream = FakeStateless()
    await face_of(upstream).handle(post(call(NAME)), ANONYMOUS)
    assert len(upstream.requests) == 1


async def test_its_list_of_tools_has_it(autojump_clock: MockClock) -> None:
    upstream, exchange = FakeStateless(), post(request("tools/list"))
    upstream.ends["tools/list"] = Answer(jsonrpc.result(1, {"tools": [{"name": "a"}]}), 200)
    await face_of(upstream, own=own_tools()).handle(exchange, ANONYMOUS)
    assert [tool["name"] for tool in exchange.json["result"]["tools"]] == ["a", NAME]


@pytest.mark.parametrize("known_away", [True, False])
async def test_a_session_gets_its_answer_while_its_server_is_known_to_be_away(
    known_away: bool, autojump_clock: MockClock
) -> None:
    breaker = Breaker()
    async with open_world(own_tools=own_tools()) as world:
        gateway = Gateway(
            world.runtime, {"linear": "stdio"}, guard.make_policy("127.0.0.1"), breakers={"linear": breaker}
        )
        opening = fake_exchange.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}})
        await gateway(opening)
        for _ in range(5 if known_away else 0):
            breaker.failed("refused")
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": NAME}}
        exchange = fake_exchange.post(message, mcp_session_id=opening.headers["mcp-session-id"])
        await gateway(exchange)
        assert breaker.is_closed is not known_away
        assert exchange.status == 200
        assert exchange.json["result"]["content"][0]["text"] == "linear: a session"


async def test_requests_without_a_session_are_counted_with_how_they_ended(autojump_clock: MockClock) -> None:
    upstream, usage = FakeStateless(), ServerUsage()
    face = face_of(upstream, usage)
    await face.handle(post(call()), ANONYMOUS)
    await face.handle(post(request("tools/list")), ANONYMOUS)
    upstream.ends["tools/call"] = NoAnswer(Failure.OUTCOME_UNKNOWN, "gone")
    await face.handle(post(call()), ANONYMOUS)
    assert (usage.requests, usage.tool_calls, usage.errors) == (3, 2, 1)
