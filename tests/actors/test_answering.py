"""Links made of functions: results, errors, crashes, cancellation."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.answering import connect_to
from actors.jsonrpc import INTERNAL_ERROR, RequestFailed
from actors.runtime import RuntimeOptions, open_runtime
from actors.state import Limits
from tests.actors.worlds import notify


class Counter:
    """Counts by request."""

    def __init__(self) -> None:
        self.total = 0
        self.heard: list[tuple[str, Any]] = []
        self.cancelled = 0

    async def answer(self, method: str, params: Any) -> object:
        self.heard.append((method, params))
        if method == "fail":
            raise RequestFailed(-1, "as asked", {"why": "asked"})
        if method == "crash":
            raise ZeroDivisionError("a bug")
        if method == "unanswerable":
            return object()
        if method == "wait":
            try:
                await trio.sleep(60.0)
            finally:
                self.cancelled += 1
        self.total += 1
        return {"total": self.total, "params": params}


async def test_request_is_answered_by_the_function(autojump_clock: MockClock) -> None:
    counter = Counter()
    async with open_runtime("memory:", connect=connect_to(counter.answer)) as runtime:
        session = await runtime.create()

        assert await session.request("add", {"by": 1}) == {"total": 1, "params": {"by": 1}}
        assert await session.request("add") == {"total": 2, "params": None}


async def test_long_answers_are_waited_for(autojump_clock: MockClock) -> None:
    async with open_runtime("memory:", connect=connect_to(Counter().answer)) as runtime:
        session = await runtime.create()

        assert (await session.request("wait"))["total"] == 1


async def test_function_chooses_its_errors(autojump_clock: MockClock) -> None:
    async with open_runtime("memory:", connect=connect_to(Counter().answer)) as runtime:
        session = await runtime.create()
        with pytest.raises(RequestFailed) as failed:
            await session.request("fail")

        assert (failed.value.code, failed.value.data) == (-1, {"why": "asked"})


@pytest.mark.parametrize("method", ["crash", "unanswerable"])
async def test_crash_is_one_requests_error(method: str, autojump_clock: MockClock) -> None:
    async with open_runtime("memory:", connect=connect_to(Counter().answer)) as runtime:
        session = await runtime.create()
        with pytest.raises(RequestFailed) as failed:
            await session.request(method)

        assert failed.value.code == INTERNAL_ERROR
        assert (await session.request("add"))["total"] == 1, "the link is as before"


async def test_notifications_are_heard(autojump_clock: MockClock) -> None:
    counter = Counter()
    async with open_runtime("memory:", connect=connect_to(counter.answer)) as runtime:
        session = await runtime.create()
        await session.notify("note", {"a": 1})
        await wait_all_tasks_blocked()

        assert counter.heard == [("note", {"a": 1})]


async def test_call_that_is_given_up_is_cancelled(autojump_clock: MockClock) -> None:
    counter = Counter()
    options = RuntimeOptions(limits=Limits(call_seconds_max=5.0))
    async with open_runtime("memory:", connect=connect_to(counter.answer), options=options) as runtime:
        session = await runtime.create()
        with pytest.raises(RequestFailed, match="no answer within 5 s"):
            await session.request("wait")
        await wait_all_tasks_blocked()

        assert counter.cancelled == 1


async def test_what_runs_ends_with_its_session(autojump_clock: MockClock) -> None:
    counter = Counter()
    async with open_runtime("memory:", connect=connect_to(counter.answer)) as runtime:
        session = await runtime.create()
        notify(session, "wait")
        await wait_all_tasks_blocked()
        await session.close()
        await wait_all_tasks_blocked()

        assert counter.cancelled == 1
