"""What time, cancellation and bounds make of calls and posts."""

from __future__ import annotations

import pytest

from actors import jsonrpc
from actors import messages as say
from actors.decide import LOOK_AGAIN_SECONDS
from actors.link import Established, Failure
from actors.state import Limits
from tests.actors.making import code, of, opened, outcome, problem


def test_call_that_takes_long_becomes_a_stream() -> None:
    session = opened()
    session.request(1)
    session.pass_time(0.25)
    effects = session.overdue(1)

    assert outcome(effects) == say.Streaming(1)
    assert session.state.streams[1].request_id == 1
    session.answer(1, "late")
    assert [jsonrpc.result_of(message) for message in session.logged()] == ["late"]
    assert session.state.streams[1].ended
    assert not session.state.calls


def test_call_that_is_answered_soon_does_not() -> None:
    session = opened()
    session.request(1)
    effects = session.answer(1, "soon")

    assert outcome(effects) == say.Answered(jsonrpc.result(1, "soon"))
    assert list(session.state.streams) == [0]


def test_call_in_time_needs_no_commit() -> None:
    session = opened()
    session.request(1)
    assert session.last is not None
    assert not any(event.hard for event in session.last.events)
    session.answer(1)
    assert not any(event.hard for event in session.last.events)


def test_request_id_in_progress_is_refused_and_number_and_text_differ() -> None:
    session = opened()
    session.request(1)

    assert of(session.request("1"), say.SendUpstream)
    assert problem(session.request(1)) is say.Problem.DUPLICATE
    session.answer(1)
    assert of(session.request(1), say.SendUpstream), "an id that is free again"


def test_calls_beyond_the_limit_are_told_to_come_later() -> None:
    session = opened(limits=Limits(calls_in_flight_max=2))
    session.request(1)
    session.request(2)

    assert problem(session.request(3)) is say.Problem.OVERLOADED
    session.answer(1)
    assert of(session.request(3), say.SendUpstream)


def test_posts_beyond_the_limit_are_told_to_come_later() -> None:
    session = opened(limits=Limits(posts_in_flight_max=2))
    session.notify()
    session.notify()

    assert problem(session.notify()) is say.Problem.OVERLOADED


def test_post_is_accepted_when_the_upstream_has_it() -> None:
    session = opened()
    assert not of(session.notify(), say.Reply)
    effects = session.take(say.Delivered(session.tickets))

    assert outcome(effects) == say.Accepted()
    assert not session.state.posts


def test_what_waits_for_the_link_leaves_in_the_order_in_which_it_came() -> None:
    session = opened(linked=False)
    session.notify("first")
    session.request(1, "second")
    session.notify("third")
    effects = session.take(say.LinkUp(Established(resumed=True)))

    assert [effect.message.method for effect in of(effects, say.SendUpstream)] == ["first", "second", "third"]


def test_nothing_overtakes_what_waits() -> None:
    session = opened()
    session.request(1, "first")
    session.take(say.Refused(session.call(1).ticket, Failure.NOT_SENT, "busy"))
    assert not of(session.request(2, "second"), say.SendUpstream)
    session.pass_time(0.25)
    effects = session.overdue(1)

    assert [effect.message.method for effect in of(effects, say.SendUpstream)] == ["first", "second"]


def test_unsent_call_is_tried_until_its_wait_is_over() -> None:
    session = opened(limits=Limits(link_wait_seconds=5.0))
    session.request(1)
    # Tried at 0.25, 0.5, ..., 4.75: 19 times; at 5.0 it is over.
    for _ in range(19):
        session.take(say.Refused(session.call(1).ticket, Failure.NOT_SENT, "busy"))
        session.pass_time(0.25)
        assert of(session.overdue(1), say.SendUpstream)
    session.take(say.Refused(session.call(1).ticket, Failure.NOT_SENT, "busy"))
    session.pass_time(0.25)

    assert problem(session.overdue(1)) is say.Problem.UNAVAILABLE


def test_unsent_call_is_tried_again_soon_however_long_answers_may_take() -> None:
    session = opened(limits=Limits(answer_json_within_seconds=60.0, link_wait_seconds=5.0))
    [watch] = of(session.request(1), say.Watch)
    assert watch.seconds == 0.25
    session.take(say.Refused(session.call(1).ticket, Failure.NOT_SENT, "refused"))
    session.pass_time(0.25)

    assert of(session.overdue(1), say.SendUpstream)


def test_call_that_may_not_have_left_is_looked_at_within_its_wait() -> None:
    session = opened(limits=Limits(answer_json_within_seconds=60.0, link_wait_seconds=5.0))
    session.request(1)
    session.pass_time(0.25)
    looked = session.take(say.Overdue(session.call(1).ticket))

    assert [watch.seconds for watch in of(looked, say.Watch)] == [5.0]


