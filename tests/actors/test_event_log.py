"""The event log: exactly once, in order, whatever a reader's pages come from; and where it cannot be, told so.

The property at the end plays a log against a store, in random steps: appends, commits, releases, trims, readers that
come with random cursors, go, are taken over, and crashes of the session between.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import event_log
from actors.event_log import TAIL_ENTRIES_MAX, CursorLost, EventLog, LogCounts, ReaderEnded, SessionLeft, StreamReader
from actors.ids import SessionId
from actors.state import Stream
from persistence.records import LogEntry
from persistence.store import EntryCorrupt, SnapshotCorrupt

SESSION = SessionId("session")


class Shelf:
    """What a store holds of one session's log, and a log in front of it."""

    def __init__(self) -> None:
        self.kept: dict[int, LogEntry] = {}
        self.waiting: list[LogEntry] = []  # appended, not yet committed
        self.streams: dict[int, Stream] = {0: Stream(0, None), 1: Stream(1, 1)}
        self.next_sequence = 1
        self.reads = 0
        self.read_seconds = 0.0
        self.damaged: set[int] = set()  # sequences
        self.counts = LogCounts()
        self.log = EventLog(SESSION, self.read_log, durable_through=0, counts=self.counts)

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        self.reads += 1
        found = [entry for entry in self.kept.values() if entry.stream == stream and entry.offset > after]
        await trio.sleep(self.read_seconds)  # what was read may be old when it arrives
        for entry in found[:limit]:
            if entry.sequence in self.damaged:
                raise EntryCorrupt(f"log entry {entry.sequence}", entry.offset)
        return found[:limit]

    def append(self, stream: int = 0, size: int = 2) -> LogEntry:
        known = self.streams[stream]
        entry = LogEntry(SESSION, self.next_sequence, stream, known.next_offset, 0.0, b"x" * size)
        self.streams[stream] = Stream(stream, known.request_id, known.next_offset + 1, known.ended)
        self.next_sequence += 1
        self.waiting.append(entry)
        self.log.append(entry)
        return entry

    def commit(self) -> None:
        for entry in self.waiting:
            self.kept[entry.sequence] = entry
        self.waiting.clear()

    def release(self) -> None:
        self.commit()
        self.log.release(self.next_sequence - 1)

    def trim(self, through: int) -> None:
        for sequence in [known for known in self.kept if known <= through]:
            del self.kept[sequence]

    def restart(self) -> None:
        """Forget memory: what was not committed never was."""
        self.log.end_readers()
        for entry in reversed(self.waiting):
            known = self.streams[entry.stream]
            self.streams[entry.stream] = Stream(known.id, known.request_id, entry.offset, known.ended)
        self.next_sequence -= len(self.waiting)
        self.waiting.clear()
        self.log = EventLog(SESSION, self.read_log, durable_through=self.next_sequence - 1, counts=self.counts)

    async def page(self, reader: StreamReader) -> list[int]:
        page = await reader.next_page(lambda: self.streams.get(reader.stream_id))
        return [entry.offset for entry in page]


async def test_reader_gets_what_is_released_and_no_more() -> None:
    shelf = Shelf()
    shelf.append()
    shelf.release()
    shelf.append()
    reader = shelf.log.attach(0, 0)
    assert await shelf.page(reader) == [1]
    async with trio.open_nursery() as nursery:

        async def next_one() -> None:
            assert await shelf.page(reader) == [2]

        nursery.start_soon(next_one)
        await wait_all_tasks_blocked()
        shelf.release()


async def test_reader_of_one_stream_does_not_see_another() -> None:
    shelf = Shelf()
    shelf.append(0)
    shelf.append(1)
    shelf.append(0)
    shelf.release()

    assert await shelf.page(shelf.log.attach(0, 0)) == [1, 2]
    assert await shelf.page(shelf.log.attach(1, 0)) == [1]


async def test_ended_stream_ends_its_reader_after_the_last_entry() -> None:
    shelf = Shelf()
    shelf.append(1)
    shelf.release()
    shelf.streams[1] = Stream(1, 1, 2, ended=True)
    reader = shelf.log.attach(1, 0)

    assert await shelf.page(reader) == [1]
    assert await shelf.page(reader) == []


async def test_newest_reader_takes_the_stream_over() -> None:
    shelf = Shelf()
    older = shelf.log.attach(0, 0)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ReaderEnded, match="newer connection"):
                await shelf.page(older)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        newer = shelf.log.attach(0, 0)
    shelf.append()
    shelf.release()
    assert await shelf.page(newer) == [1]
    older.close()  # the connection that was taken over goes at last: nothing to the newer one
    assert shelf.log.has_readers


async def test_session_that_leaves_memory_ends_its_readers() -> None:
    shelf = Shelf()
    reader = shelf.log.attach(0, 0)
    shelf.log.end_readers()

    with pytest.raises(SessionLeft):
        await shelf.page(reader)


