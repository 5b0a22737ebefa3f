"""What a store that degrades does while the one behind it is away, and how it comes back.

Method: a FaultyStore over a memory disk has the outages; time is trio's and jumps. What is on the disk is asked of the
disk itself.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from persistence.codec import Unencodable
from persistence.degrading import BACK_ROWS_MAX, DegradingStore
from persistence.memory import MemoryStore
from persistence.records import Batch, Fence, Trim
from persistence.store import FenceLost, SnapshotCorrupt, StoreBroken, StoreFull, StoreInUse, StoreUnavailable
from tests.persistence.behind import Bench, away, given, open_bench
from tests.persistence.faulty import FaultyStore
from tests.persistence.making import entry, snapshot, tombstone

pytestmark = pytest.mark.jumping_time

PATIENCE_SECONDS = 1.0


def batch_of(bench: Bench, *names: str, revision: int = 1) -> Batch:
    return Batch(bench.fence, tuple([snapshot(name, revision) for name in names]))


async def test_commit_is_patient_with_a_blip(autojump_clock: MockClock) -> None:
    async with open_bench(patience_seconds=PATIENCE_SECONDS) as bench:
        bench.faulty.fail(1, away())
        bench.faulty.fail(2, away(), done=True)
        await bench.store.commit(batch_of(bench, "s"))
        assert bench.store.degraded is None
        assert await bench.disk.load("s") == snapshot("s")


async def test_commit_goes_on_from_memory_when_patience_is_over(autojump_clock: MockClock) -> None:
    async with open_bench(patience_seconds=PATIENCE_SECONDS) as bench:
        bench.begin_outage()
        began = trio.current_time()
        await bench.store.commit(batch_of(bench, "s"))
        assert trio.current_time() - began == pytest.approx(PATIENCE_SECONDS)
        degraded = bench.store.degraded
        assert degraded is not None
        assert (degraded.facts, degraded.sessions, degraded.reason) == (1, 1, "away")
        assert bench.store.survives == "memory"
        assert await bench.disk.load("s") is None
        assert await bench.store.load("s") == snapshot("s")


async def test_without_degrading_the_same_commit_is_not_acknowledged(autojump_clock: MockClock) -> None:
    # The control of the test before: the policy `refuse`.
    async with open_bench() as bench:
        bench.begin_outage()
        with pytest.raises(StoreUnavailable):
            await bench.faulty.commit(batch_of(bench, "s"))


async def test_while_degraded_nobody_waits_for_the_store(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "a"))
        began = trio.current_time()
        for revision in range(2, 50):
            await bench.store.commit(batch_of(bench, "a", revision=revision))
        assert trio.current_time() == began


async def test_outage_ends_when_the_store_has_everything(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        await bench.store.commit(Batch(bench.fence, (snapshot("s"),), (entry("s", 1), entry("s", 2))))
        await bench.store.commit(Batch(bench.fence, (snapshot("s", 2),), (entry("s", 3),), (Trim("s", 1),)))
        await bench.end_outage()
        assert bench.store.survives == bench.disk.survives
        assert await bench.disk.load("s") == snapshot("s", 2)
        assert await bench.disk.read_log("s", stream=0, after=0, limit=9) == [entry("s", 2), entry("s", 3)]
        await bench.store.commit(batch_of(bench, "s", revision=3))
        assert await bench.disk.load("s") == snapshot("s", 3)


async def test_commit_of_unknown_outcome_is_kept_once(autojump_clock: MockClock) -> None:
    async with open_bench(patience_seconds=0) as bench:
        bench.faulty.fail(1, away(), done=True)
        await bench.store.commit(Batch(bench.fence, (snapshot("s"),), (entry("s"),)))
        assert bench.store.degraded is not None
        assert await bench.store.read_log("s", stream=0, after=0, limit=9) == [entry("s")]
        await bench.end_outage()
        assert await bench.disk.read_log("s", stream=0, after=0, limit=9) == [entry("s")]


async def test_write_back_keeps_the_order_in_which_sessions_changed(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        for name in ("b", "a", "c"):
            await bench.store.commit(batch_of(bench, name))
        await bench.store.commit(batch_of(bench, "b", revision=2))
        await bench.end_outage()
        assert bench.written_back == [[("b", 2), ("a", 1), ("c", 1)]]
        headers, _ = await bench.disk.scan()
        assert [header.session_id for header in headers] == ["b", "a", "c"]


async def test_write_back_goes_in_bounded_batches_and_divides_no_session(autojump_clock: MockClock) -> None:
    # Each session has a snapshot and three entries: a batch of 4000 rows takes a thousand of them.
    async with open_bench() as bench:
        bench.begin_outage()
        names = [f"session {n}" for n in range(2500)]
        for name in names:
            log = tuple([entry(name, n) for n in (1, 2, 3)])
            await bench.store.commit(Batch(bench.fence, (snapshot(name),), log))
        await bench.end_outage()
        sizes = [len(batch.snapshots) + len(batch.entries) for batch in bench.faulty.commits]
        assert sizes == [BACK_ROWS_MAX, BACK_ROWS_MAX, BACK_ROWS_MAX // 2]
        for batch in bench.faulty.commits:
            assert {one.session_id for one in batch.entries} == {one.header.session_id for one in batch.snapshots}


async def test_outage_within_the_write_back_loses_nothing(autojump_clock: MockClock) -> None:
    for nth in range(1, 8):
        async with open_bench() as bench:
            bench.begin_outage()
            await bench.store.commit(Batch(bench.fence, (snapshot("s"),), (entry("s"),)))
            await bench.store.commit(Batch(bench.fence, (), (), (), (tombstone("t"),)))
            bench.faulty.fail(nth, away(), done=bool(nth % 2))
            await bench.end_outage()
            assert await bench.disk.load("s") == snapshot("s")
            assert await bench.disk.read_log("s", stream=0, after=0, limit=9) == [entry("s")]
            assert bench.disk._tombstones.keys() == {"t"}


async def test_return_is_reached_while_commits_keep_coming(autojump_clock: MockClock) -> None:
    # Each commit of the store takes a second, and there is always another commit waiting. They take turns.
    async with open_bench(commit_seconds=1.0) as bench, trio.open_nursery() as nursery:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, *[f"old {n}" for n in range(3 * BACK_ROWS_MAX)]))
        written: list[int] = []

        async def keep_writing() -> None:
            for revision in range(1, 1000):
                await bench.store.commit(batch_of(bench, *[f"hot {n}" for n in range(100)], revision=revision))
                written.append(revision)

        nursery.start_soon(keep_writing)
        with trio.fail_after(60):
            await bench.end_outage()
        nursery.cancel_scope.cancel()
    last = await bench.disk.load("hot 0")
    assert last is not None
    assert last.header.revision in (written[-1], written[-1] + 1)  # the one in flight may have arrived


async def test_ended_session_stays_ended(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        await bench.store.commit(Batch(bench.fence, (snapshot("s"),), (entry("s"),)))
        bench.begin_outage()
        await bench.store.commit(Batch(bench.fence, (), (), (), (tombstone("s"),)))
        await bench.store.commit(Batch(bench.fence, (snapshot("s", 2),), (entry("s", 2),)))
        assert await bench.store.load("s") is None
        assert await bench.store.read_log("s", stream=0, after=0, limit=9) == []
        await bench.end_outage()
        assert await bench.disk.load("s") is None


async def test_reads_join_what_is_stored_and_what_is_in_memory(autojump_clock: MockClock) -> None:
    # The store answers again, but nothing was written back yet: the run task sleeps.
    async with open_bench(patience_seconds=0) as bench:
        await bench.store.commit(Batch(bench.fence, (snapshot("s"),), tuple([entry("s", n) for n in range(1, 8)])))
        bench.faulty.fail(1, away())
        more = tuple([entry("s", n) for n in range(8, 11)])
        await bench.store.commit(Batch(bench.fence, (snapshot("s", 2),), more, (Trim("s", 4),)))
        assert bench.store.degraded is not None
        for after in range(11):
            for limit in (1, 2, 3, 10):
                expected = [entry("s", n) for n in range(max(after, 4) + 1, 11)][:limit]
                found = await bench.store.read_log("s", stream=0, after=after, limit=limit)
                # A page may be shorter than the limit where stored and new meet; it never has a gap, nor ends early.
                assert found == expected[: len(found)]
                assert found or not expected


async def test_reads_of_what_only_the_store_has_are_refused_while_it_is_away(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        await bench.store.commit(Batch(bench.fence, (snapshot("stored"),), (entry("stored"),)))
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "new"))
        with pytest.raises(StoreUnavailable):
            await bench.store.load("stored")
        with pytest.raises(StoreUnavailable):
            await bench.store.read_log("stored", stream=0, after=0, limit=9)
        with pytest.raises(StoreUnavailable):
            await bench.store.quarantined()
        assert await bench.store.load("new") == snapshot("new")


async def test_failed_read_does_not_degrade(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        for read in (bench.store.load("s"), bench.store.quarantined()):
            with pytest.raises(StoreUnavailable):
                await read
        assert bench.store.degraded is None


async def test_scan_gives_what_is_in_memory_with_what_is_stored(autojump_clock: MockClock) -> None:
    async with open_bench(patience_seconds=0) as bench:
        await bench.store.commit(batch_of(bench, "a", "b", "c"))
        bench.faulty.fail(1, away())
        await bench.store.commit(Batch(bench.fence, (snapshot("b", 2), snapshot("d")), (), (), (tombstone("c"),)))
        for limit in (1, 2, 10):
            found: dict[str, int] = {}
            after: int | None = 0
            while after is not None:
                page, after = await bench.store.scan(after=after, limit=limit)
                assert len(page) <= limit
                found.update((header.session_id, header.revision) for header in page)
            assert found == {"a": 1, "b": 2, "d": 1}


async def test_scan_that_the_store_left_out_is_made_up_for(autojump_clock: MockClock) -> None:
    async with open_bench(patience_seconds=0) as bench:
        await bench.store.commit(batch_of(bench, "a", "b"))
        bench.begin_outage()
        assert await bench.store.scan() == ([], None)
        assert not bench.store.knows_all
        await bench.store.commit(Batch(bench.fence, (), (), (), (tombstone("b"),)))
        await bench.end_outage()
        await bench.store.wait_known()
        assert bench.adopted == ["a"]
        assert await bench.store.scan() == ([snapshot("a").header], None)


@pytest.mark.parametrize("operation", ["claim", "commit", "scan", "probe"])
async def test_whatever_has_to_succeed_degrades_and_comes_back(operation: str, autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        fence = bench.fence
        match operation:
            case "claim":
                fence = await bench.store.claim("next")
                assert fence.number > bench.fence.number
            case "commit":
                await bench.store.commit(batch_of(bench, "t"))
            case "scan":
                await bench.store.scan()
            case "probe":
                health = await bench.store.probe()
                assert (health.kind, health.writable) == ("degraded", True)
                assert "0 facts" in health.detail
                assert "away" in health.detail
        assert bench.store.degraded is not None
        await bench.end_outage()
        await bench.store.commit(Batch(fence, (snapshot("s"),)))
        assert await bench.disk.load("s") == snapshot("s")
        assert (await bench.store.probe()).kind == "memory"


async def test_nth_failure_of_any_operation_changes_no_fact(autojump_clock: MockClock) -> None:
    for nth in range(1, 12):
        for done in (False, True):
            async with open_bench(patience_seconds=0.3 if nth % 2 else 0) as bench:
                bench.faulty.fail(nth, away(), done=done)
                for revision in range(1, 6):
                    log = (entry("s", revision),)
                    await bench.store.commit(Batch(bench.fence, (snapshot("s", revision),), log))
                    with suppress(StoreUnavailable):  # a read that fails, fails
                        assert await bench.store.load("s") == snapshot("s", revision)
                await bench.end_outage()
                assert await bench.disk.load("s") == snapshot("s", 5)
                found = await bench.disk.read_log("s", stream=0, after=0, limit=9)
                assert found == [entry("s", n) for n in range(1, 6)]


@pytest.mark.parametrize("bound", [{"rows_max": 6}, {"bytes_max": 400}])
async def test_memory_is_bounded_and_what_makes_room_is_taken(bound: dict[str, Any], autojump_clock: MockClock) -> None:
    async with open_bench(**bound) as bench:
        bench.begin_outage()
        taken = await _fill(bench)
        assert 3 < taken < 20
        # A newer state in place of an older one of the same size needs no room; an end gives some back.
        await bench.store.commit(batch_of(bench, "session 0", revision=2))
        await bench.store.commit(Batch(bench.fence, (), (), (), (tombstone("session 1"),)))
        await bench.end_outage()
        assert (await bench.disk.probe()).sessions == taken - 1
        await bench.store.commit(batch_of(bench, "there is room"))


async def _fill(bench: Bench) -> int:
    """Commit sessions until memory is full; give how many were taken."""
    for taken in range(1000):
        try:
            await bench.store.commit(batch_of(bench, f"session {taken}"))
        except StoreFull:
            return taken
    raise AssertionError("there is no bound")


async def test_full_store_leaves_it_degraded_until_there_is_room(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "s"))
        bench.faulty.begin_outage(StoreFull("no space left"))
        await trio.sleep(30)
        degraded = bench.store.degraded
        assert degraded is not None
        assert degraded.reason == "no space left"
        await bench.end_outage()
        assert await bench.disk.load("s") == snapshot("s")


async def test_ends_are_written_first_where_the_store_has_no_room(autojump_clock: MockClock) -> None:
    class Full(MemoryStore):
        async def commit(self, batch: Batch) -> None:
            if batch.snapshots and not self._tombstones:
                raise StoreFull("no space left")
            await super().commit(batch)

    disk = Full()
    async with open_bench(disk=disk) as bench:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "s"))
        await bench.store.commit(Batch(bench.fence, (), (), (), (tombstone("t"),)))
        await bench.end_outage()
        assert await disk.load("s") == snapshot("s")


async def test_store_full_while_it_answers_is_no_outage(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.faulty.fail(1, StoreFull("no space left"))
        with pytest.raises(StoreFull, match="no space left"):
            await bench.store.commit(batch_of(bench, "s"))
        assert bench.store.degraded is None


async def test_what_no_store_could_keep_is_refused_in_memory_too(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "good"))
        with pytest.raises(Unencodable):
            await bench.store.commit(Batch(bench.fence, (snapshot("t"), snapshot("bad", fields={"x": object()}))))
        await bench.end_outage()
        assert (await bench.disk.probe()).sessions == 1


async def test_damaged_record_is_the_session_s_trouble_not_an_outage(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        await bench.store.commit(batch_of(bench, "s"))
        bench.disk._rows["s"].record = b"??" + bench.disk._rows["s"].record[2:]
        with pytest.raises(SnapshotCorrupt):
            await bench.store.load("s")
        assert bench.store.degraded is None


# ---- another owner ----


async def test_fence_lost_while_away_ends_it(autojump_clock: MockClock) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012
        async with open_bench() as bench:
            bench.begin_outage()
            await bench.store.commit(batch_of(bench, "s"))
            successor = await bench.disk.claim("successor")
            await bench.disk.commit(Batch(successor, (snapshot("s", 7),)))
            bench.faulty.end_outage()
            await trio.sleep_forever()
    assert raised.group_contains(FenceLost)
    with pytest.raises(FenceLost):
        await bench.store.commit(batch_of(bench, "s"))
    assert await bench.disk.load("s") == snapshot("s", 7)
    await bench.store.aclose()
    assert await bench.disk.load("s") == snapshot("s", 7)


async def test_fence_lost_while_it_answers_is_told_at_once(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        await bench.disk.claim("successor")
        with pytest.raises(FenceLost):
            await bench.store.commit(batch_of(bench, "s"))
        assert bench.store.degraded is None


async def test_former_owner_is_refused_while_degraded(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        await bench.store.claim("next")
        with pytest.raises(FenceLost):
            await bench.store.commit(batch_of(bench, "s"))


async def test_claim_of_unknown_outcome_does_not_lock_itself_out(autojump_clock: MockClock) -> None:
    async with open_bench(patience_seconds=0) as bench:
        bench.faulty.fail(1, away(), done=True)  # the number rose, and nobody was told
        fence = await bench.store.claim("next")
        await bench.store.commit(Batch(fence, (snapshot("s"),)))
        await bench.end_outage()
        assert await bench.disk.load("s") == snapshot("s")


async def test_device_that_fails_under_the_write_back_ends_it(autojump_clock: MockClock) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012
        async with open_bench() as bench:
            bench.begin_outage()
            await bench.store.commit(batch_of(bench, "s"))
            bench.faulty.begin_outage(StoreBroken("fsync"))
            await trio.sleep_forever()
    assert raised.group_contains(StoreBroken)


# ---- absent from the start ----


async def test_start_without_the_store_begins_in_memory_and_adopts_what_it_holds(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    former = await disk.claim("former")
    await disk.commit(Batch(former, (snapshot("old"),), (entry("old"),)))
    async with open_bench(disk=disk, absent=True) as bench:
        assert bench.store.degraded is not None
        assert bench.store.url == "faulty:"
        assert await bench.store.scan() == ([], None)
        await bench.store.commit(batch_of(bench, "new"))
        with pytest.raises(StoreUnavailable):
            await bench.store.load("old")
        assert bench.adopted == []
        await bench.end_outage()
        assert bench.adopted == ["old", "new"]
        assert bench.store.url == bench.faulty.url
        assert await bench.store.load("old") == snapshot("old")
        assert await disk.load("new") == snapshot("new")
        with pytest.raises(FenceLost):
            await disk.commit(Batch(former, (snapshot("late"),)))
        await bench.store.commit(batch_of(bench, "later"))
        assert await disk.load("later") == snapshot("later")


async def test_store_that_answers_and_cannot_be_used_is_no_outage(autojump_clock: MockClock) -> None:
    async def open_primary() -> FaultyStore:
        await trio.lowlevel.checkpoint()
        raise StoreInUse("another process")

    with pytest.raises(StoreInUse):
        await DegradingStore.open(open_primary)


async def test_opening_is_patient(autojump_clock: MockClock) -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.fail(1, away())
    store = await DegradingStore.open(given(faulty))
    assert store.degraded is None
    await store.aclose()


# ---- the end ----


async def test_crash_while_degraded_loses_what_was_not_durable(autojump_clock: MockClock) -> None:
    # That is the bargain. `refuse` is the control: there the same fact is not lost, because it is not acknowledged.
    acknowledged: dict[str, bool] = {}
    kept: dict[str, bool] = {}
    for policy in ("degrade", "refuse"):
        async with open_bench() as bench:
            store = bench.store if policy == "degrade" else bench.faulty
            bench.begin_outage()
            try:
                await store.commit(batch_of(bench, "s"))
                acknowledged[policy] = True
            except StoreUnavailable:
                acknowledged[policy] = False
            bench.faulty.crash()
        kept[policy] = await bench.disk.load("s") is not None
    assert acknowledged == {"degrade": True, "refuse": False}
    assert kept == {"degrade": False, "refuse": False}


async def test_crash_after_the_return_loses_nothing(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "s"))
        await bench.end_outage()
        bench.faulty.crash()
    assert await bench.disk.load("s") == snapshot("s")


async def test_closing_writes_back_if_the_store_answers(autojump_clock: MockClock) -> None:
    async with open_bench(patience_seconds=0) as bench:
        bench.faulty.fail(1, away())
        await bench.store.commit(batch_of(bench, "s"))
    assert bench.store.degraded is not None  # the run task was cancelled before it tried
    with capture_logs() as logs:
        await bench.store.aclose()
    assert await bench.disk.load("s") == snapshot("s")
    assert [line["log_level"] for line in logs] == ["warning"]


async def test_closing_without_the_store_says_what_is_lost(autojump_clock: MockClock) -> None:
    async with open_bench() as bench:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "a", "b"))
    with capture_logs() as logs:
        await bench.store.aclose()
    assert [(line["log_level"], line["facts"]) for line in logs] == [("error", 2)]
    assert bench.faulty._closed


async def test_log_speaks_once_at_each_end_of_an_outage(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with open_bench() as bench:
            bench.begin_outage()
            for name in "abc":
                await bench.store.commit(batch_of(bench, name))
            await trio.sleep(60)
            await bench.end_outage()
    assert [line["event"].partition(":")[0] for line in logs] == ["degraded", "durable again"]


async def test_away_store_is_asked_ever_less_often(autojump_clock: MockClock) -> None:
    # Pauses of 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 s and then 5 s each: 6 attempts in 6.3 s, and 10 in the next 53.
    async with open_bench(patience_seconds=0) as bench:
        bench.begin_outage()
        await bench.store.commit(batch_of(bench, "s"))
        before = bench.faulty.operations
        await trio.sleep(59)
        assert bench.faulty.operations - before == 16


async def test_store_that_hangs_is_given_up_for_this_time(autojump_clock: MockClock) -> None:
    class Hanging(MemoryStore):
        hangs = False

        async def probe(self) -> object:  # type: ignore[override]
            if self.hangs:
                await trio.sleep_forever()
            return await super().probe()

    disk = Hanging()
    async with open_bench(disk=disk) as bench:
        bench.begin_outage()
        disk.hangs = True
        await bench.store.commit(batch_of(bench, "s"))
        bench.faulty.end_outage()
        await trio.sleep(30)
        degraded = bench.store.degraded
        assert degraded is not None
        assert degraded.reason == "no answer within 10 s"
        disk.hangs = False
        await bench.end_outage()
        assert await disk.load("s") == snapshot("s")


async def test_fence_is_the_store_s_own_where_it_answers() -> None:
    disk = MemoryStore()
    for number in (1, 2, 3):
        store = await DegradingStore.open(given(disk))
        assert await store.claim("test") == Fence("test", number)
