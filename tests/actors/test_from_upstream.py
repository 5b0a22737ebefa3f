"""Where the other side's messages go, what of them is remembered, and what is done about its questions."""

from __future__ import annotations

from actors import jsonrpc
from actors import messages as say
from actors.ids import STANDALONE_STREAM
from actors.link import About, Established
from actors.state import Limits, SetupChange
from tests.actors.making import Session, code, of, opened, outcome, problem


def says(session: Session, about: jsonrpc.RequestId | About, cursor: str = "") -> int:
    """Have the other side say something; give the stream it went to."""
    session.take(say.Receive(jsonrpc.notification("notifications/message"), about=about, cursor=cursor))
    (logged,) = session.events(say.MessageLogged)
    return logged.stream


def test_message_about_nothing_goes_to_the_standalone_stream() -> None:
    session = opened()
    session.request(1)

    assert says(session, About.NOTHING) == STANDALONE_STREAM
    assert 1 in session.state.calls


def test_message_about_a_call_makes_it_a_stream_at_once() -> None:
    session = opened()
    session.request(1)
    effects = session.take(say.Receive(jsonrpc.notification("notifications/progress"), about=1))

    assert outcome(effects) == say.Streaming(1)
    assert session.events(say.MessageLogged)[0].stream == 1
    assert says(session, 1) == 1, "and stays with it"


def test_message_about_an_ended_call_goes_to_the_standalone_stream() -> None:
    session = opened()
    session.request(1)
    session.answer(1)

    assert says(session, 1) == STANDALONE_STREAM


def test_message_about_1_is_not_about_text_1() -> None:
    session = opened()
    session.request("1")

    assert says(session, 1) == STANDALONE_STREAM


def test_unknown_subject_with_one_call_is_that_call() -> None:
    session = opened()
    session.request(1)

    assert says(session, About.UNKNOWN) == 1


def test_unknown_subject_without_a_call_is_the_standalone_stream() -> None:
    assert says(opened(), About.UNKNOWN) == STANDALONE_STREAM


def test_unknown_subject_with_two_calls_is_the_stream_the_client_listens_to() -> None:
    session = opened()
    session.request(1)
    session.request(2)
    session.take(say.Listen(session.ticket()))

    assert says(session, About.UNKNOWN) == STANDALONE_STREAM


def test_unknown_subject_with_two_calls_and_nobody_listening_is_the_newest_call() -> None:
    session = opened()
    session.request(1)
    session.request(2)
    effects = session.take(say.Receive(jsonrpc.request("q", "sampling"), about=About.UNKNOWN))

    assert of(effects, say.Reply) == [say.Reply(session.call(2).ticket, say.Streaming(1))]
    assert session.state.streams[1].request_id == 2


def test_cancelled_calls_are_not_what_an_unknown_subject_is_about() -> None:
    session = opened()
    session.request(1)
    session.request(2)
    session.notify("notifications/cancelled", cancels=2)

    assert says(session, About.UNKNOWN) == 1
    assert session.state.streams[1].request_id == 1


def test_messages_before_the_opening_are_dropped() -> None:
    session = Session()
    session.request("open", "initialize", opens=True)

    assert session.take(say.Receive(jsonrpc.notification("notifications/message"), about=About.NOTHING)) == ()


# ---- questions ----


def asked(session: Session, id: jsonrpc.RequestId) -> jsonrpc.Message:
    session.take(say.Receive(jsonrpc.request(id, "sampling"), about=About.NOTHING))
    (message,) = session.logged()
    return message


def answered(session: Session, id: jsonrpc.RequestId) -> list[jsonrpc.RequestId | None]:
    effects = session.take(say.SendAnswer(session.ticket(), jsonrpc.result(id, "yes")))
    return [effect.message.id for effect in of(effects, say.SendUpstream)]


def test_question_keeps_its_id_and_bytes() -> None:
    session = opened()
    question = jsonrpc.request("q", "sampling", {"a": 1})
    session.take(say.Receive(question, about=About.NOTHING))

    assert session.logged() == [question]
    assert answered(session, "q") == ["q"]


def test_answer_is_taken_once() -> None:
    session = opened()
    asked(session, "q")

    assert answered(session, "q") == ["q"]
    assert answered(session, "q") == []