async def test_what_was_durable_when_the_session_left_memory_is_still_given() -> None:
    """An answer that came in a stop's last moment, before its reader ran: the stop had waited for it alone."""
    shelf = Shelf()
    reader = shelf.log.attach(0, 0)
    shelf.append()
    shelf.append()
    shelf.release()
    shelf.append()  # this one is not durable: it may never be
    shelf.log.end_readers()

    assert await shelf.page(reader) == [1, 2]
    with pytest.raises(SessionLeft):
        await shelf.page(reader)


async def test_cursor_that_fell_off_is_told() -> None:
    shelf = Shelf()
    for _ in range(10):
        shelf.append()
    shelf.release()
    shelf.trim(5)
    shelf.restart()

    with pytest.raises(CursorLost):
        await shelf.page(shelf.log.attach(0, 3))
    assert await shelf.page(shelf.log.attach(0, 5)) == [6, 7, 8, 9, 10]


async def test_what_falls_off_and_who_is_told_so_is_counted() -> None:
    shelf = Shelf()
    for _ in range(TAIL_ENTRIES_MAX):
        shelf.append()
    shelf.release()
    assert shelf.counts.left_memory == 0
    for _ in range(3):
        shelf.append()
    assert shelf.counts.left_memory == 3
    shelf.release()
    shelf.trim(5)
    assert (shelf.counts.left_memory, shelf.counts.cursors_lost) == (3, 0), "who trims counts what is trimmed"
    shelf.restart()
    for after in (2, 3):
        with pytest.raises(CursorLost):
            await shelf.page(shelf.log.attach(0, after))
    assert shelf.counts.cursors_lost == 2


async def test_all_trimmed_is_told_too() -> None:
    shelf = Shelf()
    for _ in range(10):
        shelf.append()
    shelf.release()
    shelf.trim(10)
    shelf.restart()

    with pytest.raises(CursorLost):
        await shelf.page(shelf.log.attach(0, 3))


async def test_reader_without_a_cursor_begins_with_the_earliest_kept() -> None:
    shelf = Shelf()
    for _ in range(10):
        shelf.append()
    shelf.release()
    shelf.trim(5)
    shelf.restart()

    assert await shelf.page(shelf.log.attach(0, 0, from_earliest=True)) == [6, 7, 8, 9, 10]


async def test_reader_without_a_cursor_does_not_miss_what_comes_while_the_store_is_read(
    autojump_clock: MockClock,
) -> None:
    """The store answers with what it held a second ago, which was nothing; the release in between must be seen."""
    shelf = Shelf()
    shelf.append()
    shelf.release()
    shelf.trim(1)
    shelf.restart()
    shelf.read_seconds = 1.0
    shelf.append()
    reader = shelf.log.attach(0, 0, from_earliest=True)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with trio.fail_after(10.0):
                assert await shelf.page(reader) == [2]

        nursery.start_soon(read)
        await trio.sleep(0.5)
        shelf.release()


def damaged_shelf(*sequences: int) -> Shelf:
    """Five entries in the store, none in memory, some damaged."""
    shelf = Shelf()
    for _ in range(5):
        shelf.append()
    shelf.release()
    shelf.restart()
    shelf.damaged.update(sequences)
    return shelf


async def test_what_comes_before_a_damaged_entry_is_given_and_then_the_reader_is_told() -> None:
    shelf = damaged_shelf(4)
    reader = shelf.log.attach(0, 0)
    assert [await shelf.page(reader) for _ in range(3)] == [[1], [2], [3]]

    for _ in range(2):
        with capture_logs() as logs, pytest.raises(CursorLost, match="after 3 in this stream is damaged"):
            await shelf.page(shelf.log.attach(0, 3))
        assert [(line["event"], line["why"]) for line in logs] == [("event is damaged", "log entry 4")]
    assert shelf.counts.cursors_lost == 2
    assert await shelf.page(shelf.log.attach(0, 4)) == [5], "what is behind it is as good as ever"


async def test_reader_without_a_cursor_goes_on_behind_damaged_entries() -> None:
    shelf = damaged_shelf(1, 2, 4)
    reader = shelf.log.attach(0, 0, from_earliest=True)

    assert await shelf.page(reader) == [3]
    with pytest.raises(CursorLost):
        await shelf.page(reader)


async def test_reader_without_a_cursor_waits_behind_a_log_that_ends_damaged() -> None:
    shelf = damaged_shelf(4, 5)
    reader = shelf.log.attach(0, 3, from_earliest=True)
    async with trio.open_nursery() as nursery:

        async def next_one() -> None:
            assert await shelf.page(reader) == [6]

        nursery.start_soon(next_one)
        await wait_all_tasks_blocked()
        shelf.append()
        shelf.release()


