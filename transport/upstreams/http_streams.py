"""One event stream of an upstream as a session sees it: over as many connections as it takes."""

from __future__ import annotations

from collections.abc import Iterator

from actors.jsonrpc import RequestId, misanswered_id
from actors.link import About
from transport.sse import Parser
from transport.upstreams.unreadable import is_torn_answer

_CURSOR_CHARS_MAX = 4096  # it is sent back in a header, and kept with the session
_RETRY_SECONDS_DEFAULT = 1.0  # what the python and TypeScript clients do


class EventStream:
    """What a stream has said so far, and where to resume it."""

    __slots__ = (
        "_parser",
        "_retry_seconds",
        "about",
        "cursor",
        "doubted",
        "events",
        "settled",
        "ticket",
        "torn",
        "unreadable",
    )

    def __init__(self, about: RequestId | About, *, ticket: int = 0, cursor: str = "") -> None:
        """Args:
        about: the request it answers, or `About.NOTHING` for the upstream's own stream.
        ticket: under which the request was sent.
        cursor: the event id to resume after.
        """
        self.about = about
        self.ticket = ticket
        self.cursor = cursor
        self.events = 0  # with data or an id: signs of life
        self.settled = False  # the request was answered, or given up
        self.unreadable = ""  # why the newest message on it is none
        self.torn = False  # ... and it may have been the answer
        self.doubted = False  # a task watches whether it was
        self._retry_seconds = _RETRY_SECONDS_DEFAULT
        self._parser: Parser | None = None  # made when needed: most calls are answered by a plain document

    def reconnected(self) -> None:
        """Begin with the bytes of another connection."""
        self._parser = None

    def misheard(self, raw: bytes, why: str) -> bool:
        """Take note of something that is no message.

        Returns:
          whether it was meant for the answer: it names the request.
        """
        self.unreadable, self.torn = why, is_torn_answer(raw)
        return not self.settled and misanswered_id(raw) == self.about

    def begins_doubt(self) -> bool:
        """Whether to begin to watch if what was misheard was the answer: once at a time."""
        begins = self.torn and not self.doubted and self.about is not About.NOTHING
        self.doubted = self.doubted or begins
        return begins

    def heard(self) -> None:
        """Take note of a message: what was misheard before was not the answer."""
        self.unreadable, self.torn = "", False

    def retry_seconds(self, limit_seconds: float) -> float:
        """How long the upstream wants to be left alone before the stream is resumed."""
        return min(self._retry_seconds, limit_seconds)

    def feed(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        """Parse bytes; give each event's data and id, both may be empty.

        Raises:
          EventTooLarge
        """
        if self._parser is None:
            self._parser = Parser()
        for event in self._parser.feed(data):
            if event.retry_ms is not None:
                self._retry_seconds = event.retry_ms / 1000
            id = event.id if event.id is not None and len(event.id) <= _CURSOR_CHARS_MAX else ""
            if id:
                self.cursor = id
            data = (event.data or b"") if event.name == "message" else b""  # other events are not the protocol's
            if id or data:
                self.events += 1
                yield data, id
