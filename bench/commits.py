"""`bench commits`: durable replies per second, in the runtime alone: no HTTP, a real store, durable before replies.

So many clients each change a value of a session of their own, and wait until that is durable, again and again. Every
window has a fresh store; afterwards it is opened anew, and must hold for every session exactly the last value that its
client was told is kept. Ways of sealing records take turns within a round, so that their ratio is not that of two
minutes, and in every other round backwards: what a window leaves to the disk costs the one after it some 3 %. What a
bare fdatasync takes on the same disk, just before, stands beside the numbers: it is the floor of each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import attrs
import trio
from rich.table import Table

from bench.committing import Clients, open_runtime, open_writer, stored_values
from bench.latencies import median, percentile
from bench.places import PLAIN, Place, new_place
from bench.report import Report, table_of

_DISK_WRITES = 200
_RECORD_BYTES = 1024


@attrs.frozen
class CommitsPlan:
    """What `bench commits` is to do."""

    clients: tuple[int, ...] = (1, 10, 100, 1000)
    rounds: int = 3
    seconds: float = 2.0
    warm_up_seconds: float = 0.3
    writer_only: bool = False  # the writer and the store, without actors
    folder: str = ""  # where the store lies; "": the system's temporary folder
    codecs: tuple[str, ...] = (PLAIN,)  # ways of sealing records, side by side
    store: str = "sqlite"  # or the URL of a Redis server

    @property
    def steps(self) -> int:
        """How many windows are measured in all."""
        return self.rounds * len(self.clients) * len(self.codecs)


@attrs.frozen
class Committed:
    """What came of one window."""

    replies: int
    seconds: float
    cpu_seconds: float  # of the whole process, the clients included
    p50_ms: float
    p99_ms: float
    batch_rows: float  # mean rows a commit
    fdatasync_ms: float  # median of a bare append + fdatasync, just before
    lost: int  # sessions whose store does not hold what was acknowledged


@attrs.frozen
class CommitsRow:
    """The medians of the rounds with one codec and one number of clients."""

    codec: str
    clients: int
    replies_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_reply: float
    batch_rows: float
    fdatasync_ms: float
    lost: int  # of all rounds
    of_plain: float | None = None  # replies per second, as a share of what came in clear in the same rounds


def measure(plan: CommitsPlan, *, on_step: Callable[[str], None]) -> list[CommitsRow]:
    """Measure all rounds, interleaved, each in a store of its own."""
    rounds: dict[tuple[str, int], list[Committed]] = {}
    for number in range(plan.rounds):
        for clients in plan.clients:
            for codec in plan.codecs if number % 2 == 0 else plan.codecs[::-1]:
                with new_place(plan.store, codec, plan.folder) as place:
                    rounds.setdefault((codec, clients), []).append(measure_window(plan, clients, place))
                on_step(f"{codec}, {clients} clients")
    order = sorted(rounds.items(), key=lambda item: (item[0][1], plan.codecs.index(item[0][0])))
    rows = [summarize(clients, measured, codec) for (codec, clients), measured in order]
    return [attrs.evolve(row, of_plain=_of_plain(rounds, row)) for row in rows]


def _of_plain(rounds: Mapping[tuple[str, int], Sequence[Committed]], row: CommitsRow) -> float | None:
    """Give the median of the rounds' ratios: what the disk did in one round, it did to both."""
    plain = rounds.get((PLAIN, row.clients))
    if plain is None or row.codec == PLAIN:
        return None
    pairs = zip(rounds[row.codec, row.clients], plain, strict=True)
    return median([(one.replies / one.seconds) / max(clear.replies / clear.seconds, 1.0) for one, clear in pairs])


