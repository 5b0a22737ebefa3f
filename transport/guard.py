"""Guard: who may talk to us at all, judged from a request's head before anything else. Pure.

A gateway on a developer's machine is reached by every web page that its browser shows. Two checks keep those out
(MCP 2025-11-25, transports, Security Warning). The Host header must name us: a page whose own name was re-bound to
127.0.0.1 sends its own (421). And the Origin header, where there is one, must be of a page we trust (403). Programs
send no Origin, and pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from actors import jsonrpc
from transport.exchange import Headers, RequestHead
from transport.handler import JSON_HEADERS

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
ANY = "*"

_METHODS = b"GET, POST, DELETE, OPTIONS"
# What a page may send along. Names that begin with "mcp-" are allowed as well, whatever they are: 2026-07-28 has
# `Mcp-Param-<name>` headers that no list can know.
_REQUEST_HEADERS = (
    *("accept", "authorization", "content-type", "last-event-id"),
    *("mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name"),
)
_EXPOSED = b"Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After"
_PREFLIGHT_AGE = b"600"  # seconds that a browser need not ask again; browsers cap it at two hours or less
_DEFAULT_PORTS: Mapping[str, str] = MappingProxyType({"http": ":80", "https": ":443"})


@attrs.frozen
class Policy:
    """Whom the guard lets in. Made by `make_policy`, which writes the names the way they are compared."""

    hosts: frozenset[str]  # host names, with or without a port; "*" lets every name in
    origins: frozenset[str]  # like "https://app.example", or "http://localhost:*" for any port; "*": every page
    loopback_same_origin: bool = True  # pages that this machine's own gateway serves, under a loopback name
    credentials: bool = False  # pages of listed origins may send cookies and read the answers; never with "*"


@attrs.frozen
class Rejection:
    """A refusal, ready to be sent."""

    status: int
    body: bytes  # a JSON-RPC error
    headers: Headers = JSON_HEADERS


def make_policy(
    listen_host: str = "",
    *,
    hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
    credentials: bool = False,
) -> Policy:
    """Make the policy of a server that listens on `listen_host`.

    Args:
      hosts: allowed besides the loopback names and `listen_host` itself.
      origins: of pages that are trusted.
    """
    listening = _bracket(listen_host.lower())
    own = {listening} if listening and listening not in {"0.0.0.0", "[::]", ANY} else set()
    return Policy(
        hosts=LOOPBACK | own | {_bracket(host.lower().rstrip(".")) for host in hosts},
        origins=frozenset(origin.lower().rstrip("/") for origin in origins),
        credentials=credentials,
    )


def guard(head: RequestHead, policy: Policy) -> Rejection | None:
    """Check Host, then Origin.

    Returns:
      None if the request may go on.
    """
    host = head.headers.get("host", "").lower()
    if not _is_allowed_host(host, policy):
        # Whoever meets this is mostly the operator, behind a new proxy; the setting's name is no secret.
        return _reject(421, "this server does not answer to the name in the Host header; allowed_hosts adds names")
    origin = head.headers.get("origin")
    if origin is not None and not is_allowed_origin(origin, host, policy):
        return _reject(403, "pages of this Origin are not allowed here; allowed_origins adds origins")
    return None


def is_allowed_origin(origin: str, host: str, policy: Policy) -> bool:
    """Tell whether pages of this origin may use a server reached as `host` (both as in their headers)."""
    origin = origin.lower()
    if ANY in policy.origins or origin in policy.origins:
        return True
    scheme, separator, authority = origin.partition("://")
    if not separator:
        return False  # "null", and whatever else is no origin
    name = _strip_port(authority)
    if f"{scheme}://{name}:*" in policy.origins:
        return True
    return (
        policy.loopback_same_origin
        and name in LOOPBACK
        and _with_port(scheme, authority) == _with_port(scheme, host.lower())
    )


def is_preflight(head: RequestHead) -> bool:
    """Tell a browser's question, whether it may send a request, from an ordinary OPTIONS."""
    headers = head.headers
    return head.method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def preflight_headers(head: RequestHead, policy: Policy) -> Headers:
    """Make the headers of the answer (204, no body) to a preflight that `guard` let pass."""
    asked = head.headers.get("access-control-request-headers", "").lower().split(",")
    extra = {name for name in map(str.strip, asked) if name.startswith("mcp-") and _is_token(name)}
    allowed = [*_REQUEST_HEADERS, *sorted(extra - set(_REQUEST_HEADERS))]
    return (
        *_origin_headers(head, policy),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", ", ".join(allowed).encode("ascii")),
        (b"access-control-max-age", _PREFLIGHT_AGE),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    )


def cors_headers(head: RequestHead, policy: Policy) -> Headers:
    """Make what every answer to a page carries besides its own headers; nothing, if no page asked."""
    if "origin" not in head.headers:
        return ()
    return (
        *_origin_headers(head, policy),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    )


def _origin_headers(head: RequestHead, policy: Policy) -> Headers:
    origin = head.headers["origin"]
    listed = is_allowed_origin(
        origin, head.headers.get("host", ""), attrs.evolve(policy, origins=policy.origins - {ANY})
    )
    if not listed:
        return ((b"access-control-allow-origin", b"*"),) if ANY in policy.origins else ()
    allowed = ((b"access-control-allow-origin", origin.encode("latin-1")),)
    return (*allowed, (b"access-control-allow-credentials", b"true")) if policy.credentials else allowed


def _is_allowed_host(host: str, policy: Policy) -> bool:
    if ANY in policy.hosts or host in policy.hosts:
        return True
    return _strip_port(host).rstrip(".") in policy.hosts


def _strip_port(authority: str) -> str:
    """Give the name or bracketed address of "name", "name:port", "[address]:port"."""
    if authority.startswith("["):
        return authority[: authority.find("]") + 1]
    return authority.partition(":")[0]


def _with_port(scheme: str, authority: str) -> str:
    return authority if _strip_port(authority) != authority else authority + _DEFAULT_PORTS.get(scheme, "")


def _bracket(host: str) -> str:
    """Write a bare IPv6 address the way headers do."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _is_token(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def _reject(status: int, reason: str) -> Rejection:
    return Rejection(status, jsonrpc.error(None, jsonrpc.INVALID_REQUEST, reason).raw)
