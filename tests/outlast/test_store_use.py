"""A store is a gateway's or an event store's: whoever opens the other's is refused before it writes anything.

Method: one disk in memory, and a store in front of it that notes what is asked; a file and a process where the
operator's line is meant.
"""

from __future__ import annotations

import io
from pathlib import Path

import anyio
import pytest
import trio

from actors import runtime as runtimes
from actors.runtime import RuntimeOptions, open_runtime
from outlast.event_history import EventLimits
from outlast.event_journal import open_journal
from outlast.event_store import DurableEventStore
from outlast.exporting import export_sessions
from outlast.importing import import_sessions
from persistence.memory import MemoryStore
from persistence.records import Batch, Tombstone
from persistence.store import FenceLost, Store, StoreInvalid
from tests.e2e.process import ChildProcess
from tests.outlast.event_store_bed import answer
from tests.persistence.faulty import FaultyStore

NOT_TOUCHED = "events of servers on the MCP SDK .* it was not touched"


async def disk_with_events() -> MemoryStore:
    disk = MemoryStore()

    async def open_disk() -> Store:
        return FaultyStore(disk)  # which is closed, and leaves the disk as it is

    async with open_journal(open_disk, EventLimits()) as journal:
        await journal.append("session", "1", b"mx", ends=False, standing=False)
    return disk


def noting(disk: MemoryStore) -> tuple[FaultyStore, list[str]]:
    asked: list[str] = []
    store = FaultyStore(disk)
    store.on_operation = asked.append
    return store, asked


@pytest.mark.parametrize("outage", ["refuse", "degrade"])
async def test_event_store_is_refused_to_a_runtime(outage: str) -> None:
    store, asked = noting(await disk_with_events())
    options = RuntimeOptions(store_outage="degrade" if outage == "degrade" else "refuse")
    with pytest.raises(StoreInvalid, match=NOT_TOUCHED):
        async with open_runtime(store, options=options):
            pytest.fail("this is no runtime's store")
    assert asked == ["scan"], "not even claimed: its owner may be running"


async def test_control_without_the_look_a_runtime_ends_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_away(_: Store) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(runtimes, "check_sessions", look_away)
    disk = await disk_with_events()
    fence = await disk.claim("the SDK server")
    async with open_runtime(FaultyStore(disk)):
        pass
    with pytest.raises(FenceLost):
        await disk.commit(Batch(fence, tombstones=(Tombstone("x", "ended", 0.0),)))


async def test_runtime_s_store_is_refused_to_an_event_store() -> None:
    disk = MemoryStore()
    async with open_runtime(FaultyStore(disk)) as runtime:
        await runtime.create()
    store, asked = noting(disk)

    async def open_store() -> Store:
        await trio.lowlevel.checkpoint()
        return store

    with pytest.raises(StoreInvalid, match=r"sessions of a gateway .* it was not touched"):
        async with open_journal(open_store, EventLimits()):
            pytest.fail("this is no event store")
    assert asked == ["scan"]


async def test_no_runtime_makes_sessions_that_an_event_store_would_take_for_its_own() -> None:
    async with open_runtime("memory:") as runtime:
        with pytest.raises(ValueError, match="taken by DurableEventStore"):
            await runtime.create(server_id="mcp-sdk-events")


async def test_events_are_neither_exported_nor_imported_to() -> None:
    disk = await disk_with_events()
    with pytest.raises(StoreInvalid, match=NOT_TOUCHED):
        await export_sessions(disk, io.BytesIO())
    with pytest.raises(StoreInvalid, match=NOT_TOUCHED):
        await import_sessions(disk, io.BytesIO(b'{"sessions": []}'))


def test_gateway_says_that_the_file_is_an_sdk_server_s(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'events.db'}"

    async def keep_an_event() -> None:
        async with DurableEventStore(url) as store:
            await store.session("hers").store_event("1", answer(1, text="kept"))

    anyio.run(keep_an_event, backend="asyncio")
    arguments = ["serve", "--listen", "127.0.0.1:0", "--store", url, "--server", "a=http://127.0.0.1:1/mcp"]
    gateway = ChildProcess("outlast", arguments)
    assert gateway.wait_exit() == 2
    assert "events of servers on the MCP SDK (DurableEventStore), not a gateway's sessions" in gateway.stderr
