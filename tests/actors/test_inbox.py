"""The inbox of one link: nothing after its end, and its tasks end with it."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.inbox import LinkInbox
from tests.actors.fake_owner import Owner


async def test_closed_inbox_hears_nothing_and_ends_its_tasks(autojump_clock: MockClock) -> None:
    owner = Owner()
    async with trio.open_nursery() as nursery:
        inbox = LinkInbox(owner, nursery)
        inbox.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()
        inbox.close()
        inbox.delivered(1)
        inbox.cursor_moved(1, "c")
        inbox.start_soon(trio.sleep_forever)

    assert owner.told == []


async def test_task_that_crashes_loses_the_link(autojump_clock: MockClock) -> None:
    owner = Owner()

    async def crashing() -> None:
        raise ZeroDivisionError("a bug in the link")

    async with trio.open_nursery() as nursery:
        inbox = LinkInbox(owner, nursery)
        inbox.start_soon(trio.sleep_forever)
        inbox.start_soon(crashing)

    assert len(owner.lost) == 1
    assert "a bug in the link" in owner.lost[0]


async def test_link_is_lost_once(autojump_clock: MockClock) -> None:
    owner = Owner()
    async with trio.open_nursery() as nursery:
        inbox = LinkInbox(owner, nursery)
        inbox.lost("first")
        inbox.lost("second")

    assert owner.lost == ["first"]
