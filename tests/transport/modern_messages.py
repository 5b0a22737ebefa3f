"""Requests of 2026-07-28 as clients send them, for tests that change one thing about them."""

from __future__ import annotations

import json
from typing import Any

from tests.transport.fake_exchange import ACCEPT, FakeExchange
from transport import modern

VERSION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
CAPABILITIES = {"elicitation": {"form": {}}, "vendor/x": 12345678901234567890}
META: dict[str, Any] = {f"{PREFIX}protocolVersion": VERSION, f"{PREFIX}clientCapabilities": CAPABILITIES}


def request(method: str = "tools/list", id: int | str = 1, **params: Any) -> dict[str, Any]:
    """Make a request; `_meta` is added to unless given."""
    meta = {**META, **params.pop("meta", {})}
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": meta}}


def call(name: str = "echo", id: int | str = 1, **arguments: Any) -> dict[str, Any]:
    return request("tools/call", id, name=name, arguments=arguments)


def headers_of(message: dict[str, Any], **changes: str | None) -> dict[str, str]:
    """Make the headers that mirror a message; header names with underscores for hyphens, None leaves one out."""
    params = message.get("params")
    name = params.get("name", params.get("uri")) if isinstance(params, dict) else None
    headers: dict[str, str | None] = {
        "content-type": "application/json",
        "accept": ACCEPT,
        "mcp-protocol-version": VERSION,
        "mcp-method": message.get("method"),
        "mcp-name": name,
    }
    headers |= {header.replace("_", "-"): value for header, value in changes.items()}
    return {header: value for header, value in headers.items() if value is not None}


def post(
    message: dict[str, Any], *, path: str = "/mcp", raw: bytes | None = None, **changes: str | None
) -> FakeExchange:
    """Make the POST of a message, mirrored in its headers."""
    body = json.dumps(message).encode() if raw is None else raw
    return FakeExchange("POST", path, body, headers_of(message, **changes))


def parsed(message: dict[str, Any]) -> modern.ModernRequest:
    """Give a message as the gateway has read it."""
    route = modern.classify(headers_of(message), json.dumps(message).encode())
    assert isinstance(route, modern.ModernRequest), route
    return route
