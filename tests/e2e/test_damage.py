"""A store's file that was damaged while no gateway ran: who is served all the same, and what is said about it.

Real processes: `outlast serve` over a SQLite file, and an upstream of the SDK. The damage is done by this process.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.process import ProcessFailed
from tests.e2e.raw_client import RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.one_road  # what a store keeps does not depend on how it was asked for


async def stored(bed: Bed, file: Path, count: int) -> tuple[Gateway, list[RawClient]]:
    """Leave sessions in a store whose gateway was killed."""
    gateway = await bed.gateway(store=f"sqlite:{file}", only=bed.lasting.plain.target)
    clients = [RawClient(gateway.url()) for _ in range(count)]
    for client in clients:
        await client.open_session()
        assert await client.call("counter") == "1"
    gateway.kill()
    return gateway, clients


async def health(gateway: Gateway) -> dict[str, str]:
    """What the gateway finds of itself, by what it is about."""
    answer = await RawClient(f"http://{gateway.address}/health").whole("GET")
    return {finding["about"]: finding["said"] for finding in answer.json["findings"]}


async def test_damaged_record_is_set_aside_and_said_and_all_others_are_served(bed: Bed, tmp_path: Path) -> None:
    file = tmp_path / "outlast.db"
    gateway, [damaged, *intact] = await stored(bed, file, 4)
    with closing(sqlite3.connect(file)) as connection, connection:
        find = "SELECT record FROM session WHERE session_id = ?"
        [record] = connection.execute(find, [damaged.session_id]).fetchone()
        flipped = record[:-9] + bytes([record[-9] ^ 1]) + record[-8:]
        connection.execute("UPDATE session SET record = ? WHERE session_id = ?", [flipped, damaged.session_id])

    assert (await gateway.start()).restored == 4, "the index tells nothing of the damage"
    for client in intact:
        assert await client.call("counter") == "2"
    await wait_until("the record was found damaged", lambda: "record is damaged" in gateway.stderr)
    said = await health(gateway)
    assert said["store records"] == "1 damaged records were set aside"
    answer = await damaged.post_whole(damaged.tool_call("counter"))
    assert answer.status == 404
    assert (await gateway.stop()) == 0
    with closing(sqlite3.connect(file)) as connection:
        aside = connection.execute("SELECT session_id, raw FROM quarantine").fetchall()
    assert aside == [(damaged.session_id, flipped)]


async def test_damaged_event_ends_the_replay_before_it_and_then_says_so(bed: Bed, tmp_path: Path) -> None:
    file = tmp_path / "outlast.db"
    gateway, [client, other] = await stored(bed, file, 2)
    await gateway.start()
    told = {}
    for asking in (client, other):
        call = asking.tool_call("progress", key=unique_key(), count=3)
        async with asking.post(call) as stream:
            told[asking.session_id] = await stream.rest()
    gateway.kill()
    with closing(sqlite3.connect(file)) as connection, connection:
        find = "SELECT entry.id, entry.record FROM entry JOIN session USING (rid) WHERE session_id = ? AND offset = 4"
        [id, record] = connection.execute(find, [client.session_id]).fetchone()
        flipped = record[:-2] + bytes([record[-2] ^ 1]) + record[-1:]
        connection.execute("UPDATE entry SET record = ? WHERE id = ?", [flipped, id])
    await gateway.start()

    frames = told[client.session_id]
    async with client.get(frames[0].id) as stream:
        heard = await stream.rest()
        assert stream.hints, "it is to come back for the rest"
    assert heard == frames[1:4], "behind the priming event three are whole, and the next is damaged"
    async with client.get(heard[-1].id) as stream:
        assert stream.status == 410
        assert "damaged" in (await stream.json())["error"]["message"]
    async with client.get(frames[4].id) as stream:
        assert await stream.rest() == frames[5:], "what is behind it is as good as ever"
    async with other.get(told[other.session_id][0].id) as stream:
        assert await stream.rest() == told[other.session_id][1:]
    assert await client.call("counter") == "2"
    assert "event is damaged" in gateway.stderr


async def test_file_with_a_damaged_page_is_refused_at_the_start_in_one_line(bed: Bed, tmp_path: Path) -> None:
    file = tmp_path / "outlast.db"
    gateway, _ = await stored(bed, file, 2)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [root] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'session'").fetchone()
        [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as pages:
        pages.seek((root - 1) * page_bytes)
        pages.write(b"\xff" * page_bytes)

    with pytest.raises(ProcessFailed, match=r"the store is damaged: .*malformed.*bring back a backup"):
        await gateway.start()
    assert gateway.process.wait_exit(seconds=10) == 2
    gateway.kill()  # it has ended by itself, which was to be
