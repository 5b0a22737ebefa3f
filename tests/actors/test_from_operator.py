"""What operators ask of a session: notes about it, and a new upstream session. Choices, without a shell."""

from __future__ import annotations

import pytest

from actors import jsonrpc
from actors import messages as say
from actors.decide import decide
from actors.link import Established
from actors.outcomes import Problem
from actors.state import Limits, LinkPhase
from tests.actors.making import NOW, Session, code, fresh_state, of, opened, outcome, problem


def test_tags_and_metadata_change_together() -> None:
    session = opened(metadata={"origin": "http://localhost", "old": 1})
    effects = session.take(
        say.UpdateMetadata(session.ticket(), ("urgent", "beta", "urgent"), values={"owner": "ops"}, forget=("old",))
    )

    assert outcome(effects) == say.Accepted()
    expected = {"origin": "http://localhost", "owner": "ops", "tags": ["urgent", "beta"]}
    assert session.state.metadata == expected


def test_last_tag_taken_off_leaves_none() -> None:
    session = opened(metadata={"tags": ["beta"]})
    session.take(say.UpdateMetadata(session.ticket(), remove_tags=("beta", "never there")))

    assert session.state.metadata == {}


def test_looking_after_a_session_is_no_activity() -> None:
    session = opened()
    session.now_unix_s += 1000.0
    session.take(say.UpdateMetadata(session.ticket(), ("beta",)))
    session.take(say.Reinitialize(session.ticket()))

    assert session.state.last_active_unix_s == NOW


def test_change_that_changes_nothing_is_no_event() -> None:
    session = opened(metadata={"tags": ["beta"]})
    session.take(say.UpdateMetadata(session.ticket(), ("beta",)))

    assert session.last is not None
    assert session.last.events == ()


@pytest.mark.parametrize(
    ("limits", "command"),
    [
        (Limits(tags_max=2), say.UpdateMetadata(1, ("a", "b", "c"))),
        (Limits(metadata_bytes_max=50), say.UpdateMetadata(1, values={"note": "x" * 50})),
        (Limits(), say.UpdateMetadata(1, values={"note": 1 << 70})),
        (Limits(), say.UpdateMetadata(1, values={"tags": "mine"})),
    ],
    ids=["tags", "bytes", "unkeepable", "tags set whole"],
)
def test_limits_refuse_all_of_a_change(limits: Limits, command: say.UpdateMetadata) -> None:
    session = opened(limits=limits, metadata={"kept": 1})

    assert problem(session.take(command)) is Problem.REFUSED
    assert session.state.metadata == {"kept": 1}


def test_change_of_metadata_waits_for_its_commit() -> None:
    assert say.MetadataChanged.hard


def test_reinitializing_drops_the_upstream_session_and_opens_a_link_that_begins_anew() -> None:
    session = opened()
    ticket = session.ticket()
    effects = session.take(say.Reinitialize(ticket))

    assert [say.CloseLink(end_session=True), say.OpenLink()] == list(effects)
    assert (session.state.begin_anew, session.state.link) == (True, LinkPhase.CONNECTING)
    effects = session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))
    assert of(effects, say.Reply) == [say.Reply(ticket, say.Accepted())]
    assert session.state.handshake is not None
    assert (session.state.begin_anew, session.state.handshake.upstream_session_id) == (False, "upstream-1")


def test_calls_in_progress_end_in_doubt_and_are_not_run_again() -> None:
    session = opened()
    call = session.ticket()
    session.take(say.SendRequest(call, jsonrpc.request("c", "tools/call")))
    (answer,) = of(session.take(say.Reinitialize(session.ticket())), say.Reply)
    again = session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))

    assert answer.ticket == call
    assert isinstance(answer.outcome, say.Answered)
    assert code(answer.outcome.message) == jsonrpc.OUTCOME_UNKNOWN
    assert of(again, say.SendUpstream) == []


def test_uninitialized_session_comes_into_force_again() -> None:
    session = opened()
    session.take(say.Abandon("upstream_rejected", "no"))
    assert not session.state.initialized
    session.take(say.Reinitialize(session.ticket()))
    session.take(say.LinkUp(Established(upstream_session_id="upstream-1")))

    assert session.state.initialized


def test_uninitialized_session_fails_again_where_its_server_still_refuses() -> None:
    session = opened()
    session.take(say.Abandon("upstream_rejected", "no"))
    session.take(say.Reinitialize(session.ticket()))
    effects = session.take(say.ConnectRefused("upstream_rejected", "still no"))

    assert problem(effects) is Problem.UNINITIALIZED
    assert session.state.failure == "upstream_rejected"


def test_without_a_handshake_there_is_nothing_to_do_again() -> None:
    session = Session(fresh_state())
    session.take(say.Create(session.ticket()))

    assert problem(session.take(say.Reinitialize(session.ticket()))) is Problem.REFUSED


def test_session_that_is_not_open_yet_has_no_metadata_to_change() -> None:
    decision = decide(fresh_state(), say.UpdateMetadata(1, ("beta",)), now_unix_s=NOW, limits=Limits())

    assert problem(decision.effects) is Problem.UNAVAILABLE