def test_answer_to_nothing_is_accepted_and_dropped() -> None:
    session = opened()
    effects = session.take(say.SendAnswer(session.ticket(), jsonrpc.result("what", 1)))

    assert outcome(effects) == say.Accepted()
    assert not of(effects, say.SendUpstream)


def test_colliding_question_is_renamed_and_its_answer_named_back() -> None:
    session = opened()
    first, second = asked(session, 5), asked(session, 5)
    assert first.id == 5
    assert second.id != 5
    assert second.id is not None

    assert answered(session, second.id) == [5]
    assert answered(session, 5) == [5]


def test_question_that_is_taken_back_is_named_as_the_client_knows_it() -> None:
    session = opened()
    session.take(say.Receive(jsonrpc.request(1, "sampling"), About.NOTHING))
    session.take(say.LinkUp(Established()))  # another incarnation, which counts from one again
    session.take(say.Receive(jsonrpc.request(1, "sampling"), About.NOTHING))
    (asked,) = session.logged()
    assert asked.id != 1
    params = {"requestId": 1, "reason": "never mind"}
    session.take(say.Receive(jsonrpc.notification("notifications/cancelled", params), About.NOTHING))

    assert session.logged() == [jsonrpc.notification("notifications/cancelled", {**params, "requestId": asked.id})]
    assert asked.id not in session.state.asks
    told = session.take(say.SendAnswer(session.ticket(), jsonrpc.result(asked.id or "", {})))
    assert not of(told, say.SendUpstream), "nobody waits for it any more"


def test_cancellation_of_nothing_known_goes_through_as_it_is() -> None:
    session = opened()
    malformed: list[object] = [{"requestId": {}}, [], None]
    for params in ({"requestId": "other"}, *malformed):
        message = jsonrpc.notification("notifications/cancelled", params)
        session.take(say.Receive(message, About.NOTHING))
        assert session.logged() == [message]


def test_questions_1_and_text_1_do_not_collide() -> None:
    session = opened()

    assert asked(session, 1).id == 1
    assert asked(session, "1").id == "1"


def test_questions_are_withdrawn_with_the_incarnation_that_asked() -> None:
    session = opened()
    asked(session, "q")
    session.take(say.LinkDown("gone"))
    session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))
    effects = session.take(say.SendAnswer(session.ticket(), jsonrpc.result("q", "late")))

    assert outcome(effects) == say.Accepted()
    assert not of(effects, say.SendUpstream)


def test_id_of_a_withdrawn_question_is_not_used_again() -> None:
    """A late answer to the old question must not be taken for one to the new."""
    session = opened()
    asked(session, "q")
    session.take(say.LinkDown("gone"))
    session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))
    renamed = asked(session, "q").id
    assert renamed not in ("q", None)

    assert answered(session, "q") == []
    assert renamed is not None
    assert answered(session, renamed) == ["q"]


def test_questions_of_a_resumed_session_stay() -> None:
    session = opened()
    asked(session, "q")
    session.take(say.LinkDown("gone"))
    session.take(say.LinkUp(Established(resumed=True)))

    assert answered(session, "q") == ["q"]


def test_oldest_question_beyond_the_limit_is_answered_with_an_error() -> None:
    session = opened(limits=Limits(asks_max=2))
    asked(session, 1)
    asked(session, 2)
    effects = session.take(say.Receive(jsonrpc.request(3, "sampling"), about=About.NOTHING))

    (refusal,) = of(effects, say.SendUpstream)
    assert (refusal.message.id, code(refusal.message)) == (1, jsonrpc.OVERLOADED)
    assert list(session.state.asks) == [2, 3]


def test_withdrawn_questions_are_forgotten_before_the_limit_hurts() -> None:
    session = opened(limits=Limits(asks_max=2))
    for round in range(5):
        asked(session, f"{round}a")
        asked(session, f"{round}b")
        session.take(say.LinkDown("gone"))
        session.take(say.LinkUp(Established(upstream_session_id=f"upstream-{round}")))

    assert len(session.state.asks) <= 2


# ---- set-up ----


def set_up(session: Session, key: str, *, keep: bool = True, failing: bool = False) -> None:
    session.request(key, "resources/subscribe", setup=SetupChange(key, keep))
    if failing:
        session.take(say.Receive(jsonrpc.error(key, -1, "no"), about=key))
    else:
        session.answer(key)


