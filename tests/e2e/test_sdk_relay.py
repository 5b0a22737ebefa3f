"""The public SDK's client in front, a real server behind: everything the protocol offers gets through.

Each claim is also true without a gateway (E2E_ROADS=direct); here it is true through one, over both of
its roads and for every kind of upstream.
"""

from __future__ import annotations

import mcp_types as types
import pytest
import trio
from mcp.shared.exceptions import MCPError

from tests.e2e.bed import SharedBed
from tests.e2e.sdk_client import ROOT_URI, sdk_client, unique_key
from tests.e2e.upstream_server import NAME, RESOURCE_URI
from tests.e2e.waiting import DEADLINE_SECONDS, wait_until

# Log levels, subscriptions, sampling and roots are deprecated as of 2026-07-28; sessions speak what was before.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

EVERY_KIND = pytest.mark.parametrize("server", ["plain", "resumable", "json", "stdio"])
# A server that answers with JSON bodies has no stream for what concerns a call.
STREAMING_KINDS = pytest.mark.parametrize("server", ["plain", "resumable", "stdio"])


@EVERY_KIND
async def test_handshake_tells_what_the_upstream_is(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        assert peer.client.protocol_version == "2025-11-25"
        assert peer.client.server_info is not None
        assert (peer.client.server_info.name, peer.client.server_info.version) == (NAME, "1.0")
        assert peer.client.instructions == "A server for tests."
        capabilities = peer.client.server_capabilities
        assert capabilities.experimental == {"outlast-tests": {"kept": True}}
        assert capabilities.tools is not None
        assert capabilities.tools.list_changed
        assert capabilities.resources is not None
        assert capabilities.resources.subscribe
        assert capabilities.logging is not None
        assert len(peer.session_ids) == 1


@EVERY_KIND
async def test_tools_are_listed_and_called(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        tools = await peer.client.list_tools()
        assert "echo" in {tool.name for tool in tools.tools}
        assert await peer.call("echo", text="grüße 🌍") == "grüße 🌍"
        assert await peer.call("add", a=2**40, b=1) == str(2**40 + 1)
        resource = await peer.client.read_resource(RESOURCE_URI)
        [contents] = resource.contents
        assert isinstance(contents, types.TextResourceContents)
        assert contents.text == "noted"
        await peer.client.send_ping()


@EVERY_KIND
async def test_state_is_kept_within_the_session_and_not_shared(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as one, sdk_client(shared.url(server)) as other:
        assert [await one.call("counter") for _ in range(3)] == ["1", "2", "3"]
        assert await other.call("counter") == "1"
        assert one.session_ids.isdisjoint(other.session_ids)


@STREAMING_KINDS
async def test_progress_and_logs_arrive_in_order_before_the_answer(shared: SharedBed, server: str) -> None:
    key = unique_key()
    steps: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    async with sdk_client(shared.url(server)) as peer:
        result = await peer.client.call_tool(
            "progress", {"key": key, "count": 5, "interval_seconds": 0.01}, progress_callback=on_progress
        )
        assert result.content == [types.TextContent(type="text", text=f"done {key}")]
        await wait_until("all progress was heard", lambda: len(steps) == 5)
        assert steps == [(step, 5.0, f"step {step}") for step in range(1, 6)]
        await wait_until("all logs were heard", lambda: len(peer.logged) == 5)
        assert peer.logged == [f"{key} step {step}" for step in range(1, 6)]


@STREAMING_KINDS
async def test_sampling_reaches_the_client_and_its_answer_the_upstream(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        assert await peer.call("sample", prompt="louder") == "capitals: LOUDER"
        assert peer.prompts == ["louder"]


@STREAMING_KINDS
async def test_elicitation_reaches_the_client_and_its_answer_the_upstream(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        assert await peer.call("elicit", question="sure?") == "accept: yes"
        assert peer.prompts == ["sure?"]


@EVERY_KIND
async def test_roots_are_asked_for_on_the_sessions_own_stream(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        assert await peer.call("list_roots") == ROOT_URI


@EVERY_KIND
async def test_log_level_is_set_in_this_session_only(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as one, sdk_client(shared.url(server)) as other:
        await one.client.set_logging_level("warning")
        assert await one.call("log_level") == "warning"
        assert await other.call("log_level") == "unset"


@EVERY_KIND
async def test_updates_come_to_who_subscribed_until_they_unsubscribe(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        assert await peer.call("update_resource", uri=RESOURCE_URI) == "nobody subscribed"
        await peer.client.subscribe_resource(RESOURCE_URI)
        assert await peer.call("update_resource", uri=RESOURCE_URI) == "updated"
        heard = types.ResourceUpdatedNotification
        await wait_until("the update was heard", lambda: len(peer.heard(heard)) == 1)
        await peer.client.unsubscribe_resource(RESOURCE_URI)
        assert await peer.call("update_resource", uri=RESOURCE_URI) == "nobody subscribed"


@EVERY_KIND
async def test_list_changes_come_on_the_sessions_own_stream(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        await peer.call("change_tools")
        await wait_until("the change was heard", lambda: len(peer.heard(types.ToolListChangedNotification)) == 1)


@EVERY_KIND
async def test_errors_of_the_upstream_arrive_whole(shared: SharedBed, server: str) -> None:
    async with sdk_client(shared.url(server)) as peer:
        with pytest.raises(MCPError) as caught:
            await peer.call("fail", detail={"null": None, "text": "ü"})
        assert caught.value.code == -31234
        assert caught.value.message == "asked to fail"
        assert caught.value.data == {"detail": {"null": None, "text": "ü"}, "big": 2**60}


@EVERY_KIND
async def test_concurrent_calls_get_their_own_answers(shared: SharedBed, server: str) -> None:
    answers: dict[int, str] = {}
    async with sdk_client(shared.url(server)) as peer:

        async def call(number: int) -> None:
            # The later a call is made, the sooner it ends.
            seconds = (10 - number) * 0.03
            answers[number] = await peer.call("sleep", seconds=seconds, key=f"{unique_key()}-{number}")

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(call, number)
        assert {number: answer.rpartition("-")[2] for number, answer in answers.items()} == {
            number: str(number) for number in range(10)
        }


@EVERY_KIND
async def test_a_cancelled_call_is_cancelled_at_the_upstream(shared: SharedBed, server: str) -> None:
    before = shared.journal(server).seen("notifications/cancelled")
    async with sdk_client(shared.url(server)) as peer:
        with trio.move_on_after(DEADLINE_SECONDS) as giving_up:
            async with trio.open_nursery() as nursery:
                key = unique_key()
                nursery.start_soon(lambda: peer.call("hold", key=key, hold=key))
                await wait_until("the call runs", lambda: shared.journal(server).has_run(key))
                nursery.cancel_scope.cancel()
        assert not giving_up.cancelled_caught
        await wait_until(
            "the upstream was told",
            lambda: shared.journal(server).seen("notifications/cancelled") == before + 1,
        )
        assert await peer.call("echo", text="still here") == "still here"


async def test_a_published_server_over_stdio_works_through_the_gateway(shared: SharedBed) -> None:
    async with sdk_client(shared.url("time")) as peer:
        tools = await peer.client.list_tools()
        assert {tool.name for tool in tools.tools} == {"get_current_time", "convert_time"}
        arguments = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        converted = await peer.client.call_tool("convert_time", arguments)
        assert converted.structured_content is not None
        assert converted.structured_content["time_difference"] == "+9.0h"
        with pytest.raises(MCPError, match="Unknown tool"):
            await peer.call("no_such_tool")
