"""The public SDK's client, and what can be seen of it from outside: what it was told, what it sent.

Handshake mode only: that is the era that has sessions.
"""

from __future__ import annotations

import contextlib
import gc
import json
import ssl
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.client.session import IncomingMessage
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import FileUrl

from tests.e2e.process import ROOT
from tests.e2e.waiting import DEADLINE_SECONDS

ROOT_URI = "file:///projects/outlast"


@attrs.define
class SdkPeer:
    """A connected SDK client with a record of its session."""

    client: Client
    session_ids: set[str]  # every session id that any answer named
    methods_sent: list[str]  # JSON-RPC methods posted, in order
    notifications: list[types.ServerNotification]
    logged: list[str]
    prompts: list[str]  # what it was asked by the server: sampling and elicitation

    async def call(self, tool: str, **arguments: object) -> str:
        """Call a tool and give its text."""
        result = await self.client.call_tool(tool, dict(arguments))
        [content] = result.content
        assert isinstance(content, types.TextContent)
        return content.text

    def heard(self, kind: type[types.ServerNotification]) -> list[types.ServerNotification]:
        """The notifications of one kind so far."""
        return [note for note in self.notifications if isinstance(note, kind)]


def unique_key() -> str:
    """A name for one tool call that no other call has."""
    return uuid.uuid4().hex


@contextlib.asynccontextmanager
async def sdk_client(
    url: str, *, sse: bool = False, auth: httpx2.Auth | None = None, verify: ssl.SSLContext | bool = False
) -> AsyncIterator[SdkPeer]:
    """Connect the SDK's client to an endpoint; its session is deleted at the end of the block.

    Args:
      sse: speak HTTP+SSE, whose clients cannot delete sessions.
      auth: puts credentials on its requests, and may get them first.
      verify: whom to trust, where the endpoint is behind TLS; not with `sse`.
    """
    session_ids: set[str] = set()
    methods: list[str] = []

    async def on_request(request: httpx2.Request) -> None:
        is_json = request.headers.get("content-type") == "application/json"  # and not a form that asks for a token
        if request.method == "POST" and is_json:
            methods.append(json.loads(request.content).get("method", "(answer)"))

    async def on_response(response: httpx2.Response) -> None:
        if "mcp-session-id" in response.headers:
            session_ids.add(response.headers["mcp-session-id"])

    hooks: dict[str, list[Callable[..., Any]]] = {"request": [on_request], "response": [on_response]}
    async with httpx2.AsyncClient(timeout=DEADLINE_SECONDS, event_hooks=hooks, verify=verify, auth=auth) as http:
        transport: Any = streamable_http_client(url, http_client=http)
        if sse:
            transport = sse_client(url, timeout=DEADLINE_SECONDS, auth=auth, on_session_created=session_ids.add)
        async with connected(transport, session_ids, methods) as peer:
            yield peer
    # The SDK's client drops its response readers half-read. Collected here, they warn in the test that
    # made them (conftest.py lets exactly that warning pass), not in one that comes later.
    gc.collect()


@contextlib.asynccontextmanager
async def sdk_stdio_client(module: str, *arguments: str) -> AsyncIterator[SdkPeer]:
    """Have the SDK's client start a module as its server, over stdio; it is ended at the end of the block."""
    command = StdioServerParameters(command=sys.executable, args=["-m", module, *arguments], cwd=ROOT)
    async with connected(stdio_client(command), set(), []) as peer:
        yield peer


@contextlib.asynccontextmanager
async def connected(transport: Any, session_ids: set[str], methods: list[str]) -> AsyncIterator[SdkPeer]:
    notifications: list[types.ServerNotification] = []
    logged: list[str] = []
    prompts: list[str] = []

    async def on_message(message: IncomingMessage) -> None:
        if not isinstance(message, Exception):
            notifications.append(message)

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(str(params.data))

    async def on_sampling(
        context: ClientRequestContext, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult:
        [message] = params.messages
        assert isinstance(message.content, types.TextContent)
        prompts.append(message.content.text)
        text = types.TextContent(type="text", text=message.content.text.upper())
        return types.CreateMessageResult(role="assistant", content=text, model="capitals")

    async def on_elicitation(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        prompts.append(params.message)
        return types.ElicitResult(action="accept", content={"answer": "yes"})

    async def on_roots(context: ClientRequestContext) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri=FileUrl(ROOT_URI))])

    client = Client(
        transport,
        mode="legacy",
        read_timeout_seconds=DEADLINE_SECONDS,
        message_handler=on_message,
        logging_callback=on_log,
        sampling_callback=on_sampling,
        elicitation_callback=on_elicitation,
        list_roots_callback=on_roots,
    )
    async with client:
        yield SdkPeer(client, session_ids, methods, notifications, logged, prompts)
