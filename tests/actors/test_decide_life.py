"""How a session begins, is recovered, has a link or not, fails and ends."""

from __future__ import annotations

import pytest

from actors import jsonrpc
from actors import messages as say
from actors.link import Established, Failure
from actors.snapshots import from_snapshot, to_snapshot
from actors.state import Limits, LinkPhase
from tests.actors.making import NOW, Session, code, of, opened, outcome, problem


def recovered(session: Session) -> Session:
    """Give the session as another process finds it."""
    again = Session(from_snapshot(to_snapshot(session.state)), session.limits)
    again.now_unix_s = session.now_unix_s
    return again


def test_opening_that_succeeds_begins_the_session() -> None:
    session = Session()
    assert of(session.request("open", "initialize", opens=True), say.OpenLink)
    assert of(session.take(say.LinkUp(Established())), say.SendUpstream)
    effects = session.take(say.Receive(jsonrpc.result("open", {}), about="open", upstream_session_id="u"))

    assert isinstance(outcome(effects), say.Answered)
    assert session.events(say.Opened)
    assert session.state.handshake is not None
    assert session.state.handshake.upstream_session_id == "u"


def test_opening_that_is_refused_leaves_nothing() -> None:
    session = Session()
    session.request("open", "initialize", opens=True)
    session.take(say.LinkUp(Established()))
    effects = session.take(say.Receive(jsonrpc.error("open", -32602, "no"), about="open"))

    assert isinstance(outcome(effects), say.Answered)
    assert of(effects, say.Discard)
    assert not session.state.opened


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (say.ConnectRefused("upstream_rejected", "no"), say.Problem.REFUSED),
        (say.LinkDown("broken"), say.Problem.UNAVAILABLE),
        (say.Abandon("crash_loop", "bug"), say.Problem.UNAVAILABLE),
    ],
)
def test_opening_that_cannot_be_made_leaves_nothing(command: say.Command, expected: say.Problem) -> None:
    session = Session()
    session.request("open", "initialize", opens=True)
    effects = session.take(command)

    assert problem(effects) is expected
    assert of(effects, say.Discard)


def test_opening_without_a_link_is_given_up_after_the_link_wait() -> None:
    session = Session(limits=Limits(link_wait_seconds=5.0))
    session.request("open", "initialize", opens=True)
    session.take(say.ConnectRetried("it is down"))
    session.pass_time(4.9)
    assert not of(session.overdue("open"), say.Discard)
    session.pass_time(0.1)
    effects = session.overdue("open")

    assert problem(effects) is say.Problem.UNAVAILABLE
    assert of(effects, say.Discard)


def test_opening_that_could_not_be_sent_is_tried_again() -> None:
    session = Session()
    session.request("open", "initialize", opens=True)
    session.take(say.LinkUp(Established()))
    session.take(say.Refused(session.call("open").ticket, Failure.NOT_SENT, "busy"))
    session.pass_time(0.25)

    assert of(session.overdue("open"), say.SendUpstream)


def test_sent_opening_is_given_its_own_time() -> None:
    session = Session(limits=Limits(link_wait_seconds=5.0, opening_seconds_max=30.0))
    session.request("open", "initialize", opens=True)
    session.take(say.LinkUp(Established()))
    session.pass_time(29.0)
    assert not of(session.overdue("open"), say.Discard)
    session.pass_time(1.0)
    effects = session.overdue("open")

    assert of(effects, say.Discard)
    assert not of(effects, say.CancelUpstream), "an initialize is never cancelled (basic/utilities/cancellation)"


def test_nothing_but_the_opening_is_taken_before_it() -> None:
    session = Session()

    assert problem(session.request(1)) is say.Problem.REFUSED
    assert problem(session.notify()) is say.Problem.REFUSED
    assert problem(session.take(say.Look(9))) is say.Problem.UNINITIALIZED


