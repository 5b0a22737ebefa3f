"""An MCP server over WebSocket, built on mcp 1.x: run by `old_sdk.py`, which sees to it that 1.x is what is imported.

    python -m tests.e2e.old_sdk_server --journal DIRECTORY --port 0

It prints one line, `port N`, when it takes connections.
"""

from __future__ import annotations

import argparse
import socket
import warnings
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server.lowlevel import Server
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from tests.e2e.journal import Journal


def make_protocol(journal: Journal) -> Any:
    """Make the server's behaviour for one connection, which has a memory of its own."""
    from mcp import types

    protocol: Any = Server("old-upstream")
    calls = [0]

    @protocol.list_tools()
    async def list_tools() -> list[Any]:
        schema = {"type": "object"}
        return [types.Tool(name=name, inputSchema=schema) for name in ("echo", "counter", "hold")]  # type: ignore[call-arg]

    @protocol.call_tool()
    async def call_tool(name: str, arguments: dict[str, Any]) -> list[Any]:
        if "key" in arguments:
            journal.append({"ran": arguments["key"], "tool": name})
        if name == "counter":
            calls[0] += 1
            text = str(calls[0])
        elif name == "hold":
            while not journal.is_released(arguments["hold"]):  # noqa: ASYNC110 - a file of another process
                await anyio.sleep(0.01)
            text = f"done {arguments['key']}"
        else:
            text = str(arguments["text"])
        return [types.TextContent(type="text", text=text)]

    return protocol


def application(journal: Journal) -> Starlette:
    """Make the ASGI application that serves MCP at /ws."""
    from mcp.server.websocket import websocket_server  # type: ignore[import-not-found]

    async def serve(connection: WebSocket) -> None:
        journal.append({"saw": "connection"})
        protocol = make_protocol(journal)
        async with websocket_server(connection.scope, connection.receive, connection._send) as (reading, writing):
            await protocol.run(reading, writing, protocol.create_initialization_options())

    return Starlette(routes=[WebSocketRoute("/ws", serve)])


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="old_sdk_server")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", arguments.port))
    listener.listen(64)
    print(f"port {listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(application(Journal(arguments.journal)), log_level="error")
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # 1.x says of its WebSocket that it will go
    anyio.run(main)
