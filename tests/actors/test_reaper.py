"""The reaper: what is due, what never is, and the brake."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actors.ids import SessionId
from actors.reaper import ReaperRules, brake, find_due
from actors.registry import SessionNotFound
from persistence.memory import MemoryStore
from persistence.records import SnapshotHeader
from tests.actors.worlds import open_session, open_world, read_rest, send

NOW = 1_000_000.0
RULES = ReaperRules(uninitialized_grace_seconds=100.0)


def header(name: str, *, failure: str = "", active: float = NOW, expires: float = NOW + 100.0) -> SnapshotHeader:
    return SnapshotHeader(name, 1, "linear", "owner", failure, active, expires)


def test_expired_sessions_are_due() -> None:
    found = find_due([header("old", expires=NOW), header("new", expires=NOW + 0.1)], set(), NOW, RULES)

    assert found.due == ("old",)


def test_sessions_in_use_are_not_due() -> None:
    found = find_due([header("old", expires=NOW - 50)], {SessionId("old")}, NOW, RULES)

    assert found.due == ()


@pytest.mark.parametrize("reason", ["upstream_rejected", "auth_gone", "crash_loop", "corrupt"])
def test_uninitialized_for_reasons_of_their_own_are_due_after_the_grace(reason: str) -> None:
    headers = [header("fresh", failure=reason, active=NOW - 99), header("stale", failure=reason, active=NOW - 100)]

    assert find_due(headers, set(), NOW, RULES).uninitialized == ("stale",)


@pytest.mark.parametrize("reason", ["key_missing", "too_new", "store_error", "upstream_down"])
def test_uninitialized_for_what_may_be_our_fault_are_not_due(reason: str) -> None:
    assert find_due([header("ours", failure=reason, active=0.0)], set(), NOW, RULES).due == ()


def test_brake_lets_a_twentieth_go() -> None:
    rules = ReaperRules(brake_share=0.05, brake_sessions_min=100)

    assert brake(500, 10_000, rules) is None
    assert brake(501, 10_000, rules) == 500
    assert brake(100, 200, rules) is None, "small numbers have large shares"
    assert brake(101, 200, rules) == 100


def test_sessions_that_are_not_meant_to_last_know_no_brake() -> None:
    rules = ReaperRules(brief_ttl_seconds_max=100.0)
    brief, lasting = (
        header("brief", expires=NOW, active=NOW - 100.0),
        header("lasting", expires=NOW, active=NOW - 101.0),
    )
    found = find_due([brief, lasting], set(), NOW, rules)

    assert (found.brief, found.due) == ((SessionId("brief"),), (SessionId("lasting"),))


async def test_after_a_restart_all_clients_of_brief_sessions_may_stay_away(autojump_clock: MockClock) -> None:
    """With the control: without the rule, the brake would keep them for an hour."""
    for brief_ttl_seconds_max, left in ((100.0, 0), (0.0, 8)):
        rules = ReaperRules(brake_sessions_min=3, brief_ttl_seconds_max=brief_ttl_seconds_max)
        async with open_world(session_ttl_seconds=100.0, reaper_rules=rules) as world:
            for _ in range(8):
                await world.runtime.create()
            await trio.sleep(200.0)
            assert world.runtime.registry.statistics().sessions == left


async def test_session_expires_after_its_time(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk, session_ttl_seconds=100.0) as world:
        session = await open_session(world)
        await trio.sleep(90.0)
        await send(session, 1).wait()
        await trio.sleep(90.0)
        await session.state()
        await trio.sleep(140.0)

        assert world.runtime.registry.statistics().sessions == 0
        with pytest.raises(SessionNotFound):
            session.actor()
        assert world.link.closed is True, "the upstream is told"
    assert await disk.scan() == ([], None)


async def test_session_in_use_does_not_expire(autojump_clock: MockClock) -> None:
    async with open_world(session_ttl_seconds=100.0) as world, trio.open_nursery() as nursery:
        session, called = await open_session(world), await open_session(world)
        nursery.start_soon(read_rest, await session.read(None))
        send(called, 1, "hold")
        await trio.sleep(1000.0)

        assert world.runtime.registry.statistics().sessions == 2
        nursery.cancel_scope.cancel()


async def test_time_of_a_session_in_use_counts_from_the_end_of_its_use(autojump_clock: MockClock) -> None:
    """A client that only reads is cut off, or we crash: it has all its time to come back."""
    disk = MemoryStore()
    async with open_world(disk=disk, session_ttl_seconds=1000.0) as world:
        session = await open_session(world)
        reading = await session.read(None)
        await trio.sleep(5000.0)
        reading.close()
        await trio.sleep(500.0)
        assert world.runtime.registry.statistics().sessions == 1
        reading = await session.read(None)
        await trio.sleep(5000.0)
        world.kill()
    kept = await disk.load(session.id)
    assert kept is not None
    created = kept.fields["created"]
    assert isinstance(created, float)
    # 10,500 s after it was opened; noted at least every 125 s (an eighth of its time, seen by a sweep each 30 s)
    assert kept.header.last_active_unix_s - created > 10_500.0 - 125.0 - 30.0


async def test_too_many_due_at_once_stop_the_reaping_for_an_hour(autojump_clock: MockClock) -> None:
    rules = ReaperRules(brake_sessions_min=3, brake_seconds=3600.0)
    async with open_world(session_ttl_seconds=100.0, reaper_rules=rules) as world:
        for _ in range(8):
            await open_session(world)
        await trio.sleep(200.0)
        reaper = world.runtime.reaper
        assert reaper is not None
        assert reaper.braked
        assert world.runtime.registry.statistics().sessions == 8

        # After an hour in portions of three, one sweep each 30 s: 3, 3, and the 2 that are left need no brake.
        await trio.sleep(3600.0)
        assert world.runtime.registry.statistics().sessions == 0
        await trio.sleep(60.0)
        assert not reaper.braked
