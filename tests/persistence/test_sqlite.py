"""The SQLite store keeps the contract of stores, and what a file on a disk adds to it: opening and locking."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from persistence import sqlite as sqlite_module
from persistence import sqlite_connection, sqlite_file
from persistence.codec import Codec
from persistence.opening import open_store
from persistence.records import Batch
from persistence.sqlite import SqliteStore
from persistence.store import (
    FenceLost,
    LeaseHeld,
    StoreBroken,
    StoreError,
    StoreInUse,
    StoreInvalid,
    StoreUnavailable,
    StoreUrlInvalid,
)
from tests.persistence.contract import *  # noqa: F403 - the suite of claims
from tests.persistence.lease_contract import *  # noqa: F403 - and of those about leases
from tests.persistence.making import entry, snapshot, tombstone
from tests.persistence.places import Place, SqlitePlace, execute
from tests.persistence.sqlite_tools import file_size_limit, read, start_process, write


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


async def test_a_file_without_leases_gets_them_and_its_fences_rise_on(path: Path) -> None:
    # As versions before leases left it: the number of the last claim is in `meta` alone.
    store = await SqliteStore.open(path)
    await store.claim("older")
    await execute(store, "DROP TABLE lease")
    await execute(store, "UPDATE meta SET value = 41 WHERE key = 'incarnation'")
    await store.aclose()
    store = await SqliteStore.open(path)
    assert (await store.claim("newer")).number == 42
    assert await execute(store, "SELECT value FROM meta WHERE key = 'incarnation'") == [[42]]
    await store.aclose()


async def test_leases_and_their_numbers_outlast_the_process(path: Path) -> None:
    store = await SqliteStore.open(path, now_unix_s=lambda: 1000.0)
    lease = await store.acquire(3, "first", ttl_seconds=10)
    await store.aclose()
    store = await SqliteStore.open(path, now_unix_s=lambda: 1005.0)
    with pytest.raises(LeaseHeld, match="first"):
        await store.acquire(3, "second", ttl_seconds=10)
    assert (await store.acquire(4, "second", ttl_seconds=10)).fence.number > lease.fence.number
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
    + ["redis+tls://user:secret@host", "postgres://user:secret@host", "sqlite:a\0b"],
)
async def test_other_urls_are_refused_with_what_is_expected_and_no_secret(url: str) -> None:
    with pytest.raises(StoreUrlInvalid, match="sqlite:PATH") as caught:
        await open_store(url)
    assert "secret" not in str(caught.value)


async def test_a_second_process_is_refused_and_told_who_has_it(path: Path) -> None:
    store = await SqliteStore.open(path)
    fence = await store.claim("first")
    process = start_process("open", path)
    assert process.communicate(timeout=60)[0].startswith(f"StoreInUse: {path} is in use by another process")
    if sys.platform.startswith("linux"):
        message = start_process("open", path).communicate(timeout=60)[0]
        assert f"(process {os.getpid()})" in message
    await store.commit(Batch(fence, (snapshot(),)))
    await store.aclose()
    assert start_process("open", path).communicate(timeout=60)[0] == "opened\n"  # the lock it was, and nothing else


async def test_a_second_opening_in_this_process_is_refused_and_does_not_unlock(path: Path) -> None:
    # The trap: closing a second descriptor of the file, opened only for a look, would drop the first one's locks.
    store = await SqliteStore.open(path)
    link = path.with_name("another name.db")
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(StoreInUse, match="this process"):
            await SqliteStore.open(name)
    assert start_process("open", path).communicate(timeout=60)[0].startswith("StoreInUse")
    await store.aclose()
    store = await SqliteStore.open(path)
    await store.aclose()


async def test_without_the_check_a_look_at_the_file_unlocks_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(path)
    monkeypatch.setattr(sqlite_file, "_held", set())
    with pytest.raises(StoreError):
        await SqliteStore.open(path)
    assert start_process("open", path).communicate(timeout=60)[0] == "opened\n"
    await store.aclose()


@pytest.mark.parametrize("page_bytes", [1024, 4096, 16384])
async def test_a_file_made_with_pages_of_another_size_is_kept_as_it_is(
    path: Path, page_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_connection, "PAGE_BYTES", page_bytes)
        await (await SqliteStore.open(path)).aclose()
    store = await SqliteStore.open(path)
    await store.commit(Batch(await store.claim("test"), (snapshot(),), (entry(),)))
    assert store._database._connection.page_bytes == page_bytes
    assert store._database.room.log_bytes >= 2 * page_bytes  # counted in pages of the file's own
    assert await store.load("s") == snapshot()
    await store.aclose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (page_bytes,)


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
    write(path, content)
    with pytest.raises(StoreInvalid, match="not touched"):
        await SqliteStore.open(path)
    assert read(path) == content
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
    with file_size_limit(8192), pytest.raises(StoreBroken):
        await SqliteStore.open(tmp_path / "a" / "b" / "outlast.db")
    assert os.listdir(tmp_path) == []


async def test_a_device_that_fails_at_the_opening_is_not_merely_away(path: Path) -> None:
    sqlite_file.create(path, sqlite_connection.fill)  # the first opening writes to it
    with file_size_limit(0), pytest.raises(StoreBroken, match="IOERR_WRITE"):
        await SqliteStore.open(path)
    store = await SqliteStore.open(path)
    await store.aclose()


async def test_of_two_first_starts_one_makes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = sqlite_connection.fill

    def fill_late(draft: Path) -> None:
        fill(draft)
        path.write_bytes(b"the other one was faster")

    monkeypatch.setattr(sqlite_module, "fill", fill_late)
    with pytest.raises(StoreInvalid):
        await SqliteStore.open(path)
    assert read(path) == b"the other one was faster"
    assert os.listdir(path.parent) == [path.name]
