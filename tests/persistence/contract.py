"""What every store promises, whatever it keeps things in.

A test module of a store says `from tests.persistence.contract import *` and defines the fixture `place`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs
import pytest
import trio
import trio.testing
from msgspec.structs import replace

from persistence.codec import Codec, Unencodable
from persistence.partitions import partition_of
from persistence.records import HISTORY_STREAM, Batch, Fence, SnapshotHeader, Trim
from persistence.store import EntryCorrupt, FenceLost, SnapshotCorrupt, SnapshotTooNew, Store
from tests.persistence.making import entry, page, snapshot, tombstone
from tests.persistence.places import Place


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    opened = await place.open()
    yield opened
    await opened.aclose()


@pytest.fixture
async def fence(store: Store) -> Fence:
    return await store.claim("test")


async def test_a_new_store_holds_nothing(store: Store) -> None:
    assert await store.load("s") is None
    assert await store.read_log("s", stream=0, after=0, limit=10) == []
    assert await store.scan() == ([], None)
    assert await store.quarantined() == []
    assert (await store.probe()).sessions == 0


async def test_each_claim_gives_a_higher_fence(store: Store) -> None:
    first = await store.claim("a")
    second = await store.claim("b")
    assert (first.owner, second.owner) == ("a", "b")
    assert second.number > first.number


async def test_a_former_owner_cannot_write(store: Store, fence: Fence) -> None:
    await store.claim("successor")
    with pytest.raises(FenceLost):
        await store.commit(Batch(fence, (snapshot(),), (entry(),), (), (tombstone("t"),)))
    assert await store.load("s") is None
    assert await store.read_log("s", stream=0, after=0, limit=10) == []


async def test_the_newest_owner_can_write_what_a_former_one_could(store: Store, fence: Fence) -> None:
    # The negative control of the test before: it is the fence that refuses, not the batch.
    successor = await store.claim("successor")
    await store.commit(Batch(successor, (snapshot(),)))
    assert await store.load("s") == snapshot()


async def test_a_snapshot_is_loaded_as_it_was_committed(store: Store, fence: Fence) -> None:
    fields: dict[str, object] = {
        "none": None,
        "yes": True,
        "number": -(2**63),
        "large": 2**64 - 1,
        "time": 1.5e9,
        "text": "zażółć \U0001f600 \x00",
        "bytes": bytes(range(256)),
        "list": [1, [2, {"deep": [b""]}]],
        "map": {"a": {}, 7: "integers are keys too"},
    }
    await store.commit(Batch(fence, (snapshot(fields=fields, failure="upstream_rejected"),)))
    assert await store.load("s") == snapshot(fields=fields, failure="upstream_rejected")


async def test_times_in_whole_numbers_and_zeros_are_loaded(store: Store, fence: Fence) -> None:
    header = SnapshotHeader("s", 0, "", "", "", -0.0, 2000)
    await store.commit(Batch(fence, (attrs.evolve(snapshot(), header=header),)))
    loaded = await store.load("s")
    assert loaded is not None
    assert loaded.header == header


async def test_what_is_done_to_the_fields_later_is_not_kept(store: Store, fence: Fence) -> None:
    fields: dict[str, object] = {"list": [1]}
    await store.commit(Batch(fence, (snapshot(fields=fields),)))
    fields["list"] = "changed"
    assert await store.load("s") == snapshot(fields={"list": [1]})


async def test_only_a_newer_snapshot_replaces_the_stored_one(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(revision=5),)))
    await store.commit(Batch(fence, (snapshot(revision=5, fields={"other": 1}), snapshot(revision=4))))
    assert await store.load("s") == snapshot(revision=5)
    await store.commit(Batch(fence, (snapshot(revision=7), snapshot(revision=6))))
    assert await store.load("s") == snapshot(revision=7)


async def test_a_log_is_read_stream_by_stream_after_an_offset(store: Store, fence: Fence) -> None:
    log = [entry("s", n, stream=n % 2, offset=(n + 1) // 2) for n in range(1, 9)]
    await store.commit(Batch(fence, (snapshot(),), tuple(log)))
    await store.commit(Batch(fence, (), (entry("other", 1, stream=1, offset=9),)))
    odd = [one for one in log if one.stream == 1]
    assert await store.read_log("s", stream=1, after=0, limit=10) == odd
    assert await store.read_log("s", stream=1, after=1, limit=2) == odd[1:3]
    assert await store.read_log("s", stream=1, after=4, limit=10) == []
    assert await store.read_log("s", stream=2, after=0, limit=10) == []


async def test_a_batch_whose_outcome_was_unknown_can_be_sent_again(store: Store, fence: Fence) -> None:
    batch = Batch(
        fence,
        (snapshot("s", 3), snapshot("t", 1)),
        tuple(entry("s", n) for n in range(1, 6)),
        (Trim("s", 2),),
        (tombstone("t"),),
    )
    await store.commit(batch)
    await store.commit(batch)
    assert await store.load("s") == snapshot("s", 3)
    assert await store.load("t") is None
    assert await store.read_log("s", stream=0, after=0, limit=10) == [entry("s", n) for n in (3, 4, 5)]


async def test_a_stored_entry_stays_as_it_is(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(),), (entry(body=b"first"),)))
    await store.commit(Batch(fence, (), (entry(body=b"second"), entry(sequence=2))))
    bodies = [one.body for one in await store.read_log("s", stream=0, after=0, limit=10)]
    assert bodies == [b"first", b"message 2"]


async def test_trimming_forgets_one_log_up_to_a_sequence(store: Store, fence: Fence) -> None:
    both = tuple(entry(session_id, n) for session_id in ("s", "t") for n in range(1, 5))
    await store.commit(Batch(fence, (snapshot("s"), snapshot("t")), both))
    await store.commit(Batch(fence, (), (entry("s", 5),), (Trim("s", 3), Trim("unknown", 9))))
    assert await store.read_log("s", stream=0, after=0, limit=10) == [entry("s", 4), entry("s", 5)]
    assert len(await store.read_log("t", stream=0, after=0, limit=10)) == 4


async def test_history_is_a_log_of_its_own_beside_the_events(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(),), (page(number=3), entry(sequence=1), page(number=7))))
    await store.commit(Batch(fence, (), (entry(sequence=2), page(number=7, body=b"again"), page(number=8))))
    assert await store.read_log("s", stream=0, after=0, limit=10) == [entry(sequence=1), entry(sequence=2)]
    pages = await store.read_log("s", stream=HISTORY_STREAM, after=0, limit=10)
    assert pages == [page(number=3), page(number=7), page(number=8)]
    assert await store.read_log("s", stream=HISTORY_STREAM, after=3, limit=1) == [page(number=7)]


async def test_trimming_events_leaves_history_and_the_other_way_round(store: Store, fence: Fence) -> None:
    entries = tuple(entry(sequence=n) for n in range(1, 5)) + tuple(page(number=n) for n in range(1, 5))
    await store.commit(Batch(fence, (snapshot(),), entries))
    await store.commit(Batch(fence, (), (), (Trim("s", 2),)))
    assert len(await store.read_log("s", stream=HISTORY_STREAM, after=0, limit=10)) == 4
    await store.commit(Batch(fence, (), (), (Trim("s", 3), Trim("s", HISTORY_STREAM + 3))))
    assert await store.read_log("s", stream=0, after=0, limit=10) == [entry(sequence=4)]
    assert await store.read_log("s", stream=HISTORY_STREAM, after=0, limit=10) == [page(number=4)]


async def test_the_history_of_an_ended_session_is_gone(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(),), (page(),)))
    await store.commit(Batch(fence, (), (), (), (tombstone(),)))
    await store.commit(Batch(fence, (), (page(number=2),)))
    assert await store.read_log("s", stream=HISTORY_STREAM, after=0, limit=10) == []


async def test_an_ended_session_is_gone_and_cannot_come_back(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(),), (entry(),)))
    await store.commit(Batch(fence, (), (), (), (tombstone(),)))
    late = Batch(fence, (snapshot(revision=9), snapshot("t")), (entry(sequence=9), entry("t")), (Trim("s", 1),))
    await store.commit(late)
    await store.commit(Batch(fence, (), (), (), (tombstone(reason="again"),)))
    assert await store.load("s") is None
    assert await store.read_log("s", stream=0, after=0, limit=10) == []
    assert await store.scan() == ([snapshot("t").header], None)
    assert await store.load("t") == snapshot("t")


async def test_an_end_wins_over_a_snapshot_in_the_same_batch(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(),), (entry(),), (), (tombstone(),)))
    assert await store.load("s") is None
    assert await store.read_log("s", stream=0, after=0, limit=10) == []


async def test_the_log_of_an_ended_session_goes_to_nobody_else(store: Store, fence: Fence) -> None:
    # A store that names sessions by number inside must not give the number, and with it the log, to the next one.
    await store.commit(Batch(fence, (snapshot("old"),), (entry("old", 1), entry("old", 2))))
    await store.commit(Batch(fence, (), (), (), (tombstone("old"),)))
    await store.commit(Batch(fence, (snapshot("new"),)))
    assert await store.read_log("new", stream=0, after=0, limit=10) == []


async def test_the_oldest_tombstones_are_forgotten_beyond_a_bound(place: Place) -> None:
    # A store may bound them in each partition, so these three are of one.
    a, b, c = [session_id for session_id in map(str, range(5000)) if partition_of(session_id) == 7][:3]
    store = await place.open(tombstones_max=2)
    fence = await store.claim("test")
    for session_id in (a, b, c):
        await store.commit(Batch(fence, (), (), (), (tombstone(session_id),)))
    await store.commit(Batch(fence, tuple(snapshot(session_id) for session_id in (a, b, c))))
    headers, _ = await store.scan()
    assert [header.session_id for header in headers] == [a]
    await store.aclose()


async def test_entries_can_come_before_their_session(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (), (entry(),)))
    assert await store.load("s") is None
    assert await store.scan() == ([], None)
    assert (await store.probe()).sessions == 0
    assert await store.read_log("s", stream=0, after=0, limit=10) == [entry()]
    await store.commit(Batch(fence, (snapshot(revision=0),)))
    assert await store.load("s") == snapshot(revision=0)
    assert await store.read_log("s", stream=0, after=0, limit=10) == [entry()]


async def test_what_cannot_be_stored_leaves_nothing_of_its_batch(store: Store, fence: Fence) -> None:
    nesting: list[object] = []
    for _ in range(100_000):
        nesting = [nesting]
    for bad in (object(), 2**64, {"a": {1, 2}}, "\ud800", nesting):
        with pytest.raises(Unencodable):
            await store.commit(Batch(fence, (snapshot("good"), snapshot("bad", fields={"x": bad})), (entry("good"),)))
    for unstorable in (float("nan"), 2**63):
        header = replace(snapshot().header, expires_unix_s=unstorable, revision=int(unstorable == 2**63) and 2**63)
        with pytest.raises(Unencodable):
            await store.commit(Batch(fence, (snapshot("good"), attrs.evolve(snapshot(), header=header))))
    assert await store.scan() == ([], None)
    assert await store.read_log("good", stream=0, after=0, limit=10) == []


async def test_scanning_gives_every_session_once_page_by_page(store: Store, fence: Fence) -> None:
    snapshots = [snapshot(f"session {n}", n) for n in range(6)]
    await store.commit(Batch(fence, tuple(snapshots)))
    await store.commit(Batch(fence, (snapshot("session 0", 10),)))
    expected = [snapshot("session 0", 10).header, *(one.header for one in snapshots[1:])]
    for limit in (1, 2, 4, 6, 7):
        found: list[SnapshotHeader] = []
        after: int | None = 0
        while after is not None:
            page, after = await store.scan(after=after, limit=limit)
            assert 0 < len(page) <= limit
            found += page
        assert sorted(found, key=_by_id) == expected


async def test_scanned_sessions_hold_the_names_of_their_owner_and_server_once(store: Store, fence: Fence) -> None:
    names = {"owner": "an owner of many sessions", "server_id": "a server of many sessions"}
    snapshots = [attrs.evolve(one, header=replace(one.header, **names)) for one in (snapshot("s"), snapshot("t"))]
    await store.commit(Batch(fence, tuple(snapshots)))
    (one, another), _ = await store.scan()
    assert one.owner is another.owner
    assert one.server_id is another.server_id


async def test_a_damaged_snapshot_is_set_aside_and_never_served(place: Place, store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot("s", 3), snapshot("t"))))
    raw_bytes = len(await place.record(store, "s"))
    await place.flip_snapshot(store, "s")
    for _ in range(2):
        with pytest.raises(SnapshotCorrupt):
            await store.load("s")
    [aside] = await store.quarantined()
    assert (aside.session_id, aside.raw_bytes) == ("s", raw_bytes)
    headers, _ = await store.scan()
    assert sorted((one.session_id, one.failure) for one in headers) == [("s", "corrupt"), ("t", "")]
    assert await store.load("t") == snapshot("t")


async def test_a_session_set_aside_can_be_written_anew_or_end(place: Place, store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot("s", 3), snapshot("t", 3))))
    for session_id in ("s", "t"):
        await place.flip_snapshot(store, session_id)
        with pytest.raises(SnapshotCorrupt):
            await store.load(session_id)
    await store.commit(Batch(fence, (snapshot("s", 3),)))
    with pytest.raises(SnapshotCorrupt):
        await store.load("s")
    await store.commit(Batch(fence, (snapshot("s", 4),), (), (), (tombstone("t"),)))
    assert await store.load("s") == snapshot("s", 4)
    assert await store.load("t") is None


async def test_a_damaged_entry_is_refused_and_leaves_no_gap(place: Place, store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(),), tuple(entry("s", n) for n in (1, 2, 3))))
    await place.flip_entry(store, "s", 2)
    for _ in range(2):
        with pytest.raises(EntryCorrupt) as caught:
            await store.read_log("s", stream=0, after=0, limit=10)
        assert caught.value.offset == 2
    assert await store.read_log("s", stream=0, after=2, limit=10) == [entry("s", 3)]
    assert await store.load("s") == snapshot()


async def test_a_newer_version_s_snapshot_is_left_as_it_is(place: Place, store: Store, fence: Fence) -> None:
    place.use_codec(store, Codec(version=2, upcasters={}))
    await store.commit(Batch(fence, (snapshot(),)))
    record = await place.record(store, "s")
    place.use_codec(store, Codec(version=1))
    with pytest.raises(SnapshotTooNew):
        await store.load("s")
    assert await place.record(store, "s") == record
    assert await store.quarantined() == []
    assert await store.scan() == ([snapshot().header], None)


async def test_an_older_version_s_snapshot_is_brought_up_to_date(place: Place, store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(fields={"a": 1}),)))
    place.use_codec(store, Codec(version=2, upcasters={1: lambda fields: {**fields, "b": 2}}))
    assert await store.load("s") == snapshot(fields={"a": 1, "b": 2})


async def test_a_probe_counts_the_sessions(store: Store, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot("a"), snapshot("b"), snapshot("c")), (entry("d"),)))
    await store.commit(Batch(fence, (), (), (), (tombstone("a"),)))
    health = await store.probe()
    assert health.writable
    assert health.sessions == 2
    assert health.latency_seconds >= 0


async def test_a_closed_store_refuses_and_closes_again(store: Store, fence: Fence) -> None:
    await store.aclose()
    await store.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await store.load("s")
    with pytest.raises(trio.ClosedResourceError):
        await store.commit(Batch(fence, (snapshot(),)))


async def test_a_commit_cancelled_before_it_begins_writes_nothing(store: Store, fence: Fence) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.commit(Batch(fence, (snapshot(),)))
    assert scope.cancelled_caught
    assert await store.load("s") is None


async def test_a_commit_cancelled_on_its_way_runs_to_its_end(store: Store, fence: Fence) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.commit, Batch(fence, (snapshot(),)))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await store.load("s") == snapshot()


def _by_id(header: SnapshotHeader) -> str:
    return header.session_id
