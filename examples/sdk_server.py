"""A server built on the public MCP SDK, whose sessions and streams outlast its process. No gateway.

    pip install 'outlast[mcp]' uvicorn
    python examples/sdk_server.py [--port 8000] [--store sqlite:./data/events.db]

Two lines make the difference: the store, and `scoped` around the SDK's app. Call `count`, kill the server in the
middle (kill -9) and start it again: the session id is as good as before, and a GET with Last-Event-ID gives every
number that was counted and not seen. The call itself was interrupted: its stream ends with an error that says so. It
is not run again.
"""

from __future__ import annotations

import argparse
import asyncio
import socket

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

import outlast

SECONDS_PER_NUMBER = 0.2

server = MCPServer("counter")


@server.tool()
async def count(upto: int, context: Context) -> str:
    """Count aloud."""
    for number in range(1, upto + 1):
        await context.report_progress(number, upto, f"{number} of {upto}")
        await asyncio.sleep(SECONDS_PER_NUMBER)
    return f"counted to {upto}"


async def serve(port: int, store: str) -> None:
    """Serve until told to stop."""
    events = outlast.DurableEventStore(store)  # opened and closed with the app
    app = events.scoped(server.streamable_http_app(event_store=events, retry_interval=500))
    with socket.create_server(("127.0.0.1", port)) as listener:
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        # Streams of listening clients do not end by themselves.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a counter")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--store", default="sqlite:./data/events.db")
    chosen = parser.parse_args()
    asyncio.run(serve(chosen.port, chosen.store))
