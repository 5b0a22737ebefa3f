"""What a client with one stream makes of what comes: only what is right may look right to the judge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.ids import EventId, SessionId
from actors.jsonrpc import OUTCOME_UNKNOWN, UPSTREAM_UNAVAILABLE
from tests.e2e.journal import Journal
from tests.e2e.raw_client import Json
from tests.e2e.restarts.one_stream_client import Event, OneStreamClient
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.transcript import Asked, Circumstances, Ending, Kind, Transcript, violations

SESSION = SessionId("s" * 32)
NEWS: Json = {"jsonrpc": "2.0", "method": "notifications/news", "params": {}}
OTHER_NEWS: Json = {**NEWS, "params": {"other": True}}


class WirelessClient(OneStreamClient):
    """A client of which the test says what it hears."""

    said: list[Json]

    async def _stay(self, scope: trio.CancelScope, opening: Asked) -> None:
        self.session_id = SESSION

    async def _try(self, asked: Asked, message: Json) -> bool:
        self.said.append(message)
        return True

    def _forget_place(self) -> None:
        self.said = []

    def _go_back_to(self, event_id: str) -> None:
        self.place = event_id

    def hear(self, offset: int, message: Json, *, epoch: int = 1) -> None:
        """Hear an event."""
        event_id = EventId(0, epoch, offset).write(SESSION)
        self._take_event(Event(event_id, message), event_id)

    def hear_nameless(self, *messages: Json) -> None:
        """Hear messages without ids."""
        for message in messages:
            self._take_nameless(message)

    def come_back(self, *, has_broken: bool) -> None:
        """Come back without an id."""
        self.is_connected = False
        self._begin_return(has_broken=has_broken)

    @property
    def news(self) -> list[Json]:
        return self._told


def answer(request: Json, code: int = 0) -> Json:
    """Answer a request, or refuse it."""
    outcome = {"error": {"code": code, "message": "no"}} if code else {"result": {}}
    return {"jsonrpc": "2.0", "id": request["id"], **outcome}


@attrs.frozen
class Conversation:
    """A client, and what it wrote down."""

    client: WirelessClient
    transcript: Transcript

    def broken_rules(self) -> list[str]:
        """Judge it by the order of its events, and by what should not have come."""
        return violations(
            Transcript(own_streams=self.transcript.own_streams, wrong=self.transcript.wrong), {}, QUIET, {}
        )


QUIET = Circumstances(killed=False, server_lost=False, resumable=False)


@asynccontextmanager
async def conversation(directory: Path, *, keeps_ids: bool = True) -> AsyncIterator[Conversation]:
    """Open a session."""
    transcript = Transcript()
    async with trio.open_nursery() as nursery:
        stage = Stage(Journal(directory))
        client = WirelessClient(nursery, stage, transcript, keeps_ids=keeps_ids)
        client.handshake()
        await wait_all_tasks_blocked()
        if keeps_ids:
            client.hear(1, answer(client.said[0]))
        else:
            client.hear_nameless(answer(client.said[0]))
        yield Conversation(client, transcript)
        nursery.cancel_scope.cancel()


async def test_events_that_rise_are_right(tmp_path: Path) -> None:
    async with conversation(tmp_path) as heard:
        heard.client.hear(2, NEWS)
        heard.client.hear(3, NEWS)
        assert heard.broken_rules() == []


@pytest.mark.parametrize("offset", [1, 2])
async def test_event_that_comes_again_is_found(tmp_path: Path, offset: int) -> None:
    async with conversation(tmp_path) as heard:
        heard.client.hear(2, NEWS)
        heard.client.hear(offset, NEWS)
        assert len(heard.broken_rules()) == 1


async def test_answer_to_nothing_is_found(tmp_path: Path) -> None:
    async with conversation(tmp_path) as heard:
        heard.client.hear(2, answer({"id": "never asked"}))
        assert "an answer to nothing" in heard.broken_rules()[0]


async def test_second_answer_is_noted_as_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with conversation(tmp_path) as heard:
        call = heard.client.call("echo", text="once")
        await wait_all_tasks_blocked()
        heard.client.hear(2, answer(heard.client.said[-1]))
        heard.client.hear(3, answer(heard.client.said[-1], OUTCOME_UNKNOWN))
        assert [ending.kind for ending in call.endings] == [Kind.ANSWER, Kind.ERROR]


async def test_answer_after_a_broken_connection_is_the_end_and_one_after_a_withdrawal_is_none(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with conversation(tmp_path) as heard:
        for kind, ends in ((Kind.BROKEN, Kind.ANSWER), (Kind.WITHDRAWN, Kind.WITHDRAWN)):
            call = heard.client.call("echo", text="once")
            await wait_all_tasks_blocked()
            call.endings.append(Ending(kind))
            heard.client.hear(len(heard.client.events) + 1, answer(heard.client.said[-1]))
            assert [ending.kind for ending in call.endings] == [ends]


async def test_what_was_not_run_is_tried_again_once_the_fault_is_over_and_not_before(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with conversation(tmp_path) as heard:
        before, after = heard.client.call("echo", text="before"), heard.client.call("echo", text="after")
        after.after = True
        await wait_all_tasks_blocked()
        for offset, request in enumerate(heard.client.said[-2:], start=2):
            heard.client.hear(offset, answer(request, UPSTREAM_UNAVAILABLE))
        await trio.sleep(1)
        assert ([ending.kind for ending in before.endings], after.endings) == ([Kind.ERROR], [])
        assert heard.client.said[-1]["id"] == after.request_id
        heard.client.hear(4, answer(heard.client.said[-1]))
        assert after.is_answered


@pytest.mark.parametrize("is_same", [True, False])
async def test_replay_is_compared_event_by_event(tmp_path: Path, autojump_clock: MockClock, is_same: bool) -> None:
    async with conversation(tmp_path) as heard, trio.open_nursery() as nursery:
        call = heard.client.call("echo", text="once")
        await wait_all_tasks_blocked()
        heard.client.hear(2, NEWS)
        heard.client.hear(3, answer(heard.client.said[-1]))
        nursery.start_soon(heard.client.replay, call)
        await wait_all_tasks_blocked(0.001)
        assert heard.client.place == heard.client.events[0].id
        heard.client.hear(2, NEWS if is_same else OTHER_NEWS)
        heard.client.hear(3, answer(heard.client.said[-1]))
        assert bool(call.unlike_replay) is not is_same
        assert heard.client.news == [NEWS], "what is replayed is not heard once more"


@pytest.mark.parametrize("has_broken", [True, False])
async def test_without_ids_what_came_last_may_come_again_where_the_connection_broke(
    tmp_path: Path, autojump_clock: MockClock, has_broken: bool
) -> None:
    async with conversation(tmp_path, keeps_ids=False) as heard:
        heard.client.hear_nameless(NEWS, OTHER_NEWS)
        heard.client.come_back(has_broken=has_broken)
        await wait_all_tasks_blocked()
        heard.client.hear_nameless(NEWS, OTHER_NEWS, NEWS)
        connected = [heard.client.is_connected]
        heard.client.hear_nameless(answer(heard.client.said[-1]))
        assert [*connected, heard.client.is_connected] == [False, True], "before the ping's answer nothing is known"
        again = [] if has_broken else [NEWS, OTHER_NEWS]
        assert heard.client.news == [NEWS, OTHER_NEWS, *again, NEWS]


async def test_without_ids_what_came_earlier_may_not(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with conversation(tmp_path, keeps_ids=False) as heard:
        heard.client.hear_nameless(NEWS, OTHER_NEWS)
        heard.client.come_back(has_broken=True)
        await wait_all_tasks_blocked()
        heard.client.hear_nameless(NEWS, answer(heard.client.said[-1]))
        assert heard.client.news == [NEWS, OTHER_NEWS, NEWS]
