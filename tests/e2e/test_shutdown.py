"""SIGTERM: calls in flight get their grace, nobody can hold the end up, and the exit code is 0."""

from __future__ import annotations

import signal
import socket
from urllib.parse import urlsplit

import pytest
import trio

from tests.e2e.bed import Bed
from tests.e2e.process import ProcessFailed
from tests.e2e.raw_client import ConnectionBroken, RawClient, text_of
from tests.e2e.sdk_client import unique_key
from tests.e2e.waiting import wait_until

GRACE_SECONDS = 1.0
GRACE = {"OUTLAST_SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS)}
MARGIN_SECONDS = 2.0  # what the design allows beyond the grace
LOTS = 200_000  # characters per log message: a few fill every buffer between the gateway and its client


async def test_client_that_stopped_reading_does_not_hold_up_the_end(bed: Bed) -> None:
    """Goal: the exit is bounded. Method: a client asks for far more than its buffers hold and reads nothing."""
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target, environment=GRACE)
    client = RawClient(gateway.url())
    await client.open_session()
    key = unique_key()
    call = client.tool_call("flood", key=key, count=40, characters=LOTS, hold=key)
    async with client.post(call) as stream:
        stream.shrink_buffer()
        await stream.next_frame()
        await wait_until("the upstream has said it all", lambda: upstream.journal.has_said_all(key))
        # From here on nobody reads: what is sent piles up until a write blocks.
        assert await gateway.stop(seconds=GRACE_SECONDS + MARGIN_SECONDS) == 0


async def test_idle_streams_are_ended_politely(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target, environment=GRACE)
    client = RawClient(gateway.url())
    await client.open_session()
    async with client.get() as stream:
        gateway.begin_stop()
        assert await stream.rest() == []
        assert len(stream.hints) == 2, "the client was told when to come back: as it began, and as it ended"
    assert await trio.to_thread.run_sync(gateway.process.wait_exit) == 0


async def test_call_that_ends_within_the_grace_is_answered(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target, environment={"OUTLAST_SHUTDOWN_GRACE_SECONDS": "20"})
    client = RawClient(gateway.url())
    await client.open_session()
    key = unique_key()
    answers: list[str] = []

    async def call() -> None:
        message = client.tool_call("progress", key=key, count=2, hold=key)
        async with client.post(message) as stream:
            while (answer := await stream.next_message()).get("id") != message["id"]:
                pass
        answers.append(text_of(answer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_until("the call runs", lambda: upstream.journal.has_run(key))
        gateway.begin_stop()
        await wait_until("nobody new is let in", lambda: refuses_connections(gateway.address))
        upstream.journal.release(key)
    assert answers == [f"done {key}"]
    assert await trio.to_thread.run_sync(gateway.process.wait_exit) == 0


async def test_call_that_outlives_the_grace_is_answered_after_the_restart(bed: Bed) -> None:
    upstream = bed.lasting.resumable
    gateway = await bed.gateway(only=upstream.target, environment=GRACE)
    client = RawClient(gateway.url())
    await client.open_session()
    key = unique_key()
    call = client.tool_call("progress", key=key, count=2, hold=key)
    event_ids: list[str] = []
    async with client.post(call) as stream:
        gateway.begin_stop()
        try:
            event_ids += [frame.id for frame in await stream.rest() if frame.id]
        except ConnectionBroken:
            pytest.fail("the stream was cut, not ended")
    assert await trio.to_thread.run_sync(gateway.process.wait_exit) == 0
    await gateway.start()
    upstream.journal.release(key)
    async with client.get(event_ids[0]) as resumed:
        while (answer := await resumed.next_message()).get("id") != call["id"]:
            pass
    assert text_of(answer) == f"done {key}"
    assert upstream.journal.executions()[key] == 1


async def test_control_a_process_that_does_not_end_is_noticed(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    gateway.process.signal(signal.SIGSTOP)
    with pytest.raises(ProcessFailed, match="still running"):
        await gateway.stop(seconds=0.2)


def refuses_connections(address: str) -> bool:
    """Whether nobody listens there any more."""
    parts = urlsplit(f"//{address}")
    with socket.socket() as attempt:
        attempt.settimeout(1)
        return attempt.connect_ex((parts.hostname, parts.port)) != 0
