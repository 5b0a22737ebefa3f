"""The journal keeps its bounds, goes back to what is durable when a commit fails, and shares commits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.event_log import CursorLost
from actors.ids import InvalidEventId
from actors.registry import SessionNotFound, TooManySessions
from outlast import event_journal
from outlast.event_history import EventLimits, History
from outlast.event_journal import EventJournal
from persistence.memory import MemoryStore
from persistence.records import LogEntry
from persistence.store import Store, StoreFull
from persistence.writer import Writer, WriterBacklogFull
from tests.persistence.faulty import FaultyStore
from tests.persistence.places import MemoryPlace

WAIT_SECONDS = 1000.0  # of virtual time


@asynccontextmanager
async def journal_on(
    store: Store, limits: EventLimits = EventLimits(), *, backlog_rows_max: int = 50_000
) -> AsyncIterator[EventJournal]:
    """A journal whose wall clock is trio's."""
    writer = Writer(store, await store.claim("test"), backlog_rows_max=backlog_rows_max)
    journal = EventJournal(store, writer, limits, now_unix_s=trio.current_time)
    await journal.learn()
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        nursery.start_soon(journal.reap)
        yield journal
        nursery.cancel_scope.cancel()


async def append(journal: EventJournal, session_id: str = "a", body: bytes = b"x", stream: str = "1") -> str:
    return await journal.append(session_id, stream, body, ends=False, standing=False)


async def bodies(journal: EventJournal, cursor: str, session_id: str = "a") -> list[bytes]:
    return [body for _, body in (await journal.read(session_id, cursor, wait_seconds=0)).events]


async def test_sessions_that_come_together_share_a_commit() -> None:
    store = FaultyStore(MemoryStore())
    async with journal_on(store) as journal, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(append, journal, f"session-{number}")
    # The first comes alone, since the writer was idle; all others gather meanwhile.
    assert len([batch for batch in store.commits if batch.entries]) <= 2
    assert sum(len(batch.entries) for batch in store.commits) == 50


