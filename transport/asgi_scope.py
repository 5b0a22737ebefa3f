"""What ASGI calls a scope: its types, and the request head that it tells of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from transport.handler import HttpLimits
from transport.head import ParsedHead, head_from_pairs

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

_SCHEMES = {"ws": "http", "wss": "https"}  # a WebSocket's scope has its own names for them


def read_scope(scope: Scope, limits: HttpLimits) -> ParsedHead:
    """Check the head of a request or a WebSocket upgrade, as strictly as on the hot road.

    Raises:
      BadRequest
    """
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    target = path + b"?" + query if query else path
    client = scope.get("client")
    peer = str(client[0]) if client else "local"
    scheme: str = scope.get("scheme", "http")
    method = scope.get("method", "GET")  # an upgrade has none: it is a GET (RFC 6455, 4.1)
    return head_from_pairs(method, target, scope["headers"], limits, peer, _SCHEMES.get(scheme, scheme))
