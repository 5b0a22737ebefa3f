"""The gateway ends, by kill -9 or in order, and comes back: its clients go on with the same session.

The headline of the project, over HTTP and stdio upstreams, with the bare client (which sees every event) and
with the public SDK's (which must not notice).
"""

from __future__ import annotations

from collections.abc import Sequence

import mcp_types as types
import pytest
import trio

from tests.e2e.bed import TIME_TARGET, Bed
from tests.e2e.gateway import NO_LOOKS, Gateway
from tests.e2e.journal import Journal
from tests.e2e.raw_client import Json, RawClient
from tests.e2e.sdk_client import sdk_client, unique_key
from tests.e2e.server_sent_events import Frame
from tests.e2e.upstream_server import HESITATION, RESOURCE_URI
from tests.e2e.waiting import wait_until, wait_until_asked

# Log levels and subscriptions are deprecated as of 2026-07-28; sessions speak what was before.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


_SILENT_SECONDS = 6.0  # the first looks come after 2, and 6 s at the latest


async def restart(gateway: Gateway, how: str) -> None:
    """End the gateway as said, and start it again."""
    if how == "kill":
        gateway.kill()
    else:
        assert await gateway.stop() == 0
    await gateway.start()


@pytest.fixture
def patient_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the SDK's client try longer to get a broken stream back.

    It gives up after two attempts, a second apart; to start a gateway on a busy test machine can take longer.
    """
    monkeypatch.setattr("mcp.client.streamable_http.MAX_RECONNECTION_ATTEMPTS", 20)


HOW = pytest.mark.parametrize("how", ["kill", "stop"])


async def frames_until_killed(client: RawClient, gateway: Gateway, call: Json, steps: int) -> list[Frame]:
    """Make a call, read all its progress, and kill the gateway in the middle of it."""
    frames: list[Frame] = []
    async with client.post(call) as stream:
        while sum(frame.message is not None for frame in frames) < 2 * steps:
            frame = await stream.next_frame()
            assert frame is not None
            frames.append(frame)
        gateway.kill()
    return frames


def answers_in(frames: list[Frame], call: Json) -> list[Json]:
    messages = [frame.message for frame in frames if frame.message is not None]
    return [message for message in messages if message.get("id") == call["id"] and "method" not in message]


async def test_call_in_progress_is_answered_once_if_the_upstream_can_resume(bed: Bed) -> None:
    upstream = bed.lasting.resumable
    gateway = await bed.gateway(only=upstream.target)
    client = RawClient(gateway.url())
    await client.open_session()
    assert await client.call("counter") == "1"
    initialized = upstream.journal.seen("initialize")
    key = unique_key()
    call = client.tool_call("progress", key=key, count=3, hold=key)
    heard = await frames_until_killed(client, gateway, call, steps=3)
    assert heard[0].data == ""
    await gateway.start()
    async with client.get(heard[0].id) as resumed:
        assert resumed.status == 200
        upstream.journal.release(key)
        replayed = await resumed.rest()
    assert replayed[: len(heard) - 1] == heard[1:]
    [answer] = answers_in(replayed, call)
    assert answer["result"]["content"][0]["text"] == f"done {key}"
    assert len(replayed) == len(heard), "the answer is all that was added"
    assert upstream.journal.executions()[key] == 1
    assert await client.call("counter") == "2"
    assert upstream.journal.seen("initialize") == initialized


@pytest.mark.parametrize("weakened", [(), (NO_LOOKS,)])
async def test_answer_that_falls_between_replay_and_live_tail_is_heard(bed: Bed, weakened: Sequence[str]) -> None:
    """The SDK's server stores it, and sends it to nobody until it is asked again; weakened, the gateway never asks."""
    upstream = await bed.upstream(event_store=True, flags=["--hesitate"])
    gateway = await bed.gateway(only=upstream.target, weakened=weakened)
    client = RawClient(gateway.url())
    await client.open_session()
    key = unique_key()
    call = client.tool_call("progress", key=key, count=2, hold=key)
    heard = await frames_until_killed(client, gateway, call, steps=2)
    await gateway.start()
    await wait_until("all was replayed", lambda: upstream.journal.has_reached(HESITATION))
    async with client.get(heard[0].id) as resumed:
        upstream.journal.release(key)
        if weakened:
            with trio.move_on_after(_SILENT_SECONDS) as silence:
                await resumed.rest()
            assert silence.cancelled_caught
        else:
            replayed = await resumed.rest()
            [answer] = answers_in(replayed, call)
            assert answer["result"]["content"][0]["text"] == f"done {key}"
            assert len(replayed) == len(heard), "the answer is all that was added"
    assert upstream.journal.executions()[key] == 1


async def test_call_over_stdio_ends_with_an_error_and_the_session_goes_on(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.stdio)
    client = RawClient(gateway.url())
    await client.open_session()
    key = unique_key()
    call = client.tool_call("progress", key=key, count=3, hold=key)
    heard = await frames_until_killed(client, gateway, call, steps=3)
    await gateway.start()
    async with client.get(heard[0].id) as resumed:
        replayed = await resumed.rest()
    [answer] = answers_in(replayed, call)
    assert answer["error"]["message"]
    assert bed.journal.executions()[key] == 1
    assert await client.call("counter") == "1", "a new process, in the same session"


