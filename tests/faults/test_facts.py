"""The judge of facts: each kind of wrong store is found."""

from __future__ import annotations

from pathlib import Path

import attrs

from persistence.memory import MemoryStore
from persistence.records import Batch, LogEntry, Snapshot, Tombstone
from tests.faults.facts import Fact, entry_of, lost_facts, snapshot_of, what_is_wrong
from tests.faults.ledger import Ledger, read_ledger


def facts(count: int, author: str = "first") -> list[Fact]:
    return [Fact("s", revision, author) for revision in range(1, count + 1)]


async def stored(*kept: Fact, entries: tuple[Fact, ...] | None = None) -> MemoryStore:
    store = MemoryStore()
    fence = await store.claim("test")
    for fact in kept:
        await store.commit(Batch(fence, (snapshot_of(fact, 10),)))
    await store.commit(Batch(fence, (), tuple(entry_of(fact) for fact in (kept if entries is None else entries))))
    return store


async def test_what_is_there_is_not_lost() -> None:
    assert await lost_facts(await stored(*facts(3)), facts(3)) == (0, [])


async def test_what_nobody_was_told_may_be_there() -> None:
    assert await lost_facts(await stored(*facts(3)), facts(2)) == (0, [])


async def test_what_is_not_there_is_lost() -> None:
    assert await lost_facts(await stored(*facts(3)), facts(5)) == (2, [])
    assert await lost_facts(MemoryStore(), facts(5)) == (5, [])


async def test_what_another_author_wrote_in_its_place_is_lost() -> None:
    assert await lost_facts(await stored(*facts(3, "second")), facts(3)) == (3, [])


async def test_half_a_batch_is_noticed() -> None:
    lost, wrong = await lost_facts(await stored(*facts(3), entries=tuple(facts(2))), facts(2))
    assert lost == 0
    assert "half a batch" in wrong[0]


async def test_end_that_was_told_must_hold() -> None:
    end = Fact("s", 0, "first")
    store = await stored(*facts(2))
    assert await lost_facts(store, [*facts(2), end]) == (1, [])
    await store.commit(Batch(await store.claim("test"), (), (), (), (Tombstone("s", "ended", 1.0),)))
    assert await lost_facts(store, [*facts(2), end]) == (0, [])


def test_other_contents_are_noticed() -> None:
    kept, log = snapshot_of(facts(1)[0], 10), [entry_of(facts(1)[0])]
    assert what_is_wrong("s", kept, log) == []
    assert what_is_wrong("s", Snapshot(kept.header, {**kept.fields, "filling": bytes(10)}), log)
    assert what_is_wrong("s", kept, [attrs.evolve(log[0], body=b"something else")])
    assert what_is_wrong("s", None, log)


def test_line_that_was_cut_short_was_told_to_nobody(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert read_ledger(path) == []
    ledger = Ledger(path)
    for fact in facts(2):
        ledger.note(fact)
    ledger.close()
    path.write_bytes(path.read_bytes() + b"s 3 fi")
    assert read_ledger(path) == facts(2)


def test_entries_are_made_from_names_alone() -> None:
    assert entry_of(Fact("s", 1, "a")) == entry_of(Fact("s", 1, "a"))
    assert isinstance(entry_of(Fact("s", 1, "a")), LogEntry)
    assert snapshot_of(Fact("s", 1, "a"), 10) != snapshot_of(Fact("s", 1, "b"), 10)
