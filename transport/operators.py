"""Operators: who may see and change how the gateway works. One place decides it, for every path beside MCP.

With a token, whoever presents it (RFC 6750, 2.1), from wherever. Without one, whoever comes straight from this machine:
the operator who has just started a gateway there is to see its health without further ado. A request that a proxy
passed on comes from this machine, too, and says so in its headers: it is nobody's until there is a token. So is what
a web page asks for: a browser on this machine shows pages of strangers, and where clients' pages are allowed (CORS)
one of them could otherwise read and end sessions.

Clients' credentials never make an operator, and the operators' token opens no session.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from actors import jsonrpc
from transport.exchange import RequestHead
from transport.guard import Rejection
from transport.handler import JSON_HEADERS, error_body

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_OWN_SITE = frozenset(("none", "same-origin"))  # Sec-Fetch-Site of what a person typed in, or our own page asked for
_CHALLENGE = (b"www-authenticate", b'Bearer realm="operators"')


class Operators:
    """Tells operators from everybody else. Holds a digest of their token, never the token."""

    __slots__ = ("_token_digest",)

    def __init__(self, token: str | None = None) -> None:
        """
        Args:
          token: what operators present as `Authorization: Bearer`; None: they are who comes from this machine.
        """
        self._token_digest = None if token is None else _digest(token)

    def __repr__(self) -> str:
        return f"Operators({'with a token' if self._token_digest else 'from this machine'})"

    def admits(self, head: RequestHead) -> bool:
        """Tell whether a request is an operator's."""
        if self._token_digest is None:
            return _is_from_this_machine(head)
        scheme, _, presented = head.headers.get("authorization", "").partition(" ")
        # digests are compared: of equal length, and in a time that tells nothing of the token
        return scheme.lower() == "bearer" and hmac.compare_digest(_digest(presented.strip()), self._token_digest)

    def refusal(self, head: RequestHead) -> Rejection:
        """Make the answer to who is no operator: 401 where a token would help, else 403."""
        if self._token_digest is None:
            reason = "operations are for this machine only: set an operators' token to use them from elsewhere"
            return Rejection(403, error_body(reason))
        body = error_body("operations need the operators' token as Authorization: Bearer", jsonrpc.INVALID_REQUEST)
        return Rejection(401, body, (*JSON_HEADERS, _CHALLENGE))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _is_from_this_machine(head: RequestHead) -> bool:
    headers = head.headers
    if "origin" in headers or headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        return False
    if any(name in headers for name in _FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(head.peer.partition("%")[0])
    except ValueError:
        return head.peer == "local"  # a unix socket: reached through this machine's file system
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
