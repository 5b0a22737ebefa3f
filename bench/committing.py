"""Committing: clients that wait for durable facts, and the two subjects that make facts durable for them.

`runtime` is what users have: sessions of an opened runtime, each changed by `session.update()`. `writer` is the writer
and the store alone, to see what the actors add.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from itertools import islice
from time import perf_counter, time

import attrs
import trio
from msgspec.structs import replace

import outlast
from actors.mailbox import OneShot
from actors.snapshots import from_snapshot, to_snapshot
from bench.latencies import Latencies
from bench.places import Place
from bench.procfs import cpu_seconds
from bench.stored import states_of
from persistence.writer import Receipt, Writer

VALUE = "n"  # the name under which a client keeps its value


@attrs.frozen
class Subject:
    """What makes facts durable, while it is open."""

    session_ids: list[str]  # by client
    commit: Callable[[int, int], Awaitable[None]]  # client, value: returns when the value is durable
    counts: Callable[[], tuple[int, int]]  # commits and rows so far


OpenSubject = Callable[[Place, int], AbstractAsyncContextManager[Subject]]  # where, how many clients


class Clients:
    """The clients of one window: each in a loop of its own, one commit at a time."""

    def __init__(self, count: int, subject: Subject) -> None:
        self._count = count
        self._subject = subject
        self._measuring = False
        self._over = False
        self.latencies = Latencies()
        self.acknowledged: dict[int, int] = {}  # the last durable value, by client
        self.seconds = 0.0
        self.cpu_seconds = 0.0  # of the whole process
        self.batch_rows = 0.0  # mean rows a commit

    async def run(self, seconds: float, warm_up_seconds: float) -> None:
        """Warm up, measure, and let every client finish what it has begun."""
        async with trio.open_nursery() as nursery:
            for client in range(self._count):
                nursery.start_soon(self._work, client)
            await trio.sleep(warm_up_seconds)
            commits_before, rows_before = self._subject.counts()
            cpu_before, begun_at = cpu_seconds(os.getpid()), perf_counter()
            self._measuring = True
            await trio.sleep(seconds)
            self._measuring = False
            self.seconds = perf_counter() - begun_at
            self.cpu_seconds = cpu_seconds(os.getpid()) - cpu_before
            commits, rows = self._subject.counts()
            self.batch_rows = (rows - rows_before) / max(commits - commits_before, 1)
            self._over = True

    async def _work(self, client: int) -> None:
        commit, value = self._subject.commit, 0
        while not self._over:
            value += 1
            begun_at = perf_counter()
            await commit(client, value)
            self.acknowledged[client] = value
            if self._measuring:
                self.latencies.add(perf_counter() - begun_at)


@contextlib.asynccontextmanager
async def open_writer(place: Place, clients: int) -> AsyncIterator[Subject]:
    """Run the writer in a new store, with a session for each client."""
    store = await place.open()
    try:
        states = list(islice(states_of(clients, "bench", time()), clients))
        writer = Writer(store, await store.claim("bench"))

        async def commit(client: int, value: int) -> None:
            state, revision = states[client], states[client].revision + value
            durable: OneShot[Receipt] = OneShot()
            writer.submit(
                state.session_id,
                revision,
                lambda: to_snapshot(replace(state, revision=revision, values={VALUE: value})),
                receipt=durable.set,
            )
            receipt = await durable.wait()
            if receipt.failure is not None:
                raise receipt.failure

        def counts() -> tuple[int, int]:
            statistics = writer.statistics()
            return statistics.commits, statistics.rows

        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            yield Subject([state.session_id for state in states], commit, counts)
            nursery.cancel_scope.cancel()
    finally:
        await store.aclose()


@contextlib.asynccontextmanager
async def open_runtime(place: Place, clients: int) -> AsyncIterator[Subject]:
    """Open a runtime in a new store, as users do, and create a session for each client."""
    async with outlast.open_runtime(place.url, codec=place.codec) as runtime:
        sessions = [await runtime.create(server_id="bench") for _ in range(clients)]

        async def commit(client: int, value: int) -> None:
            async with sessions[client].update() as values:
                values[VALUE] = value

        def counts() -> tuple[int, int]:
            statistics = runtime.writer.statistics()
            return statistics.commits, statistics.rows

        yield Subject([session.id for session in sessions], commit, counts)


async def stored_values(place: Place, session_ids: list[str]) -> dict[int, object]:
    """Open the store anew, and give what it holds, by client."""
    store = await place.open()
    try:
        await store.claim("bench, looking")
        values: dict[int, object] = {}
        for client, session_id in enumerate(session_ids):
            snapshot = await store.load(session_id)
            if snapshot is not None:
                values[client] = from_snapshot(snapshot).values.get(VALUE)
        return values
    finally:
        await store.aclose()