def measure_window(plan: CommitsPlan, clients: int, place: Place) -> Committed:
    """Measure one window, then look whether the store holds what was said."""
    fdatasync_seconds = bare_fdatasync_seconds(place.folder)
    open_subject = open_writer if plan.writer_only else open_runtime

    async def run() -> tuple[Clients, float, list[int]]:
        async with open_subject(place, clients) as subject:
            load = Clients(clients, subject)
            await load.run(plan.seconds, plan.warm_up_seconds)
        stored = await stored_values(place, subject.session_ids)
        return load, load.batch_rows, find_lost(load.acknowledged, stored)

    load, batch_rows, lost = trio.run(run)
    percentiles = load.latencies.percentiles()
    return Committed(
        replies=len(load.latencies),
        seconds=load.seconds,
        cpu_seconds=load.cpu_seconds,
        p50_ms=percentiles.p50_ms,
        p99_ms=percentiles.p99_ms,
        batch_rows=batch_rows,
        fdatasync_ms=fdatasync_seconds * 1000.0,
        lost=len(lost),
    )


def find_lost(acknowledged: Mapping[int, int], stored: Mapping[int, object]) -> list[int]:
    """Give the clients whose stored value is not the one that they were last told is kept."""
    return [client for client, value in acknowledged.items() if stored.get(client) != value]


def bare_fdatasync_seconds(folder: Path) -> float:
    """Give the median time of appending one record to a file and having the disk keep it."""
    record = os.urandom(_RECORD_BYTES)
    taken: list[float] = []
    with (folder / "bare").open("wb", buffering=0) as file:
        for _ in range(_DISK_WRITES):
            begun_at = perf_counter()
            file.write(record)
            os.fdatasync(file.fileno())
            taken.append(perf_counter() - begun_at)
    return percentile(sorted(taken), 0.5)


def summarize(clients: int, rounds: Sequence[Committed], codec: str = PLAIN) -> CommitsRow:
    """Take the medians of several rounds; what was lost adds up."""
    return CommitsRow(
        codec=codec,
        clients=clients,
        replies_per_second=median([measured.replies / measured.seconds for measured in rounds]),
        p50_ms=median([measured.p50_ms for measured in rounds]),
        p99_ms=median([measured.p99_ms for measured in rounds]),
        cpu_ms_per_reply=median([measured.cpu_seconds / max(measured.replies, 1) * 1000.0 for measured in rounds]),
        batch_rows=median([measured.batch_rows for measured in rounds]),
        fdatasync_ms=median([measured.fdatasync_ms for measured in rounds]),
        lost=sum(measured.lost for measured in rounds),
    )


def report(plan: CommitsPlan, rows: Sequence[CommitsRow]) -> Report:
    """Make the run's record."""
    problems = [f"{row.clients} clients: {row.lost} sessions do not hold what was told" for row in rows if row.lost]
    problems += [f"{row.clients} clients: no replies" for row in rows if not row.replies_per_second]
    settings = attrs.asdict(plan) | {"store": _shown(plan.store)}
    return Report("commits", settings, [attrs.asdict(row) for row in rows], problems)


def table(plan: CommitsPlan, rows: Sequence[CommitsRow]) -> Table:
    """Show the run."""
    subject = "the writer alone" if plan.writer_only else "the runtime, session.update()"
    columns = [
        "codec",
        "clients",
        "of plain",
        "replies/s",
        "p50 ms",
        "p99 ms",
        "CPU ms/reply",
        "rows/commit",
        "fdatasync ms",
        "lost",
    ]
    return table_of(f"durable replies: {subject}, {_shown(plan.store)}", columns, [_cells(row) for row in rows])


def _shown(store: str) -> str:
    return "SQLite with fsync" if store == "sqlite" else "Redis"  # a URL may hold a password


def _cells(row: CommitsRow) -> list[str]:
    return [
        row.codec,
        str(row.clients),
        "" if row.of_plain is None else f"{row.of_plain:.2f}",
        f"{row.replies_per_second:,.0f}",
        f"{row.p50_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.cpu_ms_per_reply:.3f}",
        f"{row.batch_rows:.1f}",
        f"{row.fdatasync_ms:.2f}",
        str(row.lost),
    ]
