"""What may have been done is told apart from what was not: whoever gets "try again" may do so without looking."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import outlast
from actors.handle import OutcomeUnknown, SessionUnavailable
from actors.state import Limits
from persistence.store import StoreUnavailable
from tests.actors.worlds import World, open_session, open_world


def lose_store(world: World) -> None:
    world.store.begin_outage(StoreUnavailable("away"))


def test_who_tries_again_on_unavailability_does_not_so_on_an_unknown_outcome() -> None:
    assert not issubclass(OutcomeUnknown, SessionUnavailable)
    assert outlast.OutcomeUnknown is OutcomeUnknown


async def test_event_whose_commit_is_in_doubt_may_be_there(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        lose_store(world)
        with pytest.raises(OutcomeUnknown):
            await session.emit("said")
        world.store.end_outage()
        await world.runtime.settled()
        await wait_all_tasks_blocked()
        state = await session.state()
        assert state.streams[0].last_offset == 1  # it was done all the same: trying again would say it twice


async def test_close_whose_commit_is_in_doubt_is_unknown(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        actor = session.actor()
        lose_store(world)
        outcomes: list[Exception] = []

        async def close() -> None:
            try:
                await session.close()
            except (OutcomeUnknown, SessionUnavailable) as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            await wait_all_tasks_blocked()
            actor.stop("the process stops")
        assert [type(error) for error in outcomes] == [OutcomeUnknown]
        world.store.end_outage()


async def test_notification_whose_link_was_lost_is_unknown(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.upstream.confirms = False
        outcomes: list[Exception] = []

        async def notify() -> None:
            with pytest.raises(OutcomeUnknown) as caught:
                await session.notify("notifications/x")
            outcomes.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(notify)
            await wait_all_tasks_blocked()
            world.link.lose()
        assert "lost before it confirmed" in str(outcomes[0])


async def test_notification_that_was_never_sent_is_unavailable(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(link_wait_seconds=1.0)) as world:
        session = await open_session(world)
        world.upstream.down = "it is away"
        world.link.lose()
        with pytest.raises(SessionUnavailable):
            await session.notify("notifications/x")


async def test_reading_is_never_in_doubt(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        lose_store(world)
        with pytest.raises(OutcomeUnknown):
            await session.emit("said")
        with pytest.raises(SessionUnavailable):
            await session.values()
        with pytest.raises(SessionUnavailable):
            await session.read(None)
        world.store.end_outage()
