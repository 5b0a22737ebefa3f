"""`bench rows`: rows per second that a store takes, in batches, one commit after the other.

Each store is measured beside what its database does with the same sealed records when nothing protects them; their
ratio is what is left of the speed. On SQLite, where each batch is synced in any case, that is one table with Python's
`executemany`, SQLite's own settings and checkpoints: no fence, no tombstone, no room kept. On Redis it is a pipeline,
which checks no fence, no revision and no tombstone, counts nothing and lets nothing expire.

All write the same sessions again and again, with rising revisions, in an order by chance.
Each snapshot is made of its state just before, as an actor makes it; that is the bench's own work, and not measured.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from time import perf_counter, process_time, time
from typing import Any

import attrs
import trio
from msgspec.structs import astuple, replace
from redis import Redis
from rich.table import Table

from actors.snapshots import to_snapshot
from actors.state import SessionState
from bench.latencies import median, percentile
from bench.places import COMPRESSED, Place, new_place
from bench.report import Report, table_of
from bench.stored import states_of
from persistence.partitions import partition_of
from persistence.records import Batch, Snapshot
from persistence.redis_records import pack_header, tag_of

SQLITE, UPSERTS = "SQLite, synced", "SQLite, bare upserts, synced"
FENCED, UNFENCED = "Redis, fenced", "Redis, a bare pipeline"

_BARE = {SQLITE: UPSERTS, FENCED: UNFENCED}

_TABLE = """CREATE TABLE session (
    rid INTEGER PRIMARY KEY, session_id TEXT NOT NULL UNIQUE, revision INTEGER, server_id TEXT, owner TEXT,
    failure TEXT, last_active_unix_s REAL, expires_unix_s REAL, record BLOB)"""
_UPSERT = """INSERT INTO session
    (session_id, revision, server_id, owner, failure, last_active_unix_s, expires_unix_s, record)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET revision = excluded.revision,
    last_active_unix_s = excluded.last_active_unix_s, expires_unix_s = excluded.expires_unix_s,
    record = excluded.record"""

Write = Callable[[Sequence[Snapshot]], Awaitable[None]]


@attrs.frozen
class RowsPlan:
    """What `bench rows` is to do."""

    rows: int = 100  # of a batch
    sessions: int = 10_000
    rounds: int = 5
    seconds: float = 2.0
    redis: str = ""  # the URL of a server; "": SQLite alone
    folder: str = ""  # where the file lies; "": the system's temporary folder
    codec: str = COMPRESSED  # how records are sealed: as `outlast serve` does it without being told otherwise

    @property
    def subjects(self) -> tuple[str, ...]:
        """What is measured."""
        return (SQLITE, UPSERTS, FENCED, UNFENCED) if self.redis else (SQLITE, UPSERTS)

    @property
    def steps(self) -> int:
        """How many windows are measured in all."""
        return self.rounds * len(self.subjects)


@attrs.frozen
class Wrote:
    """What came of one window."""

    rows: int
    seconds: float
    p50_ms: float  # of a batch
    p99_ms: float
    cpu_seconds: float  # of this process: sealing, packing, and SQLite's work; not the server's


@attrs.frozen
class RowsRow:
    """The medians of the rounds of one subject."""

    subject: str
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_row: float  # of this process
    of_bare: float | None = None  # median of the rounds' ratios to what is bare


def measure(plan: RowsPlan, *, on_step: Callable[[str], None]) -> list[RowsRow]:
    """Measure all rounds, interleaved, each in a place of its own."""
    states = list(states_of(plan.sessions, "bench", time()))
    rounds: dict[str, list[Wrote]] = {}
    for _ in range(plan.rounds):
        for subject in plan.subjects:
            with new_place("sqlite" if subject in (SQLITE, UPSERTS) else plan.redis, plan.codec, plan.folder) as place:
                rounds.setdefault(subject, []).append(trio.run(_window, plan, subject, place, states))
            on_step(subject)
    return [summarize(subject, rounds) for subject in plan.subjects]


def summarize(subject: str, rounds: Mapping[str, Sequence[Wrote]]) -> RowsRow:
    """Take the medians of several rounds."""
    mine, bare = rounds[subject], rounds.get(_BARE.get(subject, ""))
    ratio = None
    if bare is not None:
        pairs = zip(mine, bare, strict=True)
        ratio = median([(one.rows / one.seconds) / (other.rows / other.seconds) for one, other in pairs])
    return RowsRow(
        subject,
        median([one.rows / one.seconds for one in mine]),
        median([one.p50_ms for one in mine]),
        median([one.p99_ms for one in mine]),
        median([one.cpu_seconds / max(one.rows, 1) * 1e6 for one in mine]),
        ratio,
    )


def report(plan: RowsPlan, rows: Sequence[RowsRow]) -> Report:
    """Make the run's record."""
    settings = attrs.asdict(plan) | {"redis": bool(plan.redis)}  # a URL may hold a password
    return Report("rows", settings, [attrs.asdict(row) for row in rows])