@pytest.mark.parametrize("streaming", [False, True])
def test_call_whose_connection_took_all_its_time_ends_at_once(streaming: bool) -> None:
    session = opened(limits=Limits(answer_json_within_seconds=0.25 if streaming else 60.0, link_wait_seconds=5.0))
    session.request(1)
    session.pass_time(0.25)
    session.take(say.Overdue(session.call(1).ticket))
    session.pass_time(9.75)
    effects = session.take(say.Refused(session.call(1).ticket, Failure.NOT_SENT, "no connection within 10 s"))

    assert not session.state.calls
    if streaming:
        assert [code(message) for message in session.logged()] == [jsonrpc.UPSTREAM_UNAVAILABLE]
    else:
        assert problem(effects) is say.Problem.UNAVAILABLE


def test_unsent_post_is_tried_until_its_wait_is_over() -> None:
    session = opened(linked=False)
    session.notify()
    ticket = session.tickets
    session.pass_time(4.9)
    assert not of(session.take(say.Overdue(ticket)), say.Reply)
    session.pass_time(0.1)

    assert problem(session.take(say.Overdue(ticket))) is say.Problem.UNAVAILABLE


def test_sent_post_without_confirmation_is_lost() -> None:
    session = opened(limits=Limits(opening_seconds_max=30.0))
    session.notify()
    session.pass_time(30.0)

    assert problem(session.take(say.Overdue(session.tickets))) is say.Problem.LOST


def test_cancelled_unsent_call_never_leaves() -> None:
    session = opened(linked=False)
    session.request(1)
    effects = session.notify(cancels=1)

    assert [reply.outcome for reply in of(effects, say.Reply)] == [say.Withdrawn(), say.Accepted()]
    assert not of(session.take(say.LinkUp(Established(resumed=True))), say.SendUpstream)


def test_cancelled_sent_call_is_given_a_grace_period() -> None:
    session = opened(limits=Limits(cancel_grace_seconds=5.0))
    session.request(1)
    effects = session.notify("notifications/cancelled", cancels=1)
    assert [effect.message.method for effect in of(effects, say.SendUpstream)] == ["notifications/cancelled"]
    session.pass_time(4.9)
    assert of(session.overdue(1), say.Watch)
    session.pass_time(0.2)

    assert outcome(session.overdue(1)) == say.Withdrawn()
    assert not session.state.calls


def test_cancelled_call_that_is_answered_in_time_is_answered() -> None:
    session = opened()
    session.request(1)
    session.notify("notifications/cancelled", cancels=1)

    assert outcome(session.answer(1)) == say.Answered(jsonrpc.result(1, "done"))


def test_cancelled_stream_ends_without_an_answer() -> None:
    session = opened()
    session.stream(1)
    session.notify("notifications/cancelled", cancels=1)
    session.pass_time(5.0)
    session.overdue(1)

    assert session.state.streams[1].ended
    assert session.logged() == []


def test_silent_call_is_given_up_and_the_upstream_told() -> None:
    session = opened(limits=Limits(call_seconds_max=600.0))
    session.request(1)
    session.pass_time(0.25)
    session.overdue(1)
    session.pass_time(599.0)
    assert not of(session.overdue(1), say.CancelUpstream)
    session.pass_time(1.0)
    effects = session.overdue(1)

    assert [effect.request_id for effect in of(effects, say.CancelUpstream)] == [1]
    assert [code(message) for message in session.logged()] == [jsonrpc.REQUEST_TIMED_OUT]


def test_progress_keeps_a_call_alive() -> None:
    session = opened(limits=Limits(call_seconds_max=600.0))
    session.request(1)
    session.pass_time(500.0)
    session.take(say.Receive(jsonrpc.notification("notifications/progress"), about=1))
    session.pass_time(500.0)

    assert not of(session.overdue(1), say.CancelUpstream)
    assert 1 in session.state.calls


def test_progress_keeps_no_call_alive_for_ever() -> None:
    session = opened(limits=Limits(call_seconds_max=600.0, call_total_seconds_max=1000.0))
    session.stream(1)
    for _ in range(2):  # heard of at 500 and 999 s: without the limit on the whole it would go on until 1599
        session.pass_time(499.5)
        session.take(say.Receive(jsonrpc.notification("notifications/progress"), about=1))
        assert not of(session.overdue(1), say.CancelUpstream)
    session.pass_time(1.0)
    effects = session.overdue(1)

    assert [effect.request_id for effect in of(effects, say.CancelUpstream)] == [1]
    assert [code(message) for message in session.logged()] == [jsonrpc.REQUEST_TIMED_OUT]