def test_successful_setup_is_kept_as_it_was_sent() -> None:
    session = opened()
    set_up(session, "a")

    assert jsonrpc.parse(session.state.setup["a"]).method == "resources/subscribe"


def test_refused_setup_is_not_kept() -> None:
    session = opened()
    set_up(session, "a", failing=True)

    assert not session.state.setup


def test_undone_setup_is_forgotten() -> None:
    session = opened()
    set_up(session, "a")
    set_up(session, "a", keep=False)

    assert not session.state.setup


def test_setup_is_bounded_and_the_oldest_forgotten() -> None:
    session = opened(limits=Limits(setup_max=3))
    for key in ("a", "b", "c", "a", "d"):
        set_up(session, key)

    assert list(session.state.setup) == ["c", "a", "d"]


def test_setup_that_cannot_be_kept_is_refused_before_it_is_sent() -> None:
    session = opened(limits=Limits(setup_bytes_max=300))
    set_up(session, "a")
    set_up(session, "b")
    before = session.state.setup
    effects = session.request("large", "x" * 200, setup=SetupChange("c", keep=True))

    assert problem(effects) is say.Problem.REFUSED
    assert not of(effects, say.SendUpstream)
    assert session.state.setup == before


def test_setup_in_flight_counts_as_kept() -> None:
    session = opened(limits=Limits(setup_bytes_max=300))
    session.request(1, "x" * 150, setup=SetupChange("a", keep=True))
    effects = session.request(2, "x" * 150, setup=SetupChange("b", keep=True))

    assert problem(effects) is say.Problem.REFUSED


def test_setup_that_takes_the_place_of_its_like_is_not_counted_twice() -> None:
    session = opened(limits=Limits(setup_bytes_max=300))
    for id in range(5):
        session.request(id, "x" * 150, setup=SetupChange("a", keep=True))
        session.answer(id)

    assert list(session.state.setup) == ["a"]


# ---- cursors ----


def test_standalone_cursor_follows_the_upstreams_own_stream() -> None:
    session = opened()
    says(session, About.NOTHING, cursor="e1")
    assert session.state.standalone_cursor == "e1"
    session.take(say.MoveCursor(About.NOTHING, "e2"))
    assert session.state.standalone_cursor == "e2"


def test_call_cursor_follows_its_own_stream() -> None:
    session = opened()
    session.request(1)
    session.take(say.MoveCursor(1, "primed"))
    assert session.call(1).upstream_cursor == "primed"
    says(session, 1, cursor="c1")

    assert session.call(1).upstream_cursor == "c1"
    assert session.state.standalone_cursor == ""


def test_new_incarnation_begins_its_own_stream_anew() -> None:
    session = opened()
    says(session, About.NOTHING, cursor="e1")
    session.take(say.LinkDown("gone"))
    session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))

    assert session.state.standalone_cursor == ""


# ---- what is too large to be kept ----


def test_answer_too_large_for_its_stream_becomes_an_error() -> None:
    session = opened(limits=Limits(event_bytes_max=200))
    session.request(1)
    session.overdue(1)
    session.answer(1, "x" * 300)

    (message,) = session.logged()
    assert (message.id, code(message)) == (1, jsonrpc.OVERLOADED)
    assert session.state.streams[1].ended


def test_large_answer_that_is_no_event_passes() -> None:
    session = opened(limits=Limits(event_bytes_max=200))
    session.request(1)
    large = jsonrpc.result(1, "x" * 300)
    effects = session.take(say.Receive(large, about=1))

    assert outcome(effects) == say.Answered(large)


def test_question_too_large_is_answered_and_a_notification_lost() -> None:
    session = opened(limits=Limits(event_bytes_max=200))
    effects = session.take(say.Receive(jsonrpc.request(7, "sampling", {"x": "x" * 300}), about=About.NOTHING))
    (refusal,) = of(effects, say.SendUpstream)
    assert (refusal.message.id, code(refusal.message)) == (7, jsonrpc.OVERLOADED)

    session.take(say.Receive(jsonrpc.notification("news", {"x": "x" * 300}), about=About.NOTHING))
    assert session.logged() == []
    assert not session.state.asks
