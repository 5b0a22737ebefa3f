"""A real MCP server of 2026-07-28, built on the public SDK, with what only that revision has.

    python -m tests.e2e.modern_server --journal DIRECTORY [--port 0] [--json] [--handshake-only] [--stdio]

It has all tools of `upstream_server`, and some more: one that asks its client for input, one that announces a change to
who listens, one that tells what it knows of its client, and one whose parameter is mirrored in a header. A call that is
held and then cancelled goes to the journal. With `--handshake-only` it refuses this revision as servers did before it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.subscriptions import ToolsListChanged
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.e2e.journal import Journal
from tests.e2e.upstream_server import UpstreamServer, http_application, serve_http, serve_stdio
from tests.e2e.upstream_tools import Context

MODULE = "tests.e2e.modern_server"
STATE = "state: ü/" + "x" * 50
_REGION = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
_QUESTION = types.ElicitRequest(
    params=types.ElicitRequestFormParams(
        message="sure?", requested_schema={"type": "object", "properties": {"answer": {"type": "string"}}}
    )
)


class ModernServer(UpstreamServer):
    """The other server's behaviour, and this revision's."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self._bus = InMemorySubscriptionBus()
        self.protocol.add_request_handler(
            "subscriptions/listen", types.SubscriptionsListenRequestParams, ListenHandler(self._bus)
        )

    async def _list_tools(self, context: Context, params: object) -> types.ListToolsResult:
        listed = await super()._list_tools(context, params)
        more = [types.Tool(name=name, input_schema={"type": "object"}) for name in ("ask", "announce", "client")]
        region = types.Tool(name="region", input_schema=_REGION)
        return types.ListToolsResult(tools=[*listed.tools, *more, region], ttl_ms=0, cache_scope="private")

    async def _call_tool(  # type: ignore[override]  # the SDK's handlers may answer so, the other server's never do
        self, context: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        match params.name:
            case "ask":
                return self._ask(params)
            case "announce":
                await self._bus.publish(ToolsListChanged())
                return _text("announced")
            case "client":
                meta: dict[str, Any] = dict(context.params or {}).get("_meta", {})
                return _text(json.dumps({name: meta[name] for name in sorted(meta) if name != "progressToken"}))
            case "region":
                return _text(str((params.arguments or {}).get("region")))
        try:
            return await super()._call_tool(context, params)
        except anyio.get_cancelled_exc_class():
            self._journal.append({"cancelled": (params.arguments or {}).get("key")})
            raise

    def _ask(self, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
        responses = params.input_responses
        if not responses:
            return types.InputRequiredResult(input_requests={"sure": _QUESTION}, request_state=STATE)
        assert params.request_state == STATE
        answer = responses["sure"]
        assert isinstance(answer, types.ElicitResult)
        return _text(f"{answer.action}: {(answer.content or {}).get('answer')}")


def _text(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


def handshake_only(application: ASGIApp) -> ASGIApp:
    """Refuse what is not of the handshake's revisions in the words of SDKs before 2026-07-28."""

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        if headers.get(b"mcp-protocol-version", b"") >= b"2026":
            error = {"code": -32600, "message": "Bad Request: Unsupported protocol version"}
            content = {"jsonrpc": "2.0", "id": "server-error", "error": error}
            await JSONResponse(content, status_code=400)(scope, receive, send)
        else:
            await application(scope, receive, send)

    return refusing


async def main() -> None:
    """Serve as the command line says, until killed (HTTP) or until standard input ends (stdio)."""
    parser = argparse.ArgumentParser(prog="modern_server")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="answer with JSON bodies instead of streams")
    parser.add_argument("--handshake-only", action="store_true")
    parser.add_argument("--stdio", action="store_true")
    arguments = parser.parse_args()
    journal = Journal(arguments.journal)
    server = ModernServer(journal)
    journal.append({"started": True})
    if arguments.stdio:
        await serve_stdio(server)
        return
    application: ASGIApp = http_application(server, json_answers=arguments.json, resumable=False)
    await serve_http(handshake_only(application) if arguments.handshake_only else application, arguments.port)


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    anyio.run(main)
