"""A real MCP server, built on the public SDK, to stand behind the gateway: over HTTP or stdio.

    python -m tests.e2e.upstream_server --journal DIRECTORY [--port 0] [--json] [--event-store [--hesitate]]
        [--sse] [--stdio]

Over HTTP it prints one line, `port N`, when it takes connections. Every method it sees and every tool it
runs goes to the journal. What it remembers of a session (counter, log level, subscriptions) is in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.e2e.journal import Journal
from tests.e2e.upstream_tools import TOOLS, Call, Context, Memory, wait_released

NAME = "upstream-under-test"
RESOURCE_URI = "memory://note"
VENDOR_METHOD = "vendor/reflect"  # no MCP method: a gateway has to relay what it does not know
HESITATION = "the live tail"  # under which name the journal has it
HOLD = "outlast-tests/hold"  # in a request's _meta: under which name it is held before it is carried out

_RETRY_MILLISECONDS = 100  # a test should not wait a second for a resumption


class _AnnouncingServer(Server[Any]):
    """Announces list changes: the HTTP session manager asks for the options itself and cannot be told."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        announced = NotificationOptions(tools_changed=True, resources_changed=True)
        return super().create_initialization_options(announced, {"outlast-tests": {"kept": True}}, extensions)


class UpstreamServer:
    """The server's behaviour, whatever carries it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._memories: dict[str, Memory] = {}
        with warnings.catch_warnings():
            # Log levels are deprecated in the newest revision; the sessions we test speak the older ones.
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            self.protocol: Server[Any] = _AnnouncingServer(
                NAME,
                version="1.0",
                instructions="A server for tests.",
                on_list_tools=self._list_tools,
                on_call_tool=self._call_tool,
                on_list_resources=self._list_resources,
                on_read_resource=self._read_resource,
                on_subscribe_resource=self._subscribe,
                on_unsubscribe_resource=self._unsubscribe,
                on_set_logging_level=self._set_level,
            )
        self.protocol.add_request_handler(VENDOR_METHOD, types.RequestParams, self._reflect)
        self.protocol.middleware.append(self._note)

    def _memory(self, context: Context) -> Memory:
        """Over stdio there is one session, and no request to read its id from."""
        request = context.request
        in_url = "" if request is None else request.query_params.get("session_id", "")  # HTTP+SSE
        session_id = in_url if request is None else request.headers.get("mcp-session-id", in_url)
        return self._memories.setdefault(session_id, Memory())

    async def _note(self, ctx: Context, call_next: CallNext) -> HandlerResult:  # "ctx" is the SDK's protocol
        self._journal.append({"saw": ctx.method})
        held = ((ctx.params or {}).get("_meta") or {}).get(HOLD)
        if held is not None:
            self._journal.append({"reached": held})
            await wait_released(self._journal, held)
        return await call_next(ctx)

    async def _list_tools(self, context: Context, _: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name=name, input_schema={"type": "object"}) for name in TOOLS])

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        arguments = params.arguments or {}
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"no tool {params.name}")
        if "key" in arguments:
            self._journal.append({"ran": arguments["key"], "tool": params.name})
        text = await tool(Call(context, self._memory(context), self._journal, arguments))
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

    async def _list_resources(self, context: Context, _: object) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[types.Resource(uri=RESOURCE_URI, name="note")])

    async def _read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        contents = types.TextResourceContents(uri=params.uri, text="noted", mime_type="text/plain")
        return types.ReadResourceResult(contents=[contents])

    async def _subscribe(self, context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self._memory(context).subscriptions.add(str(params.uri))
        return types.EmptyResult()

    async def _unsubscribe(self, context: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self._memory(context).subscriptions.discard(str(params.uri))
        return types.EmptyResult()

    async def _set_level(self, context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        self._memory(context).log_level = params.level
        return types.EmptyResult()

    async def _reflect(self, context: Context, _: types.RequestParams) -> dict[str, Any]:
        return {"reflected": dict(context.params or {})}


class MemoryEventStore(EventStore):
    """The SDK's resumability for one session, in memory. Event ids are positions in one list."""

    def __init__(self) -> None:
        self._events: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        if not last_event_id.isdigit() or not 0 < int(last_event_id) <= len(self._events):
            return None
        stream_id, _ = self._events[int(last_event_id) - 1]
        for position, (stream, message) in enumerate(self._events, start=1):
            if position > int(last_event_id) and stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(position)))
        return stream_id


