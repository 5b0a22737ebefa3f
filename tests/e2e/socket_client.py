"""A bare WebSocket client, on trio-websocket: it does what it is told and tells what it saw.

Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

import attrs
import trio
import trio_websocket

from tests.e2e.gateway import Gateway
from tests.e2e.raw_client import LATEST, open_transport
from tests.e2e.waiting import DEADLINE_SECONDS

Json = dict[str, Any]

PLAIN = "mcp"
WITH_IDS = "mcp.outlast.v1"


@attrs.define
class SocketClient:
    """One connection."""

    connection: trio_websocket.WebSocketConnection
    with_ids: bool
    frames: list[Json] = attrs.field(factory=list)  # all that came
    _last_id: int = 0

    @property
    def session_id(self) -> str:
        """As told with the upgrade."""
        return dict(self.connection.handshake_headers)[b"mcp-session-id"].decode()

    async def say(self, message: Json) -> None:
        """Send a message."""
        with trio.fail_after(DEADLINE_SECONDS):
            await self.connection.send_message(json.dumps(message))

    async def next(self) -> Json:
        """Wait for the next frame.

        Raises:
          trio_websocket.ConnectionClosed
        """
        with trio.fail_after(DEADLINE_SECONDS):
            self.frames.append(json.loads(await self.connection.get_message()))
        return self.frames[-1]

    async def next_message(self) -> Json:
        """Wait for the next JSON-RPC message, whatever it is wrapped in."""
        while True:
            frame = await self.next()
            if not self.with_ids:
                return frame
            if "message" in frame:
                message: Json = frame["message"]
                return message

    async def answer_to(self, request: Json) -> Json:
        """Wait for the answer to a request."""
        while True:
            message = await self.next_message()
            if message.get("id") == request["id"] and "method" not in message:
                return message

    async def open_session(self) -> None:
        """Do the handshake."""
        info = {"name": "socket-client", "version": "1.0"}
        params = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": info}
        request = self.request("initialize", params)
        await self.say(request)
        assert "result" in await self.answer_to(request)
        await self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def request(self, method: str, params: Json) -> Json:
        """Make a request with a new id."""
        self._last_id += 1
        return {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}

    def tool_call(self, tool: str, **arguments: object) -> Json:
        """Make a tools/call request that asks for progress under its own id."""
        request = self.request("tools/call", {"name": tool, "arguments": arguments})
        request["params"]["_meta"] = {"progressToken": request["id"]}
        return request

    async def call(self, tool: str, **arguments: object) -> str:
        """Call a tool and give its text."""
        request = self.tool_call(tool, **arguments)
        await self.say(request)
        text: str = (await self.answer_to(request))["result"]["content"][0]["text"]
        return text

    async def end_code(self) -> int:
        """Wait for the end; give its code."""
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            while True:
                await self.next()
        assert self.connection.closed is not None
        return int(self.connection.closed.code)


@contextlib.asynccontextmanager
async def connect(
    gateway: Gateway,
    *,
    query: str = "",
    subprotocols: Sequence[str] = (WITH_IDS,),
    headers: Sequence[tuple[str, str]] = (),
    names: str = "",
    path: str = "/ws",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[SocketClient]:
    """Connect to one of the gateway's servers, and cut the connection at the end of the block.

    Args:
      names: what the Host header says; "": the gateway's address.
      path: of the server's endpoint; that of the only server unless given.
      tls: whom to trust; None: in clear.

    Raises:
      trio_websocket.ConnectionRejected
    """
    host, _, port = gateway.address.partition(":")
    target = path + (f"?{query}" if query else "")
    extra = [(name.encode(), value.encode()) for name, value in headers]
    rejected: trio_websocket.ConnectionRejected | None = None
    stream = await open_transport(host, int(port), tls)
    try:
        async with stream, trio.open_nursery() as nursery:
            with trio.fail_after(DEADLINE_SECONDS):
                connection = await trio_websocket.wrap_client_stream(
                    nursery,
                    stream,
                    names or gateway.address,
                    target,
                    subprotocols=list(subprotocols),
                    extra_headers=extra,
                )
            yield SocketClient(connection, connection.subprotocol == WITH_IDS)
            nursery.cancel_scope.cancel()
    except* trio_websocket.ConnectionRejected as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, trio_websocket.ConnectionRejected)
        rejected = error
    if rejected is not None:
        raise rejected
