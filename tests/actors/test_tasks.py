"""Tasks (2025-11-25): while the other side works on one, it is not ended because its client is idle."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from actors import messages as say
from actors.link import About, Established
from actors.reaper import ReaperRules
from actors.state import Limits
from tests.actors.fake_link import FakeUpstream
from tests.actors.making import NOW, Session, opened
from tests.actors.worlds import open_session, open_world, send

TASK = {"taskId": "t", "status": "working", "ttl": 60_000, "pollInterval": 5000}


def call(session: Session, method: str, params: object, result: object) -> None:
    """Make a call and have it answered."""
    message = jsonrpc.request(1, method, params)
    session.take(say.SendRequest(session.ticket(), message))
    session.answer(1, result)


def create(session: Session, **changes: object) -> None:
    call(session, "tools/call", {"name": "slow", "task": {"ttl": 60_000}}, {"task": {**TASK, **changes}})


def test_task_holds_for_its_time() -> None:
    session = opened()
    create(session)
    assert session.state.tasks == {"t": NOW + 60}
    session.pass_time(30)
    call(session, "tasks/get", {"taskId": "t"}, TASK)
    assert session.state.tasks == {"t": NOW + 90}, "it was alive then"


@pytest.mark.parametrize("ttl", [None, 10**12])
def test_task_without_an_end_holds_for_a_bounded_time(ttl: object) -> None:
    session = opened(limits=Limits(task_seconds_max=500.0))
    create(session, ttl=ttl)
    assert session.state.tasks == {"t": NOW + 500}


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_task_that_has_ended_holds_nothing(status: str) -> None:
    session = opened()
    create(session)
    news = jsonrpc.notification("notifications/tasks/status", {**TASK, "status": status})
    session.take(say.Receive(news, About.NOTHING))
    assert session.logged() == [news]
    assert not session.state.tasks
    create(session)
    call(session, "tasks/get", {"taskId": "t"}, {**TASK, "status": status})
    assert not session.state.tasks


def test_tasks_of_a_lost_incarnation_hold_nothing() -> None:
    session = opened()
    create(session)
    session.take(say.LinkDown("gone"))
    session.take(say.LinkUp(Established(upstream_session_id="another")))
    assert not session.state.tasks


def test_tasks_are_bounded() -> None:
    session = opened(limits=Limits(tasks_max=2))
    for name in "abc":
        create(session, taskId=name)
    assert list(session.state.tasks) == ["b", "c"]


@pytest.mark.parametrize(
    "result", [{}, [], None, {"task": 5}, {"task": {}}, {"task": {"taskId": 5}}, {"tasks": [TASK]}]
)
def test_what_tells_of_no_task_is_passed_on_all_the_same(result: object) -> None:
    session = opened()
    for method in ("tools/call", "tasks/list", "tasks/result"):
        call(session, method, {"task": {}}, result)
        assert not session.state.calls
        assert not session.state.tasks
    session.take(say.Receive(jsonrpc.notification("notifications/tasks/status", result), About.NOTHING))
    assert not session.state.tasks


def test_answer_that_looks_like_a_task_is_none_where_nobody_asked_for_one() -> None:
    session = opened()
    call(session, "tools/call", {"name": "x"}, {"task": TASK})
    assert not session.state.tasks


@pytest.mark.parametrize(("resumable", "stays"), [(False, True), (True, False)])
async def test_server_with_a_live_task_is_not_ended_for_idleness(
    resumable: bool, stays: bool, autojump_clock: MockClock
) -> None:
    # One that can be resumed loses nothing, and need not stay in memory: the control.
    upstream = FakeUpstream()
    upstream.resumable = resumable
    upstream.answers["tools/call"] = lambda message: jsonrpc.result(message.id or 0, {"task": TASK | {"ttl": 1e6}})
    rules = ReaperRules(passivate_after_seconds=100.0, passivate_unresumable_after_seconds=100.0)
    async with open_world(upstream, reaper_rules=rules) as world:
        session = await open_session(world)
        await send(session, 1, "tools/call", {"task": {}}).wait()
        await trio.sleep(500.0)
        assert (world.link.closed is None) is stays
        await trio.sleep(1000.0)
        assert world.link.closed is False, "its time is over"
