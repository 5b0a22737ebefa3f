"""What the tests of the event store share: both async libraries, messages of the SDK, a client that notes a replay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
from mcp.server.streamable_http import EventMessage, EventStore

LIBRARIES = ("asyncio", "trio")
DEADLINE_SECONDS = 20.0  # only reached by a red test: these tests wait for threads, which no test clock moves


def run(library: str, main: Callable[[], Awaitable[None]]) -> None:
    """Run a test under one of the libraries."""

    async def bounded() -> None:
        with anyio.fail_after(DEADLINE_SECONDS):
            await main()

    anyio.run(bounded, backend=library)


def progress(number: int) -> types.JSONRPCMessage:
    """A notification, told from others by its number."""
    params: dict[str, Any] = {"progressToken": "t", "progress": number}
    return types.JSONRPCNotification(jsonrpc="2.0", method="notifications/progress", params=params)


def answer(request_id: int | str, **result: object) -> types.JSONRPCMessage:
    """The answer to a request."""
    return types.JSONRPCResponse(jsonrpc="2.0", id=request_id, result=result)


def said(message: types.JSONRPCMessage) -> str:
    """A message as the SDK writes it."""
    return message.model_dump_json(by_alias=True, exclude_unset=True)


async def replayed(events: EventStore, last_event_id: str, *, expected: int | None = None) -> list[tuple[str, str]]:
    """Replay, and give (event id, message) as they came.

    Args:
      expected: stop after so many, where the stream is not at its end; None: until the store ends it.
    """
    seen: list[tuple[str, str]] = []
    with anyio.CancelScope() as enough:

        async def send(event: EventMessage) -> None:
            assert event.event_id is not None
            seen.append((event.event_id, said(event.message)))
            if len(seen) == expected:
                enough.cancel()

        assert await events.replay_events_after(last_event_id, send) is None
    return seen
