"""The SQLite store on a disk that is full or fails, with a log that must stay small, and killed.

The disk is made to fail by real means: a page limit (full), the process's own file size limit (a write that fails),
bytes changed behind the store's back, kill -9.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from persistence import sqlite as sqlite_module
from persistence import sqlite_room
from persistence.records import Batch, Snapshot, Trim
from persistence.sqlite import SqliteStore
from persistence.sqlite_connection import PAGE_BYTES
from persistence.store import (
    SnapshotCorrupt,
    Store,
    StoreBroken,
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
)
from tests.persistence.making import entry, snapshot, tombstone
from tests.persistence.places import execute
from tests.persistence.sqlite_tools import file_size_limit, read, start_process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outlast.db"


# A disk that is full, or fails


async def test_a_full_store_rolls_back_and_works_again_when_there_is_room(path: Path) -> None:
    store = await SqliteStore.open(path, pages_max=200)
    fence = await store.claim("test")
    count = await _fill_up(store, lambda n: Batch(fence, (_large(f"session {n}"),), (entry(f"session {n}"),)))
    assert count > 10
    assert await store.load(f"session {count}") is None
    assert await store.read_log(f"session {count}", stream=0, after=0, limit=9) == []
    for number in range(count):
        assert await store.load(f"session {number}") == _large(f"session {number}")
    with pytest.raises(StoreFull):  # as full as before
        await store.commit(Batch(fence, tuple(_large(f"more {number}") for number in range(5))))
    await store.commit(Batch(fence, (), (), (), tuple(tombstone(f"session {number}") for number in range(10))))
    await store.commit(Batch(fence, tuple(_large(f"more {number}") for number in range(5))))
    assert await store.load("more 4") == _large("more 4")
    await store.aclose()


async def test_trimming_makes_room(path: Path) -> None:
    store = await SqliteStore.open(path, pages_max=200)
    fence = await store.claim("test")
    sequence = await _fill_up(store, lambda n: Batch(fence, (), (entry("s", n + 1, body=bytes(5000)),)))
    await store.commit(Batch(fence, (), (), (Trim("s", sequence // 2),)))
    await store.commit(Batch(fence, (), (entry("s", sequence + 1, body=bytes(5000)),)))
    await store.aclose()


async def test_what_makes_room_is_written_with_the_ballast_s(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dropping the ballast is made to give room here by lifting the page limit, the kind of full disk at hand.
    store = await SqliteStore.open(path, pages_max=200)
    fence = await store.claim("test")
    count = await _fill_up(store, lambda n: Batch(fence, (_large(f"session {n}"),)))
    connection = store._database._connection
    monkeypatch.setattr(
        store._database.room._ballast,
        "drop",
        lambda: bool(connection.execute("PRAGMA max_page_count = 1000").fetchall()),
    )
    large_burial = Batch(fence, (), (), (), tuple(tombstone(f"{n} {'x' * 500}") for n in range(200)))
    with pytest.raises(StoreFull):  # what makes no room must not have the ballast
        await store.commit(Batch(fence, tuple(_large(f"more {n}") for n in range(5))))
    await store.commit(large_burial)
    assert await store.load("session 0") == _large("session 0")
    assert (await store.probe()).sessions == count
    monkeypatch.undo()
    await store.aclose()


async def test_without_ballast_not_even_an_end_can_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(path, pages_max=200)
    fence = await store.claim("test")
    await _fill_up(store, lambda n: Batch(fence, (_large(f"session {n}"),)))
    monkeypatch.setattr(store._database.room._ballast, "drop", lambda: False)
    with pytest.raises(StoreFull):
        await store.commit(Batch(fence, (), (), (), tuple(tombstone(f"{n} {'x' * 500}") for n in range(200))))
    await store.aclose()


async def test_after_a_failed_write_the_store_is_broken_until_opened_anew(path: Path) -> None:
    store = await SqliteStore.open(path)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("acknowledged"),)))
    with file_size_limit(64 * 1024), pytest.raises(StoreBroken):
        await store.commit(Batch(fence, tuple(_large(f"session {n}") for n in range(100))))
    with pytest.raises(StoreBroken):  # although the device would write again now
        await store.commit(Batch(fence, (snapshot("later"),)))
    with pytest.raises(StoreBroken):
        await store.probe()
    await store.aclose()
    store = await SqliteStore.open(path)
    assert [header.session_id for header in (await store.scan())[0]] == ["acknowledged"]
    await store.commit(Batch(await store.claim("test"), (snapshot("later"),)))
    await store.aclose()


async def test_a_changed_column_is_noticed_like_a_changed_record(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit(Batch(await store.claim("test"), (snapshot("s"), snapshot("t"))))
    await execute(store, "UPDATE session SET owner = 'somebody else' WHERE session_id = 's'")
    with pytest.raises(SnapshotCorrupt):
        await store.load("s")
    await store.aclose()


async def test_a_record_copied_to_another_session_is_refused(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit(Batch(await store.claim("test"), (snapshot("s"), snapshot("t"))))
    await execute(
        store,
        "UPDATE session SET record = (SELECT record FROM session WHERE session_id = 's') WHERE session_id = 't'",
    )
    with pytest.raises(SnapshotCorrupt):
        await store.load("t")
    await store.aclose()


async def test_what_is_set_aside_keeps_its_bytes(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit(Batch(await store.claim("test"), (snapshot(),)))
    await execute(store, "UPDATE session SET record = x'0badcafe'")
    with pytest.raises(SnapshotCorrupt):
        await store.load("s")
    await store.aclose()
    store = await SqliteStore.open(path)
    assert await execute(store, "SELECT session_id, raw FROM quarantine") == [["s", b"\x0b\xad\xca\xfe"]]
    with pytest.raises(SnapshotCorrupt):
        await store.load("s")
    await store.aclose()


async def test_a_damaged_page_is_an_outage_for_its_readers_not_a_corrupt_session(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit(Batch(await store.claim("test"), tuple(_large(f"session {n}") for n in range(50))))
    [[root]] = await execute(store, "SELECT rootpage FROM sqlite_schema WHERE name = 'session'")
    await store.aclose()
    assert isinstance(root, int)
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)
    store = await SqliteStore.open(path)
    with pytest.raises(StoreDamaged, match=r"malformed.*; bring back a backup"):
        await store.load("session 7")
    assert issubclass(StoreDamaged, StoreUnavailable), "its sessions are not gone: whoever asks is told to come again"
    assert await store.quarantined() == []
    await store.aclose()


# The write-ahead log


async def _wal_bytes_after_much_writing(store: Store, path: Path) -> int:
    fence = await store.claim("test")
    for revision in range(1, 101):
        await store.commit(Batch(fence, tuple(_large(f"session {n}", revision) for n in range(100))))
    return len(read(Path(f"{path}-wal")))


async def test_the_write_ahead_log_stays_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_room, "LOG_BYTES_MAX", 1 << 20)
    store = await SqliteStore.open(path)
    assert await _wal_bytes_after_much_writing(store, path) < 4 << 20
    await store.aclose()


async def test_without_checkpoints_the_write_ahead_log_grows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_room.Room, "log_bytes_max", 1 << 40)
    store = await SqliteStore.open(path)
    assert await _wal_bytes_after_much_writing(store, path) > 20 << 20
    await store.aclose()


async def test_an_idle_store_checkpoints(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "_IDLE_SECONDS", 0.0)
    store = await SqliteStore.open(path)
    await store.commit(Batch(await store.claim("test"), (snapshot("found in the file itself"),)))
    with trio.fail_after(60):
        await trio.to_thread.run_sync(_wait_until_in_file, path, b"found in the file itself", abandon_on_cancel=True)
    await store.aclose()


# kill -9


@pytest.mark.parametrize("round", range(3))
async def test_kill_loses_nothing_that_was_acknowledged(path: Path, round: int) -> None:
    """Goal: whatever a process acknowledged before kill -9 is there afterwards, whole.

    Method: the process commits batches of 20 sessions through the writer and prints each receipt. It is killed after
    some hundred of them, in the middle of whatever it is doing.
    """
    acknowledged = _acknowledged_until_killed("serve", path, 300 + 211 * round)
    assert max(acknowledged.values()) > 1
    assert await _lost(path, acknowledged) == []


async def test_acknowledging_before_the_commit_is_noticed(path: Path) -> None:
    # The negative control: the same process, made to print its receipts when it submits. It waits before its third
    # commit, so that the kill finds acknowledged revisions that are not written.
    acknowledged = _acknowledged_until_killed("serve-early", path, 60)
    assert await _lost(path, acknowledged) != []


def _acknowledged_until_killed(mode: str, path: Path, receipts: int) -> dict[str, int]:
    process = start_process(mode, path)
    assert process.stdout is not None
    acknowledged: dict[str, int] = {}
    for _ in range(receipts):
        session_id, revision = process.stdout.readline().split()
        acknowledged[session_id] = int(revision)
    os.kill(process.pid, signal.SIGKILL)
    for line in process.stdout.read().splitlines(keepends=True):  # what it said and we had not read yet counts
        if line.endswith("\n"):
            session_id, revision = line.split()
            acknowledged[session_id] = int(revision)
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.stdout.close()
    return acknowledged


async def _lost(path: Path, acknowledged: dict[str, int]) -> list[str]:
    lost = []
    store = await SqliteStore.open(path)
    for session_id, revision in acknowledged.items():
        kept = await store.load(session_id)
        log = await store.read_log(session_id, stream=0, after=0, limit=100_000)
        if kept is None or kept.header.revision < revision or len(log) != kept.header.revision:
            lost.append(session_id)
    await store.aclose()
    return lost


def _large(session_id: str, revision: int = 1) -> Snapshot:
    return snapshot(session_id, revision, {"filling": bytes(3000)})


async def _fill_up(store: Store, batch: Callable[[int], Batch]) -> int:
    """Commit one batch after the other until the store is full; give how many were taken."""
    for number in itertools.count():
        try:
            await store.commit(batch(number))
        except StoreFull:
            return number
    raise AssertionError("unreachable")


def _wait_until_in_file(path: Path, words: bytes) -> None:
    # Read by another process: a descriptor closed in this one would unlock the file.
    while words not in subprocess.run(["cat", str(path)], stdout=subprocess.PIPE, check=True, timeout=60).stdout:
        pass