def test_open_session_is_not_opened_again() -> None:
    assert problem(opened().request("again", "initialize", opens=True)) is say.Problem.REFUSED


def test_client_confirms_once() -> None:
    session = opened()
    session.take(say.SendNotification(session.ticket(), jsonrpc.notification("notifications/initialized"), None, True))
    assert session.events(say.ClientReady)
    session.take(say.SendNotification(session.ticket(), jsonrpc.notification("notifications/initialized"), None, True))
    assert not session.events(say.ClientReady)


# ---- recovery ----


def test_stream_in_flight_at_a_crash_ends_in_an_error() -> None:
    session = opened()
    session.stream(1)
    again = recovered(session)
    effects = again.take(say.Recovered())

    assert [code(message) for message in again.logged()] == [jsonrpc.OUTCOME_UNKNOWN]
    assert not of(effects, say.SendUpstream)
    assert not again.state.calls
    assert again.state.streams[1].ended


def test_call_that_was_no_stream_is_forgotten_by_a_crash() -> None:
    session = opened()
    session.request(1)

    assert not recovered(session).state.calls


def resumable() -> Session:
    session = opened()
    session.request(1)
    session.take(say.Receive(jsonrpc.notification("notifications/progress"), about=1, cursor="c1"))
    return session


def test_resumable_call_goes_on_after_a_crash() -> None:
    again = recovered(resumable())
    effects = again.take(say.Recovered())
    assert of(effects, say.OpenLink)
    again.take(say.LinkUp(Established(resumed=True)))
    again.answer(1, "after all")

    assert [jsonrpc.result_of(message) for message in again.logged()] == ["after all"]
    assert again.state.streams[1].ended


def test_resumable_call_survives_its_link() -> None:
    session = resumable()
    effects = session.take(say.LinkDown("broken"))
    assert of(effects, say.OpenLink)
    session.take(say.LinkUp(Established(resumed=True)))
    assert session.logged() == []
    session.answer(1, "after all")

    assert [jsonrpc.result_of(message) for message in session.logged()] == ["after all"]


def test_resumed_call_is_watched_like_any_other() -> None:
    again = recovered(resumable())
    again.pass_time(7200.0)  # the process was away for longer than a call may be silent
    effects = again.take(say.Recovered())
    assert [effect.ticket for effect in of(effects, say.Watch)] == [again.call(1).ticket]
    assert not of(again.overdue(1), say.CancelUpstream), "its silence counts from now on"
    again.pass_time(3600.0)
    again.overdue(1)

    assert [code(message) for message in again.logged()] == [jsonrpc.REQUEST_TIMED_OUT]


def test_resumable_call_whose_upstream_has_forgotten_it_is_not_run_again() -> None:
    again = recovered(resumable())
    again.take(say.Recovered())
    effects = again.take(say.LinkUp(Established(upstream_session_id="upstream-1")))

    assert [code(message) for message in again.logged()] == [jsonrpc.OUTCOME_UNKNOWN]
    assert not of(effects, say.SendUpstream)


@pytest.mark.parametrize("failure", [Failure.NOT_SENT, Failure.SESSION_LOST, Failure.OUTCOME_UNKNOWN])
def test_resumed_call_that_cannot_go_on_is_in_doubt(failure: Failure) -> None:
    again = recovered(resumable())
    again.take(say.Recovered())
    again.take(say.LinkUp(Established(resumed=True)))
    again.take(say.Refused(again.call(1).ticket, failure, "no more"))

    assert [code(message) for message in again.logged()] == [jsonrpc.OUTCOME_UNKNOWN]


def test_listening_session_seeks_its_link_after_a_crash() -> None:
    session = opened()
    session.take(say.Listen(session.ticket()))
    again = recovered(session)
    assert of(again.take(say.Recovered()), say.OpenLink)

    assert of(again.take(say.LinkUp(Established(resumed=True))), say.ListenUpstream)


