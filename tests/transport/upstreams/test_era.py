"""Which era a server speaks: what counts as modern, for how long it is known, and who asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.jsonrpc import Message
from transport.upstreams.era import Era, EraKnowledge, EraLimits, EraUnknown, Verdict, judge

MODERN = Verdict(Era.MODERN, sure=True)


def error(code: int, data: Any = None) -> Message:
    return jsonrpc.error(1, code, "no", data)


@pytest.mark.parametrize(
    "answer",
    [
        jsonrpc.result(1, {"supportedVersions": ["2026-07-28"], "resultType": "complete"}),
        jsonrpc.result(1, {"supportedVersions": ["2025-11-25", "2026-07-28", 3]}),
        error(-32022, {"supported": ["2026-07-28"], "requested": "x"}),
        error(-32022),
        error(-32022, "text"),
        error(-32021, {"requiredCapabilities": {}}),
        error(-32020),
    ],
)
def test_only_what_a_modern_server_says_is_modern(answer: Message) -> None:
    assert judge(answer) is Era.MODERN


@pytest.mark.parametrize(
    "answer",
    [
        *(error(code) for code in (-32601, -32602, -32600, -32603, -32000, -32001, 0, 42)),
        error(-32602, {"supported": ["2026-07-28"]}),
        error(-32022, {"supported": ["2025-11-25"], "requested": "2026-07-28"}),
        error(-32022, {"supported": ["2027-01-01"]}),
        jsonrpc.result(1, {}),
        jsonrpc.result(1, {"supportedVersions": ["2025-11-25"]}),
        jsonrpc.result(1, {"supportedVersions": "2026-07-28"}),
        jsonrpc.result(1, None),
        jsonrpc.result(1, "2026-07-28"),
    ],
)
def test_any_other_answer_is_of_a_server_with_handshakes(answer: Message) -> None:
    """Never keyed on one code: what older servers say to an unknown request is theirs to choose."""
    assert judge(answer) is Era.HANDSHAKE


def knowledge(ask: Callable[[], Awaitable[Verdict]]) -> EraKnowledge:
    return EraKnowledge("linear", ask, EraLimits(sure_seconds=100.0, unsure_seconds=10.0, unknown_seconds=1.0))


async def test_many_want_to_know_and_one_asks(autojump_clock: MockClock) -> None:
    asked = 0
    found: list[Era] = []

    async def ask() -> Verdict:
        nonlocal asked
        asked += 1
        await trio.sleep(1.0)
        return MODERN

    era = knowledge(ask)

    async def find() -> None:
        found.append(await era.find())

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(find)
    assert (asked, found) == (1, [Era.MODERN] * 10)
    assert era.known is Era.MODERN


@pytest.mark.parametrize(("sure", "seconds"), [(True, 100.0), (False, 10.0)])
async def test_what_is_known_is_asked_again_after_its_time(
    sure: bool, seconds: float, autojump_clock: MockClock
) -> None:
    async def ask() -> Verdict:
        return Verdict(Era.HANDSHAKE, sure)

    era = knowledge(ask)
    known = [era.known, await era.find()]
    await trio.sleep(seconds - 0.1)
    known.append(era.known)
    await trio.sleep(0.2)
    known += [era.known, await era.find()]
    era.forget()
    known.append(era.known)
    assert known == [None, Era.HANDSHAKE, Era.HANDSHAKE, None, Era.HANDSHAKE, None]


async def test_who_waits_while_one_asks_in_vain_does_not_ask_too(autojump_clock: MockClock) -> None:
    asked = 0

    async def ask() -> Verdict:
        nonlocal asked
        asked += 1
        await trio.sleep(5.0)
        raise EraUnknown("it is down")

    era = knowledge(ask)

    async def find() -> None:
        with pytest.raises(EraUnknown, match="it is down"):
            await era.find()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(find)
    assert asked == 1
    await trio.sleep(1.1)
    await find()
    assert asked == 2


async def test_another_asks_when_who_asked_has_gone(autojump_clock: MockClock) -> None:
    async def ask() -> Verdict:
        await trio.sleep(1.0)
        return MODERN

    era = knowledge(ask)
    found: list[Era] = []

    async def find() -> None:
        found.append(await era.find())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as first:
            async with trio.open_nursery() as inner:
                inner.start_soon(find)
                await wait_all_tasks_blocked()
                nursery.start_soon(find)
                await wait_all_tasks_blocked()
                first.cancel()
    assert found == [Era.MODERN]
