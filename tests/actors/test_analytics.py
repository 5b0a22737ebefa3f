"""What sessions were used for: counted as calls end, under bounded labels."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from actors.analytics import ACTIVE_SECONDS, OTHER, SERVERS_MAX, TOOLS_MAX, Analytics, ToolUsage
from actors.messages import CallEnded, Ending
from actors.reaper import ReaperRules
from actors.state import Call
from persistence.memory import MemoryStore
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import open_session, open_world, send


def note(
    analytics: Analytics, tool: str, *, server_id: str = "wiki", seconds: float = 1.0, ending: Ending = "ok"
) -> None:
    call = Call(1, 1, "tools/call", tool, None, 1000.0)
    analytics.note(server_id, call, CallEnded(1, ending not in ("ok", "cancelled"), 1000.0 + seconds, ending))


def usage_of(analytics: Analytics, tool: str) -> ToolUsage:
    (usage,) = [usage for usage in analytics.tools() if usage.tool == tool]
    return usage


def test_each_tool_has_its_figures() -> None:
    analytics = Analytics()
    for seconds in [0.1] * 90 + [2.0] * 10:
        note(analytics, "search", seconds=seconds)
    for ending in ("error", "interrupted", "timeout", "cancelled"):
        note(analytics, "fetch", ending=ending)
    search, fetch = usage_of(analytics, "search"), usage_of(analytics, "fetch")

    assert (search.calls, search.errors, search.error_rate) == (100, 0, 0.0)
    assert search.p50_seconds == pytest.approx(0.1, rel=0.2)
    assert search.p95_seconds == pytest.approx(2.0, rel=0.2)
    assert search.mean_seconds == pytest.approx(0.29)
    assert (fetch.calls, fetch.errors, fetch.error_rate) == (4, 3, 0.75)
    assert [usage.tool for usage in analytics.tools()] == ["search", "fetch"]


def test_requests_that_call_no_tool_are_counted_in_all() -> None:
    analytics = Analytics()
    note(analytics, "")
    note(analytics, "", ending="error")

    assert (analytics.requests, analytics.errors, analytics.tools()) == (2, 1, ())


def test_names_that_clients_choose_cannot_fill_memory() -> None:
    analytics = Analytics()
    for number in range(TOOLS_MAX + 50):
        note(analytics, f"tool {number}")
    note(analytics, "x" * 1_000_000)

    assert len(analytics.tools()) == TOOLS_MAX + 1
    assert usage_of(analytics, OTHER).calls == 51


def test_servers_beyond_the_bound_are_counted_together() -> None:
    analytics = Analytics()
    for number in range(SERVERS_MAX + 5):
        note(analytics, "search", server_id=f"server {number}")

    assert len(analytics.tools()) == SERVERS_MAX + 1
    assert [usage.calls for usage in analytics.tools() if usage.server_id == OTHER] == [5]


async def test_runtime_tells_what_its_sessions_were_used_for(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.answers["bad"] = lambda message: jsonrpc.error(message.id, -5, "no good")
    async with open_world(upstream) as world:
        session = await open_session(world, server_id="linear")
        await send(session, 1, label="search").wait()
        await send(session, 2, "bad", label="search").wait()
        await send(session, 3).wait()
        report = world.runtime.analytics()

    assert (report.sessions, report.sessions_active, report.sessions_ended) == (1, 1, 0)
    assert (report.requests, report.errors) == (4, 1)  # the handshake is one
    assert report.error_rate == 0.25
    (usage,) = report.tools
    assert (usage.server_id, usage.tool, usage.calls, usage.errors) == ("linear", "search", 2, 1)


async def test_sessions_that_ended_count_in_the_average_and_idle_ones_are_not_active(
    autojump_clock: MockClock,
) -> None:
    async with open_world(reaper_rules=ReaperRules(passivate_after_seconds=1e6)) as world:
        first, _ = await open_session(world), await open_session(world)
        await trio.sleep(100.0)
        await send(first, 1).wait()
        await first.close()
        await trio.sleep(ACTIVE_SECONDS + 1.0)
        report = world.runtime.analytics()

    assert (report.sessions, report.sessions_active, report.sessions_ended) == (1, 0, 1)
    assert report.session_mean_seconds == pytest.approx(50.0, abs=1.0)  # 100 s, and 0 s


async def test_a_sessions_own_totals_survive_a_restart_and_figures_of_tools_do_not(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await send(session, 1, label="search").wait()
    async with open_world(disk=disk) as world:
        assert (await world.runtime.session(session.id).state()).metrics.tool_calls == 1
        report = world.runtime.analytics()

    assert (report.sessions, report.requests, report.tools) == (1, 0, ())
