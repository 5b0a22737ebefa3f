"""A batch: messages taken one by one, answers on one stream that ends with the last of them."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from actors import jsonrpc
from actors import messages as say
from actors.handle import SessionHandle
from actors.jsonrpc import RequestId
from actors.link import About, Established
from actors.mailbox import OneShot
from actors.state import Ask, Limits
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.making import Session, code, of, opened
from tests.actors.worlds import open_session, open_world, read_stream

Item = say.SendRequest | say.SendNotification | say.SendAnswer
BAD = jsonrpc.error(None, jsonrpc.INVALID_REQUEST, "no message")


def call(ticket: int, id: RequestId, method: str = "hold") -> say.SendRequest:
    return say.SendRequest(ticket, jsonrpc.request(id, method))


def note(ticket: int, method: str = "notifications/x", *, cancels: RequestId | None = None) -> say.SendNotification:
    return say.SendNotification(ticket, jsonrpc.notification(method), cancels)


def take(session: Session, *items: Item, refusals: tuple[jsonrpc.Message, ...] = ()) -> tuple[say.Effect, ...]:
    """Take a batch; it has ticket 100, and its messages those that they say."""
    return session.take(say.SendBatch(100, items, refusals))


def is_ended(session: Session) -> bool:
    return session.state.streams[1].ended


def test_answers_come_on_one_stream_that_ends_with_the_last() -> None:
    session = opened()
    effects = take(session, call(101, 1), call(102, "1"))

    assert of(effects, say.Reply) == [say.Reply(100, say.Streaming(1))]
    assert [effect.message.id for effect in of(effects, say.SendUpstream)] == [1, "1"]
    session.answer("1", "second")
    assert [jsonrpc.result_of(message) for message in session.logged()] == ["second"]
    assert not is_ended(session)
    session.answer(1, "first")
    assert is_ended(session)
    assert not session.state.calls


def test_messages_leave_in_their_order() -> None:
    session = opened()
    session.take(say.Receive(jsonrpc.request(9, "ask"), About.NOTHING))
    answer = say.SendAnswer(103, jsonrpc.result(9, {}))
    effects = take(session, note(101), call(102, 1), answer, call(104, 2))

    assert [effect.ticket for effect in of(effects, say.SendUpstream)] == [101, 102, 103, 104]


def test_each_entry_has_its_own_error() -> None:
    session = opened(limits=Limits(calls_in_flight_max=2))
    session.request(7)
    take(session, call(101, 1), call(102, 2), refusals=(BAD,))

    assert [(message.id, code(message)) for message in session.logged()] == [
        (None, jsonrpc.INVALID_REQUEST),
        (2, jsonrpc.OVERLOADED),
    ]
    assert not is_ended(session)
    session.answer(1)
    assert is_ended(session)
    assert 7 in session.state.calls, "another call is none of the batch's business"


@pytest.mark.parametrize("earlier", [True, False])
def test_id_in_progress_is_refused_without_an_id(earlier: bool) -> None:
    # An error under that id would pass for the answer to the request that is in progress.
    session = opened()
    if earlier:
        session.request(1)
    take(session, call(101, 1), call(102, 1))

    refused = session.logged()
    assert len(refused) == (2 if earlier else 1)
    assert all((message.id, code(message)) == (None, jsonrpc.INVALID_REQUEST) for message in refused)
    assert is_ended(session) is earlier


def test_batch_without_a_call_that_was_taken_ends_at_once() -> None:
    session = opened()
    take(session, note(101), refusals=(BAD,))

    assert is_ended(session)
    assert len(session.logged()) == 1


def test_message_that_cannot_be_taken_is_said_to_be_lost() -> None:
    session = opened(limits=Limits(posts_in_flight_max=1))
    effects = take(session, note(101), note(102), call(103, 1))

    assert [code(message) for message in session.logged()] == [jsonrpc.OVERLOADED]
    assert [effect.ticket for effect in of(effects, say.SendUpstream)] == [101, 103]


def test_call_that_is_cancelled_in_its_own_batch_does_not_end_the_others_stream() -> None:
    session = opened(linked=False)
    take(session, call(101, 1), note(102, cancels=1), call(103, 2))

    assert list(session.state.calls) == [2]
    assert not is_ended(session)
    session.take(say.LinkUp(Established(resumed=True)))
    session.answer(2)
    assert is_ended(session)


def test_calls_of_a_batch_wait_for_the_link_and_are_given_up_one_by_one() -> None:
    session = opened(linked=False, limits=Limits(link_wait_seconds=5.0))
    take(session, call(101, 1), call(102, 2))
    session.pass_time(5.0)
    session.overdue(1)
    assert [code(message) for message in session.logged()] == [jsonrpc.UPSTREAM_UNAVAILABLE]
    assert not is_ended(session)
    session.overdue(2)
    assert is_ended(session)


def test_lost_link_answers_what_was_sent() -> None:
    session = opened()
    take(session, call(101, 1), call(102, 2))
    session.answer(1)
    session.take(say.LinkDown("gone"))

    assert [(message.id, code(message)) for message in session.logged()] == [(2, jsonrpc.OUTCOME_UNKNOWN)]
    assert is_ended(session)


def test_session_that_cannot_go_on_takes_no_batch() -> None:
    session = opened()
    session.take(say.ConnectRefused("upstream_rejected", "no"))
    (reply,) = of(take(session, call(101, 1)), say.Reply)

    assert isinstance(reply.outcome, say.NotDone)
    assert reply.outcome.problem is say.Problem.UNINITIALIZED


def test_question_of_the_upstream_about_a_call_of_the_batch_comes_on_its_stream() -> None:
    session = opened()
    take(session, call(101, 1), call(102, 2))
    session.take(say.Receive(jsonrpc.request("q", "sampling"), about=2))

    assert session.state.asks["q"] == Ask("q", "q", "sampling", stream=1)


def send_batch(session: SessionHandle, *items: tuple[RequestId, str]) -> OneShot[say.Outcome]:
    def make(ticket: int) -> say.Command:
        return say.SendBatch(ticket, tuple(call(ticket + n, *item) for n, item in enumerate(items, start=1)))

    return session.actor().ask(make, further_tickets=len(items))


async def test_kill_in_the_middle_ends_the_unanswered_with_an_error_and_runs_nothing_again(
    autojump_clock: MockClock,
) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        assert await send_batch(session, ("a", "echo"), ("b", "hold"), ("c", "hold")).wait() == say.Streaming(1)
        world.link.answer("c", "kept")
        reading = await session.read(None, stream=1)
        seen: list[object] = []
        while len(seen) < 2:
            seen += await reading.next_page()
        world.kill()
    async with open_world(upstream, disk) as world:
        messages = await read_stream(world.runtime.session(session.id), 1)

    assert [message.id for message in messages] == ["a", "c", "b"]
    assert code(messages[-1]) == jsonrpc.OUTCOME_UNKNOWN
    assert len(upstream.sent("hold")) == 2


async def test_tickets_of_a_batch_are_its_own(autojump_clock: MockClock) -> None:
    # Were they anybody else's, the answer to a later request would be taken for that of an entry.
    async with open_world() as world:
        session = await open_session(world)
        batch = send_batch(session, ("a", "hold"), ("b", "hold"))
        later = session.actor().ask(lambda ticket: call(ticket, "later", "echo"))
        outcome = await later.wait()
        assert isinstance(outcome, say.Answered)
        assert outcome.message.id == "later"
        assert await batch.wait() == say.Streaming(1)
        world.link.answer("b")
        world.link.answer("a")
        assert [message.id for message in await read_stream(session, 1)] == ["b", "a"]
