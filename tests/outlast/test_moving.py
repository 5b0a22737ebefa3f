"""Export and import: what leaves a store arrives in another, all or nothing of a document, in bounded memory.

Method: real stores (memory, SQLite) on both sides, a document in memory between them; a made-up store where there must
be more sessions than anybody may hold.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import outlast
from actors import messages as say
from actors.snapshots import from_snapshot, to_snapshot
from actors.state import LogState
from outlast.exporting import export_sessions
from outlast.importing import import_sessions
from persistence.document import DocumentInvalid
from persistence.memory import MemoryStore
from persistence.opening import open_store
from persistence.portable import BATCH_SESSIONS, SessionRecords
from persistence.records import Batch, Tombstone
from persistence.store import SnapshotCorrupt, StoreFull, StoreInvalid, StoreUnavailable
from tests.actors.making import fresh_state
from tests.actors.portable_making import MARK, full_records, lived
from tests.actors.test_evolve import steps
from tests.outlast.moving_stores import EVENTS, EndlessStore, contents, filled, records
from tests.persistence.faulty import FaultyStore


async def exported(store: Any, *, with_secrets: bool = True) -> io.BytesIO:
    """Give a store's document."""
    file = io.BytesIO()
    await export_sessions(store, file, with_secrets=with_secrets)
    file.seek(0)
    return file


def document(*sessions: Any, **members: Any) -> io.BytesIO:
    """Give a document as people write it."""
    return io.BytesIO(json.dumps({**members, "sessions": sessions}, indent=2).encode())


async def refusal(store: Any, file: io.BytesIO, **options: Any) -> str:
    with pytest.raises(DocumentInvalid) as refused:
        await import_sessions(store, file, **options)
    return str(refused.value)


@given(st.lists(st.tuples(st.booleans(), steps), max_size=4))
@settings(max_examples=25, deadline=None)
def test_any_sessions_go_from_sqlite_to_a_document_to_sqlite(
    lives: list[tuple[bool, list[tuple[Callable[[int], say.Command], float]]]],
) -> None:
    """Every snapshot and log is equal afterwards, and so is the document of the second store."""

    async def there_and_back(folder: Path) -> None:
        urls = [f"sqlite:{folder / name}" for name in ("from.db", "to.db")]
        first = await open_store(urls[0])
        await filled(first, [_named(lived(*life), index) for index, life in enumerate(lives)])  # type: ignore[arg-type]
        before = await contents(first)  # type: ignore[arg-type]
        await first.aclose()
        text = await exported(urls[0])
        imported = await import_sessions(urls[1], text)
        second = await open_store(urls[1])
        assert await contents(second) == before  # type: ignore[arg-type]
        again = await exported(second)
        await second.aclose()
        assert imported.sessions == len(before)
        assert again.getvalue().splitlines()[1:] == text.getvalue().splitlines()[1:]

    with tempfile.TemporaryDirectory() as folder:
        trio.run(there_and_back, Path(folder))


def _named(one: SessionRecords, index: int) -> SessionRecords:
    """Give the session an id of its own."""
    name = f"{index}" * 32
    header = msgspec.structs.replace(one.snapshot.header, session_id=name)
    entries = tuple(attrs.evolve(entry, session_id=name) for entry in one.entries)
    return SessionRecords(attrs.evolve(one.snapshot, header=header), entries)


@pytest.mark.parametrize("with_secrets", [True, False])
async def test_all_sessions_are_there_with_their_events(with_secrets: bool) -> None:
    store = await filled(MemoryStore(), [full_records(), *map(records, range(70))])
    file = io.BytesIO()
    told: list[tuple[int, int]] = []
    done = await export_sessions(store, file, with_secrets=with_secrets, progress=lambda *now: told.append(now))
    whole = json.loads(file.getvalue())

    assert (done.sessions, done.entries, done.left_out) == (71, 3 + 70 * EVENTS, ())
    assert len(whole["sessions"]) == len({session["id"] for session in whole["sessions"]}) == 71
    assert sum(len(session["log"]["entries"]) for session in whole["sessions"]) == done.entries
    assert whole["counts"] == {"sessions": 71, "entries": done.entries, "leftOut": 0}
    assert told[-1] == (71, 71)


