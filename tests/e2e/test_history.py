"""The checker's own controls: a true history passes, and each kind of broken promise is found."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from tests.e2e.history import (
    OWN_STREAM,
    CallHistory,
    Ending,
    Evidence,
    History,
    SessionHistory,
    violations,
)
from tests.e2e.server_sent_events import Frame

SESSION = "session-one"


def frame(event_id: str, text: str) -> Frame:
    return Frame(id=event_id, data=f'"{text}"')


def true_history() -> tuple[History, Evidence]:
    """A session whose client was told of two counts, one streamed call, one error and a list change."""
    heard = [Frame(id="1-0"), frame("1-1", "half"), frame("1-2", "done")]
    own = [frame("0-1", "list changed"), frame("0-2", "list changed again")]
    session = SessionHistory(
        calls={
            "first": CallHistory("counter", Ending.RESULT, "1", 1),
            "long": CallHistory("progress", Ending.RESULT, "done", 1, heard),
            "lost": CallHistory("progress", Ending.ERROR, "", 1, [Frame(id="2-0"), frame("2-1", "error")]),
            "gone": CallHistory("counter", Ending.BROKEN),
            "later": CallHistory("counter", Ending.RESULT, "3", 1),
        },
        own_stream=own,
    )
    evidence = Evidence(
        answering=frozenset({SESSION}),
        replays={
            (SESSION, "long"): heard[1:],
            (SESSION, "lost"): [frame("2-1", "error")],
            # More may follow than the client had heard.
            (SESSION, OWN_STREAM): [*own[1:], frame("0-3", "list changed once more")],
        },
        executions=Counter({"first": 1, "long": 1, "lost": 1, "gone": 1, "later": 1}),
    )
    return History({SESSION: session}), evidence


def test_true_history_has_no_violations() -> None:
    assert violations(*true_history()) == []


def test_lost_session_is_found() -> None:
    history, evidence = true_history()
    [found] = violations(history, attrs.evolve(evidence, answering=frozenset()))
    assert "does not answer" in found


@pytest.mark.parametrize("stream", ["long", OWN_STREAM])
def test_lost_event_is_found(stream: str) -> None:
    history, evidence = true_history()
    replays = {**evidence.replays, (SESSION, stream): []}
    assert any("is not replayed" in found for found in violations(history, attrs.evolve(evidence, replays=replays)))


def test_event_lost_in_the_middle_is_found() -> None:
    history, evidence = true_history()
    replays = {**evidence.replays, (SESSION, "long"): [frame("1-2", "done")]}
    assert violations(history, attrs.evolve(evidence, replays=replays))


def test_changed_content_is_found() -> None:
    history, evidence = true_history()
    changed = [frame("1-1", "HALF"), frame("1-2", "done")]
    replays = {**evidence.replays, (SESSION, "long"): changed}
    [found] = violations(history, attrs.evolve(evidence, replays=replays))
    assert "is replayed as" in found


def test_changed_order_is_found() -> None:
    history, evidence = true_history()
    replays = {**evidence.replays, (SESSION, "long"): [frame("1-2", "done"), frame("1-1", "half")]}
    assert violations(history, attrs.evolve(evidence, replays=replays))


def test_id_with_two_contents_is_found() -> None:
    history, evidence = true_history()
    history.sessions[SESSION].own_stream[0] = frame("1-1", "another stream's id")
    assert any("names" in found for found in violations(history, evidence))


def test_event_sent_twice_is_found() -> None:
    history, evidence = true_history()
    heard = history.sessions[SESSION].calls["long"].heard
    heard.insert(2, heard[1])
    assert any("was sent 2 times" in found for found in violations(history, evidence))


@pytest.mark.parametrize("key", ["first", "long", "lost", "gone"])
def test_duplicate_execution_is_found(key: str) -> None:
    history, evidence = true_history()
    executions = Counter(evidence.executions) + Counter({key: 1})
    [found] = violations(history, attrs.evolve(evidence, executions=executions))
    assert "ran 2 times" in found


def test_result_without_execution_is_found() -> None:
    history, evidence = true_history()
    executions = Counter(evidence.executions) - Counter({"long": 1})
    [found] = violations(history, attrs.evolve(evidence, executions=executions))
    assert "never ran" in found


def test_refused_call_that_ran_is_found() -> None:
    history, evidence = true_history()
    history.sessions[SESSION].calls["gone"].ending = Ending.REFUSED
    [found] = violations(history, evidence)
    assert "refused and ran" in found


@pytest.mark.parametrize("ending", [Ending.OPEN, Ending.DENIED])
def test_call_without_an_end_is_found(ending: Ending) -> None:
    history, evidence = true_history()
    history.sessions[SESSION].calls["lost"].ending = ending
    [found] = violations(history, evidence)
    assert ending.value in found


def test_denied_session_is_found() -> None:
    history, evidence = true_history()
    history.sessions[SESSION].denied = True
    [found] = violations(history, evidence)
    assert "does not exist" in found


def test_second_answer_is_found() -> None:
    history, evidence = true_history()
    history.sessions[SESSION].calls["long"].answers = 2
    [found] = violations(history, evidence)
    assert "answered 2 times" in found


def test_counter_that_went_back_is_found() -> None:
    history, evidence = true_history()
    history.sessions[SESSION].calls["later"].text = "1"
    [found] = violations(history, evidence)
    assert "counted 1, then 1" in found
