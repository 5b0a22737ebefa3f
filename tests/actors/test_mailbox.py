"""The mailbox and the one-shot: two lanes, one owner, a bound, and nothing lost by cancellation."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from actors.mailbox import Mailbox, MailboxFull, OneShot


def test_system_goes_before_user() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put("asked first")
    mailbox.put_system("answer")
    mailbox.put("asked second")

    assert [mailbox.get_nowait() for _ in range(4)] == ["answer", "asked first", "asked second", None]


def test_full_user_lane_refuses_and_adds_nothing() -> None:
    mailbox: Mailbox[int] = Mailbox(user_max=2)
    mailbox.put(1)
    mailbox.put(2)

    with pytest.raises(MailboxFull, match="2 commands wait"):
        mailbox.put(3)
    mailbox.put_system(0)  # what frees something is never refused
    assert [mailbox.get_nowait() for _ in range(4)] == [0, 1, 2, None]


def test_cleared_mailbox_is_empty() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.put_system(2)
    mailbox.clear()

    assert len(mailbox) == 0
    assert mailbox.get_nowait() is None


async def test_waiting_owner_is_woken() -> None:
    mailbox: Mailbox[str] = Mailbox()
    taken: list[str | None] = []

    async def owner() -> None:
        await mailbox.wait()
        taken.append(mailbox.get_nowait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(owner)
        await wait_all_tasks_blocked()
        mailbox.put("work")
        mailbox.put("more")
    assert taken == ["work"]


async def test_waiting_returns_at_once_where_there_is_something() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put("work")

    await mailbox.wait()

    assert mailbox.get_nowait() == "work"


async def test_cancelled_waiting_loses_nothing() -> None:
    mailbox: Mailbox[str] = Mailbox()
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.wait()
    mailbox.put("work")

    await mailbox.wait()

    assert mailbox.get_nowait() == "work"


async def test_mailbox_has_one_owner() -> None:
    mailbox: Mailbox[str] = Mailbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.wait)
        await wait_all_tasks_blocked()
        with pytest.raises(AssertionError, match="one owner"):
            await mailbox.wait()
        nursery.cancel_scope.cancel()


async def test_outcome_given_before_is_not_waited_for() -> None:
    one_shot: OneShot[str] = OneShot()
    one_shot.set("done")

    assert one_shot.is_set
    assert await one_shot.wait() == "done"


async def test_first_outcome_counts() -> None:
    one_shot: OneShot[str] = OneShot()
    one_shot.set("first")
    one_shot.set("second")

    assert await one_shot.wait() == "first"


async def test_waiter_gets_the_outcome() -> None:
    one_shot: OneShot[str] = OneShot()
    async with trio.open_nursery() as nursery:

        async def give() -> None:
            await wait_all_tasks_blocked()
            one_shot.set("done")

        nursery.start_soon(give)
        assert await one_shot.wait() == "done"


async def test_outcome_after_a_cancelled_wait_is_kept_for_whoever_waits_again() -> None:
    one_shot: OneShot[str] = OneShot()
    with trio.CancelScope() as scope:
        scope.cancel()
        await one_shot.wait()

    one_shot.set("done")

    assert await one_shot.wait() == "done"