class HesitatingEventStore(MemoryEventStore):
    """Says of its first replay only when something more was said that all has been replayed.

    A slow database does that by chance. The SDK goes on live when the replay has returned: what is said before is
    stored, and sent to nobody.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self._said_more = anyio.Event()
        self._has_hesitated = False

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._said_more.set()
        return await super().store_event(stream_id, message)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        stream_id = await super().replay_events_after(last_event_id, send_callback)
        if not self._has_hesitated:
            self._has_hesitated, self._said_more = True, anyio.Event()
            self._journal.append({"reached": HESITATION})
            await self._said_more.wait()
        return stream_id


class _ResumableSessions(StreamableHTTPSessionManager):
    """Gives each session an event store of its own.

    The SDK would share one among all, though its stream ids are only unique within a session: two sessions
    would replay each other's events.
    """

    make_event_store: Callable[[], EventStore] = MemoryEventStore

    @property
    def event_store(self) -> EventStore | None:
        return self.make_event_store()

    @event_store.setter
    def event_store(self, _: EventStore | None) -> None:
        """The base class assigns the shared one."""


def http_application(
    server: UpstreamServer,
    *,
    json_answers: bool,
    resumable: bool,
    make_event_store: Callable[[], EventStore] = MemoryEventStore,
) -> Starlette:
    """Make the ASGI application that serves MCP at /mcp."""
    kind = _ResumableSessions if resumable else StreamableHTTPSessionManager
    sessions = kind(
        server.protocol,
        json_response=json_answers,
        retry_interval=_RETRY_MILLISECONDS if resumable else None,
    )
    if isinstance(sessions, _ResumableSessions):
        sessions.make_event_store = make_event_store

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with sessions.run():
            yield

    return Starlette(routes=[Route("/mcp", endpoint=StreamableHTTPASGIApp(sessions))], lifespan=lifespan)


class _SsePath:
    """The GET of HTTP+SSE: a class, since routes take anything else than an ASGI app for a function of a request."""

    def __init__(self, server: UpstreamServer, transport: SseServerTransport) -> None:
        self._protocol = server.protocol
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._transport.connect_sse(scope, receive, send) as (reading, writing):
            await self._protocol.run(reading, writing, self._protocol.create_initialization_options())


def sse_application(server: UpstreamServer) -> Starlette:
    """Make the ASGI application that serves MCP over HTTP+SSE at /sse and /messages/, and nothing else."""
    transport = SseServerTransport("/messages/")
    paths = [
        Route("/sse", endpoint=_SsePath(server, transport), methods=["GET"]),
        Mount("/messages/", app=transport.handle_post_message),
    ]
    return Starlette(routes=paths)


async def serve_http(application: ASGIApp, port: int) -> None:
    """Serve until killed, and print the port once it takes connections."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)  # connections queue from here on, so the line below is true
    print(f"port {listener.getsockname()[1]}", flush=True)
    await uvicorn.Server(uvicorn.Config(application, log_level="error")).serve(sockets=[listener])


async def serve_stdio(server: UpstreamServer) -> None:
    """Serve until standard input ends."""
    async with stdio_server() as (reading, writing):
        await server.protocol.run(reading, writing, server.protocol.create_initialization_options())


async def main() -> None:
    """Serve as the command line says, until killed (HTTP) or until standard input ends (stdio)."""
    parser = argparse.ArgumentParser(prog="upstream_server")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="answer with JSON bodies instead of streams")
    parser.add_argument("--event-store", action="store_true", help="let streams be resumed")
    parser.add_argument("--hesitate", action="store_true", help="go on live late after the first replay of a session")
    parser.add_argument("--sse", action="store_true", help="speak HTTP+SSE of 2024-11-05")
    parser.add_argument("--stdio", action="store_true")
    arguments = parser.parse_args()
    journal = Journal(arguments.journal)
    server = UpstreamServer(journal)
    journal.append({"started": True})
    if arguments.stdio:
        await serve_stdio(server)
        return
    if arguments.sse:
        application = sse_application(server)
    else:
        make = partial(HesitatingEventStore, journal) if arguments.hesitate else MemoryEventStore
        application = http_application(
            server, json_answers=arguments.json, resumable=arguments.event_store, make_event_store=make
        )
    await serve_http(application, arguments.port)


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # tools/sample and roots, as above
    anyio.run(main)