def test_long_call_is_looked_at_again_soon_so_that_nothing_of_it_stays_behind() -> None:
    session = opened(limits=Limits(call_seconds_max=3600.0, link_wait_seconds=5.0))
    session.request(1)
    session.pass_time(0.25)
    assert [effect.seconds for effect in of(session.overdue(1), say.Watch)] == [5.0], "it may not have left yet"
    session.pass_time(5.0)
    assert [effect.seconds for effect in of(session.overdue(1), say.Watch)] == [LOOK_AGAIN_SECONDS]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure.OUTCOME_UNKNOWN, jsonrpc.OUTCOME_UNKNOWN),
        (Failure.REFUSED, jsonrpc.INTERNAL_ERROR),
        (Failure.UNREADABLE, jsonrpc.UNREADABLE_ANSWER),
    ],
)
def test_refused_call_is_answered_and_not_sent_again(failure: Failure, expected: int) -> None:
    session = opened()
    session.request(1)
    effects = session.take(say.Refused(session.call(1).ticket, failure, "so it is"))

    told = outcome(effects)
    assert isinstance(told, say.Answered)
    assert code(told.message) == expected
    assert not of(effects, say.SendUpstream)


def test_call_of_a_lost_session_is_sent_again_once() -> None:
    session = opened()
    session.request(1, "first")
    effects = session.take(say.Refused(session.call(1).ticket, Failure.SESSION_LOST, "forgotten"))
    assert of(effects, say.CloseLink) == [say.CloseLink(end_session=False)]
    assert of(effects, say.OpenLink)
    effects = session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))
    assert [effect.message.method for effect in of(effects, say.SendUpstream)] == ["first"]
    assert session.state.handshake is not None
    assert session.state.handshake.upstream_session_id == "upstream-1"

    effects = session.take(say.Refused(session.call(1).ticket, Failure.SESSION_LOST, "forgotten again"))

    told = outcome(effects)
    assert isinstance(told, say.Answered)
    assert code(told.message) == jsonrpc.UPSTREAM_UNAVAILABLE
    assert not of(effects, say.OpenLink)


def test_call_that_the_upstream_had_begun_is_never_sent_again() -> None:
    """A session that is lost while its call runs has run it: sending it again could run it twice."""
    session = opened()
    session.request(1)
    session.take(say.Receive(jsonrpc.notification("notifications/progress"), about=1, cursor="c1"))
    effects = session.take(say.Refused(session.call(1).ticket, Failure.SESSION_LOST, "forgotten"))

    assert not of(effects, say.OpenLink)
    assert [code(message) for message in session.logged()] == [jsonrpc.OUTCOME_UNKNOWN]


def test_others_in_flight_when_the_session_is_lost_have_an_unknown_outcome() -> None:
    session = opened()
    session.request(1)
    session.request(2)
    session.take(say.Refused(session.call(1).ticket, Failure.SESSION_LOST, "forgotten"))
    effects = session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))

    (told,) = [reply.outcome for reply in of(effects, say.Reply)]
    assert isinstance(told, say.Answered)
    assert (told.message.id, code(told.message)) == (2, jsonrpc.OUTCOME_UNKNOWN)


def test_answer_to_a_question_of_a_lost_session_is_dropped() -> None:
    session = opened()
    session.take(say.Receive(jsonrpc.request("q", "sampling"), about=1))
    session.take(say.SendAnswer(session.ticket(), jsonrpc.result("q", "a")))
    effects = session.take(say.Refused(session.tickets, Failure.SESSION_LOST, "forgotten"))

    assert outcome(effects) == say.Accepted()
    assert not session.state.posts


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(Failure.OUTCOME_UNKNOWN, say.Problem.LOST), (Failure.REFUSED, say.Problem.REFUSED)],
)
def test_refused_post_is_told_so(failure: Failure, expected: say.Problem) -> None:
    session = opened()
    session.notify()

    assert problem(session.take(say.Refused(session.tickets, failure, "so it is"))) is expected


def test_notification_of_a_lost_session_is_sent_again_once() -> None:
    session = opened()
    session.notify("first")
    session.take(say.Refused(session.tickets, Failure.SESSION_LOST, "forgotten"))
    effects = session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))
    assert [effect.message.method for effect in of(effects, say.SendUpstream)] == ["first"]

    assert problem(session.take(say.Refused(session.tickets, Failure.SESSION_LOST, "again"))) is say.Problem.REFUSED


def test_lost_link_leaves_what_was_sent_in_doubt_and_keeps_the_rest() -> None:
    session = opened()
    session.request(1, "sent")
    session.take(say.Refused(session.call(1).ticket, Failure.NOT_SENT, "busy"))
    session.overdue(1)
    session.request(2, "sent too")
    session.notify("sent as well")
    post = session.tickets
    session.request(3, "waits")
    session.take(say.Refused(session.call(3).ticket, Failure.NOT_SENT, "busy"))
    effects = session.take(say.LinkDown("broken"))

    told = {reply.ticket: reply.outcome for reply in of(effects, say.Reply)}
    assert list(session.state.calls) == [3]
    assert told[post] == say.NotDone(say.Problem.LOST, "the upstream was lost before it confirmed this: broken")
    assert of(effects, say.OpenLink), "there is something to send"


def test_late_answer_is_dropped() -> None:
    session = opened()
    session.request(1)
    session.answer(1)

    assert session.answer(1) == ()
    assert session.take(say.Receive(jsonrpc.error(None, -32700, "what?"), about=1)) == ()
