"""Damage: flipped bits and torn records in a store at rest.

Nobody can promise that a record survives its own damage. Promised is that it is noticed: set aside with its bytes, its
session refused, never served as something else; and that everything else is served as before.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import trio

from persistence.records import Batch
from persistence.sqlite import SqliteStore
from persistence.store import SnapshotCorrupt, SnapshotTooNew, StoreUnavailable
from tests.faults.facts import Fact, entry_of, snapshot_of, what_is_wrong
from tests.faults.fault import Control, Fault, Trial
from tests.faults.weaknesses import UNCHECKED, weakened

_SESSIONS = 60
_REVISION = 3
_FILLING_BYTES = 400
_SNAPSHOTS_HIT = 15
_COLUMNS_HIT = 3  # of these: not the record, a column beside it
_ENTRIES_HIT = 15


def damage_records(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Write a store, damage a part of its records, and read everything."""
    for number in range(runs):
        path = folder / f"{number}.db"
        with weakened(weakness):
            trio.run(_write, path)
            chance = random.Random(number)
            hit = _hit(path, chance)
            lost, broken = trio.run(_read, path, hit)
        yield Trial(_SESSIONS, lost, tuple(broken), f"{len(hit)} sessions hit")


def _facts(number: int) -> list[Fact]:
    return [Fact(f"session-{number}", revision, "writer") for revision in range(1, _REVISION + 1)]


async def _write(path: Path) -> None:
    store = await SqliteStore.open(path)
    fence = await store.claim("writer")
    for number in range(_SESSIONS):
        facts = _facts(number)
        entries = tuple(entry_of(fact) for fact in facts)
        await store.commit(Batch(fence, (snapshot_of(facts[-1], _FILLING_BYTES),), entries))
    await store.aclose()


def _hit(path: Path, chance: random.Random) -> set[str]:
    """Damage snapshots of some sessions and entries of others, behind the store's back; say whose."""
    chosen = chance.sample(range(_SESSIONS), _SNAPSHOTS_HIT + _ENTRIES_HIT)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for index, number in enumerate(chosen):
            table, key = ("session", "rid") if index < _SNAPSHOTS_HIT else ("entry", "id")
            if index < _COLUMNS_HIT:
                update = "UPDATE session SET revision = revision - 1 WHERE session_id = ?"
                connection.execute(update, (f"session-{number}",))
                continue
            select = f"SELECT t.{key}, t.record FROM {table} t JOIN session s ON s.rid = t.rid WHERE s.session_id = ?"
            rows = connection.execute(select, (f"session-{number}",)).fetchall()
            row, record = chance.choice(rows)
            update = f"UPDATE {table} SET record = ? WHERE {key} = ?"
            connection.execute(update, (_damaged(record, chance), row))
    return {f"session-{number}" for number in chosen}


def _damaged(record: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(record))
    kind = chance.choice(("flip", "flip", "tear", "zero"))
    if kind == "tear":
        return record[:place]
    if kind == "zero" and any(record[place:]):
        return record[:place] + bytes(len(record) - place)
    return record[:place] + bytes([record[place] ^ 1 << chance.randrange(8)]) + record[place + 1 :]


async def _read(path: Path, hit: set[str]) -> tuple[int, list[str]]:
    store = await SqliteStore.open(path)
    await store.claim("reader")
    lost, broken = 0, []
    for number in range(_SESSIONS):
        session_id = f"session-{number}"
        try:
            kept = await store.load(session_id)
            log = await store.read_log(session_id, stream=0, after=0, limit=1000)
        except SnapshotCorrupt:
            lost += session_id not in hit
            continue
        except (SnapshotTooNew, StoreUnavailable) as error:
            broken.append(f"damage taken for a newer version's record: {error}")
            continue
        wrong = what_is_wrong(session_id, kept, log)
        if wrong and session_id in hit:
            broken.append(f"served although damaged: {wrong[0]}")
        elif session_id in hit:
            broken.append(f"{session_id}: its damage was not noticed")
        lost += session_id not in hit and (kept is None or bool(wrong))
    set_aside = await store.quarantined()
    if len(set_aside) != _SNAPSHOTS_HIT:
        broken.append(f"{len(set_aside)} records in quarantine, {_SNAPSHOTS_HIT} were hit")
    await store.aclose()
    return lost, broken


DAMAGE = Fault(
    "flipped bits and torn records",
    "noticed and set aside, never served; all other sessions are served",
    damage_records,
    20,
    (Control(UNCHECKED, "no checksum"),),
    quick_runs=2,
)
