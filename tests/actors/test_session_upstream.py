"""Sessions whose upstream is down, refuses them, or drops every link: waits are bounded, and so are attempts."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors import messages as say
from actors.registry import SessionNotFound
from actors.state import Limits
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import (
    notify,
    open_session,
    open_world,
    problem,
    send,
)


async def test_message_waits_for_the_upstream_and_is_then_unavailable(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(link_wait_seconds=5.0)) as world:
        session = await open_session(world)
        world.upstream.down = "it is down"
        world.link.lose()
        began = trio.current_time()
        call, post = send(session, 1), notify(session, "notifications/x")
        told = [await call.wait(), await post.wait()]

        assert [problem(outcome) for outcome in told] == [say.Problem.UNAVAILABLE] * 2
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.3)


async def test_upstream_that_comes_back_in_time_is_not_noticed(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.upstream.down = "it is down"
        world.link.lose()
        reply = send(session, 1)
        await trio.sleep(0.2)
        world.upstream.down = ""

        assert isinstance(await reply.wait(), say.Answered)


async def test_opening_with_the_upstream_down_is_unavailable_and_leaves_no_trace(autojump_clock: MockClock) -> None:
    disk, upstream = MemoryStore(), FakeUpstream()
    upstream.down = "it is down"
    async with open_world(upstream, disk, limits=Limits(link_wait_seconds=5.0)) as world:
        beginning = world.runtime.begin(server_id="linear")
        handshake = jsonrpc.request("open", "initialize")
        began = trio.current_time()
        outcome = await beginning.ask(lambda ticket: say.SendRequest(ticket, handshake, opens=True)).wait()

        assert problem(outcome) is say.Problem.UNAVAILABLE
        assert trio.current_time() - began == pytest.approx(5.0, abs=0.3)
        assert world.runtime.registry.statistics().resident == 0
    assert await disk.scan() == ([], None)


async def test_upstream_that_refuses_the_session_for_good_makes_it_uninitialized(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.upstream.rejects = ("upstream_rejected", "another version")
        world.link.lose()
        outcome = await send(session, 1).wait()

        assert problem(outcome) is say.Problem.UNINITIALIZED
        await wait_all_tasks_blocked()
        with pytest.raises(SessionNotFound):
            await session.state()


async def test_flapping_link_is_not_opened_in_a_loop(autojump_clock: MockClock) -> None:
    """An upstream that takes each connection and drops it at once is asked less and less often."""
    async with open_world() as world:
        session = await open_session(world)
        await session.ask(say.Listen)
        world.upstream.starts_lost = True
        world.link.lose()
        await trio.sleep(600.0)

        # 0.1 s, doubling to 30 s, and half of it at least: some 9 to reach a minute, then one to three every 30 s.
        assert 10 < len(world.upstream.connects) < 80


async def test_connect_that_crashes_is_tried_again_with_pauses(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        await session.ask(say.Listen)

        def crash_in_connect(_: object) -> None:
            raise ZeroDivisionError("a bug in somebody's connect")

        world.upstream.on_connect = crash_in_connect
        world.link.lose()
        await trio.sleep(600.0)
        assert 10 < len(world.upstream.connects) < 80

        world.upstream.on_connect = None
        await trio.sleep(30.0)
        assert isinstance(await send(session, 1).wait(), say.Answered)


async def test_link_that_comes_too_late_is_closed(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.upstream.connect_seconds = 1.0
        world.link.lose()
        reply = send(session, 1)
        await trio.sleep(1.0)
        session.actor().stop("restarting")  # in the very instant in which the link is there
        await reply.wait()
        await trio.sleep(5.0)

        assert all(link.closed is not None for link in world.upstream.links)
