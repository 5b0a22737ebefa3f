"""What applications and readers ask of a session: values, events, looking, listening."""

from __future__ import annotations

from actors import jsonrpc
from actors import messages as say
from actors.ids import STANDALONE_STREAM
from actors.link import Established
from actors.state import Limits
from tests.actors.making import Session, of, opened, outcome, problem


def created(limits: Limits = Limits()) -> Session:
    session = Session(limits=limits)
    session.take(say.Create(session.ticket()))
    return session


def test_created_session_has_its_standalone_stream() -> None:
    assert list(created().state.streams) == [STANDALONE_STREAM]


def test_values_are_replaced() -> None:
    session = created()
    session.take(say.Update(5, {"a": 1}, 10))
    session.take(say.Update(6, {"b": 2}, 10))

    assert session.state.values == {"b": 2}


def test_values_beyond_the_limit_are_refused() -> None:
    session = created(Limits(values_bytes_max=100))

    assert problem(session.take(say.Update(5, {"a": 1}, 101))) is say.Problem.REFUSED
    assert session.state.values == {}
    assert outcome(session.take(say.Update(6, {"a": 1}, 100))) == say.Accepted()


def test_emitted_message_is_logged_before_it_is_accepted() -> None:
    session = created()
    message = jsonrpc.notification("order/placed", {"id": 7})
    effects = session.take(say.Emit(5, message))

    assert outcome(effects) == say.Accepted()
    assert session.logged() == [message]


def test_listening_begins_once_and_opens_the_link() -> None:
    session = created()
    effects = session.take(say.Listen(5))
    assert of(effects, say.OpenLink)
    assert session.events(say.ListeningStarted)
    session.take(say.LinkUp(Established(resumed=True)))
    effects = session.take(say.Listen(6))

    assert of(effects, say.ListenUpstream)
    assert not session.events(say.ListeningStarted)


def test_what_was_shown_only_grows() -> None:
    session = created()
    session.take(say.NoteShown(5))
    session.take(say.NoteShown(3))

    assert session.state.shown_offset == 5


def test_looking_changes_nothing_but_the_time_of_the_last_activity() -> None:
    session = created()
    assert outcome(session.take(say.Look(5))) == say.Accepted()
    assert session.events(object) == []
    session.pass_time(1.0)
    session.take(say.Look(6))
    assert session.events(object) == [say.Touched(session.now_unix_s)]


def test_tool_calls_requests_and_errors_are_counted() -> None:
    session = opened()
    before = session.state.metrics
    session.request(1)
    session.answer(1)
    session.take(say.SendRequest(session.ticket(), jsonrpc.request(2, "tools/list")))
    session.take(say.Receive(jsonrpc.error(2, -1, "no"), about=2))
    after = session.state.metrics

    assert after.requests - before.requests == 2
    assert after.tool_calls - before.tool_calls == 1
    assert after.errors - before.errors == 1


def test_confirmation_of_the_handshake_is_passed_on() -> None:
    session = opened()
    message = jsonrpc.notification("notifications/initialized")
    effects = session.take(say.SendNotification(session.ticket(), message, None, confirms=True))

    assert [effect.message for effect in of(effects, say.SendUpstream)] == [message]
    assert session.state.handshake is not None
    assert session.state.handshake.ready
