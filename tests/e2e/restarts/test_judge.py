"""The judge finds each kind of wrong: without that, a matrix without findings says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from actors.ids import EventId
from actors.jsonrpc import OUTCOME_UNKNOWN, UPSTREAM_UNAVAILABLE
from tests.e2e.restarts.transcript import Asked, Circumstances, Due, Ending, Kind, Transcript, violations

ANSWERED = Ending(Kind.ANSWER, "done")
LOST = Ending(Kind.ERROR, "it may have been carried out", OUTCOME_UNKNOWN)
BROKEN = Ending(Kind.BROKEN)
DIRECT = {"call": Asked("call", endings=[ANSWERED], heard=["one", "two"])}
EVENT = EventId(1, 7, 1)


def judged(
    *endings: Ending, runs: int = 1, killed: bool = False, lost: bool = False, resumable: bool = False, **fields: Any
) -> list[str]:
    """Judge a case in which one call was made."""
    call = Asked("call", **{"key": "k", "heard": ["one", "two"], "endings": [*endings], **fields})
    return violations(Transcript([call]), DIRECT, Circumstances(killed, lost, resumable), {"k": runs})


def test_right_answer_is_right() -> None:
    assert judged(ANSWERED) == []


def test_explicit_errors_are_right() -> None:
    assert judged(LOST, heard=["one"]) == []
    assert judged(Ending(Kind.REFUSED, "503 later", UPSTREAM_UNAVAILABLE), runs=0, heard=[]) == []
    assert judged(BROKEN, killed=True, heard=[]) == []


@pytest.mark.parametrize("withdrawn", [Ending(Kind.WITHDRAWN), ANSWERED, LOST])
def test_withdrawn_call_may_end_in_any_way(withdrawn: Ending) -> None:
    assert judged(withdrawn, cancelled=True) == []


def test_silence_is_found() -> None:
    assert judged() == ["call: silence: it never ended"]


def test_second_end_is_found() -> None:
    assert judged(LOST, ANSWERED)[0] == "call: ended 2 times (a JSON-RPC error, an answer)"


def test_other_answer_than_direct_is_found() -> None:
    assert judged(Ending(Kind.ANSWER, "else")) == ["call: was answered else, without a gateway done"]


@pytest.mark.parametrize("heard", [["two"], ["two", "one"], ["one", "one"], ["one", "two", "three"]])
def test_messages_that_are_lost_changed_repeated_or_invented_are_found(heard: list[str]) -> None:
    assert judged(LOST, heard=heard) == [f"call: heard {heard}, without a gateway ['one', 'two']"]


def test_messages_missing_before_an_answer_are_found() -> None:
    [found] = judged(ANSWERED, heard=["one"])
    assert "heard only ['one']" in found


@pytest.mark.parametrize(
    "fields",
    [
        {"killed": False},  # nothing broke our connections
        {"killed": True, "events": [EVENT]},  # it could be resumed
        {"killed": True, "heard": ["one"]},  # and it was known to have arrived
        {"killed": True, "after": True},  # it was asked when all was well again
    ],
)
def test_broken_connection_without_excuse_is_found(fields: dict[str, Any]) -> None:
    assert judged(BROKEN, **{"heard": [], **fields}) == ["call: ended in a broken connection ()"]


@pytest.mark.parametrize("kind", [Kind.WITHDRAWN, Kind.DENIED, Kind.MALFORMED])
def test_end_that_explains_nothing_is_found(kind: Kind) -> None:
    assert judged(Ending(kind, "so"), killed=True) == [f"call: ended in {kind.value} (so)"]


def test_session_that_does_not_go_on_is_found() -> None:
    assert judged(LOST, after=True)[0].startswith("call: ended in a JSON-RPC error")
    assert judged(LOST, after=True, lost=True)[0].startswith("call: ended in a JSON-RPC error")
    assert judged(LOST, after=True, lost=True, listening=True) == [], "the loss was noticed while it was on its way"


def test_loss_of_what_could_be_resumed_is_found() -> None:
    assert judged(LOST, resumable=True)[0].startswith("call: ended in a JSON-RPC error")
    assert judged(LOST, resumable=True, heard=[]) == [], "nothing had come of it: there was no place to go on from"


def test_ended_session_that_answers_is_found() -> None:
    assert judged(ANSWERED, due=Due.GONE) == ["call: ended in an answer (done)"]


def test_second_execution_is_found() -> None:
    assert judged(ANSWERED, runs=2) == ["call: ran 2 times"]


def test_result_of_nothing_is_found() -> None:
    assert judged(ANSWERED, runs=0) == ["call: has a result though it never ran"]


def test_invitation_to_repeat_what_ran_is_found() -> None:
    found = judged(Ending(Kind.REFUSED, "503 later", UPSTREAM_UNAVAILABLE))
    assert found[0] == "call: was refused (503: try again) though it ran"


def test_failure_claimed_of_what_ran_is_found() -> None:
    assert judged(Ending(Kind.ERROR, "failed", -32603)) == ["call: ran, and is said to have failed: failed"]


@pytest.mark.parametrize("second", [EVENT, EventId(1, 7, 0), EventId(1, 6, 9), EventId(2, 7, 2)])
def test_events_repeated_out_of_order_or_of_another_stream_are_found(second: EventId) -> None:
    assert len(judged(ANSWERED, events=[EVENT, second])) == 1
    own = violations(Transcript(own_streams=[[EVENT, second]]), {}, Circumstances(False, False, False), {})
    assert len(own) == 1


def test_replay_that_differs_is_found() -> None:
    assert judged(ANSWERED, unlike_replay="was replayed otherwise") == ["call: was replayed otherwise"]


def test_what_was_awaited_in_vain_is_found() -> None:
    transcript = Transcript(missing=["an update"], wrong=["a stranger's answer"])
    assert violations(transcript, {}, Circumstances(False, False, False), {}) == [
        "silence: an update",
        "a stranger's answer",
    ]
