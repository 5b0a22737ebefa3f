"""The protected resource: what clients are told of how to get in (RFC 9728), and answers to those who are not. Pure.

A client without a token gets 401 and the URL of the metadata, reads there which authorization server issues tokens for
this resource, gets one, and comes back. So the answers must be exact, and the metadata open to everybody.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec

from actors import jsonrpc
from transport.exchange import RequestHead
from transport.guard import Rejection
from transport.handler import JSON_HEADERS, error_body

WELL_KNOWN = "/.well-known/oauth-protected-resource"
RETRY_AFTER_SECONDS = 5


@attrs.frozen
class ProtectedResource:
    """The gateway, as authorization servers and clients know it."""

    url: str = ""  # canonical, without a slash at the end, such as https://mcp.example.com; "": as the request says
    authorization_servers: tuple[str, ...] = ()  # issuers; none: tokens are handed out by other means
    scopes_required: frozenset[str] = frozenset()
    scopes_supported: tuple[str, ...] = ()

    def is_metadata(self, path: str) -> bool:
        """Whether this path is one of the metadata's."""
        return bool(self.authorization_servers) and (path == WELL_KNOWN or path.startswith(WELL_KNOWN + "/"))

    def metadata(self, head: RequestHead, mcp_paths: Sequence[str]) -> bytes | None:
        """Make the metadata document for a path that `is_metadata`; None: there is no such resource.

        Args:
          mcp_paths: where MCP is served; the document of `WELL_KNOWN + path` is about that endpoint (RFC 9728, 3.1).
        """
        path = head.path.removeprefix(WELL_KNOWN)
        if path and path not in mcp_paths:
            return None
        return msgspec.json.encode(
            {
                "resource": self._base(head) + path,
                "authorization_servers": list(self.authorization_servers),
                "scopes_supported": sorted({*self.scopes_supported, *self.scopes_required}),
                "bearer_methods_supported": ["header"],
            }
        )

    def challenge(self, head: RequestHead, reason: str = "") -> Rejection:
        """Answer who brought no token, or (with a reason) one that is no good: 401."""
        parameters = self._parameters(head)
        if reason:
            parameters = [('error="invalid_token"'), f'error_description="{_quotable(reason)}"', *parameters]
        said = f"the token is refused: {reason}" if reason else "a token is needed: Authorization: Bearer"
        return _reject(401, said, parameters)

    def insufficient(self, head: RequestHead) -> Rejection:
        """Answer who has a good token that does not allow this: 403."""
        needed = " ".join(sorted(self.scopes_required))
        return _reject(
            403, f"the token lacks a scope; needed: {needed}", ['error="insufficient_scope"', *self._parameters(head)]
        )

    def malformed(self, head: RequestHead) -> Rejection:
        """Answer a header that is no bearer token: 400."""
        return _reject(400, "Authorization must be: Bearer TOKEN", ['error="invalid_request"', *self._parameters(head)])

    def unavailable(self, reason: str) -> Rejection:
        """Answer who cannot be judged now: 503. Not 401, which would send clients through a login for nothing."""
        headers = (*JSON_HEADERS, (b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
        return Rejection(503, error_body(reason, jsonrpc.UPSTREAM_UNAVAILABLE), headers)

    def _parameters(self, head: RequestHead) -> list[str]:
        parameters = []
        if self.authorization_servers:
            parameters.append(f'resource_metadata="{self._base(head)}{WELL_KNOWN}{head.path}"')
        if self.scopes_required:
            parameters.append(f'scope="{" ".join(sorted(self.scopes_required))}"')
        return parameters

    def _base(self, head: RequestHead) -> str:
        if self.url:
            return self.url
        # The guard has found the Host header to be one of ours.
        return f"{head.scheme}://{head.headers.get('host', '')}"


def _reject(status: int, reason: str, parameters: Sequence[str]) -> Rejection:
    challenge = f"Bearer {', '.join(parameters)}".rstrip()
    headers = (*JSON_HEADERS, (b"www-authenticate", challenge.encode("latin-1", "replace")))
    return Rejection(status, error_body(reason), headers)


def _quotable(text: str) -> str:
    """Leave out what RFC 6750, 3 does not allow in a description."""
    return "".join(char for char in text if char in " !" or ("#" <= char <= "~" and char != "\\"))
