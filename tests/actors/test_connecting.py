"""Efforts to open a link: deadlines, pauses that grow, and an end where nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from actors import messages as say
from actors.connecting import Backoff, Connecting
from actors.inbox import LinkInbox
from actors.link import ConnectFailed, ConnectRejected, Inbox, Link
from actors.state import SessionState
from tests.actors.fake_link import FakeUpstream
from tests.actors.fake_owner import Owner


class Attempts:
    """A connect that does as scripted, and notes when it was asked."""

    def __init__(self, *script: Callable[[], None]) -> None:
        self.at: list[float] = []
        self.inboxes: list[Inbox] = []
        self._script = list(script)
        self._upstream = FakeUpstream()

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        self.at.append(trio.current_time())
        self.inboxes.append(inbox)
        step = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        step()
        return await self._upstream.connect(session, inbox)


def fine() -> None:
    pass


def down() -> None:
    raise ConnectFailed("down")


def crash() -> None:
    raise ZeroDivisionError("a bug")


def refuse() -> None:
    raise ConnectRejected("auth_gone", "expired")


def effort(owner: Owner, connect: Attempts, nursery: trio.Nursery, *, losses: int = 0) -> Connecting:
    return Connecting(
        connect,
        nursery,
        owner,
        attempt_seconds_max=10.0,
        backoff=Backoff(first_seconds=1.0, most_seconds=8.0),
        losses=losses,
        draw_chance=lambda: 0.0,  # the shortest pause: half of the longest
    )


@given(st.integers(1, 10_000), st.floats(0.0, 1.0, exclude_max=True))
def test_pause_is_between_half_of_its_ceiling_and_the_ceiling(attempt: int, chance: float) -> None:
    backoff = Backoff(first_seconds=0.1, most_seconds=30.0)
    ceiling = min(30.0, 0.1 * 2 ** min(attempt - 1, 40))

    assert ceiling / 2 <= backoff.draw(attempt, chance) <= ceiling


async def test_link_is_handed_over(autojump_clock: MockClock) -> None:
    owner = Owner()
    async with trio.open_nursery() as nursery:
        await effort(owner, Attempts(fine), nursery).run()

    assert len(owner.links) == 1
    assert owner.told == []


@pytest.mark.parametrize("failing", [down, crash])
async def test_pauses_double_up_to_the_longest(failing: Callable[[], None], autojump_clock: MockClock) -> None:
    owner, connect = Owner(), Attempts(failing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(effort(owner, connect, nursery).run)
        await trio.sleep(30.0)
        nursery.cancel_scope.cancel()

    assert [later - earlier for earlier, later in pairwise(connect.at)][:6] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert {type(command) for command in owner.told} == {say.ConnectRetried}


async def test_who_comes_new_need_not_wait_out_a_long_pause(autojump_clock: MockClock) -> None:
    owner, connect = Owner(), Attempts(down)
    async with trio.open_nursery() as nursery:
        trying = effort(owner, connect, nursery)
        nursery.start_soon(trying.run)
        await trio.sleep(10.0)  # tried at 0, 0.5, 1.5, 3.5, 7.5; the next would be at 11.5
        trying.hurry()
        await trio.sleep(0.1)
        assert connect.at[-1] - connect.at[0] == 10.0
        for _ in range(20):
            trying.hurry()
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()

    assert len([at for at in connect.at if at - connect.at[0] > 10.0]) == 2, (
        "and yet it is asked every half second at most"
    )


async def test_links_that_did_not_hold_count_as_attempts(autojump_clock: MockClock) -> None:
    owner, connect = Owner(), Attempts(fine)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await effort(owner, connect, nursery, losses=3).run()

    assert connect.at[0] - began == 2.0


async def test_effort_ends_where_nobody_waits(autojump_clock: MockClock) -> None:
    owner, connect = Owner(), Attempts(down)
    owner.wants_link = False
    async with trio.open_nursery() as nursery:
        await effort(owner, connect, nursery).run()

    assert owner.told == [say.ConnectRetried("down"), say.ConnectGivenUp()]
    assert len(connect.at) == 1


async def test_refusal_ends_it(autojump_clock: MockClock) -> None:
    owner = Owner()
    async with trio.open_nursery() as nursery:
        await effort(owner, Attempts(refuse), nursery).run()

    assert owner.told == [say.ConnectRefused("auth_gone", "expired")]


async def test_attempt_has_a_deadline(autojump_clock: MockClock) -> None:
    owner, connect = Owner(), Attempts(fine)
    connect._upstream.connect_seconds = 60.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(effort(owner, connect, nursery).run)
        await trio.sleep(10.1)
        nursery.cancel_scope.cancel()

    assert owner.told == [say.ConnectRetried("no connection within 10 s")]


async def test_called_off_effort_hands_nothing_over(autojump_clock: MockClock) -> None:
    owner, connect = Owner(), Attempts(fine)
    connect._upstream.connect_seconds = 5.0
    async with trio.open_nursery() as nursery:
        connecting = effort(owner, connect, nursery)
        nursery.start_soon(connecting.run)
        await trio.sleep(1.0)
        connecting.cancel()

    assert owner.links == []
    assert owner.told == []


async def test_inbox_of_a_failed_attempt_is_closed(autojump_clock: MockClock) -> None:
    owner, connect = Owner(), Attempts(down, fine)
    async with trio.open_nursery() as nursery:
        await effort(owner, connect, nursery).run()
    assert isinstance(connect.inboxes[0], LinkInbox)
    assert connect.inboxes[0].is_closed
    connect.inboxes[0].lost("late news of a link that never was")

    assert owner.lost == []
