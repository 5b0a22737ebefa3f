"""The SDK's own resumability flow on our event store: over HTTP, under both async libraries, across kill -9.

Method: a server process on the public SDK; the SDK's client where its own way of coming back is meant, the raw client
where event ids and broken connections are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from mcp.client import streamable_http
from mcp.shared.exceptions import MCPError

from tests.e2e.process import ChildProcess
from tests.e2e.raw_client import AnswerStream, Json, RawClient, text_of
from tests.e2e.sdk_client import sdk_client
from tests.e2e.server_sent_events import Frame
from tests.e2e.waiting import DEADLINE_SECONDS

OUTCOME_UNKNOWN = -32011


@attrs.define
class Served:
    """A server that can be started again where it was."""

    folder: Path
    library: str
    unscoped: bool = False
    port: int = 0
    process: ChildProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        arguments = ["--store", f"sqlite:{self.folder / 'events.db'}", "--library", self.library]
        arguments += ["--port", str(self.port), *(["--unscoped"] if self.unscoped else [])]
        self.process = ChildProcess("tests.e2e.sdk_event_server", arguments)
        self.port = int(self.process.wait_line(r"port (\d+)")[1])

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    async def restart_hard(self) -> None:
        """Kill it and start it again, at the same port."""
        await trio.to_thread.run_sync(self.kill)
        await trio.to_thread.run_sync(self.start)


@pytest.fixture(params=["asyncio", "trio"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, request.param)
    served.start()
    yield served
    served.kill()


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server of all tests that leave it as it is: starting one takes a second or more."""
    served = Served(tmp_path_factory.mktemp("shared"), request.param)
    served.start()
    yield served
    served.kill()


async def client_of(served: Served) -> RawClient:
    client = RawClient(served.url)
    await client.open_session()
    return client


async def read_until(stream: AnswerStream, progress: int) -> list[Frame]:
    """Read a call's stream until so much progress was reported."""
    frames: list[Frame] = []
    while not frames or progress_of(frames[-1]) != progress:
        frame = await stream.next_frame()
        assert frame is not None
        frames.append(frame)
    return frames


def progress_of(frame: Frame) -> int | None:
    message = frame.message or {}
    return int(message["params"]["progress"]) if message.get("method") == "notifications/progress" else None


async def resumed(client: RawClient, last_event_id: str) -> list[Json]:
    """Come back to a stream, and read it to its end."""
    async with client.get(last_event_id) as stream:
        assert stream.status == 200
        return [frame.message for frame in await stream.rest() if frame.message is not None]


def told(messages: list[Json]) -> list[int | str]:
    """Give progress as numbers, and the answer as text."""
    return [int(message["params"]["progress"]) if "params" in message else text_of(message) for message in messages]


async def test_resumed_call_gives_the_rest_once_each_and_ends(shared: Served) -> None:
    """Left in the middle, taken up while it still runs: what was missed, then what comes, then the end."""
    client = await client_of(shared)
    async with client.post(client.tool_call("count", upto=12)) as stream:
        frames = await read_until(stream, 3)
    assert told(await resumed(client, frames[1].id)) == [*range(2, 13), "counted to 12"]
    # Again, when it is over: the same, from any place.
    assert told(await resumed(client, frames[3].id)) == [*range(4, 13), "counted to 12"]


async def test_sdk_client_that_is_sent_away_comes_back_for_the_answer(shared: Served) -> None:
    async with sdk_client(shared.url) as peer:
        assert await peer.call("leave_and_count", upto=5) == "counted to 5"


async def test_own_stream_is_resumed_and_goes_on(shared: Served) -> None:
    client = await client_of(shared)
    async with client.get() as stream:
        assert await client.call("announce", times=2) == "announced"
        frames = [await stream.next_frame() for _ in range(2)]
    assert frames[0] is not None
    async with client.get(frames[0].id) as stream:
        second = await stream.next_frame()
        assert second is not None
        assert second.id == (frames[1].id if frames[1] else "")
        await client.call("announce", times=1)
        third = await stream.next_frame()
        assert third is not None
        assert third.id not in (frames[0].id, second.id)


