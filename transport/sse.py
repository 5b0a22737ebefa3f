"""Server-sent events: events into bytes, and bytes into events. Pure.

Follows the WHATWG HTML standard, section 9.2 ("Server-sent events"), with one addition that MCP needs: a block that
has an id or a retry time but no data, which a browser would not dispatch, is told as an `Event` whose `data` is None;
resuming depends on such ids. Data stays bytes on its way through; a JSON document with line breaks in it arrives as
the same JSON, with every line break as a line feed.
"""

from __future__ import annotations

import attrs

from transport.exchange import Headers

CONTENT_TYPE = b"text/event-stream"
# `no-transform` and `x-accel-buffering` keep proxies (nginx) from holding events back to compress or buffer them.
# `no-store`, and not merely `no-cache`: Chromium writes a stream that it may keep to its disk, goes on reading it for
# that after its page has let go, and then sends the page's next DELETE of the same URL twice (seen with 150).
STREAM_HEADERS: Headers = (
    (b"content-type", CONTENT_TYPE),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
KEEP_ALIVE = b": keep-alive\n\n"
EVENT_BYTES_MAX = 16 * 1024 * 1024  # as much as the MCP SDKs' WebSocket and stdio readers take; memory per stream

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """The other side sends an event larger than the bound; the stream cannot be read any further."""


@attrs.frozen
class Event:
    """One event, as it stands in the stream."""

    data: bytes | None  # lines joined by line feeds; None: there was no data field, so this is no event to act on
    id: str | None = None  # None: the event has no id of its own, and the last one stays in force
    name: str = "message"
    retry_ms: int | None = None  # how long to wait before reconnecting, if that was said


def encode_message(data: bytes, event_id: str = "") -> bytes:
    """Make the bytes of a message event; the fast way for what nearly all events are.

    Args:
      data: UTF-8; one JSON document.
      event_id: "" for none; visible ASCII, as `EventId.write` makes it.
    """
    if b"\n" in data or b"\r" in data:
        data = _split_data(data)
    if event_id:
        return b"id: %b\nevent: message\ndata: %b\n\n" % (_one_line(event_id), data)
    return b"event: message\ndata: %b\n\n" % data


def encode(event: Event) -> bytes:
    """Make the bytes of any event.

    Raises:
      ValueError: an id or name with a line break or NUL in it.
    """
    lines = []
    if event.id is not None:
        lines.append(b"id: %b\n" % _one_line(event.id))
    if event.name != "message":
        lines.append(b"event: %b\n" % _one_line(event.name))
    if event.retry_ms is not None:
        lines.append(b"retry: %d\n" % event.retry_ms)
    if event.data is not None:
        lines.append(b"data: %b\n" % _split_data(event.data))
    lines.append(b"\n")
    return b"".join(lines)


def encode_priming(event_id: str, retry_ms: int | None = None) -> bytes:
    """Make a stream's first event: it has an id to resume from, and empty data (MCP 2025-11-25, SEP-1699)."""
    return encode(Event(data=b"", id=event_id, retry_ms=retry_ms))


def encode_retry(retry_ms: int) -> bytes:
    """Make the hint how long to wait before reconnecting."""
    return b"retry: %d\n\n" % retry_ms


def encode_comment(text: str) -> bytes:
    """Make a comment: ignored by the other side, but it keeps proxies from closing a silent stream."""
    return b"".join(b": %b\n" % line.encode() for line in text.splitlines() or [""]) + b"\n"


def _split_data(data: bytes) -> bytes:
    """Put each line of the data into a field of its own: the standard's three kinds of line ends all end one."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")


def _one_line(text: str) -> bytes:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError("an event's id and name have no line breaks and no NUL in them")
    return text.encode()


class Parser:
    """Reads one stream: bytes in, events out, whatever the pieces.

    An event that the stream ends in the middle of is never told, as the standard asks.
    """

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self.last_event_id = ""  # the id in force: of the last event that had one
        self._event_bytes_max = event_bytes_max
        self._partial: list[bytes] = []  # pieces of the line under way
        self._partial_bytes = 0
        self._after_return = False  # the last byte ended a line by CR: an LF right behind it belongs to it
        self._at_start = True
        self._clear()

    def _clear(self) -> None:
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._id: str | None = None
        self._name = ""
        self._retry_ms: int | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Take more bytes; give the events that they complete.

        Raises:
          EventTooLarge
        """
        if self._after_return and chunk:
            self._after_return = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\n" not in chunk and b"\r" not in chunk:
            self._keep_partial(chunk)
            return []
        self._partial.append(chunk)
        text = b"".join(self._partial)
        self._partial, self._partial_bytes = [], 0
        if self._at_start:
            self._at_start = False
            text = text.removeprefix(_BYTE_ORDER_MARK)
        lines = text.splitlines()  # of bytes: CR, LF and CRLF, nothing else
        if not text.endswith((b"\n", b"\r")):
            self._keep_partial(lines.pop())
        self._after_return = text.endswith(b"\r")
        return self._take_lines(lines)

    def _keep_partial(self, piece: bytes) -> None:
        if piece:
            self._partial.append(piece)
            self._partial_bytes += len(piece)
            self._check_size()

    def _check_size(self) -> None:
        if self._partial_bytes + self._data_bytes > self._event_bytes_max:
            raise EventTooLarge(f"an event is larger than {self._event_bytes_max} bytes")

    def _take_lines(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if line:
                self._take_field(line)
                continue
            event = self._complete()
            if event is not None:
                events.append(event)
        return events

    def _take_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"data":
                self._data.append(value)
                self._data_bytes += len(line)  # and not of the value: empty lines take memory too
                self._check_size()
            case b"id" if b"\0" not in value:
                self._id = value.decode(errors="replace")
            case b"event":
                self._name = value.decode(errors="replace")
            case b"retry" if value.isdigit() and len(value) < 16:
                self._retry_ms = int(value)

    def _complete(self) -> Event | None:
        """Make an event of the fields since the last empty line, if they are one."""
        if self._id is not None:
            self.last_event_id = self._id
        event = None
        if self._data or self._id is not None or self._retry_ms is not None:
            data = b"\n".join(self._data) if self._data else None
            event = Event(data, self._id, self._name or "message", self._retry_ms)
        self._clear()
        return event
