"""The writer: what is acknowledged is durable, and what is refused is said so.

The store is a FaultyStore in front of a memory store: its commits take a second of trio's time, so a test says exactly
what gathers while a batch is in flight.
"""

from __future__ import annotations

from functools import partial

import pytest
import trio

from persistence.memory import MemoryStore
from persistence.records import Snapshot, Trim
from persistence.store import StoreUnavailable
from persistence.writer import Receipt, Writer
from tests.persistence.desk import Desk, open_desk
from tests.persistence.faulty import FaultyStore
from tests.persistence.making import entry, page, snapshot, tombstone

pytestmark = pytest.mark.jumping_time


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
        desk = await open_desk(nursery, FaultyStore(MemoryStore(), commit_seconds=1), rows_max=4)
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
        desk = await open_desk(nursery, FaultyStore(MemoryStore()), backlog_rows_max=1)
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


async def test_what_rides_along_is_in_the_batch_of_its_snapshot(desk: Desk) -> None:
    desk.submit_soft("soft", 1, page("soft", 1), page("soft", 2))
    desk.submit("hard", 1, entries=(entry("hard"),))
    await trio.sleep(1.1)
    (batch,) = desk.store.commits
    assert batch.entries == (entry("hard"), page("soft", 1), page("soft", 2))


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


# Stopping


async def test_a_cancelled_writer_commits_what_has_gathered() -> None:
    store = FaultyStore(MemoryStore(), commit_seconds=1)
    async with trio.open_nursery() as nursery:
        desk = await open_desk(nursery, store)
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
        desk = await open_desk(nursery, store, final_flush_seconds=0)
        desk.submit("in flight", 1)
        await trio.sleep(0.5)
        desk.submit("gathering", 1)
        nursery.cancel_scope.cancel()
    assert desk.durable == [("in flight", 1)]
    assert await store.disk.load("gathering") is None


async def test_the_final_flush_gives_up_in_time_when_the_store_is_away() -> None:
    store = FaultyStore(MemoryStore())
    async with trio.open_nursery() as nursery:
        desk = await open_desk(nursery, store, final_flush_seconds=5)
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
        desk = await open_desk(nursery, store, retry_seconds=100)
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
