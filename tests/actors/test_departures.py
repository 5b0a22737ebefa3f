"""Departures: who expires at rest ends here, durably, and then at its server; bounded, whatever that server does.

Every session here is opened, left alone, out of memory after a minute at most, and due after a hundred seconds: so by
the second 130 a sweep has found it. Nothing touches one in memory, whose end its link tells of (`test_reaper.py`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import structlog.testing
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import messages as say
from actors.departures import PERMITS_PER_SERVER, WAIT_SECONDS_MAX
from actors.ids import ANONYMOUS, SessionId
from actors.link import ConnectFailed, Inbox, Link
from actors.loading import LOAD_SECONDS_MAX
from actors.reaper import ReaperRules
from actors.registry import SessionNotFound
from actors.runtime import RuntimeOptions, open_runtime
from actors.state import SessionState
from actors.upstream_ending import TELL_SECONDS_MAX
from persistence.memory import MemoryStore
from persistence.records import Snapshot
from persistence.store import SnapshotCorrupt, SnapshotTooNew, StoreFull, StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_session
from tests.persistence.faulty import FaultyStore

TTL_SECONDS = 100.0
DUE_SECONDS = TTL_SECONDS + 30.0  # a sweep has found it by then
RULES = ReaperRules(passivate_after_seconds=1.0, uninitialized_grace_seconds=TTL_SECONDS, brake_sessions_min=1000)


@attrs.define(eq=False)
class Server:
    """A connector that can end sessions, and notes which."""

    upstream: FakeUpstream = attrs.field(factory=FakeUpstream)
    asked: list[str] = attrs.field(factory=list)  # our ids of sessions that it was asked to forget
    answer_seconds: float = 0.0
    down: str = ""
    at_once_max: int = 0
    on_asked: Callable[[SessionState], None] = lambda _: None
    first_asked: trio.Event = attrs.field(factory=trio.Event)
    _now: int = 0

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        return await self.upstream.connect(session, inbox)

    async def end_session(self, session: SessionState) -> bool:
        self.asked.append(session.session_id)
        self.first_asked.set()
        self._now += 1
        self.at_once_max = max(self.at_once_max, self._now)
        try:
            self.on_asked(session)
            if self.down == session.server_id:
                raise ConnectFailed("it is down")
            if session.server_id != "quick":
                await trio.sleep(self.answer_seconds)
        finally:
            self._now -= 1
        return True


@asynccontextmanager
async def open_world(
    server: Server, disk: MemoryStore | None = None, *, deaf: bool = False, store: FaultyStore | None = None
) -> AsyncIterator[World]:
    """Run a process. Deaf: with a connector that cannot end sessions."""
    store = store or FaultyStore(disk or MemoryStore())
    options = RuntimeOptions(restore=False, session_ttl_seconds=TTL_SECONDS, reaper_rules=RULES)
    async with open_runtime(store, connect=server.upstream.connect if deaf else server, options=options) as runtime:
        yield World(runtime, server.upstream, store)


async def open_sessions(world: World, count: int, *, server_id: str = "linear") -> Sequence[SessionId]:
    """Open sessions, and wait until they are at rest."""
    opened = [(await open_session(world, server_id=server_id)).id for _ in range(count)]
    await at_rest(world)
    return opened


async def at_rest(world: World) -> None:
    await trio.sleep(60.0)
    assert world.runtime.registry.residents() == []


def sessions_left(world: World) -> int:
    return world.runtime.registry.statistics().sessions


async def test_a_session_that_expires_at_rest_is_ended_at_its_server(autojump_clock: MockClock) -> None:
    server, disk = Server(), MemoryStore()
    async with open_world(server, disk) as world:
        (expired,) = await open_sessions(world, 1)
        await trio.sleep(DUE_SECONDS - 60.0)
        assert server.asked == [expired]
        assert sessions_left(world) == 0
        assert world.runtime.registry.departures.statistics().told == 1
    assert await disk.scan() == ([], None)


async def test_control_a_session_that_is_merely_removed_stays_at_its_server(autojump_clock: MockClock) -> None:
    server, disk = Server(), MemoryStore()
    async with open_world(server, disk) as world:
        for session_id in await open_sessions(world, 2):
            world.runtime.registry.remove(session_id, "expired")
        await trio.sleep(DUE_SECONDS)
        assert (sessions_left(world), server.asked) == (0, [])
    assert await disk.scan() == ([], None)


async def test_where_nobody_can_be_told_it_is_removed_at_once(autojump_clock: MockClock) -> None:
    server = Server()
    async with open_world(server, deaf=True) as world:
        await open_sessions(world, 1)
        loads = []
        world.store.on_operation = lambda name: loads.append(name) if name == "load" else None
        await trio.sleep(DUE_SECONDS - 60.0)
        assert (sessions_left(world), server.asked, loads) == (0, [], [])


async def test_an_access_after_its_time_has_its_server_told_too(autojump_clock: MockClock) -> None:
    server = Server()
    async with open_world(server) as world:
        (expired,) = await open_sessions(world, 1)
        await trio.sleep(TTL_SECONDS - 60.0 + 0.1)
        assert sessions_left(world) == 1, "no sweep has found it"
        for _ in range(2):
            with pytest.raises(SessionNotFound):
                world.runtime.registry.find(expired, ANONYMOUS)
        await trio.sleep(1.0)
        assert server.asked == [expired]


async def test_a_session_that_was_never_opened_there_has_nobody_told(autojump_clock: MockClock) -> None:
    server = Server()
    async with open_world(server) as world:
        await world.runtime.create(server_id="linear")
        await at_rest(world)
        await trio.sleep(DUE_SECONDS - 60.0)
        assert (sessions_left(world), server.asked) == (0, [])
        assert world.runtime.registry.departures.statistics().not_told == 0


async def test_an_uninitialized_session_is_ended_at_its_server(autojump_clock: MockClock) -> None:
    """Whatever was refused, the session that it had there before may be there still."""
    server = Server()
    async with open_world(server) as world:
        (failed,) = await open_sessions(world, 1)
        server.upstream.forget()
        server.upstream.rejects = ("upstream_rejected", "it offers less")
        actor = world.runtime.registry.activate(failed)
        assert actor is not None
        await actor.ask(say.ConnectNow).wait()
        await wait_all_tasks_blocked()
        header = world.runtime.registry.header(failed)
        assert header is not None
        assert header.failure == "upstream_rejected"
        await trio.sleep(DUE_SECONDS - 60.0)
        assert (sessions_left(world), server.asked) == (0, [failed])


# ---- the order ----


async def test_its_end_is_durable_before_its_server_is_told(autojump_clock: MockClock) -> None:
    server, disk = Server(), MemoryStore()
    tombstones: list[str] = []

    async with open_world(server, disk) as world:

        def look(session: SessionState) -> None:
            tombstones.extend(buried.session_id for batch in world.store.commits for buried in batch.tombstones)

        server.on_asked = look
        (expired,) = await open_sessions(world, 1)
        await trio.sleep(DUE_SECONDS - 60.0)
        assert tombstones == [expired]


def refuse_commits(operation: str) -> None:
    if operation == "commit":
        raise StoreFull("no room")


async def test_a_session_for_whose_end_there_is_no_room_stays_and_nobody_is_told(autojump_clock: MockClock) -> None:
    server = Server()
    async with open_world(server) as world:
        (expired,) = await open_sessions(world, 1)
        world.store.on_operation = refuse_commits
        await trio.sleep(DUE_SECONDS - 60.0)
        assert (sessions_left(world), server.asked) == (1, [])
        assert world.runtime.registry.departures.statistics().not_told == 0, "it has not ended"
        world.store.on_operation = None
        await trio.sleep(60.0)
        assert (sessions_left(world), server.asked) == (0, [expired])


async def test_who_waits_at_a_kill_is_told_of_by_the_next_process(autojump_clock: MockClock) -> None:
    """With one server that is silent, eight are under way: their ends are durable, so these are not told of again."""
    server, disk, count = Server(answer_seconds=TELL_SECONDS_MAX), MemoryStore(), 3 * PERMITS_PER_SERVER
    async with open_world(server, disk) as world:
        opened = await open_sessions(world, count)
        await server.first_asked.wait()
        assert sessions_left(world) == 0, "they have ended for whoever asks"
        world.kill()
        world.runtime.registry.drain()
    lost = list(server.asked)
    assert len(lost) == PERMITS_PER_SERVER
    server.answer_seconds = 0.0
    async with open_world(server, disk) as world:
        assert sessions_left(world) == count - PERMITS_PER_SERVER
        await trio.sleep(DUE_SECONDS)
        assert sessions_left(world) == 0
    assert sorted(server.asked) == sorted(opened)


async def test_while_the_process_is_stopping_nobody_is_told(autojump_clock: MockClock) -> None:
    server, disk = Server(), MemoryStore()
    async with open_world(server, disk) as world:
        (expired,) = await open_sessions(world, 1)
        world.runtime.registry.drain()
        await trio.sleep(DUE_SECONDS)
        assert server.asked == []
        world.runtime.registry.let_go(expired, "expired")
        await wait_all_tasks_blocked()
        assert server.asked == []
    kept, _ = await disk.scan()
    assert [header.session_id for header in kept] == [expired], "the next process finds it due, and tells"


# ---- bounds ----


async def test_a_silent_server_is_asked_of_some_at_a_time_and_holds_nothing_up_for_long(
    autojump_clock: MockClock,
) -> None:
    """Eight at a time for five seconds each, for a minute: 13 rounds. The others go without a word."""
    server, disk = Server(answer_seconds=math.inf), MemoryStore()
    async with open_world(server, disk) as world:
        await open_sessions(world, 400)
        await trio.sleep(DUE_SECONDS - 60.0 + WAIT_SECONDS_MAX + TELL_SECONDS_MAX)
        assert sessions_left(world) == 0
        assert len(world.runtime.registry.departures) == 0
        assert server.at_once_max == PERMITS_PER_SERVER
        statistics = world.runtime.registry.departures.statistics()
        assert (statistics.told, statistics.not_told) == (0, 400)
        assert len(server.asked) == PERMITS_PER_SERVER * 13
    assert await disk.scan() == ([], None)


async def test_a_silent_server_holds_up_nobody_elses(autojump_clock: MockClock) -> None:
    server = Server(answer_seconds=math.inf)
    async with open_world(server) as world:
        opened = [(await open_session(world, server_id="slow")).id for _ in range(40)]
        quick = (await open_session(world, server_id="quick")).id
        await at_rest(world)
        await server.first_asked.wait()
        await trio.sleep(1.0)
        assert quick in server.asked
        assert len(server.asked) == PERMITS_PER_SERVER + 1
        assert len(world.runtime.registry.departures) == len(opened)


async def test_a_server_that_is_down_costs_a_line(autojump_clock: MockClock) -> None:
    server = Server(down="linear")
    async with open_world(server) as world:
        await open_sessions(world, 20)
        with structlog.testing.capture_logs() as lines:
            await trio.sleep(DUE_SECONDS - 60.0)
        said = [line for line in lines if line["event"] == "sessions have ended, and their server was not told"]
        assert [(line["server"], line["sessions"], line["why"]) for line in said] == [("linear", 20, "it is down")]
        assert (sessions_left(world), world.runtime.registry.departures.statistics().not_told) == (0, 20)


# ---- the store ----


@pytest.mark.parametrize("error", [SnapshotCorrupt("checksum"), SnapshotTooNew("version 99"), LookupError("a defect")])
async def test_what_cannot_be_read_is_removed_all_the_same(autojump_clock: MockClock, error: Exception) -> None:
    server = Server()
    async with open_world(server) as world:
        await open_sessions(world, 1)
        world.store.fail(1, error)  # whose next operation is the load
        await trio.sleep(DUE_SECONDS - 60.0)
        assert (sessions_left(world), server.asked) == (0, [])


class _HangingStore(FaultyStore):
    """Its loads get no answer while it is away."""

    away = False

    async def load(self, session_id: str) -> Snapshot | None:
        if self.away:
            await trio.sleep_forever()
        return await super().load(session_id)


@pytest.mark.parametrize("hangs", [False, True])
async def test_while_the_store_is_away_sessions_stay_and_their_server_is_told_later(
    autojump_clock: MockClock, hangs: bool
) -> None:
    """None of them waits too long for its turn meanwhile, though each load takes its five seconds where it hangs."""
    server, count = Server(), 20 * PERMITS_PER_SERVER
    store = _HangingStore(MemoryStore())
    async with open_world(server, store=store) as world:
        expired = await open_sessions(world, count)
        if hangs:
            store.away = True
        else:
            store.begin_outage(StoreUnavailable("away"))
        await trio.sleep(DUE_SECONDS - 60.0 + 2 * WAIT_SECONDS_MAX + LOAD_SECONDS_MAX)
        assert server.asked == []
        store.away = False
        store.end_outage()
        await trio.sleep(60.0)
        assert sorted(server.asked) == sorted(expired)
        assert (sessions_left(world), world.runtime.registry.departures.statistics().not_told) == (0, 0)
