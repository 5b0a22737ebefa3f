"""Ids of events that a crash took back name nothing afterwards; ids of those that were durable stay good.

Over a store that may lose what was told (`degrade`, or Redis at its own level), each process logs under an epoch of its
own.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from actors import runtime as runtime_module
from actors.epochs import FORMER_EPOCHS_MAX, epoch_at, is_of, under_epoch
from actors.event_log import CursorLost
from actors.handle import Event, SessionHandle
from actors.ids import EventId
from actors.snapshots import from_snapshot, to_snapshot
from actors.state import LogState, SessionState, Stream
from persistence.memory import MemoryStore
from persistence.store import StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.making import fresh_state
from tests.actors.worlds import open_session, open_world

DEGRADE: dict[str, Any] = {"store_outage": "degrade"}


def grown(state: SessionState, **offsets: int) -> SessionState:
    """Give a state whose streams have come so far."""
    streams = {
        number: Stream(number, None, last + 1, former_epochs=former(state, number))
        for number, last in ((int(name.removeprefix("s")), last) for name, last in offsets.items())
    }
    return fresh_state(streams=streams, log=state.log)


def former(state: SessionState, stream: int) -> tuple[tuple[int, int], ...]:
    return state.streams[stream].former_epochs if stream in state.streams else ()


def test_each_offset_keeps_the_epoch_it_was_logged_under() -> None:
    state = grown(fresh_state(log=LogState(epoch=1)), s0=2, s1=0)
    state = grown(under_epoch(state, 2), s0=5, s1=1)
    state = under_epoch(state, 3)
    stream = state.streams[0]
    assert [epoch_at(stream, offset, 3) for offset in range(8)] == [1, 1, 1, 2, 2, 2, 3, 3]
    assert [epoch_at(state.streams[1], offset, 3) for offset in range(3)] == [1, 2, 3]
    assert state.log.epoch == 3


def test_where_nothing_was_logged_nothing_is_remembered() -> None:
    state = grown(fresh_state(log=LogState(epoch=1)), s0=2)
    for epoch in range(2, 200):
        state = under_epoch(state, epoch)
    assert state.streams[0].former_epochs == ((1, 2),)
    assert under_epoch(state, state.log.epoch) is state


def test_what_is_remembered_is_bounded_and_the_oldest_ids_are_lost() -> None:
    state = fresh_state(log=LogState(epoch=0))
    for epoch in range(1, FORMER_EPOCHS_MAX + 10):
        state = under_epoch(grown(state, s0=epoch), epoch)
    stream = state.streams[0]
    assert len(stream.former_epochs) == FORMER_EPOCHS_MAX
    assert not is_of(EventId(0, 0, 1), stream, state.log.epoch)
    assert is_of(EventId(0, FORMER_EPOCHS_MAX, FORMER_EPOCHS_MAX + 1), stream, state.log.epoch)


def test_the_start_of_the_session_s_own_stream_is_the_same_under_any_epoch() -> None:
    state = under_epoch(grown(fresh_state(log=LogState(epoch=1)), s0=0, s1=0), 2)
    assert is_of(EventId(0, 99, 0), state.streams[0], 2)
    assert is_of(EventId(1, 1, 0), state.streams[1], 2)
    assert not is_of(EventId(1, 99, 0), state.streams[1], 2), "the stream of a call of another incarnation"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_an_id_is_good_exactly_if_it_was_given_out_and_is_durable(steps: list[tuple[int, int]]) -> None:
    # Each step is a process: it makes some events durable, tells of some more, and ends.
    state, told_and_lost, durable = fresh_state(log=LogState(epoch=0)), set(), set()
    reached = 0
    for epoch, (kept, lost) in enumerate(steps, start=1):
        state = under_epoch(state, epoch)
        durable |= {EventId(0, epoch, offset) for offset in range(reached + 1, reached + kept + 1)}
        told_and_lost |= {EventId(0, epoch, reached + kept + n) for n in range(1, lost + 1)}
        reached += kept
        if kept:  # or nothing of this process is in the store
            state = from_snapshot(to_snapshot(grown(state, s0=reached)))
    state = under_epoch(state, len(steps) + 1)
    stream = state.streams.get(0, Stream(0, None))
    assert all(is_of(one, stream, state.log.epoch) for one in durable)
    assert not any(is_of(one, stream, state.log.epoch) for one in told_and_lost)


async def seen(session: SessionHandle, count: int, after: str | None = None) -> list[Event]:
    """Give events as they are told of."""
    events: list[Event] = []
    with trio.fail_after(60):
        async with aclosing(session.events(after=after)) as told:
            async for event in told:
                events.append(event)
                if len(events) == count:
                    break
    return events


def names(events: list[Event]) -> list[str | None]:
    return [event.message.method for event in events]


async def crash_while_degraded(disk: MemoryStore, upstream: FakeUpstream) -> tuple[str, list[Event]]:
    """Have two durable events, and one that is told of in an outage; end; give the session, and all that was told."""
    async with open_world(upstream, disk, **DEGRADE) as world:
        session = await open_session(world)
        for name in ("one", "two"):
            await session.emit(name)
        world.store.begin_outage(StoreUnavailable("away"))
        await session.emit("lost")
        told = await seen(session, 3)
        world.kill()
    return session.id, told


async def test_an_id_told_of_in_an_outage_is_not_used_again_after_a_crash(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    session_id, told = await crash_while_degraded(disk, upstream)
    async with open_world(upstream, disk, **DEGRADE) as world:
        session = world.runtime.session(session_id)
        await session.emit("another")
        with pytest.raises(CursorLost):
            await seen(session, 1, told[2].id)
        assert names(await seen(session, 1, told[1].id)) == ["another"], "the durable one is as good as ever"
        again = await seen(session, 3)
        assert [event.id for event in again[:2]] == [event.id for event in told[:2]]
        assert again[2].id != told[2].id
    async with open_world(upstream, disk, **DEGRADE) as world:
        session = world.runtime.session(session_id)
        assert [event.id for event in await seen(session, 3)] == [event.id for event in again]
        await session.emit("later")
        assert names(await seen(session, 2, told[1].id)) == ["another", "later"]
        assert names(await seen(session, 1, again[2].id)) == ["later"]


async def test_without_epochs_of_its_own_the_next_process_gives_the_id_to_another_event(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "_may_lose_what_was_told", lambda _: False)
    disk, upstream = MemoryStore(), FakeUpstream()
    session_id, told = await crash_while_degraded(disk, upstream)
    async with open_world(upstream, disk, **DEGRADE) as world:
        session = world.runtime.session(session_id)
        await session.emit("another")
        await session.emit("later")
        assert (await seen(session, 3))[2].id == told[2].id
        assert names(await seen(session, 1, told[2].id)) == ["later"], "and one was passed over in silence"


async def test_a_session_that_leaves_memory_stays_in_its_epoch(autojump_clock: MockClock) -> None:
    async with open_world(**DEGRADE) as world:
        session = await open_session(world)
        await session.emit("one")
        before = (await session.state()).log.epoch
        session.actor().stop("leaves")
        await trio.sleep(1)
        assert (await session.state()).log.epoch == before
        assert (await session.state()).streams[0].former_epochs == ()


async def test_over_a_store_that_keeps_what_was_told_the_epoch_stays(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        before = (await session.state()).log.epoch
        world.kill()
    async with open_world(upstream, disk) as world:
        assert (await world.runtime.session(session.id).state()).log.epoch == before