def table(plan: RowsPlan, rows: Sequence[RowsRow]) -> Table:
    """Show the run."""
    columns = ["store", "rows/s", "p50 ms", "p99 ms", "CPU us/row", "of the bare"]
    cells = [
        [
            row.subject,
            f"{row.rows_per_second:,.0f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.cpu_us_per_row:.1f}",
            "" if row.of_bare is None else f"{row.of_bare:.2f}",
        ]
        for row in rows
    ]
    return table_of(f"rows, in batches of {plan.rows}, records {plan.codec}", columns, cells)


async def _window(plan: RowsPlan, subject: str, place: Place, states: Sequence[SessionState]) -> Wrote:
    draw, revision, taken, cpu = random.Random(plan.sessions), 10, [], 0.0
    opened = {UPSERTS: _upserts, UNFENCED: _pipeline}.get(subject, _store)
    async with opened(place) as write:
        for start in range(0, len(states), 1000):  # so that all are there, and each row takes another's place
            await write([to_snapshot(state) for state in states[start : start + 1000]])
        begun_at = perf_counter()
        while perf_counter() - begun_at < plan.seconds:
            revision += 1
            drawn = draw.sample(states, min(plan.rows, len(states)))
            batch = [to_snapshot(replace(state, revision=revision)) for state in drawn]
            cpu_before, batch_begun_at = process_time(), perf_counter()
            await write(batch)
            taken.append(perf_counter() - batch_begun_at)
            cpu += process_time() - cpu_before
        return Wrote(
            plan.rows * len(taken),
            sum(taken),
            percentile(sorted(taken), 0.5) * 1000.0,
            percentile(sorted(taken), 0.99) * 1000.0,
            cpu,
        )


@contextlib.asynccontextmanager
async def _store(place: Place) -> AsyncIterator[Write]:
    store = await place.open()
    try:
        fence = await store.claim("bench")

        async def write(snapshots: Sequence[Snapshot]) -> None:
            await store.commit(Batch(fence, tuple(snapshots)))

        yield write
    finally:
        await store.aclose()


@contextlib.asynccontextmanager
async def _upserts(place: Place) -> AsyncIterator[Write]:
    """Write sealed records and their headers into one table, as one would without being told how."""
    codec = place.codec
    path = place.url.partition(":")[2]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", _TABLE):
            connection.execute(statement)

        def upsert(snapshots: Sequence[Snapshot]) -> None:
            rows = [(*astuple(snapshot.header), codec.seal_snapshot(snapshot)) for snapshot in snapshots]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_UPSERT, rows)
            connection.execute("COMMIT")

        async def write(snapshots: Sequence[Snapshot]) -> None:
            await trio.to_thread.run_sync(upsert, snapshots)

        yield write


@contextlib.asynccontextmanager
async def _pipeline(place: Place) -> AsyncIterator[Write]:
    """Write sealed records and their headers under the same keys, with nothing that protects them."""
    url, _, options = place.url.partition("?")
    prefix = options.rpartition("prefix=")[2]
    codec = place.codec
    with contextlib.closing(Redis.from_url(url)) as client:

        def send(snapshots: Sequence[Snapshot]) -> None:
            pipeline = client.pipeline(transaction=False)
            for snapshot in snapshots:
                header = snapshot.header
                key = f"{prefix}:{tag_of(partition_of(header.session_id))}s:{header.session_id}"
                fields: dict[Any, Any] = {
                    "v": header.revision,
                    "h": pack_header(header),
                    "r": codec.seal_snapshot(snapshot),
                }
                pipeline.hset(key, mapping=fields)
            pipeline.execute()

        async def write(snapshots: Sequence[Snapshot]) -> None:
            await trio.to_thread.run_sync(send, snapshots)

        yield write
