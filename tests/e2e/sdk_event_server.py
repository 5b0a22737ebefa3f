"""A server on the public SDK with our event store; for tests to leave, to come back to, and to kill.

    python -m tests.e2e.sdk_event_server --store URL --library asyncio|trio [--port 0] [--unscoped]

Prints one line, `port N`, when it takes connections. Under asyncio uvicorn serves, under trio hypercorn: the same app.
`--unscoped` is the negative control: all sessions share one scope, as with a store that is keyed by the stream alone.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import trio
import uvicorn
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve as hypercorn_serve
from mcp.server.mcpserver import Context, MCPServer

from outlast.event_store import DurableEventStore

_STEP_SECONDS = 0.05

server = MCPServer("event-server")


@server.tool()
async def count(upto: int, context: Context) -> str:
    """Report progress, step by step."""
    for number in range(1, upto + 1):
        await context.report_progress(number, upto)
        await anyio.sleep(_STEP_SECONDS)
    return f"counted to {upto}"


@server.tool()
async def leave_and_count(upto: int, context: Context) -> str:
    """End the connection first, as polling servers do; the client has to come back for what follows."""
    # Not at once: the SDK may close the stream before it has written the event that the client comes back with.
    await anyio.sleep(_STEP_SECONDS)
    await context.close_sse_stream()
    return await count(upto, context)


@server.tool()
async def announce(times: int, context: Context) -> str:
    """Say something on the session's own stream."""
    for _ in range(times):
        await context.session.send_tool_list_changed()
    return "announced"


def application(store: str, *, unscoped: bool) -> Any:
    """Give the ASGI app."""
    events = DurableEventStore(store)
    if not unscoped:
        return events.scoped(server.streamable_http_app(event_store=events, retry_interval=50))
    inner = server.streamable_http_app(event_store=events.session("everybody"), retry_interval=50)

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] == "lifespan":
            await events.open()
        await inner(scope, receive, send)

    return app


async def serve_asyncio(app: Any, listener: socket.socket) -> None:
    """Serve under uvicorn."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listener])


async def serve_trio(app: Any, listener: socket.socket) -> None:
    """Serve under hypercorn, on trio."""
    config = HypercornConfig()
    config.bind = [f"fd://{listener.fileno()}"]
    config.graceful_timeout = 1.0
    await hypercorn_serve(app, config)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--library", choices=("asyncio", "trio"), required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--unscoped", action="store_true")
    chosen = parser.parse_args()
    app = application(chosen.store, unscoped=chosen.unscoped)
    listener = socket.create_server(("127.0.0.1", chosen.port))
    print(f"port {listener.getsockname()[1]}", flush=True)
    if chosen.library == "trio":
        trio.run(serve_trio, app, listener)
    else:
        anyio.run(serve_asyncio, app, listener)


if __name__ == "__main__":
    main()
