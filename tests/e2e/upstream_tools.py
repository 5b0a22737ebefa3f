"""The tools of the upstream test server: each exists to make one behaviour of a gateway visible.

The server writes the `key` that a tool is called with to the journal before the tool runs: a key that is
there twice is a call that was run twice.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import attrs
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from tests.e2e.journal import Journal

Arguments = Mapping[str, Any]
Context = ServerRequestContext[Any, Any]

_HOLD_POLL_SECONDS = 0.01


@attrs.define
class Memory:
    """What the server remembers of one session: gone when the server's session is."""

    count: int = 0
    log_level: str = "unset"
    subscriptions: set[str] = attrs.field(factory=set)


@attrs.frozen
class Call:
    """One tool call: what a tool gets to see."""

    context: Context
    memory: Memory
    journal: Journal
    arguments: Arguments


Tool = Callable[[Call], Awaitable[str]]


async def echo(call: Call) -> str:
    return str(call.arguments["text"])


async def add(call: Call) -> str:
    return str(call.arguments["a"] + call.arguments["b"])


async def counter(call: Call) -> str:
    """Counts within the session: it going on proves that the upstream's session survived."""
    call.memory.count += 1
    return str(call.memory.count)


async def progress(call: Call) -> str:
    """Streams progress and log messages about the call, then waits for its release if it is held."""
    count = int(call.arguments["count"])
    for step in range(1, count + 1):
        await call.context.session.report_progress(step, count, f"step {step}")
        await _log(call, f"{call.arguments['key']} step {step}")
        await anyio.sleep(float(call.arguments.get("interval_seconds", 0)))
    await _held(call)
    return f"done {call.arguments['key']}"


async def hold(call: Call) -> str:
    """Says nothing until the test releases it."""
    await _held(call)
    return f"done {call.arguments['key']}"


async def sleep(call: Call) -> str:
    await anyio.sleep(float(call.arguments["seconds"]))
    return f"done {call.arguments['key']}"


async def flood(call: Call) -> str:
    """Says a lot about the call at once, and notes when it has said it all."""
    for number in range(int(call.arguments["count"])):
        await _log(call, f"{number} " + "x" * int(call.arguments["characters"]))
    call.journal.append({"said_all": call.arguments["key"]})
    await _held(call)
    return f"done {call.arguments['key']}"


async def sample(call: Call) -> str:
    prompt = types.TextContent(type="text", text=str(call.arguments["prompt"]))
    result = await call.context.session.create_message(
        [types.SamplingMessage(role="user", content=prompt)],
        max_tokens=16,
        related_request_id=call.context.request_id,
    )
    assert isinstance(result.content, types.TextContent)
    await _held(call)
    return f"{result.model}: {result.content.text}"


async def elicit(call: Call) -> str:
    result = await call.context.session.elicit_form(
        str(call.arguments["question"]),
        {"type": "object", "properties": {"answer": {"type": "string"}}},
        related_request_id=call.context.request_id,
    )
    await _held(call)
    return f"{result.action}: {(result.content or {}).get('answer')}"


async def list_roots(call: Call) -> str:
    """Asks on the session's own stream, not on the call's: the client needs its GET stream for this."""
    result = await call.context.session.list_roots()
    await _held(call)
    return ", ".join(str(root.uri) for root in result.roots)


async def log_level(call: Call) -> str:
    return call.memory.log_level


async def subscriptions(call: Call) -> str:
    return ", ".join(sorted(call.memory.subscriptions))


async def change_tools(call: Call) -> str:
    await call.context.session.send_tool_list_changed()
    return "changed"


async def update_resource(call: Call) -> str:
    uri = str(call.arguments["uri"])
    if uri not in call.memory.subscriptions:
        return "nobody subscribed"
    await call.context.session.send_resource_updated(uri)
    return "updated"


async def fail(call: Call) -> str:
    raise MCPError(-31234, "asked to fail", {"detail": call.arguments.get("detail"), "big": 2**60})


async def crash(call: Call) -> str:
    os._exit(7)


async def process(call: Call) -> str:
    return str(os.getpid())


async def surroundings(call: Call) -> str:
    """What the process was given: its environment and its arguments."""
    return json.dumps({"environment": dict(os.environ), "arguments": sys.argv})


async def _held(call: Call) -> None:
    name = call.arguments.get("hold")
    if name is not None:
        await wait_released(call.journal, str(name))


async def wait_released(journal: Journal, name: str) -> None:
    """Wait until the test releases what is held under `name`."""
    while not journal.is_released(name):  # noqa: ASYNC110
        await anyio.sleep(_HOLD_POLL_SECONDS)  # the switch is a file of another process: no event can tell


async def _log(call: Call, text: str) -> None:
    note = types.LoggingMessageNotification(
        params=types.LoggingMessageNotificationParams(level="info", data=text, logger="upstream")
    )
    await call.context.session.send_notification(note, related_request_id=call.context.request_id)


TOOLS: dict[str, Tool] = {
    tool.__name__: tool
    for tool in (
        *(echo, add, counter, progress, flood, hold, sleep, sample, elicit, list_roots, log_level),
        *(subscriptions, change_tools, update_resource, fail, crash, process, surroundings),
    )
}
