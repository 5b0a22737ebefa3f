"""Whole sessions out of a store and into one: pages by size, several sessions a commit, each whole or not at all."""

from __future__ import annotations

import attrs
import pytest
from trio.testing import MockClock

from persistence.memory import MemoryStore
from persistence.portable import BATCH_BYTES, BATCH_SESSIONS, PAGE_BYTES, Intake, SessionRecords, TooLarge, read_entries
from persistence.records import Batch, LogEntry
from persistence.store import StoreUnavailable
from tests.persistence.faulty import FaultyStore
from tests.persistence.making import entry, snapshot


@attrs.define
class Pages:
    """A store that notes how large the pages were that were asked of it."""

    store: MemoryStore
    limits: list[int] = attrs.field(factory=list)

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> list[LogEntry]:
        page = await self.store.read_log(session_id, stream=stream, after=after, limit=limit)
        self.limits.append(limit)
        return list(page)


async def stored(entries: list[LogEntry]) -> Pages:
    store = MemoryStore()
    await store.commit(Batch(await store.claim("a"), snapshots=(snapshot(),), entries=tuple(entries)))
    return Pages(store)


async def test_log_is_read_in_its_order_whatever_streams_it_has() -> None:
    log = [entry(sequence=n, stream=n % 3, offset=1 + (n - 1) // 3) for n in range(1, 400)]
    pages = await stored(log)

    assert await read_entries(pages, "s", [0, 1, 2], through_sequence=399) == log  # type: ignore[arg-type]
    assert await read_entries(pages, "s", [1], through_sequence=10) == [log[0], log[3], log[6], log[9]]  # type: ignore[arg-type]
    assert await read_entries(pages, "s", [], through_sequence=399) == []  # type: ignore[arg-type]


async def test_pages_of_large_events_have_few_of_them() -> None:
    pages = await stored([entry(sequence=n, body=b"x" * (PAGE_BYTES // 2)) for n in range(1, 20)])
    assert len(await read_entries(pages, "s", [0], through_sequence=19)) == 19  # type: ignore[arg-type]
    assert pages.limits[:2] == [8, 2]

    small = await stored([entry(sequence=n) for n in range(1, 20)])
    assert len(await read_entries(small, "s", [0], through_sequence=19)) == 19  # type: ignore[arg-type]
    assert small.limits == [8, 100]


async def test_a_log_beyond_its_bound_is_refused_before_it_is_held() -> None:
    pages = await stored([entry(sequence=n, body=b"x" * 100) for n in range(1, 100)])
    with pytest.raises(TooLarge):
        await read_entries(pages, "s", [0], through_sequence=99, bytes_max=500)  # type: ignore[arg-type]
    assert len(pages.limits) == 1


async def test_many_small_sessions_share_a_commit_and_large_ones_do_not() -> None:
    store = FaultyStore(MemoryStore())
    intake = Intake(store, await store.claim("a"))
    for number in range(BATCH_SESSIONS + 3):
        await intake.add(SessionRecords(snapshot(f"small-{number}"), (entry(f"small-{number}"),)))
    assert intake.written == BATCH_SESSIONS
    for number in range(2):
        large = entry(f"large-{number}", body=b"x" * BATCH_BYTES)
        await intake.add(SessionRecords(snapshot(f"large-{number}"), (large,)))
    await intake.flush()
    await intake.flush()

    assert [len(batch.snapshots) for batch in store.commits] == [BATCH_SESSIONS, 4, 1]
    assert intake.written == BATCH_SESSIONS + 5


async def test_a_session_is_never_divided_between_commits(autojump_clock: MockClock) -> None:
    """Whichever operation fails: what is in the store is there with its whole log."""
    for nth in range(1, 5):
        store = FaultyStore(MemoryStore())
        intake = Intake(store, await store.claim("a"))
        store.fail(nth, StoreUnavailable("away"))
        written = 0
        try:
            for number in range(4):
                name = f"s{number}"
                log = tuple(entry(name, sequence, body=b"x" * (BATCH_BYTES // 3)) for sequence in range(1, 5))
                await intake.add(SessionRecords(snapshot(name), log))
                written += 1
        except StoreUnavailable:
            assert written == nth - 1
        headers, _ = await store.disk.scan()
        assert len(headers) == intake.written
        for header in headers:
            assert len(await store.disk.read_log(header.session_id, stream=0, after=0, limit=10)) == 4
