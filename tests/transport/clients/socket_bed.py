"""Connections without a network in front of live sessions: how tests of WebSocket open, resume and judge them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from actors.ids import ANONYMOUS, Principal
from tests.actors.worlds import World
from tests.transport.fake_socket import FakeSocket
from transport.clients.socket_conversation import WebSocketOptions
from transport.clients.socket_frames import PLAIN, WITH_IDS
from transport.clients.websocket import WebSocketFace

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
WELCOME = {"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2025-11-25"}}


def face_of(world: World, **options: Any) -> WebSocketFace:
    return WebSocketFace(
        world.runtime, "linear", upstream_transport="streamable-http", options=WebSocketOptions(**options)
    )


def request(id: int | str, method: str = "echo", params: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}


def answer(id: int | str, value: object = "done") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "result": value}


def error_codes(messages: list[Any]) -> list[tuple[Any, int]]:
    return [(message["id"], message["error"]["code"]) for message in messages]


@asynccontextmanager
async def served(
    face: WebSocketFace, socket: FakeSocket, principal: Principal = ANONYMOUS
) -> AsyncIterator[FakeSocket]:
    """Serve a connection beside the block, and cut it at its end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(face.serve, socket, principal)
        yield socket
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(face: WebSocketFace, subprotocol: str = PLAIN) -> AsyncIterator[FakeSocket]:
    """Open a session over a connection; what was said for that is forgotten."""
    async with served(face, FakeSocket(subprotocols=[subprotocol])) as socket:
        socket.say(INITIALIZE)
        socket.say(INITIALIZED)
        await socket.told(1 if subprotocol == PLAIN else 2)
        await wait_all_tasks_blocked()
        yield socket


def back(session_id: str, last_event_id: str | None = None, subprotocol: str = WITH_IDS) -> FakeSocket:
    """Make a connection that comes back as a page does, by its query."""
    query = f"session_id={session_id}" + (f"&last_event_id={last_event_id}" if last_event_id else "")
    return FakeSocket(query=query, subprotocols=[subprotocol])


async def code_of(face: WebSocketFace, socket: FakeSocket, principal: Principal = ANONYMOUS) -> int:
    async with served(face, socket, principal):
        return await socket.wait_closed()
