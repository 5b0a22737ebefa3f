"""What is resumed is exact: event ids, priming, replay and the live tail, without a restart (PROTOCOL 2.2)."""

from __future__ import annotations

import pytest
import trio

from tests.e2e.bed import Bed, SharedBed
from tests.e2e.raw_client import AnswerStream, Json, RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.server_sent_events import Frame
from tests.e2e.waiting import wait_until

SERVER = "plain"
STREAMING_KINDS = pytest.mark.parametrize("server", ["plain", "resumable", "stdio"])


async def held_call(client: RawClient, steps: int = 3) -> tuple[Json, str]:
    """Make a call that tells its progress and ends when it is released. Gives the message and the key."""
    key = unique_key()
    return client.tool_call("progress", key=key, count=steps, hold=key), key


async def read_steps(stream: AnswerStream, steps: int = 3) -> list[Frame]:
    """Read until all progress of a held call has come: for each step one progress and one log message."""
    frames: list[Frame] = []
    while sum(frame.message is not None for frame in frames) < 2 * steps:
        frame = await stream.next_frame()
        assert frame is not None
        frames.append(frame)
    return frames


async def test_quick_answers_are_plain_json(shared: SharedBed) -> None:
    client = await shared.open_session("json")
    async with client.post(client.tool_call("echo", text="quick")) as stream:
        assert stream.headers["content-type"].startswith("application/json")


async def test_slow_answers_become_streams_that_begin_with_a_priming_event(shared: SharedBed) -> None:
    client = await shared.open_session("json")
    key = unique_key()
    async with client.post(client.tool_call("hold", key=key, hold=key)) as stream:
        assert stream.is_event_stream
        first = await stream.next_frame()
        assert first is not None
        assert first.id
        assert first.data == ""
        shared.journal("json").release(key)
        assert (await stream.next_message())["result"]["content"][0]["text"] == f"done {key}"
        assert await stream.next_frame() is None


@STREAMING_KINDS
async def test_every_event_has_an_id_of_its_own(shared: SharedBed, server: str) -> None:
    client = await shared.open_session(server)
    frames: list[Frame] = []
    for _ in range(3):
        key = unique_key()
        async with client.post(client.tool_call("progress", key=key, count=3)) as stream:
            assert stream.headers.get("x-accel-buffering") == "no"
            assert stream.headers.get("cache-control") == "no-store, no-transform"
            frames += await stream.rest()
    ids = [frame.id for frame in frames]
    assert len(ids) == 3 * (1 + 2 * 3 + 1)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18"])
async def test_older_clients_get_no_empty_event(shared: SharedBed, version: str) -> None:
    client = await shared.open_session(SERVER, protocol_version=version)
    call, key = await held_call(client)
    async with client.post(call) as stream:
        frames = await read_steps(stream)
        shared.journal(SERVER).release(key)
        frames += await stream.rest()
    assert len(frames) == 2 * 3 + 1
    assert all(frame.id and frame.message for frame in frames)


@STREAMING_KINDS
async def test_replay_gives_exactly_what_came_after_the_named_event(shared: SharedBed, server: str) -> None:
    client = await shared.open_session(server)
    async with client.post(client.tool_call("progress", key=unique_key(), count=3)) as stream:
        frames = await stream.rest()
    for position, frame in enumerate(frames):
        async with client.get(frame.id) as replay:
            assert replay.status == 200
            assert await replay.rest() == frames[position + 1 :]


