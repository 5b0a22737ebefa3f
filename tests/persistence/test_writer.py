"""The writer: what is acknowledged is durable, and what is refused is said so.

The store is a FaultyStore in front of a memory store: its commits take a second of trio's time, so a test says exactly
what gathers while a batch is in flight.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from persistence.memory import MemoryStore
from persistence.records import Batch, LogEntry, Snapshot, Trim
from persistence.store import FenceLost, StoreBroken, StoreError, StoreFull, StoreUnavailable
from persistence.writer import Receipt, Writer, WriterBacklogFull, WriterEnded
from tests.persistence.faulty import FaultyStore
from tests.persistence.making import entry, snapshot, tombstone

pytestmark = pytest.mark.jumping_time

Commit = Callable[[Batch], Coroutine[Any, Any, None]]


@attrs.define
class Desk:
    """A writer at work, its store, and the receipts in the order in which they came."""

    store: FaultyStore
    writer: Writer
    nursery: trio.Nursery
    receipts: list[Receipt] = attrs.field(factory=list)
    frozen: list[tuple[str, int]] = attrs.field(factory=list)  # each call of a freeze

    def submit(self, session_id: str, revision: int, **more: Any) -> None:
        self.writer.submit(
            session_id, revision, self.freeze(session_id, revision), receipt=self.receipts.append, **more
        )

    def submit_soft(self, session_id: str, revision: int) -> None:
        self.writer.submit_soft(session_id, revision, self.freeze(session_id, revision))

    def bury(self, session_id: str) -> None:
        self.writer.bury(tombstone(session_id), self.receipts.append)

    def freeze(self, session_id: str, revision: int) -> Callable[[], Snapshot]:
        def freeze() -> Snapshot:
            self.frozen.append((session_id, revision))
            return snapshot(session_id, revision)

        return freeze

    @property
    def durable(self) -> list[tuple[str, int]]:
        return [(one.session_id, one.revision) for one in self.receipts if one.failure is None]

    @property
    def failed(self) -> list[tuple[str, int]]:
        return [(one.session_id, one.revision) for one in self.receipts if one.failure is not None]

    @property
    def batches(self) -> list[list[tuple[str, int]]]:
        return [[(s.header.session_id, s.header.revision) for s in batch.snapshots] for batch in self.store.commits]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with trio.open_nursery() as nursery:
        yield await _open(nursery, FaultyStore(MemoryStore(), commit_seconds=1))
        nursery.cancel_scope.cancel()


async def _open(nursery: trio.Nursery, store: FaultyStore, **settings: float) -> Desk:
    writer = Writer(store, await store.claim("test"), **settings)  # type: ignore[arg-type]
    await nursery.start(writer.run)
    return Desk(store, writer, nursery)


# Group commit


async def test_an_idle_writer_commits_at_once(desk: Desk) -> None:
    began = trio.current_time()
    desk.submit("s", 1)
    await desk.writer.flush()
    assert trio.current_time() - began == 1  # the commit itself
    assert desk.receipts == [Receipt("s", 1)]


async def test_a_receipt_waits_for_the_commit(desk: Desk) -> None:
    desk.submit("s", 1)
    await trio.sleep(0.9)
    assert desk.receipts == []
    await trio.sleep(0.2)
    assert desk.receipts == [Receipt("s", 1)]
    assert await desk.store.disk.load("s") == snapshot("s", 1)


async def test_one_batch_is_in_flight_and_the_next_one_gathers(desk: Desk) -> None:
    desk.submit("a", 1)
    await trio.sleep(0.5)
    desk.submit("b", 1)
    desk.submit("c", 1)
    await trio.sleep(0.2)
    assert desk.store.operations == 2  # the claim and the first commit
    await desk.writer.flush()
    assert desk.batches == [[("a", 1)], [("b", 1), ("c", 1)]]


async def test_the_newest_snapshot_of_a_session_is_frozen_and_all_get_receipts(desk: Desk) -> None:
    desk.submit("s", 1)
    await trio.sleep(0.5)
    for revision in (2, 3, 4):
        desk.submit("s", revision)
    assert desk.frozen == [("s", 1)]  # the others only when their batch is formed
    await desk.writer.flush()
    assert desk.frozen == [("s", 1), ("s", 4)]
    assert desk.durable == [("s", 1), ("s", 2), ("s", 3), ("s", 4)]


async def test_entries_of_superseded_snapshots_are_kept(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.submit("s", number, entries=(entry("s", number),))
    desk.submit("s", 4, trim=Trim("s", 1))
    await desk.writer.flush()
    assert len(desk.store.commits) == 1
    log = await desk.store.disk.read_log("s", stream=0, after=0, limit=9)
    assert log == [entry("s", 2), entry("s", 3)]


async def test_waiting_clients_share_commits(desk: Desk) -> None:
    async def client(session_id: str) -> None:
        for revision in (1, 2, 3):
            durable = trio.Event()
            desk.writer.submit(
                session_id,
                revision,
                desk.freeze(session_id, revision),
                receipt=partial(_set, durable),
            )
            await durable.wait()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(client, f"session {number}")
    # 30 submissions. Whatever order the tasks run in, a submission waits for one flight at most and goes with the next.
    assert len(desk.batches) <= 1 + 3 * 2


async def test_a_large_backlog_goes_out_oldest_first_in_batches() -> None:
    async with trio.open_nursery() as nursery:
        desk = await _open(nursery, FaultyStore(MemoryStore(), commit_seconds=1), rows_max=4)
        desk.submit("many", 1, entries=tuple(entry("many", n) for n in range(1, 8)))
        for number in range(6):
            desk.submit(f"session {number}", 1)
        await desk.writer.flush()
        nursery.cancel_scope.cancel()
    assert [len(batch.snapshots) + len(batch.entries) for batch in desk.store.commits] == [8, 4, 2]
    assert desk.durable == [("many", 1), *((f"session {number}", 1) for number in range(6))]


async def test_a_session_may_submit_from_within_its_receipt(desk: Desk) -> None:
    def again(receipt: Receipt) -> None:
        desk.submit("s", receipt.revision + 1)

    desk.writer.submit("s", 1, desk.freeze("s", 1), receipt=again)
    await desk.writer.flush()
    await desk.writer.flush()
    assert desk.durable == [("s", 2)]


# Ends


async def test_a_burial_takes_the_session_s_place_in_the_batch(desk: Desk) -> None:
    desk.submit("s", 1, entries=(entry(),))
    desk.bury("s")
    desk.submit("s", 2, entries=(entry(sequence=2),))
    await desk.writer.flush()
    assert desk.durable == [("s", 1), ("s", 0), ("s", 2)]
    assert desk.frozen == []
    assert desk.store.commits[0].tombstones == (tombstone(),)
    assert desk.store.commits[0].entries == ()


async def test_a_burial_is_taken_when_the_backlog_is_full() -> None:
    async with trio.open_nursery() as nursery:
        desk = await _open(nursery, FaultyStore(MemoryStore()), backlog_rows_max=1)
        desk.submit("s", 1)
        desk.bury("t")
        await desk.writer.flush()
        nursery.cancel_scope.cancel()
    assert desk.durable == [("s", 1), ("t", 0)]


# Soft facts


async def test_soft_facts_are_flushed_after_a_second(desk: Desk) -> None:
    desk.submit_soft("s", 1)
    await trio.sleep(0.6)
    desk.submit_soft("s", 2)
    await trio.sleep(0.3)
    assert desk.store.operations == 1  # the claim
    await trio.sleep(1.2)  # due at 1.0, durable at 2.0
    assert desk.batches == [[("s", 2)]]


async def test_soft_facts_ride_with_the_next_batch(desk: Desk) -> None:
    desk.submit_soft("soft", 1)
    desk.submit("hard", 1)
    await trio.sleep(1.1)
    assert desk.batches == [[("hard", 1), ("soft", 1)]]


async def test_few_soft_facts_ride_with_a_batch_that_replies_wait_for(desk: Desk) -> None:
    for number in range(200):
        desk.submit_soft(f"soft {number}", 1)
    desk.submit("hard", 1)
    await trio.sleep(1.01)
    assert [len(batch) for batch in desk.batches] == [65]
    await trio.sleep(1.01)  # by now the others are due
    assert [len(batch) for batch in desk.batches] == [65, 136]


async def test_a_soft_fact_is_part_of_a_later_hard_one(desk: Desk) -> None:
    desk.submit_soft("s", 1)
    desk.submit("s", 2)
    desk.submit_soft("s", 3)
    await trio.sleep(5)
    assert desk.batches == [[("s", 3)]]
    assert desk.durable == [("s", 2)]


async def test_soft_facts_do_not_count_in_the_backlog(desk: Desk) -> None:
    desk.submit_soft("s", 1)
    assert desk.writer.statistics().backlog_rows == 0
    assert desk.writer.statistics().soft_sessions == 1


# Waiting: settle, flush, discard


async def test_settling_waits_for_what_gathers_and_what_flies(desk: Desk) -> None:
    began = trio.current_time()
    desk.submit("s", 1)
    await trio.sleep(0.5)
    desk.submit("s", 2)
    desk.submit_soft("other", 1)
    await desk.writer.settle("s")
    assert trio.current_time() - began == 2
    assert desk.durable == [("s", 1), ("s", 2)]


async def test_settling_a_session_of_which_nothing_is_known_takes_no_time(desk: Desk) -> None:
    desk.submit("other", 1)
    began = trio.current_time()
    await desk.writer.settle("s")
    assert trio.current_time() == began


async def test_settling_does_not_wait_for_a_soft_fact_to_become_due(desk: Desk) -> None:
    began = trio.current_time()
    desk.submit_soft("s", 1)
    await desk.writer.settle("s")
    assert trio.current_time() - began == 1
    assert desk.batches == [[("s", 1)]]


async def test_loading_without_settling_would_read_the_past(desk: Desk) -> None:
    # The negative control of settling.
    desk.submit("s", 1)
    await trio.sleep(0.5)
    assert await desk.store.disk.load("s") is None
    await desk.writer.settle("s")
    assert await desk.store.disk.load("s") == snapshot("s", 1)


async def test_flushing_waits_for_what_was_submitted_before_not_after(desk: Desk) -> None:
    async def keep_submitting() -> None:
        for revision in range(1, 100):
            desk.submit("busy", revision)
            await trio.sleep(0.3)

    began = trio.current_time()
    desk.nursery.start_soon(keep_submitting)
    await trio.sleep(0.5)
    desk.submit_soft("soft", 1)
    await desk.writer.flush()
    assert trio.current_time() - began == 2
    assert await desk.store.disk.load("soft") == snapshot("soft", 1)


async def test_flushing_waits_for_soft_facts_in_flight(desk: Desk) -> None:
    desk.submit_soft("s", 1)
    await trio.sleep(1.5)
    assert desk.store.commits == []
    await desk.writer.flush()
    assert desk.batches == [[("s", 1)]]


async def test_what_is_discarded_is_not_written_and_gets_no_receipt(desk: Desk) -> None:
    desk.submit("s", 1)
    await trio.sleep(0.5)
    desk.submit("s", 2, entries=(entry(),))
    desk.submit_soft("t", 1)
    desk.writer.discard("s")
    desk.writer.discard("t")
    await desk.writer.settle("s")
    await trio.sleep(5)
    assert desk.batches == [[("s", 1)]]
    assert desk.durable == [("s", 1)]
    assert desk.frozen == [("s", 1)]
    assert desk.writer.statistics().backlog_rows == 0


async def test_an_end_is_not_discarded(desk: Desk) -> None:
    desk.submit("s", 1)
    desk.bury("s")
    desk.writer.discard("s")
    await desk.writer.flush()
    assert ("s", 0) in desk.durable


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
        desk = await _open(nursery, FaultyStore(MemoryStore()), backlog_rows_max=5, backlog_bytes_max=100)
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


# Stopping


async def test_a_cancelled_writer_commits_what_has_gathered() -> None:
    store = FaultyStore(MemoryStore(), commit_seconds=1)
    async with trio.open_nursery() as nursery:
        desk = await _open(nursery, store)
        desk.submit("in flight", 1)
        await trio.sleep(0.5)
        desk.submit("gathering", 1)
        desk.submit_soft("soft", 1)
        nursery.cancel_scope.cancel()
    assert desk.durable == [("in flight", 1), ("gathering", 1)]
    assert await store.disk.load("soft") == snapshot("soft", 1)


async def test_without_a_final_flush_what_has_gathered_is_lost() -> None:
    store = FaultyStore(MemoryStore(), commit_seconds=1)
    async with trio.open_nursery() as nursery:
        desk = await _open(nursery, store, final_flush_seconds=0)
        desk.submit("in flight", 1)
        await trio.sleep(0.5)
        desk.submit("gathering", 1)
        nursery.cancel_scope.cancel()
    assert desk.durable == [("in flight", 1)]
    assert await store.disk.load("gathering") is None


async def test_the_final_flush_gives_up_in_time_when_the_store_is_away() -> None:
    store = FaultyStore(MemoryStore())
    async with trio.open_nursery() as nursery:
        desk = await _open(nursery, store, final_flush_seconds=5)
        store.begin_outage(StoreUnavailable("away"))
        desk.submit("s", 1)
        await trio.sleep(3)
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == 5
    assert desk.receipts == []


async def test_the_final_flush_finishes_a_batch_of_unknown_outcome() -> None:
    store = FaultyStore(MemoryStore())
    async with trio.open_nursery() as nursery:
        desk = await _open(nursery, store, retry_seconds=100)
        store.fail(1, StoreUnavailable("away"))
        desk.submit("s", 1)
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert desk.durable == [("s", 1)]


async def test_statistics_tell_what_waits_and_for_how_long(desk: Desk) -> None:
    desk.submit("a", 1, entries=(entry("a", body=bytes(100)),))
    await trio.sleep(0.5)
    desk.submit("b", 1)
    now = desk.writer.statistics()
    assert (now.backlog_rows, now.backlog_bytes, now.oldest_seconds, now.commits) == (3, 100, 0.5, 0)
    await trio.sleep(0.75)
    now = desk.writer.statistics()
    assert (now.backlog_rows, now.backlog_bytes, now.oldest_seconds, now.commits) == (1, 0, 0.75, 1)
    assert (now.rows, now.last_batch_rows) == (2, 2)
    await desk.writer.flush()
    assert desk.writer.statistics().oldest_seconds == 0


async def test_a_session_that_freezes_another_s_state_is_caught() -> None:
    store = FaultyStore(MemoryStore())
    for wrong in (snapshot("t", 1), snapshot("s", 0)):
        writer = Writer(store, await store.claim("test"))
        writer.submit("s", 1, partial(_same, wrong), receipt=lambda _: None)
        with pytest.raises(AssertionError):
            await writer.run()


def _set(event: trio.Event, receipt: Receipt) -> None:
    event.set()


def _same(frozen: Snapshot) -> Snapshot:
    return frozen


def _full_while(full: Callable[[], bool], commit: Commit) -> Commit:
    return _full_when(lambda batch: full(), commit)


def _full_when(full: Callable[[Batch], bool], commit: Commit) -> Commit:
    async def commit_unless_full(batch: Batch) -> None:
        if full(batch):
            raise StoreFull("no room")
        await commit(batch)

    return commit_unless_full