def test_idle_session_seeks_none() -> None:
    assert recovered(opened()).take(say.Recovered()) == ()


# ---- the link ----


def test_connecting_is_told_to_those_who_wait() -> None:
    session = opened(linked=False)
    effects = session.take(say.ConnectNow(50))
    assert of(effects, say.OpenLink)
    effects = session.take(say.LinkUp(Established(resumed=True)))

    assert of(effects, say.Reply) == [say.Reply(50, say.Accepted())]


def test_connecting_that_fails_is_told_to_those_who_wait() -> None:
    session = opened(linked=False)
    session.take(say.ConnectNow(50))
    effects = session.take(say.ConnectRetried("down"))

    assert problem(effects) is say.Problem.UNAVAILABLE
    session.take(say.ConnectGivenUp())
    assert session.state.link is LinkPhase.DOWN


def test_connected_session_says_so_at_once() -> None:
    assert outcome(opened().take(say.ConnectNow(50))) == say.Accepted()


def test_failed_session_is_not_connected() -> None:
    session = opened(linked=False)
    session.take(say.ConnectRefused("auth_gone", "expired"))
    effects = session.take(say.ConnectNow(50))

    assert problem(effects) is say.Problem.UNINITIALIZED
    assert not of(effects, say.OpenLink)


def test_announcements_of_a_new_link_reach_the_standalone_stream() -> None:
    session = opened(linked=False)
    session.request(1)
    changed = jsonrpc.notification("notifications/tools/list_changed")
    session.take(say.LinkUp(Established(upstream_session_id="upstream-1", announcements=(changed,))))

    assert session.logged() == [changed]


# ---- failing and ending ----


def test_refused_session_is_uninitialized_and_its_calls_answered() -> None:
    session = opened()
    session.request(1)
    session.stream(2)
    session.notify()
    effects = session.take(say.ConnectRefused("upstream_rejected", "another version"))

    assert session.state.failure == "upstream_rejected"
    assert not session.state.initialized
    assert not session.state.busy
    assert [code(message) for message in session.logged()] == [jsonrpc.OUTCOME_UNKNOWN]
    assert {reply.outcome.problem for reply in of(effects, say.Reply) if isinstance(reply.outcome, say.NotDone)} == {
        say.Problem.UNINITIALIZED
    }
    assert of(effects, say.CloseLink) == [say.CloseLink(end_session=False)]


@pytest.mark.parametrize(
    "command",
    [
        say.SendRequest(90, jsonrpc.request(9, "echo")),
        say.SendNotification(90, jsonrpc.notification("x")),
        say.SendAnswer(90, jsonrpc.result("q", 1)),
        say.Listen(90),
        say.Look(90),
        say.Emit(90, jsonrpc.notification("x")),
        say.Update(90, {}, 0),
        say.ConnectNow(90),
    ],
)
def test_uninitialized_session_does_nothing_more(command: say.Command) -> None:
    session = opened()
    session.take(say.Abandon("crash_loop", "bug"))

    assert problem(session.take(command)) is say.Problem.UNINITIALIZED


def test_close_ends_all_and_tells_the_upstream() -> None:
    session = opened()
    session.request(1)
    session.stream(2)
    effects = session.take(say.Close(60, "client"))

    assert session.state.closed
    assert of(effects, say.CloseLink) == [say.CloseLink(end_session=True)]
    assert of(effects, say.Bury) == [say.Bury(60, "client")]
    assert not session.state.calls


def test_closed_session_takes_nothing_more() -> None:
    session = opened()
    session.take(say.Close(60, "client"))

    assert session.request(1) == ()
    assert session.take(say.Close(61, "client")) == ()


def test_activity_moves_the_expiry() -> None:
    session = opened()
    assert session.state.expires_unix_s == NOW + 3600.0
    session.pass_time(100.0)
    session.take(say.Look(5))

    assert session.state.expires_unix_s == NOW + 3700.0
