"""A tool of ours among those of a server: on its list, answered here, and out of the way of a tool of the same name."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors import messages as say
from actors.handle import SessionHandle
from actors.jsonrpc import Message, with_id
from actors.mailbox import OneShot
from actors.own_tools import Explanation, OwnTools
from actors.state import SessionState
from tests.actors.worlds import World, kept_state, notify, open_session, open_world, read_stream, send

NAME = "session_health_check"
OTHERS = b'{"name":"a", "unknown" : [1.0,2e3]},{ "name":"b"}'


class Explaining:
    """Explains when it is told to."""

    def __init__(self) -> None:
        self.may = trio.Event()
        self.may.set()
        self.asked: list[tuple[str, SessionState | None]] = []
        self.failure: Exception | None = None

    async def __call__(self, server_id: str, session: SessionState | None) -> Explanation:
        self.asked.append((server_id, session))
        await self.may.wait()
        if self.failure is not None:
            raise self.failure
        return Explanation("all is well", {"status": "healthy"})


def tools(explaining: Explaining | None = None) -> OwnTools:
    return OwnTools(NAME, "how it is", explaining or Explaining())


def page(tools: bytes, rest: bytes = b"") -> Message:
    return jsonrpc.parse(
        b'{"jsonrpc":"2.0","id":7,"result":{"_meta":{"x":1.50},"tools": [' + tools + b"]" + rest + b"}}"
    )


def names(answer: Message) -> list[str]:
    return [tool["name"] for tool in json.loads(answer.raw)["result"]["tools"]]


def world_with(own: OwnTools) -> AbstractAsyncContextManager[World]:
    return open_world(own_tools=own)


def call(session: SessionHandle) -> OneShot[say.Outcome]:
    return send(session, 5, "tools/call", {"name": NAME}, label=NAME)


def test_ours_is_on_the_last_page_and_the_others_keep_their_bytes() -> None:
    listed = tools().listed("linear", page(OTHERS))
    assert names(listed) == ["a", "b", NAME]
    assert OTHERS in listed.raw
    assert b'"_meta":{"x":1.50}' in listed.raw
    assert listed.id == 7
    assert names(tools().listed("linear", page(OTHERS, b',"nextCursor":null'))) == ["a", "b", NAME]
    assert names(tools().listed("linear", page(b" "))) == [NAME]


@pytest.mark.parametrize(
    "answer",
    [
        page(OTHERS, b',"nextCursor":"2"'),
        jsonrpc.error(7, jsonrpc.METHOD_NOT_FOUND, "no tools here"),
        jsonrpc.result(7, {"tools": "none"}),
        jsonrpc.result(7, {}),
        jsonrpc.result(7, [1]),
        jsonrpc.result(7, {"tools": [1]}),
    ],
    ids=["not the last page", "error", "no array", "no tools", "no object", "no objects"],
)
def test_whatever_else_comes_is_left_as_it_is(answer: Message) -> None:
    assert tools().listed("linear", answer) is answer


def test_a_server_with_a_tool_of_that_name_keeps_it() -> None:
    own = tools()
    first = page(b'{"name":"session_health_check","description":"theirs"}', b',"nextCursor":"2"')
    assert own.answers("linear", NAME)
    assert own.listed("linear", first) is first
    assert names(own.listed("linear", page(OTHERS))) == ["a", "b"]
    assert not own.answers("linear", NAME)
    assert own.answers("github", NAME)
    assert own.taken == {"linear"}


async def test_it_is_answered_here_counted_and_never_sent(autojump_clock: MockClock) -> None:
    explaining = Explaining()
    async with world_with(tools(explaining)) as world:
        session = await open_session(world)
        before = len(world.upstream.journal)
        outcome = await call(session).wait()
        assert isinstance(outcome, say.Answered)
        result = jsonrpc.result_of(outcome.message)
        assert result["content"] == [{"type": "text", "text": "all is well"}]
        assert result["structuredContent"] == {"status": "healthy"}
        assert outcome.message.id == 5
        assert len(world.upstream.journal) == before
        state = await kept_state(session)
        assert (state.metrics.tool_calls, state.metrics.errors) == (1, 0)
        assert world.runtime.usage()["linear"].tool_calls == 1
        ((server_id, asked),) = explaining.asked
        assert (server_id, asked and asked.session_id) == ("linear", session.id)


async def test_a_list_that_a_session_asks_for_has_it(autojump_clock: MockClock) -> None:
    async with world_with(tools()) as world:
        world.upstream.answers["tools/list"] = lambda request: with_id(page(OTHERS), request.id or 0)
        session = await open_session(world)
        outcome = await send(session, 6, "tools/list").wait()
        assert isinstance(outcome, say.Answered)
        assert names(outcome.message) == ["a", "b", NAME]


async def test_calls_of_a_batch_are_answered_here_too(autojump_clock: MockClock) -> None:
    async with world_with(tools()) as world:
        session = await open_session(world)
        request = jsonrpc.request(5, "tools/call", {"name": NAME})
        batch = session.actor().ask(
            lambda ticket: say.SendBatch(ticket, (say.SendRequest(ticket + 1, request, NAME),)), further_tickets=1
        )
        streaming = await batch.wait()
        assert isinstance(streaming, say.Streaming)
        (answer,) = await read_stream(session, streaming.stream)
        assert answer.id == 5
        assert not answer.is_error


async def test_without_it_the_call_goes_to_the_server(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        before = len(world.upstream.journal)
        call(session)
        await wait_all_tasks_blocked()
        assert len(world.upstream.journal) == before + 1


async def test_it_is_answered_while_the_server_is_lost(autojump_clock: MockClock) -> None:
    explaining = Explaining()
    explaining.may = trio.Event()
    async with world_with(tools(explaining)) as world:
        session = await open_session(world)
        waiting = call(session)
        await wait_all_tasks_blocked()
        world.link.lose("gone")
        await wait_all_tasks_blocked()
        explaining.may.set()
        outcome = await waiting.wait()
        assert isinstance(outcome, say.Answered)
        assert not outcome.message.is_error


async def test_a_tool_that_fails_is_an_error_and_nothing_else(autojump_clock: MockClock) -> None:
    explaining = Explaining()
    explaining.failure = RuntimeError("a defect")
    async with world_with(tools(explaining)) as world:
        session = await open_session(world)
        outcome = await call(session).wait()
        assert isinstance(outcome, say.Answered)
        assert outcome.message.is_error
        assert b"a defect" not in outcome.message.raw
        assert (await kept_state(session)).metrics.errors == 1


async def test_a_cancelled_call_is_withdrawn_here_and_the_server_hears_nothing(autojump_clock: MockClock) -> None:
    explaining = Explaining()
    explaining.may = trio.Event()
    async with world_with(tools(explaining)) as world:
        session = await open_session(world)
        before = len(world.upstream.journal)
        waiting = call(session)
        await wait_all_tasks_blocked()
        cancelled = notify(session, "notifications/cancelled", {"requestId": 5}, cancels=5)
        assert await cancelled.wait() == say.Accepted()
        assert await waiting.wait() == say.Withdrawn()
        explaining.may.set()
        await wait_all_tasks_blocked()
        assert len(world.upstream.journal) == before


async def test_answered_without_a_session_it_says_that_the_result_is_whole() -> None:
    answer = await tools().answer(jsonrpc.request(1, "tools/call", {"name": NAME}), "linear", None)
    assert jsonrpc.result_of(answer)["resultType"] == "complete"
