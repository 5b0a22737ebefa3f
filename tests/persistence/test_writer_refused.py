"""The writer with a store that refuses: away, full, broken; and whatever operation fails.

Here too the store's commits take a second of trio's time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from persistence.memory import MemoryStore
from persistence.records import Batch, LogEntry, Trim
from persistence.store import FenceLost, StoreBroken, StoreError, StoreFull, StoreUnavailable
from persistence.writer import Receipt, Writer, WriterBacklogFull, WriterEnded
from tests.persistence.desk import Desk, open_desk
from tests.persistence.faulty import FaultyStore
from tests.persistence.making import entry, snapshot

pytestmark = pytest.mark.jumping_time

Commit = Callable[[Batch], Coroutine[Any, Any, None]]


# A store that refuses


async def test_a_batch_of_unknown_outcome_is_sent_again_as_it_was(desk: Desk) -> None:
    sent: list[Batch] = []
    commit = desk.store.disk.commit

    async def remember(batch: Batch) -> None:
        sent.append(batch)
        await commit(batch)

    desk.store.disk.commit = remember  # type: ignore[method-assign]
    desk.store.fail(1, StoreUnavailable("answer lost"), done=True)
    desk.submit("s", 1, entries=(entry(),))
    await trio.sleep(0.5)
    desk.submit("s", 2)  # must not slip into the batch that is sent again
    await desk.writer.flush()
    assert sent[0] is sent[1]
    assert desk.durable == [("s", 1), ("s", 2)]


async def test_an_outage_shuts_the_gate_and_the_store_is_asked_ever_less_often(desk: Desk) -> None:
    asked: list[float] = []
    desk.store.on_operation = lambda name: asked.append(trio.current_time())
    desk.store.begin_outage(StoreUnavailable("away"))
    desk.submit("s", 1)
    await trio.sleep(60)
    assert desk.receipts == []
    # 0.05 doubles up to 5 seconds: 0.05, 0.1, ..., 3.2 make 6.35 s, then every 5 s.
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert pauses[:8] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
    assert set(map(round, pauses[8:])) == {5}
    assert desk.writer.statistics().outage_seconds == pytest.approx(60)
    assert desk.writer.statistics().oldest_seconds == pytest.approx(60)
    desk.store.end_outage()
    await desk.writer.flush()
    assert desk.durable == [("s", 1)]
    assert desk.writer.statistics().outage_seconds == 0


async def test_a_backlog_beyond_its_bound_is_refused_until_there_is_room() -> None:
    async with trio.open_nursery() as nursery:
        desk = await open_desk(nursery, FaultyStore(MemoryStore()), backlog_rows_max=5, backlog_bytes_max=100)
        desk.store.begin_outage(StoreUnavailable("away"))
        desk.submit("s", 1, entries=(entry(), entry(sequence=2)))
        desk.submit("s", 2)
        await trio.sleep(1)  # in flight counts too
        desk.submit("s", 3)
        with pytest.raises(WriterBacklogFull):
            desk.submit("t", 1)
        desk.store.end_outage()
        await desk.writer.flush()
        assert desk.durable == [("s", 1), ("s", 2), ("s", 3)]
        assert desk.writer.statistics().backlog_rows == 0
        with pytest.raises(WriterBacklogFull):
            desk.submit("t", 1, entries=(entry("t", body=bytes(101)),))
        desk.submit("t", 1)
        await desk.writer.flush()
        nursery.cancel_scope.cancel()


async def test_a_full_store_fails_the_batch_and_what_was_built_on_it(desk: Desk) -> None:
    desk.store.disk.commit = _full_while(lambda: True, desk.store.disk.commit)  # type: ignore[method-assign, assignment]
    desk.submit("s", 1)
    desk.submit("t", 1)
    await trio.sleep(0.5)
    desk.submit("s", 2)  # built on a revision 1 that will not be
    desk.submit("u", 1)  # nothing to do with it
    await trio.sleep(0.6)
    assert desk.failed == [("s", 1), ("s", 2), ("t", 1)]
    await trio.sleep(1)
    assert desk.failed == [("s", 1), ("s", 2), ("t", 1), ("u", 1)]
    assert desk.writer.statistics().backlog_rows == 0


async def test_a_session_reset_by_its_failure_receipt_starts_anew(desk: Desk) -> None:
    full = True
    desk.store.disk.commit = _full_while(lambda: full, desk.store.disk.commit)  # type: ignore[method-assign, assignment]

    def reset(receipt: Receipt) -> None:
        nonlocal full
        full = False
        desk.receipts.append(receipt)
        desk.submit("s", 1)  # another revision 1, on what is durable

    desk.writer.submit("s", 1, desk.freeze("s", 1), receipt=reset)
    await trio.sleep(0.5)
    desk.submit("s", 2)
    await trio.sleep(5)
    assert desk.failed == [("s", 1), ("s", 2)]
    assert desk.durable == [("s", 1)]
    assert desk.batches == [[("s", 1)]]


async def test_what_makes_room_passes_a_full_store(desk: Desk) -> None:
    def full(batch: Batch) -> bool:
        return len(batch.snapshots) > 1

    desk.store.disk.commit = _full_when(full, desk.store.disk.commit)  # type: ignore[method-assign, assignment]
    desk.submit("grows", 1)
    desk.submit("trims", 1, trim=Trim("trims", 5))
    desk.bury("ends")
    await trio.sleep(5)
    assert desk.failed == [("grows", 1)]
    assert desk.durable == [("trims", 1), ("ends", 0)]
    assert len(desk.store.commits) == 1


async def test_ends_pass_even_when_trims_do_not(desk: Desk) -> None:
    desk.store.disk.commit = _full_when(lambda batch: bool(batch.snapshots), desk.store.disk.commit)  # type: ignore[method-assign, assignment]
    desk.submit("grows", 1)
    desk.submit("trims", 1, trim=Trim("trims", 5))
    desk.bury("ends")
    await trio.sleep(5)
    assert desk.failed == [("grows", 1), ("trims", 1)]
    assert desk.durable == [("ends", 0)]


async def test_where_not_all_ends_fit_some_pass(desk: Desk) -> None:
    desk.store.disk.commit = _full_when(lambda batch: len(batch.tombstones) > 2, desk.store.disk.commit)  # type: ignore[method-assign, assignment]
    for number in range(9):
        desk.bury(f"ends-{number}")
    await trio.sleep(9)  # a second each: all nine, four, two
    assert desk.durable == [("ends-0", 0), ("ends-1", 0)]
    assert desk.failed == [(f"ends-{number}", 0) for number in (4, 5, 6, 7, 8, 2, 3)]
    assert desk.writer.statistics().backlog_rows == 0


async def test_a_store_too_full_for_ends_fails_them_too(desk: Desk) -> None:
    desk.store.disk.commit = _full_while(lambda: True, desk.store.disk.commit)  # type: ignore[method-assign, assignment]
    desk.submit("grows", 1)
    desk.bury("ends")
    await trio.sleep(5)
    assert desk.failed == [("grows", 1), ("ends", 0)]
    assert desk.writer.statistics().backlog_rows == 0


async def test_soft_facts_outlast_a_full_store(desk: Desk) -> None:
    full = True
    desk.store.disk.commit = _full_while(lambda: full, desk.store.disk.commit)  # type: ignore[method-assign, assignment]
    desk.submit_soft("s", 1)
    await trio.sleep(2.5)
    full = False
    await trio.sleep(2.5)
    assert desk.batches == [[("s", 1)]]


async def test_a_flush_says_that_the_store_is_full_and_soft_facts_stay(desk: Desk) -> None:
    full = True
    desk.store.disk.commit = _full_while(lambda: full, desk.store.disk.commit)  # type: ignore[method-assign, assignment]
    desk.submit_soft("s", 1)
    with pytest.raises(StoreFull):
        await desk.writer.flush()
    full = False
    await desk.writer.flush()
    assert desk.batches == [[("s", 1)]]


@pytest.mark.parametrize("error", [StoreBroken("fsync"), FenceLost("over"), RuntimeError("unforeseen")])
async def test_other_errors_end_the_writer_and_nothing_more_is_acknowledged(error: Exception) -> None:
    store = FaultyStore(MemoryStore())
    writer = Writer(store, await store.claim("test"))
    store.fail(1, error)
    receipts: list[Receipt] = []
    writer.submit("s", 1, lambda: snapshot("s", 1), receipt=receipts.append)
    with pytest.raises(type(error)):
        await writer.run()
    writer.submit("s", 2, lambda: snapshot("s", 2), receipt=receipts.append)
    await writer.settle("s")  # returns: there is nothing to wait for any more
    with pytest.raises(WriterEnded):
        await writer.flush()
    assert receipts == []
    assert store.commits == []
    assert writer.statistics().fenced == isinstance(error, FenceLost)


# The n-th operation


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreFull("full"), StoreBroken("fsync")], ids=repr)
async def test_whatever_operation_fails_the_acknowledged_is_kept_and_whole(error: StoreError, done: bool) -> None:
    """Goal: no failure of any one operation breaks the promise.

    Method: three sessions submit some steps each, going back to what is durable when told so; the n-th operation
    fails, for n = 1, 2, ... until a run meets no failure. A refusal for want of room never took place.
    """
    if isinstance(error, StoreFull) and done:
        error = StoreUnavailable("full, but done")
    nth, met = 1, True
    while met:
        disk = MemoryStore()
        store = FaultyStore(disk, commit_seconds=0.1)
        acknowledged, met = await _work_with_a_fault(store, nth, error, done)
        for session_id, revision in acknowledged.items():
            kept = await disk.load(session_id)
            assert kept is not None
            assert kept.header.revision >= revision
            log = await disk.read_log(session_id, stream=0, after=0, limit=99)
            assert [one.sequence for one in log] == list(range(1, kept.header.revision + 1))
            if not isinstance(error, StoreBroken):
                assert kept.header.revision == 5
        nth += 1
    assert nth > 4


async def _work_with_a_fault(
    store: FaultyStore, nth: int, error: StoreError, done: bool
) -> tuple[dict[str, int], bool]:
    acknowledged: dict[str, int] = {}
    fence = await store.claim("test")
    store.fail(nth, error, done=done)
    writer = Writer(store, fence)

    async def session(session_id: str) -> None:
        revision = 0
        while revision < 5:
            receipt = await _durable(writer, session_id, revision + 1)
            if receipt.failure is None:
                revision = acknowledged[session_id] = receipt.revision

    with trio.CancelScope() as scope:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(writer.run)
                async with trio.open_nursery() as sessions:
                    for session_id in ("a", "b", "c"):
                        sessions.start_soon(session, session_id)
                scope.cancel()
        except* StoreBroken:
            pass
    return acknowledged, store.operations >= nth + 1


async def _durable(writer: Writer, session_id: str, revision: int) -> Receipt:
    send, receive = trio.open_memory_channel[Receipt](1)
    entries: tuple[LogEntry, ...] = (entry(session_id, revision),)
    frozen = snapshot(session_id, revision)
    writer.submit(session_id, revision, lambda: frozen, entries=entries, receipt=send.send_nowait)
    return await receive.receive()


@pytest.mark.parametrize("lies", [False, True], ids=["honest", "lying"])
async def test_a_crash_loses_what_was_acknowledged_only_if_the_store_lies(lies: bool) -> None:
    disk = MemoryStore()
    store = FaultyStore(disk, commit_seconds=0.1, lies=lies)
    acknowledged: dict[str, int] = {}

    async def session(writer: Writer, session_id: str) -> None:
        for revision in range(1, 1000):
            await _durable(writer, session_id, revision)
            acknowledged[session_id] = revision

    async with trio.open_nursery() as nursery:
        writer = Writer(store, await store.claim("test"), final_flush_seconds=0)
        await nursery.start(writer.run)
        store.on_operation = lambda name: store.crash() if store.operations == 8 else None
        nursery.start_soon(session, writer, "a")
        nursery.start_soon(session, writer, "b")
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    lost = []
    for session_id, revision in acknowledged.items():
        kept = await disk.load(session_id)
        if kept is None or kept.header.revision < revision:
            lost.append(session_id)
    assert bool(lost) is lies


def _full_while(full: Callable[[], bool], commit: Commit) -> Commit:
    return _full_when(lambda batch: full(), commit)


def _full_when(full: Callable[[Batch], bool], commit: Commit) -> Commit:
    async def commit_unless_full(batch: Batch) -> None:
        if full(batch):
            raise StoreFull("no room")
        await commit(batch)

    return commit_unless_full