async def test_replay_gives_nothing_of_other_streams(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    async with client.post(client.tool_call("progress", key=unique_key(), count=2)) as stream:
        frames = await stream.rest()
    async with client.post(client.tool_call("progress", key=unique_key(), count=2)) as stream:
        await stream.rest()
    await client.call("change_tools")
    async with client.get(frames[0].id) as replay:
        assert await replay.rest() == frames[1:]


async def test_resumed_stream_goes_on_live_without_gap_or_repeat(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    call, key = await held_call(client)
    async with client.post(call) as stream:
        frames = await read_steps(stream)
    async with client.get(frames[2].id) as resumed:
        replayed = [await resumed.next_frame() for _ in frames[3:]]
        assert replayed == frames[3:]
        shared.journal(SERVER).release(key)
        [last] = await resumed.rest()
    assert last.message is not None
    assert last.message["result"]["content"][0]["text"] == f"done {key}"
    assert shared.journal(SERVER).executions()[key] == 1


async def test_disconnecting_does_not_cancel_the_call(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    call, key = await held_call(client)
    async with client.post(call) as stream:
        frames = await read_steps(stream)
    shared.journal(SERVER).release(key)
    async with client.get(frames[-1].id) as resumed:
        assert (await resumed.next_message())["result"]["content"][0]["text"] == f"done {key}"


async def test_newest_connection_takes_a_stream_over(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    call, key = await held_call(client)
    async with client.post(call) as first:
        frames = await read_steps(first)
        async with client.get(frames[0].id) as second:
            assert second.status == 200
            await first.wait_ended()
            shared.journal(SERVER).release(key)
            rest = await second.rest()
    assert rest[:-1] == frames[1:]
    assert rest[-1].message is not None
    assert rest[-1].message["id"] == call["id"]


async def test_newest_get_takes_the_sessions_own_stream_over(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    async with client.get() as first:
        assert first.status == 200
        async with client.get() as second:
            assert second.status == 200
            await first.wait_ended()
            await client.call("change_tools")
            assert (await second.next_message())["method"] == "notifications/tools/list_changed"


async def test_what_came_while_nobody_listened_is_delivered_to_the_next_get(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    async with client.get() as stream:
        await client.call("change_tools")
        heard = await stream.next_frame()
        assert heard is not None
    await client.call("change_tools")
    async with client.get(heard.id) as stream:
        assert (await stream.next_message())["method"] == "notifications/tools/list_changed"


@pytest.mark.parametrize("invented", ["1", "nonsense", "0-0-1-000000000000", "ü"])
async def test_unknown_event_id_is_400(shared: SharedBed, invented: str) -> None:
    client = await shared.open_session(SERVER)
    answer = await client.whole("GET", headers={"last-event-id": invented})
    assert answer.status == 400
    assert answer.json["error"]["message"]


async def test_event_id_of_another_session_is_400(shared: SharedBed) -> None:
    one = await shared.open_session(SERVER)
    other = await shared.open_session(SERVER)
    async with one.post(one.tool_call("progress", key=unique_key(), count=2)) as stream:
        frames = await stream.rest()
    async with other.post(other.tool_call("progress", key=unique_key(), count=2)) as stream:
        await stream.rest()
    assert (await other.whole("GET", headers={"last-event-id": frames[0].id})).status == 400


async def test_event_id_that_fell_off_the_log_is_gone(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target, environment={"MAX_EVENTS_PER_SESSION": "10"})
    client = RawClient(gateway.url())
    await client.open_session()
    async with client.post(client.tool_call("progress", key=unique_key(), count=3)) as stream:
        frames = await stream.rest()
    for _ in range(5):
        async with client.post(client.tool_call("progress", key=unique_key(), count=3)) as stream:
            await stream.rest()
    gateway.kill()  # what is in memory may be more than what has to be kept
    await gateway.start()
    answer = await client.whole("GET", headers={"last-event-id": frames[0].id})
    assert answer.status == 410, "another try with this id is of no use, and the client is told so"
    assert answer.json["error"]["message"]


async def test_concurrent_streams_of_a_session_do_not_mix(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    heard: dict[str, list[str]] = {}

    async def call(key: str) -> None:
        async with client.post(client.tool_call("progress", key=key, count=5)) as stream:
            frames = await stream.rest()
        messages = [frame.message for frame in frames if frame.message]
        heard[key] = [m["params"]["data"] for m in messages if m.get("method") == "notifications/message"]

    keys = [unique_key() for _ in range(8)]
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(call, key)
    assert heard == {key: [f"{key} step {step}" for step in range(1, 6)] for key in keys}


async def test_cancelled_call_ends_its_stream(shared: SharedBed) -> None:
    client = await shared.open_session(SERVER)
    key = unique_key()
    call = client.tool_call("hold", key=key, hold=key)
    async with client.post(call) as stream:
        await wait_until("the call runs", lambda: shared.journal(SERVER).has_run(key))
        params = {"requestId": call["id"], "reason": "changed my mind"}
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        assert (await client.post_whole(note)).status == 202
        await stream.rest()
    assert await client.call("echo", text="goes on") == "goes on"
