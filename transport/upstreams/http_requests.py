"""SessionRequests: the requests of sessions over Streamable HTTP, as they go over the wire. No I/O.

Heads of one upstream's requests differ between sessions in what the handshake agreed on: the session's name there and
the protocol's revision. What they have in common is written once for all sessions; a session keeps the bytes of its own
two headers alone, 130 where a head of its own and what it is made of take 600.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transport.upstreams.http_target import POST_HEADERS, HttpTarget, write_head, write_headers

UNNAMED = b""  # as long as nothing is agreed on: the handshake itself, and servers that name no sessions

_OF_GETS = (("Accept", "text/event-stream"), ("Accept-Encoding", "identity"))
_NOT_IN_HEADERS = re.compile(r"[\x00-\x1f\x7f]")


class SessionRequests:
    """Writes the requests of all sessions at one upstream."""

    __slots__ = ("_headers", "_post_head", "_target")

    def __init__(self, target: HttpTarget, headers: Sequence[tuple[str, str]]) -> None:
        """Args:
        headers: what every request carries besides the protocol's own.
        """
        self._target = target
        self._headers = headers
        self._post_head = write_head("POST", target, (*headers, *POST_HEADERS))

    def post(self, names: bytes, body: bytes) -> bytes:
        """Write the POST of a message.

        Args:
          names: whose, from `name_headers`.
        """
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._post_head, names, len(body), body)

    def get(self, names: bytes, cursor: str) -> bytes:
        """Write the GET of a stream, behind the event with this id; "": from now on."""
        head = write_head("GET", self._target, (*self._headers, *_OF_GETS)) + names
        if cursor and not _NOT_IN_HEADERS.search(cursor):
            head += b"Last-Event-ID: %b\r\n" % cursor.encode()  # UTF-8: WHATWG HTML, 9.2.4
        return head + b"\r\n"

    def delete(self, names: bytes) -> bytes:
        """Write the DELETE that ends a session."""
        return b"%b%b\r\n" % (write_head("DELETE", self._target, self._headers), names)


def name_headers(upstream_session_id: str, version: str) -> bytes:
    """Write the headers that name a session, and the protocol's revision; each only where it is agreed on."""
    named = []
    if upstream_session_id:
        named.append(("Mcp-Session-Id", upstream_session_id))
    if version:
        named.append(("MCP-Protocol-Version", version))
    return write_headers(named)
