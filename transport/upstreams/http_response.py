"""Reads HTTP/1.1 responses off one connection, one after the other: bytes in, a head and a body out.

No I/O here. Only the headers that somebody asks about are kept. What does not parse strictly is refused: a response
that two parties may read differently must not stay on a connection that others will use.
"""

from __future__ import annotations

import attrs
import httptools

_WANTED = frozenset(
    (
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"keep-alive",
        b"retry-after",
        b"mcp-session-id",
        b"www-authenticate",
    )
)
HEAD_BYTES_MAX = 64 * 1024  # nginx allows 4-8 KiB per buffer, Node 16 KiB, curl 300 KiB in all


class ResponseInvalid(Exception):
    """These bytes are no acceptable HTTP response."""


@attrs.frozen
class ResponseHead:
    """The status, and the headers that matter here (names in lower case)."""

    status: int
    fields: dict[bytes, bytes]

    def text(self, name: bytes) -> str:
        """Give a header's value; "" if it is not there."""
        value = self.fields.get(name)
        return "" if value is None else value.decode("latin-1").strip()

    @property
    def media_type(self) -> str:
        return self.text(b"content-type").partition(";")[0].strip().lower()

    @property
    def is_event_stream(self) -> bool:
        return self.status == 200 and self.media_type == "text/event-stream"

    @property
    def is_encoded(self) -> bool:
        """The body is compressed, though nobody asked for that."""
        return self.text(b"content-encoding").lower() not in ("", "identity")

    @property
    def keep_alive_seconds(self) -> float | None:
        """How long the other side promises to keep an idle connection (`Keep-Alive: timeout=5`)."""
        if b"keep-alive" not in self.fields:
            return None
        for part in self.text(b"keep-alive").split(","):
            name, _, value = part.strip().partition("=")
            if name.lower() == "timeout" and value.strip().isdigit():
                return float(value)
        return None


class ResponseReader:
    """Parses what a connection receives. `head` is None until a response's head is complete."""

    __slots__ = (
        "_chunks",
        "_fields",
        "_head_bytes",
        "_parser",
        "_surplus",
        "body_bytes",
        "complete",
        "head",
        "keeps_alive",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._surplus = False
        self.next_response()

    def next_response(self) -> None:
        """Get ready for the response to another request."""
        self._fields: dict[bytes, bytes] = {}
        self._chunks: list[bytes] = []
        self._head_bytes = 0
        self.head: ResponseHead | None = None
        self.body_bytes = 0
        self.complete = False
        self.keeps_alive = False

    @property
    def reusable(self) -> bool:
        """The response is complete, and the connection can carry another one."""
        return self.complete and self.keeps_alive and not self._surplus

    def feed(self, data: bytes) -> None:
        """Parse more bytes.

        Raises:
          ResponseInvalid: malformed, its head is too large, or it switches protocols.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.complete:  # the answer is whole; what follows it condemns only the connection
                self._surplus = True
                return
            raise ResponseInvalid(f"not a valid HTTP response: {error}") from None
        if self.head is None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                raise ResponseInvalid(f"the response's head is larger than {HEAD_BYTES_MAX} bytes")

    def end_of_input(self) -> bool:
        """Take note that the other side has closed; say whether this completes the response (RFC 9112, 6.3)."""
        if self.head is None or self.complete:
            return self.complete
        self.complete = not (self._fields.keys() & {b"content-length", b"transfer-encoding"})
        return self.complete

    def take_body(self) -> bytes:
        """Give the bytes of the body that came since the last time."""
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        return body

    # ---- called by the parser ----

    def on_message_begin(self) -> None:
        if self.complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _WANTED and not self.complete:
            self._fields[name] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self.complete:
            self.head = ResponseHead(status, self._fields)

    def on_body(self, chunk: bytes) -> None:
        if not self._surplus:
            self._chunks.append(chunk)
            self.body_bytes += len(chunk)

    def on_message_complete(self) -> None:
        if self.head is None:  # 1xx announces the response that follows; nothing here asked for one
            self._fields = {}
            return
        if not self._surplus:
            self.complete = True
            self.keeps_alive = self._parser.should_keep_alive()
