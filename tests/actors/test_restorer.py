"""Restoring: most recent first, under permits, and one dead upstream holds nobody else up."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import messages as say
from actors.ids import SessionId
from actors.restorer import RestoreProgress
from actors.state import SessionState
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_session, open_world, send


async def stored(upstream: FakeUpstream, disk: MemoryStore, *servers: str) -> list[SessionId]:
    """Leave sessions in the store, each a second younger than the one before."""
    sessions = []
    async with open_world(upstream, disk) as world:
        for server in servers:
            sessions.append((await open_session(world, server_id=server)).id)
            await trio.sleep(1.0)
    upstream.connects.clear()
    return sessions


def progress(world: World) -> RestoreProgress:
    assert world.runtime.restorer is not None
    return world.runtime.restorer.progress


class Crowd:
    """Counts who connects at the same time, in all and for each server."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.most = 0
        self.most_of: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._connect = upstream.connect
        upstream.connect = self.connect  # type: ignore[method-assign]

    async def connect(self, session: SessionState, inbox: Any) -> Any:
        server = session.server_id
        self._now[server] = self._now.get(server, 0) + 1
        self.most = max(self.most, sum(self._now.values()))
        self.most_of[server] = max(self.most_of.get(server, 0), self._now[server])
        try:
            return await self._connect(session, inbox)
        finally:
            self._now[server] -= 1


async def test_sessions_are_restored_most_recently_active_first(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    sessions = await stored(upstream, disk, "a", "a", "a", "a")
    async with open_world(upstream, disk, restore=True, restore_permits=1) as world:
        await trio.sleep(1.0)

        assert [session.session_id for session in upstream.connects] == sessions[::-1]
        assert progress(world) == RestoreProgress(total=4, restored=4)
        assert progress(world).done


async def test_permits_bound_the_work_in_all_and_for_each_server(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    await stored(upstream, disk, *["a"] * 10, *["b"] * 10, *["c"] * 10)
    upstream.connect_seconds = 1.0
    crowd = Crowd(upstream)
    async with open_world(upstream, disk, restore=True, restore_permits=5, restore_permits_per_server=2) as world:
        await trio.sleep(30.0)

        assert progress(world).restored == 30
    assert crowd.most == 5
    assert crowd.most_of == {"a": 2, "b": 2, "c": 2}


async def test_dead_upstream_holds_up_nobody_else(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    await stored(upstream, disk, *["dead"] * 100, *["live"] * 20)
    upstream.down_servers.add("dead")
    upstream.connect_seconds = 1.0
    async with open_world(upstream, disk, restore=True, restore_permits=8, restore_permits_per_server=4) as world:
        await trio.sleep(20.0)
        assert progress(world).restored == 20
        assert progress(world).waiting == 100
        assert progress(world).uninitialized == 0, "it may be our fault"

        upstream.down_servers.clear()
        await trio.sleep(600.0)
        assert progress(world) == RestoreProgress(total=120, restored=120)


async def test_dead_upstream_is_asked_less_and_less(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    await stored(upstream, disk, "dead")
    upstream.down_servers.add("dead")
    async with open_world(upstream, disk, restore=True):
        await trio.sleep(3600.0)

        # 1 s, doubling to 60 s, and half of it at least: between 60 and 130 attempts in an hour. An actor that nobody
        # waits for gives up after one attempt.
        assert 50 < len(upstream.connects) < 140


async def test_refused_sessions_become_uninitialized(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    await stored(upstream, disk, "a", "a", "a")
    upstream.rejects = ("auth_gone", "the token has expired")
    told: list[RestoreProgress] = []
    async with open_world(upstream, disk, restore=True) as world:
        assert world.runtime.restorer is not None
        world.runtime.restorer._tell = told.append
        await trio.sleep(1.0)

        assert progress(world) == RestoreProgress(total=3, uninitialized=3)
        assert {header.failure for header in world.runtime.registry.headers()} == {"auth_gone"}
    assert len(told) == 3


async def test_only_so_many_are_restored(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    sessions = await stored(upstream, disk, *["a"] * 5)
    async with open_world(upstream, disk, restore=True, resident_sessions_max=2) as world:
        await trio.sleep(1.0)

        assert {session.session_id for session in upstream.connects} == set(sessions[3:])
        assert (await world.runtime.session(sessions[0]).state()).opened, "the others live on their first use"


async def test_session_that_is_asked_for_does_not_wait_for_its_turn(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    sessions = await stored(upstream, disk, *["a"] * 20)
    upstream.connect_seconds = 1.0
    async with open_world(upstream, disk, restore=True, restore_permits=1) as world:
        await wait_all_tasks_blocked()
        began = trio.current_time()
        outcome = await send(world.runtime.session(sessions[0]), 1).wait()

        assert trio.current_time() - began < 2.0, "19 others are before it"
        assert isinstance(outcome, say.Answered), "the time it waited to be sent is no slowness of the upstream"


async def test_session_that_ended_meanwhile_is_passed_over(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    sessions = await stored(upstream, disk, "a", "a")
    upstream.connect_seconds = 1.0
    async with open_world(upstream, disk, restore=True, restore_permits=1) as world:
        await trio.sleep(0.5)
        world.runtime.registry.remove(sessions[0], "admin")
        await trio.sleep(5.0)

        assert progress(world).done
        assert len(upstream.connects) == 1


async def test_sessions_that_only_their_owners_can_have_opened_are_left_to_their_first_use(
    autojump_clock: MockClock,
) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    sessions = await stored(upstream, disk, "of-owners", "a", "of-owners")
    async with open_world(upstream, disk, restore=True, restored_on_use=["of-owners"]) as world:
        await trio.sleep(1.0)
        assert [session.server_id for session in upstream.connects] == ["a"]
        assert progress(world) == RestoreProgress(total=1, restored=1, on_use=2)
        assert progress(world).done

        assert isinstance(await send(world.runtime.session(sessions[0]), 1).wait(), say.Answered)
        assert [session.session_id for session in upstream.connects] == [sessions[1], sessions[0]]


async def test_they_are_told_of_where_there_is_no_other(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    await stored(upstream, disk, "of-owners")
    async with open_world(upstream, disk, restore=True, restored_on_use=["of-owners"]) as world:
        await trio.sleep(1.0)
        assert progress(world) == RestoreProgress(on_use=1)
        assert upstream.connects == []
