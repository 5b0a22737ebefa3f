"""The example server of the event store's document does what it says; without the SDK, the extra is named."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.e2e.process import ChildProcess
from tests.e2e.raw_client import RawClient
from tests.outlast.test_documents import Example, run


async def test_example_server_goes_on_after_a_kill(tmp_path: Path) -> None:
    """As its docstring says: call `count`, kill the server in the middle, start it again, come back."""
    port = 0

    async def start() -> ChildProcess:
        nonlocal port
        arguments = ["--port", str(port), "--store", f"sqlite:{tmp_path / 'events.db'}"]
        process = ChildProcess("examples.sdk_server", arguments)
        port = int((await trio.to_thread.run_sync(process.wait_line, r":(\d+)/mcp"))[1])
        return process

    process = await start()
    client = RawClient(f"http://127.0.0.1:{port}/mcp")
    try:
        await client.open_session()
        async with client.post(client.tool_call("count", upto=100)) as stream:
            frames = [await stream.next_frame() for _ in range(4)]
            await trio.to_thread.run_sync(process.kill)
        process = await start()
        first = frames[1]
        assert first is not None
        async with client.get(first.id) as stream:
            *numbers, error = [frame.message or {} for frame in await stream.rest()]
        assert [message["params"]["message"] for message in numbers[:2]] == ["2 of 100", "3 of 100"]
        assert error["error"]["code"] == -32011
        assert await client.call("count", upto=1) == "counted to 1"
    finally:
        await trio.to_thread.run_sync(process.kill)


def test_without_the_sdk_the_extra_is_named(tmp_path: Path) -> None:
    source = """
import sys
sys.modules["mcp"] = sys.modules["mcp.types"] = None  # as if it were not installed
import outlast
try:
    outlast.DurableEventStore
except ImportError as error:
    print(error)
"""
    ran = run(Example("without.md:1", source, None), tmp_path)
    assert ran.stderr == ""
    assert "outlast[mcp]" in ran.stdout
