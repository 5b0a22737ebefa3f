"""The call history: what is recorded of a call, how it is kept, and what bounds it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from actors.call_history import PAGE_CALLS_MAX, CallHistory, CallRecord, HistoryState, page_body, records_of
from actors.handle import SessionHandle, SessionUnavailable
from actors.link import Failure
from actors.messages import CallEnded
from actors.state import Call, Limits
from persistence.memory import MemoryStore
from persistence.records import HISTORY_STREAM, LogEntry, Trim
from persistence.store import StoreFull, StoreUnavailable
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, notify, open_session, open_world, send

MARK = "s3cr3t"


async def call(session: SessionHandle, id: int, method: str = "echo", *, tool: str = "search") -> None:
    await send(session, id, method, {"name": tool, "arguments": {"q": MARK}}, label=tool).wait()


async def recorded(session: SessionHandle) -> list[tuple[str, str, int]]:
    return [(record.tool, record.outcome, record.code) for record in (await session.history()).calls]


def noted(history: CallHistory, count: int, tool: str = "search") -> None:
    for _ in range(count):
        made = Call(1, 1, "tools/call", tool, jsonrpc.request(1, "tools/call"), 1000.0)
        history.note(made, CallEnded(1, False, 1000.5))


# ---- what is recorded ----


async def test_each_way_a_call_can_end_has_its_name(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    upstream.answers["bad"] = lambda message: jsonrpc.error(message.id, -5, "no good")
    async with open_world(upstream, limits=Limits(call_seconds_max=5.0)) as world:
        session = await open_session(world)
        await call(session, 1, tool="fine")
        await call(session, 2, "bad", tool="failing")
        slow = send(session, 3, "hold", label="slow")
        await trio.sleep(10.0)
        await slow.wait()
        unwanted = send(session, 4, "hold", label="unwanted")
        await notify(session, "notifications/cancelled", cancels=4).wait()
        await trio.sleep(10.0)
        await unwanted.wait()
        torn = send(session, 5, "hold", label="torn")
        await trio.sleep(0.1)
        world.link.refuse(5, Failure.OUTCOME_UNKNOWN)
        await torn.wait()

        assert await recorded(session) == [
            ("torn", "interrupted", jsonrpc.OUTCOME_UNKNOWN),
            ("unwanted", "cancelled", 0),
            ("slow", "timeout", jsonrpc.REQUEST_TIMED_OUT),
            ("failing", "error", -5),
            ("fine", "ok", 0),
        ]


async def test_call_that_was_a_stream_at_a_crash_is_recorded_as_interrupted(autojump_clock: MockClock) -> None:
    upstream, disk = FakeUpstream(), MemoryStore()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        send(session, 1, "hold", label="search")
        await trio.sleep(2.0)
        world.kill()
    async with open_world(upstream, disk) as world:
        again = world.runtime.session(session.id)
        assert await recorded(again) == [("search", "interrupted", jsonrpc.OUTCOME_UNKNOWN)]


@pytest.mark.parametrize("other_commit", [False, True])
async def test_call_that_was_no_stream_at_a_crash_leaves_no_record(
    autojump_clock: MockClock, other_commit: bool
) -> None:
    """The control of the one before and of the next: it ran, and nothing that is durable tells of it.

    Not even where the session had a commit meanwhile, for another reason: whether a call is on record must not depend
    on what its neighbours did, and an answer that left after such a commit would be called lost.
    """
    upstream, disk = FakeUpstream(), MemoryStore()
    async with open_world(upstream, disk) as world:
        session = await open_session(world)
        send(session, 1, "hold", label="search")
        await trio.sleep(0.1)
        if other_commit:
            await session.emit("said")
        world.kill()
    assert len(upstream.sent("hold")) == 1
    kept = await disk.load(session.id)
    assert kept is not None
    assert kept.fields["calls"] == []
    async with open_world(upstream, disk) as world:
        assert await recorded(world.runtime.session(session.id)) == []


async def test_where_each_call_is_a_stream_at_once_it_is_recorded(autojump_clock: MockClock) -> None:
    upstream, disk = FakeUpstream(), MemoryStore()
    async with open_world(upstream, disk, limits=Limits(answer_json_within_seconds=0.0)) as world:
        session = await open_session(world)
        send(session, 1, "hold", label="search")
        await trio.sleep(0.1)
        world.kill()
    async with open_world(upstream, disk) as world:
        again = world.runtime.session(session.id)
        assert await recorded(again) == [("search", "interrupted", jsonrpc.OUTCOME_UNKNOWN)]


@pytest.mark.parametrize("answer_json_within_seconds", [0.0, 0.25])
async def test_no_setting_makes_a_call_durable_before_it_is_sent(
    autojump_clock: MockClock, answer_json_within_seconds: float
) -> None:
    async with open_world(limits=Limits(answer_json_within_seconds=answer_json_within_seconds)) as world:
        session = await open_session(world)
        commits = len(world.store.commits)
        send(session, 1, "hold", label="search")
        while not world.upstream.sent("hold"):
            await trio.lowlevel.checkpoint()
        assert len(world.store.commits) == commits


async def test_times_are_those_of_the_call(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        began = world.runtime._shared.clock.now_unix_s()
        reply = send(session, 1, "hold", label="search")
        await trio.sleep(0.2)
        world.link.answer(1)
        await reply.wait()
        (record,) = (await session.history()).calls

    assert record.started_at == pytest.approx(began, abs=0.05)
    assert record.seconds == pytest.approx(0.2, abs=0.05)


async def test_requests_that_call_no_tool_are_not_recorded(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        await send(session, 1, "echo").wait()

        assert await recorded(session) == []


async def test_error_code_that_no_record_can_hold_is_an_internal_error(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    raw = b'{"jsonrpc": "2.0", "id": 1, "error": {"code": 1%s, "message": ""}}' % (b"0" * 40)
    upstream.answers["bad"] = lambda message: jsonrpc.parse(raw)
    async with open_world(upstream) as world:
        session = await open_session(world)
        await call(session, 1, "bad")

        assert await recorded(session) == [("search", "error", jsonrpc.INTERNAL_ERROR)]


# ---- arguments and results ----


async def test_arguments_and_results_are_not_recorded_unless_wanted(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await call(session, 1)
        (record,) = (await session.history()).calls
        assert (record.arguments, record.result) == (None, None)
        await world.runtime.settled()
        (page,) = await disk.read_log(session.id, stream=HISTORY_STREAM, after=0, limit=9)
        assert MARK.encode() not in page.body


async def test_arguments_and_results_are_recorded_where_wanted(autojump_clock: MockClock) -> None:
    """The negative control of the one before: the mark would be found."""
    disk = MemoryStore()
    async with open_world(disk=disk, limits=Limits(call_history_contents=True)) as world:
        session = await open_session(world)
        await call(session, 1)
        (record,) = (await session.history()).calls
        assert record.arguments == f'{{"q":"{MARK}"}}'
        assert msgspec.json.decode(record.result or "") == {"name": "search", "arguments": {"q": MARK}}
        await world.runtime.settled()
        (page,) = await disk.read_log(session.id, stream=HISTORY_STREAM, after=0, limit=9)
        assert MARK.encode() in page.body


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":[1]}}', "[1]"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"uri":"a"}}', '{"uri":"a"}'),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}', "[1]"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m"}', "null"),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":"\xff"}}', '"\ufffd"'),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":"%s"}}' % (b"x" * 50), '"xxxxxxxxx…'),
    ],
)
def test_whatever_is_sent_can_be_recorded(raw: bytes, arguments: str) -> None:
    limits = Limits(call_history_contents=True, call_history_content_bytes_max=10 if len(raw) > 90 else 100)
    history = CallHistory("s", HistoryState(), limits)
    message = jsonrpc.Message(jsonrpc.Kind.REQUEST, 1, "m", raw)
    history.note(
        Call(1, 1, "m", "tool", message, 1.0), CallEnded(1, True, 2.0, "error", -5, jsonrpc.error(1, -5, "no"))
    )
    (record,) = history.recent()

    assert record.arguments == arguments
    assert (record.result or "").startswith('{"code')


# ---- how it is kept ----


async def test_short_calls_cost_no_commit_of_their_own(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        commits = len(world.store.commits)
        for id in range(10):
            await call(session, id)
        assert len(world.store.commits) == commits
        await trio.sleep(2.0)
        (batch,) = world.store.commits[commits:]
        (page,) = batch.entries
        assert len(list(records_of([page]))) == 10


async def test_calls_ride_along_with_the_next_commit(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        await call(session, 1)
        await session.emit("said")
        assert [entry.stream for entry in world.store.commits[-1].entries] == [0, HISTORY_STREAM]


async def test_history_survives_a_restart_and_is_read_by_pages(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        for id in range(7):
            await call(session, id, tool=f"tool {id}")
            await trio.sleep(1.5)
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)
        await call(again, 7, tool="tool 7")
        seen: list[str] = []
        before: int | None = None
        while True:
            page = await again.history(before=before, limit=3)
            seen += [record.tool for record in page.calls]
            before = page.before
            if before is None:
                break

    assert seen == [f"tool {id}" for id in reversed(range(8))]


async def test_passivation_keeps_what_was_noted(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        await call(session, 1)
        session.actor().stop("as an idle one would")
        await trio.sleep(0.1)
        assert not world.runtime.registry.residents()

        assert await recorded(session) == [("search", "ok", 0)]


async def test_a_crash_may_forget_the_last_second_and_no_more(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await call(session, 1, tool="old")
        await trio.sleep(2.0)
        await call(session, 2, tool="new")
        world.kill()
    async with open_world(disk=disk) as world:
        again = world.runtime.session(session.id)
        assert await recorded(again) == [("old", "ok", 0)]
        await call(again, 3, tool="newest")
        await trio.sleep(2.0)
        assert [record.number for record in (await again.history()).calls] == [2, 1]


async def test_calls_outlast_a_full_store(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        await call(session, 1, tool="first")
        world.store.fail(1, StoreFull("no space left"))
        await trio.sleep(1.5)
        assert await recorded(session) == [("first", "ok", 0)]
        await call(session, 2, tool="second")
        await trio.sleep(3.0)
        pages = await kept_in_store(world, session)
        assert [(one.number, one.tool) for one in records_of(pages)] == [(1, "first"), (2, "second")]


def test_what_the_store_had_no_room_for_is_bounded_and_trimmed_all_the_same() -> None:
    history = CallHistory("s", HistoryState(), Limits(call_history_max=20))
    for _ in range(50):
        noted(history, 5)
        history.take_pages(1.0)
        history.note_outcome(kept=False)
    pages, trim = history.take_pages(1.0)

    assert [page.offset for page in pages] == [235, 240, 245, 250]
    assert trim == Trim("s", HISTORY_STREAM + 230)


async def test_history_that_cannot_be_read_now_is_unavailable(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await call(session, 1)
        await trio.sleep(2.0)
        await session.emit("a commit after which nothing of the history is under way")
        world.store.begin_outage(StoreUnavailable("away"))
        with pytest.raises(SessionUnavailable, match="history"):
            await session.history()
        world.store.end_outage()


# ---- bounds ----


async def kept_in_store(world: World, session: SessionHandle) -> list[LogEntry]:
    await world.runtime.settled()
    return list(await world.store.disk.read_log(session.id, stream=HISTORY_STREAM, after=0, limit=1000))


async def test_history_is_bounded_and_pushes_out_no_event(autojump_clock: MockClock) -> None:
    limits = Limits(call_history_max=10, events_per_session_max=5)
    async with open_world(limits=limits) as world:
        session = await open_session(world)
        for _ in range(3):
            await session.emit("said")
        for id in range(50):
            await call(session, id, tool=f"tool {id}")
            await trio.sleep(1.5)
        pages = await kept_in_store(world, session)
        assert [record.tool for record in records_of(pages)] == [f"tool {id}" for id in range(40, 50)]
        assert [one.tool for one in (await session.history()).calls] == [f"tool {id}" for id in range(49, 39, -1)]
        assert len(await world.store.disk.read_log(session.id, stream=0, after=0, limit=10)) == 3


async def test_events_push_out_no_history(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(events_per_session_max=5)) as world:
        session = await open_session(world)
        await call(session, 1)
        for _ in range(30):
            await session.emit("said")

        assert await recorded(session) == [("search", "ok", 0)]


async def test_switched_off_nothing_is_noted(autojump_clock: MockClock) -> None:
    async with open_world(limits=Limits(call_history_max=0)) as world:
        session = await open_session(world)
        await call(session, 1)

        assert await recorded(session) == []
        assert await kept_in_store(world, session) == []


def test_what_waits_to_be_kept_is_bounded_in_calls() -> None:
    history = CallHistory("s", HistoryState(), Limits(call_history_max=100))
    noted(history, 1000)
    pages, trim = history.take_pages(1.0)

    assert [page.offset for page in pages] == [900 + PAGE_CALLS_MAX, 1000]
    assert [record.number for record in records_of(pages)] == list(range(901, 1001))
    assert history.state.next_number == 1001
    assert trim is not None


def test_what_waits_to_be_kept_is_bounded_in_bytes() -> None:
    history = CallHistory("s", HistoryState(), Limits(call_history_bytes_max=2000))
    noted(history, 1000, tool="x" * 200)
    assert 1 <= len(history.recent()) <= 10


def test_what_is_kept_is_bounded_in_bytes() -> None:
    limits = Limits(call_history_bytes_max=16_000)
    history = CallHistory("s", HistoryState(), limits)
    kept: dict[int, int] = {}
    for _ in range(300):
        noted(history, 2, tool="x" * 200)
        pages, trim = history.take_pages(1.0)
        kept.update({page.sequence: len(page.body) for page in pages})
        if trim is not None:
            kept = {sequence: size for sequence, size in kept.items() if sequence > trim.through_sequence}

    assert 8_000 <= sum(kept.values()) <= 17_000
    assert len(history.state.segments) <= 40


def test_a_long_name_is_cut() -> None:
    history = CallHistory("s", HistoryState(), Limits())
    noted(history, 1, tool="x" * 1_000_000)
    assert len(history.recent()[0].tool) == 256


def test_a_page_is_what_it_was_written_as() -> None:
    calls = [CallRecord("a", 1.25, 0.5), CallRecord("b", 2.0, 1.0, "error", -5, "{}", "é")]
    page = LogEntry("s", HISTORY_STREAM + 9, HISTORY_STREAM, 9, 3.0, page_body(calls))
    expected: list[Any] = [msgspec.structs.replace(one, number=8 + index) for index, one in enumerate(calls)]
    assert list(records_of([page])) == expected