async def test_secrets_leave_only_when_they_are_asked_for() -> None:
    store = await filled(MemoryStore(), [full_records(), *map(records, range(3))])
    redacted = (await exported(store, with_secrets=False)).getvalue()

    assert MARK.encode() not in redacted
    assert b"session-0000" not in redacted
    assert MARK.encode() in (await exported(store)).getvalue()


async def test_a_redacted_document_is_not_imported() -> None:
    store = await filled(MemoryStore(), [records(1)])
    into = MemoryStore()

    assert "export again with --with-secrets" in await refusal(into, await exported(store, with_secrets=False))
    text = (await exported(store, with_secrets=False)).getvalue().replace(b'"redacted",', b'"included",', 1)
    assert "sessions[0].id: expected visible ASCII" in await refusal(into, io.BytesIO(text))
    assert await contents(into) == {}


async def test_an_imported_session_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    """Goal: clients notice nothing. Method: a real runtime before, one after; the client's event id leads on."""
    async with outlast.open_runtime(before := MemoryStore()) as runtime:
        session = await runtime.create(server_id="counter", ttl_seconds=7200, metadata={"tags": ["a"]})
        async with session.update() as values:
            values["step"] = 3
        for number in range(3):
            await session.emit("measured", {"number": number})
        async with aclosing(session.events()) as events:
            seen = await anext(events)
        await runtime.settled()
        text = await exported(before)

    after = MemoryStore()
    await import_sessions(after, text)
    async with outlast.open_runtime(after) as runtime:
        again = runtime.session(session.id)
        await again.emit("measured", {"number": 3})
        async with aclosing(again.events(after=seen.id)) as events:
            rest = [await anext(events) for _ in range(3)]
        assert [json.loads(event.message.raw)["params"]["number"] for event in rest] == [1, 2, 3]
        assert await again.values() == {"step": 3}
        assert (await again.state()).metadata == {"tags": ["a"]}


