"""A client over WebSocket, mcp 1.x's own: run by `old_sdk.py`, which sees to it that 1.x is what is imported.

    python -m tests.e2e.old_sdk_client ws://HOST:PORT/ws

It opens a session, does what a client does, and prints what it saw as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import anyio


async def main(url: str) -> None:
    """Talk to the server at this address."""
    from mcp import ClientSession
    from mcp.client.websocket import websocket_client  # type: ignore[import-not-found]

    async with websocket_client(url) as (reading, writing), ClientSession(reading, writing) as session:
        opened: Any = await session.initialize()
        tools = await session.list_tools()
        answers = []
        for number in range(3):
            result: Any = await session.call_tool("echo", {"text": f"hello {number}"})
            answers.append(result.content[0].text)
        named = sorted(tool.name for tool in tools.tools)
        print(json.dumps({"version": str(opened.protocolVersion), "tools": named, "answers": answers}), flush=True)
        await anyio.sleep_forever()  # until killed: how a client goes away is not what is looked at


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    anyio.run(main, sys.argv[1])
