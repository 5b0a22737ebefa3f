"""Folding: events give the state, revisions rise, bounds are kept, and a snapshot gives it all back.

Method: random commands, many of them nonsense at that moment, against a session without a shell; after each the
properties are asserted (the fold of the events by `Session.take`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import jsonrpc
from actors import messages as say
from actors.evolve import evolve
from actors.link import About, Established, Failure
from actors.snapshots import from_snapshot, to_snapshot
from actors.state import Limits, LinkPhase, SessionState, SetupChange
from tests.actors.making import Session, fresh_state, opened

LIMITS = Limits(
    calls_in_flight_max=4,
    posts_in_flight_max=3,
    asks_max=3,
    setup_max=2,
    events_per_session_max=8,
    streams_kept_max=4,
    values_bytes_max=50,
)

ids = st.sampled_from([1, "1", 2, "open"])
subjects = st.one_of(ids, st.sampled_from(list(About)))
tickets = st.integers(0, 12)
cursors = st.sampled_from(["", "c1", "c2"])
setups = st.one_of(st.none(), st.builds(SetupChange, st.sampled_from("abc"), st.booleans()))
requests = st.builds(jsonrpc.request, ids, st.sampled_from(["echo", "hold"]))
notifications = st.builds(jsonrpc.notification, st.just("note"))
results = st.builds(jsonrpc.result, ids, st.integers())
answers = st.one_of(results, st.builds(jsonrpc.error, st.one_of(st.none(), ids), st.just(-1), st.just("no")))
established = st.builds(
    Established,
    upstream_session_id=st.sampled_from(["u1", "u2"]),
    resumed=st.booleans(),
    announcements=st.lists(notifications, max_size=2).map(tuple),
)


def batch_of(items: list[jsonrpc.Message], refused: bool) -> Callable[[int], say.Command]:
    def item(ticket: int, message: jsonrpc.Message) -> say.SendRequest | say.SendNotification | say.SendAnswer:
        if message.kind is jsonrpc.Kind.REQUEST:
            return say.SendRequest(ticket, message)
        if message.kind is jsonrpc.Kind.NOTIFICATION:
            return say.SendNotification(ticket, message, cancels=1)
        return say.SendAnswer(ticket, message)

    def make(ticket: int) -> say.Command:
        # Tickets that no other command of these tests has.
        taken = tuple(item(1000 * (ticket + 1) + n, message) for n, message in enumerate(items))
        return say.SendBatch(ticket, taken, (jsonrpc.error(None, -32600, "no"),) * refused)

    return make


commands: st.SearchStrategy[Callable[[int], say.Command]] = st.one_of(
    st.builds(
        lambda message, setup, opens, on_standalone: (
            lambda ticket: say.SendRequest(ticket, message, "tool", setup, opens, on_standalone)
        ),
        requests,
        setups,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        lambda message, cancels, confirms: lambda ticket: say.SendNotification(ticket, message, cancels, confirms),
        notifications,
        st.one_of(st.none(), ids),
        st.booleans(),
    ),
    st.builds(lambda message: lambda ticket: say.SendAnswer(ticket, message), answers),
    st.builds(batch_of, st.lists(st.one_of(requests, notifications, answers), max_size=3), st.booleans()),
    st.builds(lambda message: lambda ticket: say.Emit(ticket, message), notifications),
    st.builds(lambda size: lambda ticket: say.Update(ticket, {"v": size}, size), st.integers(0, 60)),
    st.builds(lambda tags: lambda ticket: say.UpdateMetadata(ticket, tuple(tags)), st.lists(st.text(max_size=3))),
    st.just(say.Reinitialize),
    st.sampled_from([say.Listen, say.Look, say.ConnectNow]),
    st.builds(
        lambda command: lambda ticket: command,
        st.one_of(
            st.builds(say.NoteShown, st.integers(0, 20)),
            st.just(say.Recovered()),
            st.builds(say.LinkUp, established),
            st.builds(say.LinkDown, st.just("gone")),
            st.builds(say.ConnectRetried, st.just("down")),
            st.just(say.ConnectGivenUp()),
            st.builds(say.Receive, st.one_of(requests, notifications, answers), subjects, cursors, st.just("u1")),
            st.builds(say.MoveCursor, subjects, cursors),
            st.builds(say.Delivered, tickets),
            st.builds(say.Refused, tickets, st.sampled_from(list(Failure)), st.just("why")),
            st.builds(say.Overdue, tickets),
        ),
    ),
    st.sampled_from(
        [
            lambda ticket: say.ConnectRefused("auth_gone", "expired"),
            lambda ticket: say.Abandon("crash_loop", "bug"),
            lambda ticket: say.Close(ticket, "client"),
        ]
    ),
)
steps = st.lists(st.tuples(commands, st.sampled_from([0.0, 0.0, 0.25, 5.0, 40.0, 4000.0])), max_size=60)


def check_bounds(state: SessionState) -> None:
    assert len(state.calls) <= LIMITS.calls_in_flight_max
    assert len(state.posts) <= LIMITS.posts_in_flight_max
    assert sum(not ask.withdrawn for ask in state.asks.values()) <= LIMITS.asks_max
    assert len(state.setup) <= LIMITS.setup_max
    assert sum(stream.ended for stream in state.streams.values()) <= LIMITS.streams_kept_max
    assert state.log.next_sequence - 1 - state.log.trimmed_through <= LIMITS.events_per_session_max
    for call in state.calls.values():
        assert call.stream is None or not state.streams[call.stream].ended, "a call in progress has its stream"
        assert call.sent or call.message is not None, "what is to be sent is there"


@given(st.booleans(), steps)
@settings(max_examples=150, deadline=None)
def test_whatever_is_asked_the_state_is_the_fold_of_its_events_and_within_its_bounds(
    begins_open: bool, sequence: list[tuple[Callable[[int], say.Command], float]]
) -> None:
    session = opened(limits=LIMITS) if begins_open else Session(limits=LIMITS)
    over = False
    for make, seconds in sequence:
        session.pass_time(seconds)
        effects = session.take(make(session.ticket()))
        check_bounds(session.state)
        if over:
            assert effects == (), "after the end nothing happens"
        over = over or session.state.closed
        if any(isinstance(effect, say.Discard) for effect in effects):
            break  # the shell ends it here


@given(steps)
@settings(max_examples=80, deadline=None)
def test_every_ticket_gets_one_outcome_at_most(
    sequence: list[tuple[Callable[[int], say.Command], float]],
) -> None:
    session = opened(limits=LIMITS)
    told: list[int] = []
    for make, seconds in sequence:
        session.pass_time(seconds)
        effects = session.take(make(session.ticket()))
        told += [effect.ticket for effect in effects if isinstance(effect, say.Reply)]
    assert len(told) == len(set(told))


@given(steps)
@settings(max_examples=80, deadline=None)
def test_snapshot_gives_back_all_but_what_is_forgotten(
    sequence: list[tuple[Callable[[int], say.Command], float]],
) -> None:
    session = opened(limits=LIMITS)
    for make, seconds in sequence:
        session.pass_time(seconds)
        session.take(make(session.ticket()))
    state = session.state
    again = from_snapshot(to_snapshot(state))

    assert to_snapshot(again) == to_snapshot(state)
    assert again.link is LinkPhase.DOWN
    assert again.posts == {}
    assert again.connect_tickets == ()
    assert set(again.calls) == {id for id, call in state.calls.items() if call.stream is not None}
    for call in again.calls.values():
        assert call.ticket < 0, "nobody of this process waits for it"
        assert call.message is None, "it cannot be sent again"


def test_folding_leaves_the_former_state_as_it_was() -> None:
    before = opened().state
    fields = to_snapshot(before)
    after = evolve(before, say.MessageLogged(0, 1, 1, 1.0, b"{}"), limits=Limits())

    assert to_snapshot(before) == fields
    assert after.revision == before.revision + 1
    assert after.streams[0].last_offset == 1


@pytest.mark.parametrize("offset", [0, 2])
def test_gap_in_a_stream_is_refused(offset: int) -> None:
    with pytest.raises(AssertionError):
        evolve(opened().state, say.MessageLogged(0, offset, 1, 1.0, b"{}"), limits=Limits())


def test_log_is_trimmed_to_its_limit() -> None:
    state = opened().state
    for number in range(1, 13):
        state = evolve(state, say.MessageLogged(0, number, number, 1.0, b"{}"), limits=LIMITS)

    assert state.log.trimmed_through == 4


def test_ended_streams_beyond_the_limit_are_forgotten_oldest_first() -> None:
    state = opened().state
    for stream in (1, 2, 3, 4, 5):
        state = evolve(state, say.StreamOpened(stream, stream), limits=LIMITS)
        state = evolve(state, say.StreamEnded(stream), limits=LIMITS)

    assert list(state.streams) == [0, 2, 3, 4, 5]


def test_reasons_are_kept_short() -> None:
    state = evolve(fresh_state(), say.Failed("upstream_rejected", "x" * 10_000, 1.0), limits=Limits())

    assert len(state.failure_detail) == 500


def test_limits_that_would_forget_an_answer_before_it_is_read_are_refused() -> None:
    with pytest.raises(ValueError, match="streams_kept_max is 31, less than calls_in_flight_max, 32"):
        Limits(streams_kept_max=31)
