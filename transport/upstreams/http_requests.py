"""SessionRequests: the requests of one session over Streamable HTTP, as they go over the wire. No I/O.

Their heads differ in what the handshake agreed on, so they are written once, when that is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transport.upstreams.http_target import POST_HEADERS, HttpTarget, write_head

_OF_GETS = (("Accept", "text/event-stream"), ("Accept-Encoding", "identity"))
_NOT_IN_HEADERS = re.compile(r"[\x00-\x1f\x7f]")


class SessionRequests:
    """Writes requests, under the name by which the upstream knows the session."""

    def __init__(
        self, target: HttpTarget, headers: Sequence[tuple[str, str]], upstream_session_id: str, version: str
    ) -> None:
        """Args:
        headers: what every request carries besides the protocol's own.
        upstream_session_id, version: as agreed on; "" as long as nothing is.
        """
        self._target = target
        self._headers = headers
        self.name(upstream_session_id, version)

    def name(self, upstream_session_id: str, version: str) -> None:
        """From now on write them for this session, in this revision of the protocol."""
        named = [*self._headers]
        if upstream_session_id:
            named.append(("Mcp-Session-Id", upstream_session_id))
        if version:
            named.append(("MCP-Protocol-Version", version))
        self._named = named
        self._post_head = self._head_of_post(named)

    def post(self, body: bytes) -> bytes:
        """Write the POST of a message."""
        return b"%b%d\r\n\r\n%b" % (self._post_head, len(body), body)

    def opening(self, body: bytes) -> bytes:
        """Write the POST of a handshake, which names no session."""
        return b"%b%d\r\n\r\n%b" % (self._head_of_post(self._headers), len(body), body)

    def get(self, cursor: str) -> bytes:
        """Write the GET of a stream, behind the event with this id; "": from now on."""
        head = write_head("GET", self._target, (*self._named, *_OF_GETS))
        if cursor and not _NOT_IN_HEADERS.search(cursor):
            head += b"Last-Event-ID: %b\r\n" % cursor.encode()  # UTF-8: WHATWG HTML, 9.2.4
        return head + b"\r\n"

    def delete(self) -> bytes:
        """Write the DELETE that ends the session."""
        return write_head("DELETE", self._target, self._named) + b"\r\n"

    def _head_of_post(self, headers: Sequence[tuple[str, str]]) -> bytes:
        return write_head("POST", self._target, (*headers, *POST_HEADERS)) + b"Content-Length: "