async def test_control_without_its_place_what_comes_before_a_damaged_entry_is_withheld_for_ever() -> None:
    shelf = damaged_shelf(4)

    async def read_log(session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        try:
            return await shelf.read_log(session_id, stream=stream, after=after, limit=limit)
        except EntryCorrupt as damaged:
            raise SnapshotCorrupt(str(damaged)) from None

    log = EventLog(SESSION, read_log, durable_through=5)
    for _ in range(3):
        with pytest.raises(SnapshotCorrupt):
            await log.read(0, 0, 5)


async def test_reader_that_is_up_to_date_costs_the_store_nothing() -> None:
    shelf = Shelf()
    shelf.append()
    shelf.release()
    shelf.restart()
    reader = shelf.log.attach(0, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shelf.page, reader)
        for _ in range(5):
            await wait_all_tasks_blocked()
            shelf.append(1)
            shelf.release()
        await wait_all_tasks_blocked()
        assert shelf.reads == 0
        nursery.cancel_scope.cancel()


async def test_tail_is_bounded_by_entries_and_what_fell_off_comes_from_the_store() -> None:
    shelf = Shelf()
    for _ in range(3 * TAIL_ENTRIES_MAX):
        shelf.append()
        shelf.release()
    assert len(shelf.log._order) == TAIL_ENTRIES_MAX
    reader = shelf.log.attach(0, 0)
    seen: list[int] = []
    while len(seen) < 3 * TAIL_ENTRIES_MAX:
        seen += await shelf.page(reader)

    assert seen == list(range(1, 3 * TAIL_ENTRIES_MAX + 1))
    assert shelf.reads > 0


async def test_tail_is_bounded_by_bytes() -> None:
    shelf = Shelf()
    for _ in range(10):
        shelf.append(size=event_log.TAIL_BYTES_MAX // 4)
        shelf.release()

    assert shelf.log._bytes <= event_log.TAIL_BYTES_MAX


async def test_what_is_not_released_stays_in_the_tail_whatever_its_size() -> None:
    shelf = Shelf()
    for _ in range(2 * TAIL_ENTRIES_MAX):
        shelf.append()

    assert len(shelf.log._order) == 2 * TAIL_ENTRIES_MAX


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 1)),
        st.tuples(st.just("append"), st.integers(0, 1)),
        st.tuples(st.sampled_from(["commit", "release", "restart"]), st.just(0)),
        st.tuples(st.just("trim"), st.integers(0, 30)),
        st.tuples(st.just("attach"), st.integers(0, 20)),
        st.tuples(st.sampled_from(["detach", "pass"]), st.just(0)),
    ),
    max_size=50,
)


class Client:
    """Reads stream 0 by cursor, and knows what it must see."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.reader: StreamReader | None = None
        self.attached_at = 0
        self.seen: list[int] = []
        self.lost = False

    def attach(self, cursor: int) -> None:
        self.attached_at = min(cursor, self.shelf.streams[0].last_offset - self._unreleased())
        self.seen, self.lost = [], False
        self.reader = self.shelf.log.attach(0, self.attached_at)

    def _unreleased(self) -> int:
        released = self.shelf.log._released
        return sum(1 for entry in self.shelf.waiting if entry.stream == 0 and entry.sequence > released) + sum(
            1 for entry in self.shelf.kept.values() if entry.stream == 0 and entry.sequence > released
        )

    async def read(self) -> None:
        while True:
            reader = self.reader
            if reader is None or reader.ended or self.lost:
                await trio.sleep(0.5)
                continue
            try:
                offsets = await self.shelf.page(reader)
            except ReaderEnded:
                continue
            except CursorLost:
                self.lost = True
                continue
            if reader is self.reader:
                self.seen += offsets


async def play(script: list[tuple[str, int]], read_seconds: float, tail_max: int) -> None:
    shelf = Shelf()
    shelf.read_seconds = read_seconds
    client = Client(shelf)
    trimmed = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.read)
        for action, number in script:
            if action == "append":
                shelf.append(number)
            elif action == "commit":
                shelf.commit()
            elif action == "release":
                shelf.release()
            elif action == "restart":
                shelf.restart()
            elif action == "trim":
                trimmed = max(trimmed, min(number, shelf.log._released))
                shelf.trim(trimmed)
            elif action == "attach":
                client.attach(number)
            elif action == "detach" and client.reader is not None:
                client.reader.close()
            else:
                await trio.sleep(0.7)
            expected = list(range(client.attached_at + 1, client.attached_at + 1 + len(client.seen)))
            assert client.seen == expected, "in order, without gap or repeat"
        cursor = client.attached_at + len(client.seen)
        client.attach(cursor)
        shelf.release()
        await trio.sleep(100.0)
        last = shelf.streams[0].last_offset
        if client.lost:
            assert any(offset > client.attached_at for offset in range(1, last + 1)), "nothing was there to be lost"
            assert trimmed, "nothing is lost where nothing was trimmed"
        else:
            assert client.attached_at + len(client.seen) == last, "all of it, in the end"
        nursery.cancel_scope.cancel()


@given(steps, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([1, 3, 256]))
@settings(max_examples=150, deadline=None)
def test_exactly_once_in_order_whatever_happens(
    script: list[tuple[str, int]], read_seconds: float, tail_max: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_log, "TAIL_ENTRIES_MAX", tail_max)
        trio.run(play, script, read_seconds, tail_max, clock=MockClock(autojump_threshold=0))
