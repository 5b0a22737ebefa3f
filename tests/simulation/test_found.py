"""What simulated worlds have found, said once more where it can be seen: one claim of the core each.

Each was a violation in some world before it was a test here; the world found it, and this shows it in one turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors import messages as say
from actors.decide import decide
from actors.event_log import EventLog
from actors.evolve import evolve
from actors.gate import Held
from actors.handle import SessionHandle, SessionUnavailable
from actors.ids import SessionId
from actors.interruption import outcomes_in_doubt
from actors.jsonrpc import Message
from actors.link import About, Established, Inbox, Link
from actors.runtime import open_runtime
from actors.state import Ask, Call, Limits, LinkPhase, LogState, Post, SessionState, Stream
from actors.turn import Decision
from persistence.records import LogEntry
from tests.simulation.sim_store import SimDisk, SimStore, Weather
from tests.simulation.sim_upstream import KEEPS, NO_MISHAPS, Journal, SimServer

LIMITS = Limits()
NOW_UNIX_S = 1000.0
QUESTION = Ask(client_id=1, upstream_id=1, method="sampling/createMessage", stream=0)


def opened_session() -> SessionState:
    return SessionState(
        session_id=SessionId("s"),
        server_id="",
        created_unix_s=NOW_UNIX_S,
        last_active_unix_s=NOW_UNIX_S,
        ttl_seconds=60.0,
        opened=True,
        streams={0: Stream(0, None), 1: Stream(1, 7)},
        next_stream=2,
        log=LogState(epoch=1),
    )


def streaming_call(*, cursor: str) -> Call:
    return Call(
        ticket=-1,
        request_id=7,
        method="tools/call",
        label="",
        message=None,
        started_unix_s=NOW_UNIX_S,
        sent=True,
        stream=1,
        upstream_cursor=cursor,
    )


def choose(state: SessionState, command: say.Command) -> Decision:
    return decide(state, command, now_unix_s=NOW_UNIX_S, limits=LIMITS)


def receive(message: Message, *, about: jsonrpc.RequestId | About) -> say.Receive:
    return say.Receive(message, about, cursor="call7:3")


def test_a_message_about_an_ended_call_does_not_move_the_cursor_of_the_standalone_stream() -> None:
    state = replace(opened_session(), standalone_cursor="5")
    progress = jsonrpc.notification("notifications/progress", {})
    assert choose(state, receive(progress, about=7)).state.standalone_cursor == "5"
    # The control: what belongs to that stream moves it.
    assert choose(state, receive(progress, about=About.NOTHING)).state.standalone_cursor == "call7:3"


def test_a_recovered_call_is_watched_so_that_it_cannot_wait_for_ever() -> None:
    call = streaming_call(cursor="call7:2")
    state = replace(opened_session(), calls={7: call})
    effects = choose(state, say.Recovered()).effects
    assert [effect.ticket for effect in effects if isinstance(effect, say.Watch)] == [call.ticket]


def test_a_recovered_call_that_cannot_go_on_is_answered_and_not_watched() -> None:
    state = replace(opened_session(), calls={7: streaming_call(cursor="")})
    decision = choose(state, say.Recovered())
    assert decision.state.calls == {}
    assert not any(isinstance(effect, say.Watch) for effect in decision.effects)


def test_an_answer_that_waits_is_not_sent_to_an_incarnation_that_never_asked() -> None:
    answer = Post(ticket=4, message=jsonrpc.result(1, {}), started_unix_s=NOW_UNIX_S)
    notification = Post(ticket=5, message=jsonrpc.notification("notifications/x"), started_unix_s=NOW_UNIX_S)
    state = replace(opened_session(), link=LinkPhase.CONNECTING, posts={4: answer, 5: notification})
    assert sent(choose(state, say.LinkUp(Established()))) == [5]
    # The control: the incarnation that asked gets both.
    assert sent(choose(state, say.LinkUp(Established(resumed=True)))) == [4, 5]


def test_questions_of_a_lost_incarnation_are_withdrawn_in_sessions_without_a_handshake_too() -> None:
    state = replace(opened_session(), link=LinkPhase.CONNECTING, asks={1: QUESTION})
    assert choose(state, say.LinkUp(Established())).state.asks[1].withdrawn
    assert not choose(state, say.LinkUp(Established(resumed=True))).state.asks[1].withdrawn


def test_whoever_waits_for_a_commit_that_may_still_come_is_not_told_to_try_again() -> None:
    held = [Held(3, 1, (say.Reply(4, say.Accepted()), say.Reply(5, say.Streaming(1))))]
    outcomes = outcomes_in_doubt(opened_session(), held, rolled_back=False)
    assert [problem(outcomes[ticket]) for ticket in (4, 5)] == [say.Problem.LOST, say.Problem.LOST]


def test_whoever_waited_for_a_commit_that_was_rolled_back_can_try_again() -> None:
    held = [Held(3, 1, (say.Reply(4, say.Accepted()), say.Reply(5, say.Streaming(1))))]
    outcomes = outcomes_in_doubt(opened_session(), held, rolled_back=True)
    assert 4 not in outcomes
    assert problem(outcomes[5]) is say.Problem.LOST  # a call becomes a stream when it has been sent


async def test_an_orderly_end_stays_one_when_the_last_flush_finds_no_room(autojump_clock: MockClock) -> None:
    store = SimStore(SimDisk(), Random(0), weather := Weather())
    async with open_runtime(store) as runtime:
        session = await runtime.create()
        weather.full_until = inf
        await trio.sleep(2)
        await session.values()  # the session is touched: a soft fact, which the last flush finds
    assert store.disk.snapshot(session.id) is not None


def test_the_stream_that_ended_last_is_forgotten_last_however_old_it_is() -> None:
    limits = Limits(calls_in_flight_max=2, streams_kept_max=2)
    state = replace(opened_session(), streams={stream: Stream(stream, None) for stream in range(5)})
    for ended in (2, 3, 4, 1):
        state = evolve(state, say.StreamEnded(ended), limits=limits)
    assert [stream.id for stream in state.streams.values()] == [0, 4, 1]


async def test_a_reader_is_told_of_the_end_of_its_stream_when_that_is_durable() -> None:
    async def read_log(session_id: str, *, stream: int, after: int, limit: int) -> list[LogEntry]:
        return []

    log = EventLog(SessionId("s"), read_log, durable_through=0)
    log.end_stream(1, revision=5)
    pages: list[Sequence[LogEntry]] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            pages.append(await log.attach(1, 0).next_page(lambda: ended))

        ended = Stream(1, 7, ended=True)
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        log.settle_ends(4)
        log.wake()
        await wait_all_tasks_blocked()
        assert pages == []
        log.settle_ends(5)
        log.wake()
    assert pages == [()]


async def test_an_update_whose_session_left_memory_meanwhile_overwrites_no_other(autojump_clock: MockClock) -> None:
    async with open_runtime(SimStore(SimDisk(), Random(0), Weather())) as runtime:
        session = await runtime.create()
        with pytest.raises(SessionUnavailable):
            await update_while_it_leaves_memory(session)
        assert await session.values() == {"theirs": 1}


async def update_while_it_leaves_memory(session: SessionHandle) -> None:
    async with session.update() as values:
        values["mine"] = 1
        session.actor().stop("as an idle one would")
        await wait_all_tasks_blocked()
        async with session.update() as others:
            others["theirs"] = 1


async def test_a_busy_session_is_watched_once_for_its_commits(autojump_clock: MockClock) -> None:
    async with open_runtime(SimStore(SimDisk(), Random(0), Weather())) as runtime:
        session = await runtime.create()
        for _ in range(50):
            await session.emit("notifications/x")
        assert len(runtime.registry.shared.timekeeper._heap) == 1


async def test_a_session_is_idle_from_when_its_reader_left(autojump_clock: MockClock) -> None:
    async with open_runtime(SimStore(SimDisk(), Random(0), Weather())) as runtime:
        session = await runtime.create()
        reading = await session.read(None)
        await trio.sleep(100)  # nothing is said on the stream
        assert session.actor().idle_seconds() == 0
        reading.close()
        await trio.sleep(1)
        assert 0.9 < session.actor().idle_seconds() < 1.1


async def test_a_request_that_may_have_run_is_not_told_as_one_to_try_again(autojump_clock: MockClock) -> None:
    # The session is stopped in order while the request is with the upstream, which never answers.
    async with trio.open_nursery() as nursery:
        server = SimServer("s", KEEPS, nursery, Journal(), Random(0), mishaps=NO_MISHAPS)

        async def connect(session: SessionState, inbox: Inbox) -> Link:
            return await server.connect(session, inbox, lambda: False)

        async with open_runtime(SimStore(SimDisk(), Random(0), Weather()), connect=connect) as runtime:
            session = await runtime.create()
            nursery.start_soon(request_of_unknown_outcome, session)
            await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert server.journal.runs["key"] == 1


async def request_of_unknown_outcome(session: SessionHandle) -> None:
    with pytest.raises(jsonrpc.RequestFailed) as caught:
        await session.request("tools/call", {"key": "key", "silent": True, "seconds": 1})
    assert caught.value.code == jsonrpc.OUTCOME_UNKNOWN


def problem(outcome: say.Outcome) -> say.Problem:
    assert isinstance(outcome, say.NotDone)
    return outcome.problem


def sent(decision: Decision) -> list[int]:
    return [effect.ticket for effect in decision.effects if isinstance(effect, say.SendUpstream)]