async def test_a_hand_written_session_can_be_lived_with(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    imported = await import_sessions(store, document({"id": "by-hand", "state": {"step": 1}}), ttl_seconds=60.0)
    assert (imported.sessions, imported.expired) == (1, 0)

    async with outlast.open_runtime(store) as runtime:
        session = runtime.session("by-hand")
        async with session.update() as values:
            values["step"] += 1
        await session.emit("note")
        assert await session.values() == {"step": 2}


async def test_what_is_not_kept_is_told() -> None:
    said = {"id": "a", "serverId": "b", "config": {"url": "https://x", "headers": {"k": "v"}}, "toolHistory": [1]}
    imported = await import_sessions(MemoryStore(), document({**said, "createdAt": 1234567890}))

    assert imported.ignored == ("config.url", "config.headers", "toolHistory")
    assert imported.expired == 1


GOOD = {"id": "good"}


@pytest.mark.parametrize(
    ("sessions", "members", "words"),
    [
        (
            [GOOD, {"id": "b", "metrics": {"requests": "x"}}],
            {},
            'sessions[1].metrics.requests: expected an integer, got "x"',
        ),
        ([GOOD, 7], {}, "sessions[1]: expected an object"),
        ([GOOD, {"id": "b"}, GOOD], {}, "sessions[2].id: is that of sessions[0], too"),
        ([GOOD], {"format": "x"}, 'format: expected "outlast-sessions"'),
        ([GOOD], {"version": 2}, "version: is 2: a newer version wrote it, this one knows 1"),
        ([GOOD], {"version": "1"}, "version: expected an integer"),
        ([GOOD], {"secrets": "redacted"}, "secrets: the document was exported without secrets"),
        ([GOOD], {"counts": {"sessions": 2}}, "counts.sessions: there are 1: the document was changed, or cut short"),
        ([GOOD], {"counts": {"entries": 2}}, "counts.entries: there are 0"),
        ([GOOD], {"counts": 2}, "counts: expected an object"),
    ],
)
async def test_nothing_is_written_of_a_document_that_is_wrong_anywhere(
    sessions: list[Any], members: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in await refusal(f"sqlite:{tmp_path / 'new.db'}", document(*sessions, **members))
    assert os.listdir(tmp_path) == [], "not even an empty store"


async def test_ids_that_the_store_has_are_refused_and_nothing_is_written() -> None:
    store = await filled(MemoryStore(), [records(1), records(2)])
    before = await contents(store)
    words = await refusal(store, await exported(await filled(MemoryStore(), map(records, range(4)))))

    assert words.startswith("sessions[1].id: the store has a session of this id already, and 1 others; --replace")
    assert await contents(store) == before


async def test_replaced_sessions_are_those_of_the_document() -> None:
    """Whatever was stored under their ids: older, newer, with a longer log."""
    newer = records(1, revision=50, log=LogState(7, 90, 86), values={"number": "newer"})
    moved = [attrs.evolve(entry, sequence=entry.sequence + 86) for entry in newer.entries]
    store = await filled(MemoryStore(), [SessionRecords(newer.snapshot, moved), records(0, revision=1), records(9)])
    text = await exported(await filled(MemoryStore(), map(records, range(3))))

    imported = await import_sessions(store, text, replace=True)
    kept = await contents(store)
    assert (imported.sessions, imported.replaced) == (3, 2)
    assert len(kept) == 4
    for number in range(3):
        one = records(number)
        snapshot, log = kept[one.snapshot.header.session_id]
        state = from_snapshot(snapshot)
        assert state.values == {"number": number}
        assert [(entry.offset, entry.body) for entry in log] == [(entry.offset, entry.body) for entry in one.entries]
        # What clients of the newer one were told, they are not told again under the same ids.
        assert state.log.epoch == (8 if number == 1 else 7)
    assert await contents(store) == kept


@attrs.define(eq=False)
class Damaged:
    """A store in which the first session's record cannot be read."""

    store: MemoryStore
    error: Exception

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def load(self, session_id: str) -> Any:
        snapshot = await self.store.load(session_id)
        if snapshot is not None and snapshot.fields["values"] == {"number": 0}:
            raise self.error
        return snapshot


async def test_what_cannot_be_read_is_left_out_and_counted() -> None:
    name = records(0).snapshot.header.session_id
    store = Damaged(await filled(MemoryStore(), map(records, range(3))), SnapshotCorrupt(f"session {name}: torn"))
    file = io.BytesIO()
    done = await export_sessions(store, file, with_secrets=True)

    assert (done.sessions, done.left_out) == (2, ("session sessio…: session sessio…: torn",))
    assert json.loads(file.getvalue())["counts"]["leftOut"] == 1
    file.seek(0)
    assert (await import_sessions(MemoryStore(), file)).sessions == 2


async def test_a_session_that_cannot_be_read_can_be_replaced() -> None:
    inner = await filled(MemoryStore(), [records(0)])
    text = await exported(await filled(MemoryStore(), [records(0, values={"number": "restored"})]))
    await import_sessions(Damaged(inner, SnapshotCorrupt("torn")), text, replace=True)

    ((snapshot, log),) = (await contents(inner)).values()
    assert snapshot.fields["values"] == {"number": "restored"}
    assert [entry.offset for entry in log] == [1, 2, 3]


async def test_an_ended_id_does_not_come_back_and_that_is_told() -> None:
    store = MemoryStore()
    ended = Tombstone(records(1).snapshot.header.session_id, "client", 1.0)
    await store.commit(Batch(await store.claim("a"), tombstones=(ended,)))
    imported = await import_sessions(store, await exported(await filled(MemoryStore(), map(records, range(3)))))

    assert (imported.sessions, imported.ended) == (2, 1)


async def test_a_store_that_fails_in_the_middle_has_whole_sessions_and_can_be_gone_over() -> None:
    text = await exported(EndlessStore(3 * BATCH_SESSIONS))
    store = FaultyStore(MemoryStore())
    store.fail(5, StoreFull("no room"))  # scan (whose it is), scan (which ids), claim, commit, commit
    with pytest.raises(StoreFull) as full:
        await import_sessions(store, text)

    assert full.value.__notes__ == [
        f"{BATCH_SESSIONS} sessions were written before, and perhaps some more: go over them with --replace"
    ]
    there = await contents(store.disk)  # type: ignore[arg-type]
    assert [len(log) for _, log in there.values()] == [EVENTS] * BATCH_SESSIONS
    text.seek(0)
    imported = await import_sessions(store, text, replace=True)
    assert (imported.sessions, imported.replaced) == (3 * BATCH_SESSIONS, BATCH_SESSIONS)


async def test_a_file_that_changes_between_the_passes_is_noticed() -> None:
    class Changing(io.BytesIO):
        def seek(self, place: int, whence: int = 0) -> int:
            passes.append(place)
            if len(passes) == 3:  # to its end, for its length, then for each pass
                self.getbuffer()[:] = self.getvalue().replace(b'"a"', b'"b"')
            return super().seek(place, whence)

    passes: list[int] = []
    file = Changing(document({"id": "a"}).getvalue())
    assert "sessions[0]: the file was changed while it was read" in await refusal(MemoryStore(), file)


async def test_an_export_holds_some_sessions_however_many_there_are() -> None:
    few, many = EndlessStore(200), EndlessStore(2000)
    for store in (few, many):
        await export_sessions(store, _Nowhere(), with_secrets=True)

    assert many.alive_most == few.alive_most < 100
    assert many.alive == 0


async def test_an_import_holds_one_commit_of_sessions_however_many_there_are() -> None:
    text = await exported(EndlessStore(5 * BATCH_SESSIONS))
    store = EndlessStore(0)
    await import_sessions(store, text)

    assert len(store.written) == 5 * BATCH_SESSIONS
    assert store.alive_most <= 2 * BATCH_SESSIONS * (1 + EVENTS)  # the batch that was written, and the next


async def test_holding_on_to_sessions_would_be_noticed() -> None:
    """The negative control of the two above."""
    store = EndlessStore(200)
    held = [await store.load(f"session-{number}") for number in range(200)]
    assert store.alive_most == len(held)


class _Nowhere(io.BytesIO):
    def write(self, data: Any) -> int:
        return len(data)


async def test_a_store_that_is_not_there_is_not_made_by_an_export(tmp_path: Path) -> None:
    with pytest.raises(StoreInvalid, match="there is no such file"):
        await export_sessions(f"sqlite:{tmp_path / 'none.db'}", io.BytesIO())
    assert os.listdir(tmp_path) == []


async def test_a_store_that_goes_away_ends_an_export() -> None:
    store = FaultyStore(await filled(MemoryStore(), map(records, range(3))))
    store.fail(4, StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await export_sessions(store, io.BytesIO())


async def test_a_snapshot_is_exported_with_the_events_that_it_knows() -> None:
    """A store of several owners may have gone on between the two reads."""
    one = records(0)
    older = to_snapshot(msgspec.structs.replace(from_snapshot(one.snapshot), log=LogState(7, 3, 0)))
    store = await filled(MemoryStore(), [SessionRecords(older, one.entries)])
    (session,) = json.loads((await exported(store)).getvalue())["sessions"]
    assert [entry["sequence"] for entry in session["log"]["entries"]] == [1, 2]


async def test_an_unopened_session_is_moved_as_it_is() -> None:
    state = fresh_state(revision=1)
    store = await filled(MemoryStore(), [SessionRecords(to_snapshot(state), ())])
    into = MemoryStore()
    await import_sessions(into, await exported(store))
    assert await contents(into) == await contents(store)
