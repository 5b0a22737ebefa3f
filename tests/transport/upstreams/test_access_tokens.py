"""A held token: asked for once by all who need it, renewed ahead of its end, left alone where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.connecting import Backoff
from transport.upstreams.access_tokens import (
    ASK_SECONDS_MAX,
    AccessToken,
    HeldToken,
    TokenRefused,
    TokenUnavailable,
)

BACKOFF = Backoff(first_seconds=1.0, most_seconds=60.0)


class Asked:
    """Gives `one`, `two`, ... that last 100 s, or fails as it is told."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.takes_seconds = 0.0
        self.failure: Exception | None = None

    async def __call__(self) -> AccessToken:
        self.times.append(trio.current_time())
        await trio.sleep(self.takes_seconds)
        if self.failure is not None:
            raise self.failure
        return AccessToken(f"token-{len(self.times)}", 100.0)


@asynccontextmanager
async def held(asked: Asked, *, until_seconds: float = float("inf")) -> AsyncIterator[HeldToken]:
    async with trio.open_nursery() as nursery:

        def start_soon(run: Callable[[], Awaitable[object]]) -> bool:
            nursery.start_soon(run)
            return True

        # Chance 1.0: pauses are 1, 2, 4, ... s.
        yield HeldToken(asked, start_soon, backoff=BACKOFF, draw_chance=lambda: 1.0, until_seconds=until_seconds)
        nursery.cancel_scope.cancel()


async def test_many_who_need_a_token_cause_one_request(autojump_clock: MockClock) -> None:
    asked, got = Asked(), []
    asked.takes_seconds = 2.0

    async def need(source: HeldToken) -> None:
        got.append(await source.obtain())

    async with held(asked) as source, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(need, source)
    assert got == ["token-1"] * 20
    assert asked.times == [0.0]


async def test_a_token_is_renewed_ahead_of_its_end_and_nobody_waits(autojump_clock: MockClock) -> None:
    """It lasts 100 s: from 80 s on, whoever uses it has it renewed."""
    asked = Asked()
    async with held(asked) as source:
        await source.obtain()
        await trio.sleep(79)
        assert source.current() == "token-1"
        await wait_all_tasks_blocked()
        assert asked.times == [0.0]
        await trio.sleep(2)
        assert source.current() == "token-1"
        await wait_all_tasks_blocked()
        assert source.current() == "token-2"
        assert asked.times == [0.0, 81.0]


async def test_control_what_has_run_out_is_not_used(autojump_clock: MockClock) -> None:
    asked = Asked()
    async with held(asked) as source:
        await source.obtain()
        await trio.sleep(100)
        assert source.current() == ""
        assert await source.obtain() == "token-2"


async def test_nothing_is_used_beyond_what_it_was_asked_with(autojump_clock: MockClock) -> None:
    async with held(Asked(), until_seconds=30.0) as source:
        assert await source.obtain() == "token-1"
        await trio.sleep(30)
        assert source.current() == ""


async def test_a_failed_renewal_leaves_the_old_token_in_use(autojump_clock: MockClock) -> None:
    asked = Asked()
    async with held(asked) as source:
        await source.obtain()
        asked.failure = TokenUnavailable("away")
        await trio.sleep(90)
        assert source.current() == "token-1"
        await wait_all_tasks_blocked()
        assert source.current() == "token-1"
        await trio.sleep(10)
        with pytest.raises(TokenUnavailable, match="away"):
            await source.obtain()


async def test_one_that_gives_none_is_asked_again_after_growing_pauses(autojump_clock: MockClock) -> None:
    """Asked for all the time, for 30 s: at 0, then 1, 2, 4, 8 and 16 s after each failure."""
    asked = Asked()
    asked.failure = TokenRefused("invalid_client")
    async with held(asked) as source:
        while trio.current_time() < 30:
            with pytest.raises(TokenRefused, match="invalid_client"):
                await source.obtain()
            await trio.sleep(0.5)
        assert asked.times == [0.0, 1.0, 3.0, 7.0, 15.0]
        asked.failure = None
        await trio.sleep(1)  # the pause that began at 15 s is over at 31
        assert await source.obtain() == "token-6"


async def test_an_answer_that_does_not_come_is_not_waited_for_longer(autojump_clock: MockClock) -> None:
    asked = Asked()
    asked.takes_seconds = 3600.0
    async with held(asked) as source:
        with pytest.raises(TokenUnavailable, match="no answer within 10 s"):
            await source.obtain()
        assert trio.current_time() == ASK_SECONDS_MAX


async def test_who_gives_up_waiting_leaves_the_answer_to_others(autojump_clock: MockClock) -> None:
    asked = Asked()
    asked.takes_seconds = 2.0
    async with held(asked) as source:
        with trio.move_on_after(1):
            await source.obtain()
        assert await source.obtain() == "token-1"
        assert trio.current_time() == 2.0
        assert asked.times == [0.0]


async def test_a_refused_token_is_replaced_and_a_fresh_one_is_not(autojump_clock: MockClock) -> None:
    asked = Asked()
    async with held(asked) as source:
        await source.obtain()
        assert not source.replace("token-1")  # issued a moment ago: another would be refused as well
        await trio.sleep(5)
        assert source.replace("token-1")
        assert source.replace("token-1")  # by whoever else carried it
        assert await source.obtain() == "token-2"
        assert source.replace("token-1")
        assert source.current() == "token-2"


async def test_nobody_waits_where_nothing_is_started_any_more() -> None:
    source = HeldToken(Asked(), lambda _: False)
    with pytest.raises(TokenUnavailable, match="stopping"):
        await source.obtain()


async def test_a_defect_in_asking_is_told_as_no_token(autojump_clock: MockClock) -> None:
    asked = Asked()
    asked.failure = ZeroDivisionError()
    async with held(asked) as source:
        with pytest.raises(TokenUnavailable, match="broken off"):
            await source.obtain()
        assert "token" not in repr(AccessToken("token-1", 1.0)).replace("AccessToken", "")