@HOW
async def test_sdk_client_goes_on_without_opening_the_session_anew(bed: Bed, how: str) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    async with sdk_client(gateway.url()) as peer:
        assert [await peer.call("counter") for _ in range(2)] == ["1", "2"]
        initialized = upstream.journal.seen("initialize")
        await restart(gateway, how)
        assert [await peer.call("counter") for _ in range(2)] == ["3", "4"]
        assert peer.methods_sent.count("initialize") == 1
        assert len(peer.session_ids) == 1
    assert upstream.journal.seen("initialize") == initialized


@pytest.mark.usefixtures("patient_sdk")
async def test_sdk_client_gets_the_answer_of_a_call_that_was_in_progress(bed: Bed) -> None:
    upstream = bed.lasting.resumable
    gateway = await bed.gateway(only=upstream.target)
    key = unique_key()
    answers: list[str] = []

    async with sdk_client(gateway.url()) as peer:

        async def call() -> None:
            answers.append(await peer.call("progress", key=key, count=2, hold=key))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_until("the call is in progress", lambda: len(peer.logged) == 2)
            gateway.kill()
            await gateway.start()
            upstream.journal.release(key)
    assert answers == [f"done {key}"]
    assert upstream.journal.executions()[key] == 1


@HOW
async def test_stdio_session_keeps_its_set_up(bed: Bed, how: str) -> None:
    gateway = await bed.gateway(only=bed.stdio)
    async with sdk_client(gateway.url()) as peer:
        await peer.client.set_logging_level("error")
        await peer.client.subscribe_resource(RESOURCE_URI)
        before = await peer.call("process")
        await restart(gateway, how)
        assert await peer.call("process") != before
        assert await peer.call("log_level") == "error"
        assert await peer.call("subscriptions") == RESOURCE_URI
        assert peer.methods_sent.count("initialize") == 1


async def test_published_server_behind_published_client_outlasts_kill(bed: Bed) -> None:
    gateway = await bed.gateway(only=TIME_TARGET)
    arguments = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    async with sdk_client(gateway.url()) as peer:
        before = await peer.client.call_tool("convert_time", arguments)
        await restart(gateway, "kill")
        assert await peer.client.call_tool("convert_time", arguments) == before
        assert peer.methods_sent.count("initialize") == 1


@pytest.mark.usefixtures("patient_sdk")
async def test_sessions_own_stream_is_resumed_by_the_sdk_client(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.lasting.plain.target)
    changed = types.ToolListChangedNotification
    async with sdk_client(gateway.url()) as peer:
        await peer.call("change_tools")
        await wait_until("the change was heard", lambda: len(peer.heard(changed)) == 1)
        await restart(gateway, "kill")

        async def is_heard_again() -> bool:
            await peer.call("change_tools")
            return len(peer.heard(changed)) > 1

        # More than once: the upstream drops what it has to say while the gateway is only just listening again.
        await wait_until_asked("a change was heard again", is_heard_again)


@HOW
async def test_event_ids_are_good_across_restarts_and_never_used_again(bed: Bed, how: str) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    client = RawClient(gateway.url())
    await client.open_session()
    told: list[list[Frame]] = []
    for _ in range(3):
        async with client.post(client.tool_call("progress", key=unique_key(), count=2)) as stream:
            told.append(await stream.rest())
        await restart(gateway, how)
    for frames in told:
        async with client.get(frames[0].id) as replay:
            assert await replay.rest() == frames[1:]
    ids = [frame.id for frames in told for frame in frames]
    assert len(set(ids)) == len(ids)


@HOW
async def test_ended_session_stays_ended(bed: Bed, how: str) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target)
    client = RawClient(gateway.url())
    await client.open_session()
    await client.delete()
    await restart(gateway, how)
    assert (await client.post_whole(client.request("ping"))).status == 404


async def test_sessions_are_restored_without_waiting_for_their_clients(bed: Bed) -> None:
    upstream = await bed.upstream()
    gateway = await bed.gateway(http=upstream.target, stdio=bed.stdio)
    for server in ("http", "stdio", "stdio"):
        await RawClient(gateway.url(server)).open_session()

    def seen(journal: Journal) -> int:
        return journal.seen("ping") + journal.seen("initialize")

    before = seen(upstream.journal), seen(bed.journal)
    gateway.kill()
    ready = await gateway.start()
    assert ready.uninitialized == 0
    await wait_until("the HTTP upstream was asked", lambda: seen(upstream.journal) >= before[0] + 1)
    await wait_until("both stdio servers were asked", lambda: seen(bed.journal) >= before[1] + 2)


async def test_killed_gateway_leaves_no_stdio_server_behind(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.stdio)
    client = RawClient(gateway.url())
    await client.open_session()
    process = int(await client.call("process"))
    gateway.kill()
    await wait_until("its server noticed", lambda: not is_running(process))


async def test_deleted_session_ends_its_stdio_server_and_no_other(bed: Bed) -> None:
    gateway = await bed.gateway(only=bed.stdio)
    client, other = RawClient(gateway.url()), RawClient(gateway.url())
    for each in (client, other):
        await each.open_session()
    process, other_process = int(await client.call("process")), int(await other.call("process"))
    assert (await client.delete()).status == 200
    await wait_until("its server has ended", lambda: not is_running(process))
    assert is_running(other_process)


def is_running(process: int) -> bool:
    """Whether a process runs. One that has ended and was not waited for (nobody is left to) does not."""
    try:
        with open(f"/proc/{process}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