async def test_event_id_of_another_session_is_refused(shared: Served) -> None:
    """Both call as request 2: to the SDK their streams have the same name."""
    hers, his = await client_of(shared), await client_of(shared)
    async with hers.post(hers.tool_call("count", upto=1)) as stream:
        frames = await stream.rest()
    await his.call("count", upto=3)
    async with his.get(frames[0].id) as stream:
        assert stream.status == 400


async def test_control_without_scopes_a_replay_crosses_sessions(tmp_path: Path) -> None:
    served = Served(tmp_path, "asyncio", unscoped=True)
    served.start()
    try:
        hers, his = await client_of(served), await client_of(served)
        async with hers.post(hers.tool_call("count", upto=1)) as stream:
            frames = await stream.rest()
        await his.call("count", upto=3)
        assert "counted to 3" in told(await resumed(hers, frames[0].id)), "his answer, in her replay"
    finally:
        served.kill()


async def test_session_and_its_streams_outlast_a_kill(served: Served) -> None:
    client = await client_of(served)
    async with client.post(client.tool_call("count", upto=2)) as stream:
        whole = await stream.rest()
    interrupted = client.tool_call("count", upto=1000)
    async with client.post(interrupted) as stream:
        begun = await read_until(stream, 4)
        await served.restart_hard()

    assert told(await resumed(client, whole[0].id)) == [1, 2, "counted to 2"], "what had ended is replayed"
    *progress, error = await resumed(client, begun[2].id)
    numbers = told(progress)
    assert numbers == list(range(3, 3 + len(numbers))), "what was kept of the interrupted call, each once, in order"
    assert len(numbers) >= 2, "what was seen had been kept"
    assert (error["id"], error["error"]["code"]) == (interrupted["id"], OUTCOME_UNKNOWN)
    assert await client.call("count", upto=1) == "counted to 1", "and the session goes on under its id"


async def test_sdk_client_goes_on_after_a_kill(served: Served) -> None:
    async with sdk_client(served.url) as peer:
        assert await peer.call("count", upto=1) == "counted to 1"
        await served.restart_hard()
        assert await peer.call("count", upto=2) == "counted to 2"
        assert len(peer.session_ids) == 1


async def test_sdk_client_that_waits_through_a_kill_is_told_what_happened(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its call is interrupted; the client comes back by itself with its last event id, and hears the error.

    The SDK's client gives up after two tries; with the short retry hint of these tests a restart takes longer.
    """
    monkeypatch.setattr(streamable_http, "MAX_RECONNECTION_ATTEMPTS", 1000)
    async with sdk_client(served.url) as peer:
        heard = trio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            heard.set()

        async def wait_for_answer() -> None:
            with pytest.raises(MCPError, match="interrupted") as told:
                await peer.client.call_tool("count", {"upto": 1000}, progress_callback=on_progress)
            assert told.value.error.code == OUTCOME_UNKNOWN

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_answer)
            with trio.fail_after(DEADLINE_SECONDS):
                await heard.wait()
            await served.restart_hard()


async def test_ended_session_stays_ended(served: Served) -> None:
    client = await client_of(served)
    assert (await client.delete()).status == 200
    assert (await client.post_whole(client.request("tools/list"))).status == 404
    await served.restart_hard()
    assert (await client.post_whole(client.request("tools/list"))).status == 404


async def test_session_that_was_never_opened_is_404(shared: Served) -> None:
    stranger = RawClient(shared.url, session_id="made-up")
    assert (await stranger.post_whole(stranger.request("tools/list"))).status == 404


async def test_requests_that_come_back_together_share_one_new_opening(served: Served) -> None:
    """Several requests of one session come at once after a restart: the SDK's session is opened once for all."""
    client = await client_of(served)
    await served.restart_hard()
    answers: list[str] = []

    async def call(number: int) -> None:
        answers.append(await client.call("count", upto=number))

    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            nursery.start_soon(call, number)
    assert sorted(answers) == [f"counted to {number}" for number in range(1, 6)]
