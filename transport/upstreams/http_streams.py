"""One event stream of an upstream as a session sees it: over as many connections as it takes.

An id that comes without a message moves the cursor on the first connection, where it is the first of the stream. Not on
those that resume: the Python SDK draws such an id when it has replayed, and what was said meanwhile and sent to nobody
has an earlier one. To go on behind it would be to lose that for good. But a server may forget its older ids: so that id
is asked behind in turn with the cursor, as long as no message comes.
"""

from __future__ import annotations

from collections.abc import Iterator

from actors.jsonrpc import RequestId, misanswered_id
from actors.link import About
from transport.sse import Parser
from transport.upstreams.http_misheard import Misheard
from transport.upstreams.unreadable import is_torn_answer

_CURSOR_CHARS_MAX = 4096  # it is sent back in a header, and kept with the session
_RETRY_SECONDS_DEFAULT = 1.0  # what the python and TypeScript clients do


class EventStream:
    """What a stream has said so far, and where to resume it."""

    __slots__ = (
        "_is_resumed",
        "_parser",
        "_retry_seconds",
        "about",
        "ask_behind",
        "cursor",
        "events",
        "messages",
        "misheard",
        "primed",
        "settled",
        "ticket",
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
        self.primed = ""  # the last id that came without a message, where the stream was resumed
        self.ask_behind = cursor  # one of the two
        self.events = 0  # with data or an id: signs of life
        self.messages = 0  # with data: news
        self.settled = False  # the request was answered, or given up
        self.misheard: Misheard | None = None  # made when needed
        self._is_resumed = False
        self._retry_seconds = _RETRY_SECONDS_DEFAULT
        self._parser: Parser | None = None  # made when needed: most calls are answered by a plain document

    def again(self, *, in_turn: bool = False) -> EventStream:
        """The same stream as another connection will hear it: behind the cursor, or the other id if it is its turn."""
        stream = EventStream(self.about, ticket=self.ticket, cursor=self.cursor)
        stream.primed = self.primed
        stream.misheard = self.misheard  # about the call, not about this connection
        stream.ask_behind = self.primed if in_turn and self.may_take_turns else self.cursor
        stream._retry_seconds = self._retry_seconds
        return stream

    @property
    def may_take_turns(self) -> bool:
        """There is another id to try than the one that was asked behind."""
        return bool(self.primed) and self.ask_behind == self.cursor

    def reconnected(self) -> None:
        """Begin with the bytes of another connection."""
        self._parser = None
        self._is_resumed = bool(self.ask_behind)

    @property
    def unreadable(self) -> str:
        """Why the newest message on it is none; "": it is one."""
        return "" if self.misheard is None else self.misheard.why

    @property
    def torn(self) -> bool:
        """The newest message on it is none, and may have been the answer."""
        return self.misheard is not None and self.misheard.torn

    def mishear(self, raw: bytes, why: str) -> bool:
        """Take note of something that is no message.

        Returns:
          whether it was meant for the answer: it names the request.
        """
        if self.misheard is None:
            self.misheard = Misheard()
        self.misheard.note(why, torn=is_torn_answer(raw))
        return not self.settled and misanswered_id(raw) == self.about

    def heard(self) -> None:
        """Take note of a message: what was misheard before was not the answer."""
        if self.misheard is not None:
            self.misheard.refute()

    def retry_seconds(self, limit_seconds: float) -> float:
        """How long the upstream wants to be left alone before the stream is resumed."""
        return min(self._retry_seconds, limit_seconds)

    def feed(self, data: bytes) -> Iterator[tuple[bytes, str]]:
        """Parse bytes; give each event's data, and its id if that moves the cursor. Both may be empty.

        Raises:
          EventTooLarge
        """
        if self._parser is None:
            self._parser = Parser()
        for event in self._parser.feed(data):
            if event.retry_ms is not None:
                self._retry_seconds = event.retry_ms / 1000
            id = event.id if event.id is not None and len(event.id) <= _CURSOR_CHARS_MAX else ""
            data = (event.data or b"") if event.name == "message" else b""  # other events are not the protocol's
            if id or data:
                self.events += 1
                self.messages += bool(data)
                yield data, self._move(id, is_message=bool(data))

    def _move(self, id: str, *, is_message: bool) -> str:
        if self._is_resumed and not is_message:
            self.primed = id
            return ""
        if id:
            self.cursor, self.primed = id, ""
        return id
