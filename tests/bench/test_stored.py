"""A made store is one that a gateway would have left: every record can be read, indexed and lived on."""

from __future__ import annotations

from pathlib import Path

import trio

from actors.snapshots import from_snapshot
from actors.state import SessionState
from bench import stored
from bench.memory import MemoryPlan, MemoryRow
from bench.memory import report as memory_report
from bench.start import Started, summarize
from persistence.opening import open_store
from persistence.records import SnapshotHeader

_MIB = 1024 * 1024


async def _read(path: Path) -> tuple[list[SnapshotHeader], list[SessionState]]:
    store = await open_store(f"sqlite:{path}")
    try:
        headers, after = await store.scan()
        assert after is None
        snapshots = [await store.load(header.session_id) for header in headers]
        return list(headers), [from_snapshot(snapshot) for snapshot in snapshots if snapshot is not None]
    finally:
        await store.aclose()


def test_every_stored_session_can_be_read_and_is_in_force(tmp_path: Path) -> None:
    told: list[int] = []
    newest = stored.make(tmp_path / "some.db", 2500, server_id="bench", on_batch=told.append)
    headers, states = trio.run(_read, tmp_path / "some.db")
    assert told == [1000, 1000, 500]
    assert len({state.session_id for state in states}) == 2500
    assert all(state.initialized and state.handshake and state.handshake.ready for state in states)
    assert max(headers, key=lambda header: header.last_active_unix_s).session_id == newest


def test_starts_become_medians_and_the_slowest_is_told() -> None:
    rounds = [Started(seconds, seconds + 0.1, 40 * _MIB, seconds / 2) for seconds in (0.5, 0.9, 0.6)]
    row = summarize(100_000, 80 * _MIB, rounds)
    assert (row.ready_seconds, row.ready_seconds_highest, row.answer_seconds) == (0.6, 0.9, 0.7)
    assert (row.store_mib, row.resident_mib) == (80.0, 40.0)
    assert row.ready_cpu_seconds == 0.3


def test_memory_is_what_the_sessions_add() -> None:
    row = MemoryRow("resident", 1000, 40 * _MIB, 40 * _MIB + 5_000_000, 500.0, 0.5)
    assert row.bytes_per_session == 5000.0
    assert memory_report(MemoryPlan(), [row]).rows[0]["bytes_per_session"] == 5000.0