async def test_reader_waits_until_an_event_is_durable(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with journal_on(store) as journal, trio.open_nursery() as nursery:
        first = await append(journal)
        pages = []

        async def read() -> None:
            pages.append(await journal.read("a", first, wait_seconds=WAIT_SECONDS))

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        store.commit_seconds = 5.0
        began = trio.current_time()
        await append(journal, body=b"later")
        await wait_all_tasks_blocked()
        assert trio.current_time() - began >= 5.0
    assert [body for page in pages for _, body in page.events] == [b"later"]


async def test_damaged_event_is_told_when_what_came_before_it_was_given(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    async with journal_on(store) as journal:
        ids = [await append(journal, body=b"%d" % number) for number in range(6)]
        await MemoryPlace().flip_entry(store, "a", 4)

        assert await bodies(journal, ids[0]) == [b"1", b"2"]
        with pytest.raises(CursorLost, match="damaged"):
            await bodies(journal, ids[2])
        assert await bodies(journal, ids[3]) == [b"4", b"5"]


async def test_expired_session_is_gone_and_one_in_use_is_not(autojump_clock: MockClock) -> None:
    async with journal_on(MemoryStore(), EventLimits(ttl_seconds=100)) as journal:
        idle, read, written = [await append(journal, session_id) for session_id in ("idle", "read", "written")]
        for _ in range(5):
            await trio.sleep(50)
            await append(journal, "written")
            await bodies(journal, read, "read")
        assert len(await bodies(journal, written, "written")) == 5
        with pytest.raises(SessionNotFound):
            await bodies(journal, idle, "idle")


async def test_no_more_sessions_than_may_be_until_one_ends() -> None:
    async with journal_on(MemoryStore(), EventLimits(sessions_max=2)) as journal:
        await append(journal, "a")
        await append(journal, "b")
        with pytest.raises(TooManySessions):
            await append(journal, "c")
        await journal.bury("a", "ended")
        await append(journal, "c")


async def test_oldest_events_go_when_the_bytes_are_used_up() -> None:
    async with journal_on(MemoryStore(), EventLimits(bytes_per_session_max=10)) as journal:
        ids = [await append(journal, body=b"four") for _ in range(4)]
        assert await bodies(journal, ids[1]) == [b"four", b"four"]
        with pytest.raises(CursorLost):
            await bodies(journal, ids[0])


async def test_stream_whose_events_have_all_gone_is_forgotten() -> None:
    async with journal_on(MemoryStore(), EventLimits(events_per_session_max=2)) as journal:
        gone = await append(journal, stream="1")
        await append(journal, stream="2")
        await append(journal, stream="2")
        with pytest.raises(CursorLost):
            await bodies(journal, gone)
        again = await append(journal, stream="1")
        assert await bodies(journal, again) == []
        with pytest.raises(CursorLost):  # the name has come back, the stream has not
            await bodies(journal, gone)


async def test_id_of_the_future_is_refused() -> None:
    """An event that was not acknowledged was not told; with a store that went back in time its id may come up."""
    disk = MemoryStore()
    async with journal_on(disk) as journal:
        await append(journal)
        old = await disk.load("a")
        assert old is not None
        newest = await append(journal)
    async with journal_on(MemoryStore()) as other:
        other._settle_in(History.of(old))
        other._resident["a"].learn(await disk.read_log("a", stream=1, after=0, limit=1))
        with pytest.raises(InvalidEventId):
            await bodies(other, newest)


async def test_session_goes_back_to_what_is_durable_when_the_store_is_full() -> None:
    store = FaultyStore(MemoryStore())
    async with journal_on(store) as journal:
        first = await append(journal, body=b"1")
        store.fail(1, StoreFull("no room"))
        with pytest.raises(StoreFull):
            await append(journal, body=b"lost")
        await append(journal, body=b"2")
        assert await bodies(journal, first) == [b"2"]


async def test_expired_session_that_finds_no_room_for_its_end_is_removed_later(autojump_clock: MockClock) -> None:
    """A full store must not end the journal, and with it every session's."""
    store = FaultyStore(MemoryStore())
    async with journal_on(store, EventLimits(ttl_seconds=100)) as journal:
        cursor = await append(journal)
        store.fail(1, StoreFull("no room"))
        await trio.sleep(110)  # reaped every 25 seconds: at 100 in vain
        assert await bodies(journal, cursor) == []
        await trio.sleep(150)
        with pytest.raises(SessionNotFound):
            await bodies(journal, cursor)


async def test_backlog_that_is_full_changes_nothing(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with journal_on(store, backlog_rows_max=4) as journal:
        first = await append(journal, body=b"1")
        store.commit_seconds = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, journal, "a", b"2")
            nursery.start_soon(append, journal, "a", b"3")
            await wait_all_tasks_blocked()
            with pytest.raises(WriterBacklogFull):
                await append(journal, body=b"refused")
        await append(journal, body=b"4")
        assert sorted(await bodies(journal, first)) == [b"2", b"3", b"4"]


async def test_session_that_left_memory_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_journal, "RESIDENT_SESSIONS_MAX", 1)
    async with journal_on(MemoryStore(), EventLimits(events_per_session_max=3)) as journal:
        ids = [await append(journal, session_id, b"%d" % number) for number in range(4) for session_id in ("a", "b")]
        assert len(journal._resident) == 1
        assert await bodies(journal, ids[2]) == [b"2", b"3"]
        await append(journal)
        with pytest.raises(CursorLost):
            await bodies(journal, ids[0])


async def test_late_event_does_not_open_an_ended_session_again() -> None:
    async with journal_on(MemoryStore()) as journal:
        await append(journal)
        await journal.bury("a", "ended")
        with pytest.raises(SessionNotFound):
            await append(journal)


async def test_session_is_given_back_to_its_owner_only() -> None:
    async with journal_on(MemoryStore()) as journal:
        await journal.begin("a", owner="hers", handshake=b"hello")
        assert await journal.adopt("a", owner="his") is None
        assert await journal.adopt("a", owner="hers") == b"hello"
        assert await journal.adopt("unknown", owner="hers") is None


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from("123"), st.binary(max_size=8)), max_size=30),
    limits=st.builds(EventLimits, events_per_session_max=st.integers(1, 8), bytes_per_session_max=st.integers(1, 40)),
)
def test_record_and_kept_events_give_the_same_history_back(
    events: list[tuple[str, bytes]], limits: EventLimits
) -> None:
    history = History("a", 7)
    kept: list[LogEntry] = []
    for name, body in events:
        stream = history.stream(name, standing=False)
        entry, trim = history.entry(stream, body, 0.0), history.surplus(len(body), limits)
        history.add(stream, entry, trim, ends=name == "3")
        kept = [one for one in [*kept, entry] if trim is None or one.sequence > trim.through_sequence]
    assert len(kept) == len(history) <= limits.events_per_session_max
    assert history.kept_bytes == sum(len(entry.body) for entry in kept)
    assert history.kept_bytes <= limits.bytes_per_session_max or len(kept) == 1

    again = History.of(history.snapshot(1.0))
    again.learn(kept)
    assert again.snapshot(1.0) == history.snapshot(1.0)
    assert [(one.number, one.offset, one.kept) for one in again.streams()] == [
        (one.number, one.offset, one.kept) for one in history.streams()
    ]
