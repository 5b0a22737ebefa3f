"""Whatever sessions write and whenever the store is away, in the end it holds what it would hold without outages.

The model is a memory store that is never away, and is given the same batches. Meanwhile a read is right, or refused.
The wrong store at the end shows that the comparison would notice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from trio.testing import MockClock

from persistence.memory import MemoryStore
from persistence.overlay import Overlay, Portion
from persistence.records import Batch, Fence, LogEntry, Trim
from persistence.store import Store, StoreUnavailable
from tests.persistence.behind import Bench, away, open_bench
from tests.persistence.making import entry, snapshot, tombstone

NAMES = "abcd"
# What happens, in turn: a commit of some sessions, or something about the store.
happenings = st.lists(
    st.one_of(
        st.integers(0, 2**16),  # a commit; the number is its chance
        st.sampled_from(["outage", "back", "blip", "lost answer", "time passes"]),
    ),
    max_size=25,
)


@attrs.define
class Author:
    """Writes sessions' histories as actors do: revisions rise, logs have no gaps, nothing comes after the end."""

    revisions: dict[str, int] = attrs.field(factory=dict)
    offsets: dict[tuple[str, int], int] = attrs.field(factory=dict)
    sequences: dict[str, int] = attrs.field(factory=dict)
    ended: set[str] = attrs.field(factory=set)

    def write(self, seed: int) -> Batch:
        chance = random.Random(seed)
        snapshots, entries, trims, tombstones = [], [], [], []
        for name in chance.sample(sorted(set(NAMES) - self.ended), min(3, len(NAMES) - len(self.ended))):
            self.revisions[name] = self.revisions.get(name, 0) + chance.randint(1, 3)
            snapshots.append(snapshot(name, self.revisions[name]))
            entries += [self._entry(name, chance.randint(0, 1)) for _ in range(chance.randint(0, 4))]
            if chance.random() < 0.3 and name in self.sequences:
                trims.append(Trim(name, chance.randint(1, self.sequences[name])))
            if chance.random() < 0.05:
                tombstones.append(tombstone(name))
                self.ended.add(name)
        return Batch(Fence("nobody", 0), tuple(snapshots), tuple(entries), tuple(trims), tuple(tombstones))

    def _entry(self, name: str, stream: int) -> LogEntry:
        self.sequences[name] = self.sequences.get(name, 0) + 1
        self.offsets[name, stream] = self.offsets.get((name, stream), 0) + 1
        return entry(name, self.sequences[name], stream=stream, offset=self.offsets[name, stream])


async def live_through(steps: Sequence[int | str]) -> None:
    model, author = MemoryStore(), Author()
    model_fence = await model.claim("model")
    async with open_bench(patience_seconds=0.2) as bench:
        for step in steps:
            if isinstance(step, int):
                batch = author.write(step)
                await model.commit(attrs.evolve(batch, fence=model_fence))
                await bench.store.commit(attrs.evolve(batch, fence=bench.fence))
            else:
                await _happen(bench, step)
            await _check_reads(bench.store, model)
        await bench.end_outage()
        await _check_same(bench.disk, model)
        await _check_same(bench.store, model)


async def _happen(bench: Bench, what: str) -> None:
    match what:
        case "outage":
            bench.begin_outage()
        case "back":
            await bench.end_outage()
        case "blip":
            bench.faulty.fail(1, away())
        case "lost answer":
            bench.faulty.fail(1, away(), done=True)
        case "time passes":
            await trio.sleep(0.15)


async def _check_reads(store: Store, model: Store) -> None:
    for name in NAMES:
        try:
            assert await store.load(name) == await model.load(name)
            for stream in (0, 1):
                for after in (0, 2, 5):
                    expected = await model.read_log(name, stream=stream, after=after, limit=3)
                    found = await store.read_log(name, stream=stream, after=after, limit=3)
                    assert found == expected[: len(found)]
                    assert found or not expected
        except StoreUnavailable:
            pass  # only what the store alone has; the model has no outage to be refused by


async def _check_same(store: Store, model: Store) -> None:
    for name in NAMES:
        assert await store.load(name) == await model.load(name)
        for stream in (0, 1):
            expected = await model.read_log(name, stream=stream, after=0, limit=1000)
            assert await store.read_log(name, stream=stream, after=0, limit=1000) == expected
    pages = [(await one.scan())[0] for one in (store, model)]
    told, expected_headers = [sorted(page, key=lambda header: header.session_id) for page in pages]
    assert told == expected_headers


def live(steps: Sequence[int | str]) -> None:
    trio.run(live_through, steps, clock=MockClock(autojump_threshold=0))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(happenings)
def test_in_the_end_the_store_holds_what_it_would_without_outages(steps: Sequence[int | str]) -> None:
    live(steps)


def test_an_overlay_that_forgets_trims_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    oldest = Overlay.oldest

    def forgetful(self: Overlay, fence: Fence, *, rows_max: int, bytes_max: int, ends_only: bool = False) -> Portion:
        portion = oldest(self, fence, rows_max=rows_max, bytes_max=bytes_max, ends_only=ends_only)
        return attrs.evolve(portion, batch=attrs.evolve(portion.batch, trims=()))

    monkeypatch.setattr(Overlay, "oldest", forgetful)
    days = [happening for seed in range(20) for happening in (seed, "outage", seed + 100, "back")]
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        live(days)
