"""Requests whose answers go on the session's own stream: promised, durable before they are shown, ended by a crash.

Goal: such a call's client, which has nothing but that stream, finds the answer there or an error in its place, once.
Method: first the choices, without a shell; then runtimes over a disk that outlives them, killed in between, with the
open gate as the control.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from actors import messages as say
from actors.handle import SessionHandle
from actors.ids import STANDALONE_STREAM
from actors.link import About, Established, Failure
from actors.snapshots import from_snapshot, to_snapshot
from actors.state import Limits
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.making import Session, code, of, opened, outcome, problem
from tests.actors.worlds import World, open_session, open_world, send

ON_STANDALONE = say.Streaming(STANDALONE_STREAM)


def promised(*, limits: Limits = Limits()) -> Session:
    """A session with a call that was promised its answer."""
    session = opened(limits=limits)
    session.request(1, "hold", on_standalone=True)
    session.pass_time(session.limits.promise_within_seconds)
    assert outcome(session.overdue(1)) == ON_STANDALONE
    return session


# ---- the choices ----


def test_answer_that_comes_soon_is_logged_on_the_standalone_stream_in_one_commit() -> None:
    session = opened()
    started = session.request(1, on_standalone=True)
    assert session.last is not None
    assert not any(event.hard for event in session.last.events), "nothing is kept before it is sent"
    assert of(started, say.SendUpstream)
    answered = session.answer(1, "soon")

    assert outcome(answered) == ON_STANDALONE
    assert [jsonrpc.result_of(message) for message in session.logged()] == ["soon"]
    assert session.events(say.MessageLogged)[0].stream == STANDALONE_STREAM
    assert not session.state.calls
    assert list(session.state.streams) == [STANDALONE_STREAM]
    assert not session.state.streams[STANDALONE_STREAM].ended


def test_answer_that_does_not_come_soon_is_promised() -> None:
    session = promised()
    assert session.last is not None
    assert any(event.hard for event in session.last.events), "the promise is kept before it is told"
    assert session.call(1).stream == STANDALONE_STREAM
    answered = session.answer(1, "late")

    assert not of(answered, say.Reply), "it was told once"
    assert [jsonrpc.result_of(message) for message in session.logged()] == ["late"]
    assert not session.state.calls
    assert not session.state.streams[STANDALONE_STREAM].ended


def test_other_calls_are_answered_as_ever() -> None:
    session = opened()
    session.request(1)

    assert outcome(session.answer(1, "soon")) == say.Answered(jsonrpc.result(1, "soon"))
    assert not session.logged()


def test_call_that_waits_for_the_link_is_promised_its_answer_too() -> None:
    session = opened(linked=False)
    session.request(1, on_standalone=True)
    session.pass_time(session.limits.promise_within_seconds)

    assert outcome(session.overdue(1)) == ON_STANDALONE
    session.pass_time(session.limits.link_wait_seconds)
    assert not of(session.overdue(1), say.Reply)
    assert [code(message) for message in session.logged()] == [jsonrpc.UPSTREAM_UNAVAILABLE]


def test_what_the_upstream_says_about_the_call_goes_before_its_answer() -> None:
    session = opened()
    session.request(1, "hold", on_standalone=True)
    effects = session.take(say.Receive(jsonrpc.notification("progress"), about=1))

    assert outcome(effects) == ON_STANDALONE
    assert [message.method for message in session.logged()] == ["progress"]
    session.take(say.Receive(jsonrpc.request("a", "sampling"), about=1))
    assert session.state.asks["a"].stream == STANDALONE_STREAM
    session.answer(1)
    assert session.state.streams[STANDALONE_STREAM].last_offset == 3


def test_second_request_with_its_id_is_refused_until_it_is_answered() -> None:
    session = promised()

    assert problem(session.request(1, on_standalone=True)) is say.Problem.DUPLICATE
    session.answer(1)
    assert of(session.request(1, on_standalone=True), say.SendUpstream)


def test_opening_request_is_answered_there_once_the_session_is_open() -> None:
    session = Session()
    session.request("open", "initialize", opens=True, on_standalone=True)
    session.take(say.LinkUp(Established()))
    effects = session.answer("open", {"protocolVersion": "2024-11-05"})

    assert outcome(effects) == ON_STANDALONE
    assert session.state.opened
    assert session.state.handshake is not None
    assert session.state.handshake.result == session.logged()[0].raw


def test_refused_opening_has_no_stream_and_is_answered_at_once() -> None:
    session = Session()
    session.request("open", "initialize", opens=True, on_standalone=True)
    session.take(say.LinkUp(Established()))
    refusal = jsonrpc.error("open", -32602, "no")
    effects = session.take(say.Receive(refusal, about="open"))

    assert outcome(effects) == say.Answered(refusal)
    assert of(effects, say.Discard)
    assert not session.state.opened


def test_slow_opening_is_waited_for() -> None:
    session = Session()
    session.request("open", "initialize", opens=True, on_standalone=True)
    session.take(say.LinkUp(Established()))
    session.pass_time(1.0)

    assert not of(session.overdue("open"), say.Reply), "there is nothing yet in which a promise could be kept"


def test_answer_that_is_too_large_becomes_an_error_there() -> None:
    session = opened(limits=Limits(event_bytes_max=100))
    session.request(1, on_standalone=True)
    effects = session.answer(1, "x" * 200)

    assert outcome(effects) == ON_STANDALONE
    assert [code(message) for message in session.logged()] == [jsonrpc.OVERLOADED]


def test_cancelled_call_gets_no_answer_and_the_stream_goes_on() -> None:
    session = promised()
    session.notify(cancels=1)
    session.pass_time(session.limits.cancel_grace_seconds)
    session.overdue(1)

    assert not session.state.calls
    assert not session.logged()
    assert not session.state.streams[STANDALONE_STREAM].ended


@pytest.mark.parametrize("is_promised", [True, False])
def test_upstream_lost_in_the_middle_ends_it_there(is_promised: bool) -> None:
    session = promised() if is_promised else opened()
    if not is_promised:
        session.request(1, "hold", on_standalone=True)
    session.take(say.LinkDown("gone"))

    assert [code(message) for message in session.logged()] == [jsonrpc.OUTCOME_UNKNOWN]
    assert not session.state.calls


def test_call_that_the_upstream_refuses_ends_there() -> None:
    session = promised()
    session.take(say.Refused(session.call(1).ticket, Failure.REFUSED, "no"))

    assert [code(message) for message in session.logged()] == [jsonrpc.INTERNAL_ERROR]


def test_recovery_ends_a_promised_call_on_the_standalone_stream() -> None:
    session = promised()
    session.state = from_snapshot(to_snapshot(session.state))
    session.take(say.Recovered())

    assert [code(message) for message in session.logged()] == [jsonrpc.OUTCOME_UNKNOWN]
    assert not session.state.calls
    assert not session.state.streams[STANDALONE_STREAM].ended


def test_promised_call_whose_upstream_can_resume_is_answered_after_recovery() -> None:
    session = promised()
    session.take(say.MoveCursor(about=1, cursor="c1"))
    session.state = from_snapshot(to_snapshot(session.state))
    session.take(say.Recovered())
    assert not session.logged()
    session.answer(1, "resumed")

    assert [jsonrpc.result_of(message) for message in session.logged()] == ["resumed"]


def test_call_whose_stream_is_not_told_uses_the_standalone_stream() -> None:
    session = opened()
    session.request(1, "hold", on_standalone=True)
    session.take(say.Receive(jsonrpc.notification("log"), about=About.UNKNOWN))

    assert session.events(say.MessageLogged)[0].stream == STANDALONE_STREAM
    assert session.call(1).stream == STANDALONE_STREAM


# ---- with a shell and a disk ----


async def shown(session: SessionHandle, seconds: float = 1.0) -> list[jsonrpc.Message]:
    """Read what the standalone stream shows from its start, for a while."""
    messages: list[jsonrpc.Message] = []
    reading = await session.read(None)
    with trio.move_on_after(seconds):
        while page := await reading.next_page():
            messages += [jsonrpc.parse(entry.body) for entry in page]
    reading.close()
    return messages


async def test_answer_is_shown_and_told_only_when_it_is_durable(autojump_clock: MockClock) -> None:
    async with open_world(commit_seconds=1.0) as world:
        session = await open_session(world)
        reading = await session.read(None)
        reply = send(session, 1, "echo", "x", on_standalone=True)
        with trio.move_on_after(0.9):  # the commit takes a second
            await reading.next_page()
            pytest.fail("it was shown before it was durable")
        assert not reply.is_set

        (entry,) = await reading.next_page()
        assert jsonrpc.result_of(jsonrpc.parse(entry.body)) == "x"
        assert await reply.wait() == ON_STANDALONE
        reading.close()


async def test_answer_is_replayed_by_its_cursor(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        for number in (1, 2, 3):
            await send(session, number, "echo", number, on_standalone=True).wait()
        reading = await session.read(None)
        (first, *_) = await reading.next_page()
        cursor = reading.event_id(first.offset)
        reading.close()
        world.kill()
    async with open_world(upstream, disk) as world:
        events = world.runtime.session(session.id).events(after=cursor)
        rest = [jsonrpc.result_of((await anext(events)).message) for _ in (2, 3)]
        await events.aclose()

    assert rest == [2, 3]


async def promise_and_kill(world: World, *, wait_seconds: float) -> tuple[SessionHandle, bool]:
    """Send a call that is held, kill the process after a while; say whether its answer had been promised."""
    session = await open_session(world)
    await world.runtime.settled()
    await trio.sleep(0.1)  # with the gate open, only now it can be found
    reply = send(session, 1, "hold", on_standalone=True)
    await trio.sleep(wait_seconds)
    told = reply.is_set
    world.kill()
    return session, told


async def test_promised_call_ends_in_an_error_after_a_kill_and_is_not_sent_again(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk, commit_seconds=0.1) as world:
        session, told = await promise_and_kill(world, wait_seconds=1.0)
        assert told
    async with open_world(upstream, disk) as world:
        messages = await shown(world.runtime.session(session.id))

    assert [code(message) for message in messages] == [jsonrpc.OUTCOME_UNKNOWN]
    assert len(upstream.sent("hold")) == 1


async def test_nothing_is_promised_before_the_call_is_durable(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk, commit_seconds=1.0) as world:
        session, told = await promise_and_kill(world, wait_seconds=0.5)
        assert not told
    async with open_world(upstream, disk) as world:
        assert await shown(world.runtime.session(session.id)) == []


async def test_without_the_gate_a_kill_loses_a_promised_call(autojump_clock: MockClock) -> None:
    """The control: it was promised, and its client would wait for ever."""
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk, commit_seconds=1.0, gate_open_always=True) as world:
        session, told = await promise_and_kill(world, wait_seconds=0.5)
        assert told
    async with open_world(upstream, disk) as world:
        assert await shown(world.runtime.session(session.id)) == []
