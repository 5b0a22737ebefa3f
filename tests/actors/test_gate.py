"""The gate alone: what may leave, in which order, and what its negative control lets through."""

from __future__ import annotations

from actors.gate import Gate, Held
from actors.messages import Accepted, Effect, Reply


def reply(ticket: int) -> list[Effect]:
    return [Reply(ticket, Accepted())]


def test_nothing_waits_at_first() -> None:
    gate = Gate(7)

    assert gate.is_clear
    assert gate.passes()


def test_output_waits_for_its_revision() -> None:
    gate = Gate(0)
    gate.require(3, 0.0)
    gate.hold(1, reply(1))

    assert not gate.passes()
    assert gate.settle(2, 0.0) == ()
    assert gate.settle(3, 0.0) == (Held(3, 1, reply(1)),)
    assert gate.is_clear


def test_outputs_leave_in_the_order_of_their_turns() -> None:
    gate = Gate(0)
    gate.require(1, 0.0)
    gate.hold(1, reply(1))
    gate.hold(1, reply(2))  # a turn without hard events, behind one that has some
    gate.require(2, 0.0)
    gate.hold(2, reply(3))

    assert [held.effects for held in gate.settle(1, 0.0)] == [reply(1), reply(2)]
    assert not gate.is_clear
    assert [held.effects for held in gate.settle(2, 0.0)] == [reply(3)]


def test_a_newer_commit_lets_older_outputs_go() -> None:
    gate = Gate(0)
    for revision in (1, 2, 3):
        gate.require(revision, 0.0)
        gate.hold(revision, reply(revision))

    assert [held.revision for held in gate.settle(3, 0.0)] == [1, 2, 3]


def test_late_receipt_of_an_older_commit_changes_nothing() -> None:
    gate = Gate(0)
    gate.require(5, 0.0)
    gate.settle(5, 0.0)

    assert gate.settle(3, 0.0) == ()
    assert gate.is_clear


def test_given_up_outputs_are_handed_back() -> None:
    gate = Gate(0)
    gate.require(1, 0.0)
    gate.hold(1, reply(1))

    assert [held.effects for held in gate.clear()] == [reply(1)]
    assert gate.is_clear


def test_without_the_gate_outputs_pass_before_their_commit() -> None:
    gate = Gate(0, open_always=True)
    gate.require(1, 0.0)

    assert gate.passes()
    assert not gate.is_clear


def test_waiting_is_counted_from_the_last_word_of_the_store() -> None:
    gate = Gate(0)
    assert gate.stalled_seconds(100.0) == 0.0
    gate.require(1, 100.0)
    gate.require(2, 103.0)
    assert gate.stalled_seconds(104.0) == 4.0
    gate.settle(1, 104.0)
    assert gate.stalled_seconds(106.0) == 2.0
    gate.settle(2, 106.0)
    assert gate.stalled_seconds(200.0) == 0.0
