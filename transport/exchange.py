"""Exchange: one HTTP request and its answer, apart from who serves it.

Handlers are written against this. Two servers implement it: `http1.py`, the hot road, and the ASGI app that
hypercorn (or any ASGI server) runs. So every behaviour is the same under both, and every end-to-end test can
be run on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case


@attrs.frozen
class RequestHead:
    """The request line and the headers. Header names are lower case; no name is there twice.

    A request that repeats a header where that would change its meaning (host, content-length, authorization, origin,
    mcp-session-id, ...) has been refused before; other repeated headers are joined by ", " (RFC 9110, 5.3).
    """

    method: str
    path: str  # percent-decoded, without the query
    query: str = attrs.field(repr=False)  # raw, without "?"; like headers, it may hold credentials
    headers: Mapping[str, str] = attrs.field(repr=False)  # values as latin-1 text
    peer: str  # the client's address, for logs
    scheme: str = "http"


class ClientGone(Exception):
    """The client has closed the connection, or does not read any more: nothing can be sent to it."""


class BodyTooLarge(Exception):
    """The body is larger than the limit; the answer is 413."""


class BodyTooSlow(Exception):
    """The body did not arrive in time; the answer is 408."""


class Exchange(Protocol):
    """One request, and the one answer to it: `respond`, or `start_stream` then `send` ... then `finish`."""

    @property
    def head(self) -> RequestHead:
        """What was asked."""
        ...

    @property
    def status(self) -> int:
        """The answer's status; 0 until an answer has begun."""
        ...

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
          BodyTooLarge, BodyTooSlow, ClientGone
        """
        ...

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer. Content-Length and Date are added.

        Raises:
          ClientGone: the rest of the handler need not run; letting this escape is right.
        """
        ...

    async def start_stream(self, status: int, headers: Headers) -> None:
        """Send the head of an answer whose body comes bit by bit.

        Raises:
          ClientGone
        """
        ...

    async def send(self, chunk: bytes) -> None:
        """Send a bit of the body, now.

        Raises:
          ClientGone: also when the client has not read for longer than the write deadline.
        """
        ...

    async def finish(self) -> None:
        """End the streamed body."""
        ...

    async def wait_gone(self) -> None:
        """Wait until the client has closed its side. Use it beside the work of a streamed answer.

        Cancellation: safe.
        """
        ...
