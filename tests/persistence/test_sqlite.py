"""The SQLite store keeps the contract of stores, and what a file on a disk adds to it.

The disk is made to fail by real means: a page limit (full), the process's own file size limit (a write that fails),
bytes changed behind the store's back, a second process, kill -9.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from persistence import sqlite as sqlite_module
from persistence import sqlite_file
from persistence.codec import Codec
from persistence.opening import open_store
from persistence.records import Batch, Snapshot, Trim
from persistence.sqlite import SqliteStore
from persistence.store import (
    FenceLost,
    SnapshotCorrupt,
    Store,
    StoreBroken,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreInvalid,
    StoreUnavailable,
    StoreUrlInvalid,
)
from tests.persistence.contract import *  # noqa: F403 - the suite of claims
from tests.persistence.making import entry, snapshot, tombstone
from tests.persistence.places import Place, SqlitePlace, execute

OTHER_PROCESS = Path(__file__).with_name("sqlite_process.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outlast.db"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return SqlitePlace(tmp_path)


async def test_everything_committed_is_there_when_opened_again(path: Path) -> None:
    store = await SqliteStore.open(path)
    fence = await store.claim("first")
    await store.commit(Batch(fence, (snapshot("s"), snapshot("t")), (entry(),), (), (tombstone("t"),)))
    await store.aclose()
    store = await SqliteStore.open(path)
    assert await store.load("s") == snapshot("s")
    assert await store.load("t") is None
    assert await store.read_log("s", stream=0, after=0, limit=9) == [entry()]
    await store.aclose()


async def test_closing_leaves_one_file(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit(Batch(await store.claim("first"), (snapshot(),)))
    await store.aclose()
    assert os.listdir(path.parent) == [path.name]


async def test_fences_rise_over_restarts(path: Path) -> None:
    numbers = []
    for _ in range(3):
        store = await SqliteStore.open(path)
        fence = await store.claim("process")
        numbers.append(fence.number)
        await store.aclose()
    assert numbers == sorted(set(numbers))
    store = await SqliteStore.open(path)
    await store.claim("newest")
    with pytest.raises(FenceLost):
        await store.commit(Batch(fence, (snapshot(),)))
    await store.aclose()


async def test_commits_are_synced_and_the_file_is_locked(path: Path) -> None:
    # What a power cut would show (loss with synchronous below FULL) cannot be shown by killing a process.
    store = await SqliteStore.open(path)
    expected = {
        "synchronous": 2,  # FULL
        "journal_mode": "wal",
        "locking_mode": "exclusive",
        "wal_autocheckpoint": 0,
        "cell_size_check": 1,
        "trusted_schema": 0,
        "mmap_size": 0,
    }
    found = {name: (await execute(store, f"PRAGMA {name}"))[0][0] for name in expected}
    assert found == expected
    await store.aclose()


async def test_the_file_is_readable_by_its_owner_only(path: Path) -> None:
    store = await SqliteStore.open(path.parent / "new" / "store.db")
    assert (path.parent / "new").stat().st_mode & 0o777 == 0o700
    assert (path.parent / "new" / "store.db").stat().st_mode & 0o777 == 0o600
    await store.aclose()


# Opening


async def test_store_urls_name_memory_or_a_file(path: Path) -> None:
    memory = await open_store("memory:")
    assert (memory.url, memory.survives) == ("memory:", "memory")
    file = await open_store(f"sqlite:{path.parent}/a/b/outlast.db", codec=Codec())
    assert (file.url, file.survives) == (f"sqlite:{path.parent}/a/b/outlast.db", "local")
    await file.aclose()


@pytest.mark.parametrize(
    "url",
    ["", "memory", "memory:x", "sqlite:", "sqlite::memory:", "sqlite://data/x.db", "sqlite:x?mode=ro", "/data/x.db"]
    + ["redis://user:secret@host", "sqlite:a\0b"],
)
async def test_other_urls_are_refused_with_what_is_expected_and_no_secret(url: str) -> None:
    with pytest.raises(StoreUrlInvalid, match="sqlite:PATH") as caught:
        await open_store(url)
    assert "secret" not in str(caught.value)


async def test_a_second_process_is_refused_and_told_who_has_it(path: Path) -> None:
    store = await SqliteStore.open(path)
    fence = await store.claim("first")
    process = _start("open", path)
    assert process.communicate(timeout=60)[0].startswith(f"StoreInUse: {path} is in use by another process")
    if sys.platform.startswith("linux"):
        message = _start("open", path).communicate(timeout=60)[0]
        assert f"(process {os.getpid()})" in message
    await store.commit(Batch(fence, (snapshot(),)))
    await store.aclose()
    assert _start("open", path).communicate(timeout=60)[0] == "opened\n"  # the lock it was, and nothing else


async def test_a_second_opening_in_this_process_is_refused_and_does_not_unlock(path: Path) -> None:
    # The trap: closing a second descriptor of the file, opened only for a look, would drop the first one's locks.
    store = await SqliteStore.open(path)
    link = path.with_name("another name.db")
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(StoreInUse, match="this process"):
            await SqliteStore.open(name)
    assert _start("open", path).communicate(timeout=60)[0].startswith("StoreInUse")
    await store.aclose()
    store = await SqliteStore.open(path)
    await store.aclose()


async def test_without_the_check_a_look_at_the_file_unlocks_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(path)
    monkeypatch.setattr(sqlite_file, "_held", set())
    with pytest.raises(StoreError):
        await SqliteStore.open(path)
    assert _start("open", path).communicate(timeout=60)[0] == "opened\n"
    await store.aclose()


def _foreign_files() -> dict[str, bytes]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
        theirs = connection.serialize()
        connection.execute(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {sqlite_file.FORMAT + 1}")
        newer = connection.serialize()
    return {"empty": b"", "text": b"not a database" * 1000, "another application's": theirs, "a newer format": newer}


@pytest.mark.parametrize("kind", list(_foreign_files()))
async def test_what_is_no_store_of_ours_is_not_touched(path: Path, kind: str) -> None:
    content = _foreign_files()[kind]
    _write(path, content)
    with pytest.raises(StoreInvalid, match="not touched"):
        await SqliteStore.open(path)
    assert _read(path) == content
    assert os.listdir(path.parent) == [path.name]


async def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreInvalid):
        await SqliteStore.open(tmp_path)


async def test_a_path_that_cannot_be_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(tmp_path / "file" / "below" / "outlast.db")
    assert os.listdir(tmp_path) == ["file"]


async def test_a_store_that_cannot_be_filled_leaves_nothing_behind(tmp_path: Path) -> None:
    with _file_size_limit(8192), pytest.raises(StoreError):
        await SqliteStore.open(tmp_path / "a" / "b" / "outlast.db")
    assert os.listdir(tmp_path) == []


async def test_of_two_first_starts_one_makes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = sqlite_module._fill

    def fill_late(draft: Path) -> None:
        fill(draft)
        path.write_bytes(b"the other one was faster")

    monkeypatch.setattr(sqlite_module, "_fill", fill_late)
    with pytest.raises(StoreInvalid):
        await SqliteStore.open(path)
    assert _read(path) == b"the other one was faster"
    assert os.listdir(path.parent) == [path.name]


# A disk that is full, or fails


async def test_a_full_store_rolls_back_and_works_again_when_there_is_room(path: Path) -> None:
    store = await SqliteStore.open(path, pages_max=100)
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
    store = await SqliteStore.open(path, pages_max=100)
    fence = await store.claim("test")
    sequence = await _fill_up(store, lambda n: Batch(fence, (), (entry("s", n + 1, body=bytes(5000)),)))
    await store.commit(Batch(fence, (), (), (Trim("s", sequence // 2),)))
    await store.commit(Batch(fence, (), (entry("s", sequence + 1, body=bytes(5000)),)))
    await store.aclose()


async def test_after_a_failed_write_the_store_is_broken_until_opened_anew(path: Path) -> None:
    store = await SqliteStore.open(path)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("acknowledged"),)))
    with _file_size_limit(64 * 1024), pytest.raises(StoreBroken):
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
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    store = await SqliteStore.open(path)
    with pytest.raises(StoreUnavailable, match="malformed"):
        await store.load("session 7")
    assert await store.quarantined() == []
    await store.aclose()


# The write-ahead log


async def _wal_bytes_after_much_writing(store: Store, path: Path) -> int:
    fence = await store.claim("test")
    for revision in range(1, 101):
        await store.commit(Batch(fence, tuple(_large(f"session {n}", revision) for n in range(100))))
    return len(_read(Path(f"{path}-wal")))


async def test_the_write_ahead_log_stays_small(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "_WAL_BYTES_MAX", 1 << 20)
    store = await SqliteStore.open(path)
    assert await _wal_bytes_after_much_writing(store, path) < 4 << 20
    await store.aclose()


async def test_without_checkpoints_the_write_ahead_log_grows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "_WAL_BYTES_MAX", 1 << 40)
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
    process = _start(mode, path)
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


def _start(mode: str, path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, str(OTHER_PROCESS), mode, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env={"PYTHONPATH": str(root)})


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


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@contextlib.contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    """Let every write beyond so many bytes of a file fail, as a broken device would. (Python ignores SIGXFSZ.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
