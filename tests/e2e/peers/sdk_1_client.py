"""The client of version 1 of the Python SDK: asks the test server for all it has, and prints what it was answered.

    python sdk_1_client.py TARGET

TARGET is a URL, or a command as a JSON array. Runs in an environment of its own, where nothing of the project is; so
the SDK's names, which version 2 does not have, are looked up as it runs. What is printed has to be the same whoever is
in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any

_STEP_SECONDS = 20.0


def _of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


class Told:
    """What the server asked and said beside its answers."""

    def __init__(self) -> None:
        self._types = importlib.import_module("mcp.types")
        self.heard: dict[str, list[object]] = {}
        self._changed = asyncio.Event()

    def note(self, what: str, content: object) -> None:
        self.heard.setdefault(what, []).append(content)
        self._changed.set()

    async def until(self, what: str, count: int) -> None:
        while len(self.heard.get(what, [])) < count:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), _STEP_SECONDS)

    async def on_sampling(self, context: object, params: Any) -> Any:
        self.note("sampling", params.model_dump(mode="json"))
        content = self._types.TextContent(type="text", text="GRÜSSE")
        return self._types.CreateMessageResult(role="assistant", model="capitals", content=content)

    async def on_elicitation(self, context: object, params: Any) -> Any:
        self.note("elicitation", params.model_dump(mode="json"))
        return self._types.ElicitResult(action="accept", content={"answer": "yes"})

    async def on_roots(self, context: object) -> Any:
        self.note("roots", None)
        return self._types.ListRootsResult(roots=[self._types.Root(uri="file:///projects/outlast")])

    async def on_log(self, params: Any) -> None:
        self.note("log", params.model_dump(mode="json"))

    async def on_message(self, message: Any) -> None:
        if isinstance(message, self._types.ServerNotification):
            content = message.root.model_dump(mode="json")
            self.note(content["method"], content.get("params"))

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.note("progress", [progress, total, message])


def _say(label: str, content: object) -> None:
    print(json.dumps([label, content]), flush=True)


async def _step(label: str, answer: Awaitable[Any]) -> None:
    try:
        result = await answer
    except _of("mcp.shared.exceptions", "McpError") as refused:
        _say(label, {"error": refused.error.model_dump(mode="json")})
    else:
        _say(label, result.model_dump(mode="json"))


@contextlib.asynccontextmanager
async def _streams(target: str) -> AsyncIterator[tuple[Any, Any]]:
    if target.startswith("["):
        command, *arguments = json.loads(target)
        parameters = _of("mcp.client.stdio", "StdioServerParameters")(command=command, args=arguments)
        async with _of("mcp.client.stdio", "stdio_client")(parameters) as (read, write):
            yield read, write
    else:
        async with _of("mcp.client.streamable_http", "streamable_http_client")(target) as (read, write, _):
            yield read, write


async def _ask_everything(session: Any, told: Told) -> None:
    await _step("tools", session.list_tools())
    await _step("echo", session.call_tool("echo", {"text": "grüße 🌍"}))
    await _step("sum", session.call_tool("add", {"a": 2**60, "b": 1}))
    await _step("error", session.call_tool("fail", {"detail": {"null": None}}))
    await _step("no such tool", session.call_tool("no_such_tool", {}))
    await _step("resources", session.list_resources())
    await _step("read", session.read_resource("memory://note"))
    await _step("level", session.set_logging_level("warning"))
    progress = {"key": "sdk-1", "count": 4, "interval_seconds": 0.1}
    await _step("progress", session.call_tool("progress", progress, progress_callback=told.on_progress))
    await told.until("log", 4)
    await _step("sampling", session.call_tool("sample", {"prompt": "louder"}))
    await _step("elicitation", session.call_tool("elicit", {"question": "sure?"}))
    await _step("roots", session.call_tool("list_roots", {}))
    await _step("subscribe", session.subscribe_resource("memory://note"))
    await _step("update", session.call_tool("update_resource", {"uri": "memory://note"}))
    await told.until("notifications/resources/updated", 1)
    await _step("unsubscribe", session.unsubscribe_resource("memory://note"))
    await _step("list change", session.call_tool("change_tools", {}))
    await told.until("notifications/tools/list_changed", 1)
    await _step("prompts", session.list_prompts())
    await _step("counter", session.call_tool("counter", {}))
    await _step("ping", session.send_ping())


async def main(target: str) -> None:
    """Talk with the server at `target`, and print."""
    told = Told()
    async with _streams(target) as (read, write):
        session = _of("mcp", "ClientSession")(
            read,
            write,
            read_timeout_seconds=timedelta(seconds=_STEP_SECONDS),
            sampling_callback=told.on_sampling,
            elicitation_callback=told.on_elicitation,
            list_roots_callback=told.on_roots,
            logging_callback=told.on_log,
            message_handler=told.on_message,
        )
        async with session:
            await _step("initialize", session.initialize())
            await _ask_everything(session, told)
    _say("heard", dict(sorted(told.heard.items())))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
