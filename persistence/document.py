"""The portable document's frame: where a JSON text of very many sessions begins, parts and ends.

    {"format": "outlast-sessions", "version": 1, "exportedAt": 1764633600.5, "secrets": "included",
    "sessions": [
    {"id": ...},
    {"id": ...}
    ],
    "counts": {"sessions": 2, "entries": 10}}

One session a line, so that line tools work on it, too. Reading does not rely on that: any JSON text is taken, a bare
array of sessions included, since people write such files by hand. What comes in is cut into sessions as it comes, and
no more of it is held than one session. Counts stand at the end, where a document that was cut short lacks them.

Pure: bytes in, parts out; no file. A JSON library that reads a whole text holds all of it at once; one that tells of
every token would be one dependency more, for what the end of a line tells as well. What a session says is none of this
file's business.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec

FORMAT = "outlast-sessions"
VERSION = 1
SECRETS_INCLUDED = "included"
SECRETS_REDACTED = "redacted"

# One session's text, with its log. A thousand events of half a megabyte are within it; a file that is something else
# altogether is refused before it has filled the memory.
SESSION_BYTES_MAX = 512 << 20
_MEMBER_BYTES_MAX = 1 << 20  # format, version, counts: some hundred bytes
_MEMBERS_MAX = 100


class DocumentInvalid(Exception):
    """The document cannot be taken; `path` says where it is wrong, as in ``sessions[17].metrics.requests``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


@attrs.frozen
class Member:
    """Something that the document says of itself."""

    name: str
    value: Any


@attrs.frozen
class Element:
    """One session, still as text."""

    index: int  # its place in the array, from 0
    text: bytes


def element_path(index: int) -> str:
    """Give the path of a session."""
    return f"sessions[{index}]"


@attrs.define
class DocumentWriter:
    """Writes one document: head, elements, tail."""

    _sessions: int = 0
    _entries: int = 0

    def head(self, *, exported_unix_s: float, secrets: str) -> bytes:
        """Give what stands before the first session."""
        head = {"format": FORMAT, "version": VERSION, "exportedAt": exported_unix_s, "secrets": secrets}
        return msgspec.json.encode(head)[:-1] + b',\n"sessions": ['

    def element(self, text: bytes, *, entries: int) -> bytes:
        """Give one session's line, with the comma that the one before it lacks."""
        separator = b",\n" if self._sessions else b"\n"
        self._sessions += 1
        self._entries += entries
        return separator + text

    def tail(self, *, left_out: int) -> bytes:
        """Give what stands behind the last session."""
        counts = {"sessions": self._sessions, "entries": self._entries, "leftOut": left_out}
        return b'\n],\n"counts": ' + msgspec.json.encode(counts) + b"}\n"


class _Place(enum.Enum):
    BEGINNING = "beginning"
    FIRST_MEMBER = "first member"
    MEMBER = "member"
    AFTER_MEMBER = "after a member"
    FIRST_ELEMENT = "first element"
    ELEMENT = "element"
    AFTER_ELEMENT = "after an element"
    END = "end"


_SPACE = re.compile(rb"[ \t\r\n]*")
_SCALAR_END = re.compile(rb"[,\]}\s]")
_NAME = re.compile(rb'"((?:[^"\\]++|\\.)*+)"[ \t\r\n]*:', re.DOTALL)
# A whole string, a bracket, or a quote whose string has not come to its end yet.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|([{\[])|([}\]])|(")', re.DOTALL)
_SYNTAX = msgspec.json.Decoder(msgspec.Raw).decode
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DocumentReader:
    """Reads one document: `feed` it blocks of text, then `finish`."""

    def __init__(self, *, session_bytes_max: int = SESSION_BYTES_MAX) -> None:
        self._session_bytes_max = session_bytes_max
        self._buffer = bytearray()
        self._at = 0  # everything before it is done with
        self._place = _Place.BEGINNING
        self._bare = False  # an array without an object around it
        self._seen: set[str] = set()
        self._scanned = 0  # how far the value at `_at` was looked through, relative to it
        self._depth = 0
        self.sessions = 0

    def feed(self, block: bytes) -> Iterator[Member | Element]:
        """Take the next block, and give the parts that have become whole.

        Raises:
          DocumentInvalid
        """
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += block
        while True:
            before = self._place, self._at
            part = self._step()
            if part is not None:
                yield part
            elif before == (self._place, self._at):
                return

    def finish(self) -> None:
        """Check that the document has come to its end.

        Raises:
          DocumentInvalid
        """
        self._skip_space()
        if self._place is _Place.BEGINNING and self._at == len(self._buffer):
            raise DocumentInvalid("", "the document is empty")
        if self._place is not _Place.END:
            raise DocumentInvalid(self._here(), "the document ends here, in the middle")
        if not self._bare and "sessions" not in self._seen:
            raise DocumentInvalid("sessions", "is missing")

    def _step(self) -> Member | Element | None:
        self._skip_space()
        if self._at == len(self._buffer):
            return None
        sign = bytes(self._buffer[self._at : self._at + 1])
        match self._place:
            case _Place.BEGINNING:
                self._begin(sign)
            case _Place.FIRST_MEMBER | _Place.MEMBER:
                return self._member(sign)
            case _Place.FIRST_ELEMENT | _Place.ELEMENT:
                return self._element(sign)
            case _Place.AFTER_MEMBER:
                self._go_on(sign, b"}", _Place.MEMBER, _Place.END)
            case _Place.AFTER_ELEMENT:
                self._go_on(sign, b"]", _Place.ELEMENT, self._behind_elements())
            case _Place.END:
                raise DocumentInvalid("", "there is something behind the end of the document")
        return None

    def _begin(self, sign: bytes) -> None:
        if sign == _BYTE_ORDER_MARK[:1] and len(self._buffer) - self._at < len(_BYTE_ORDER_MARK):
            return
        if self._buffer.startswith(_BYTE_ORDER_MARK, self._at):
            self._at += len(_BYTE_ORDER_MARK)
            return
        if sign not in (b"{", b"["):
            raise DocumentInvalid("", "this is no JSON object or array: is it the right file?")
        self._at += 1
        self._bare = sign == b"["
        self._place = _Place.FIRST_ELEMENT if self._bare else _Place.FIRST_MEMBER

    def _go_on(self, sign: bytes, closing: bytes, following: _Place, outside: _Place) -> None:
        if sign not in (b",", closing):
            raise DocumentInvalid(self._here(), f'expected "," or "{closing.decode()}" behind it')
        self._at += 1
        self._place = following if sign == b"," else outside

    def _behind_elements(self) -> _Place:
        return _Place.END if self._bare else _Place.AFTER_MEMBER

    def _member(self, sign: bytes) -> Member | None:
        if sign == b"}" and self._place is _Place.FIRST_MEMBER:
            self._at += 1
            self._place = _Place.END
            return None
        named = _NAME.match(self._buffer, self._at)
        if named is None:
            if sign != b'"' or len(self._buffer) - self._at > _MEMBER_BYTES_MAX:
                raise DocumentInvalid("", 'expected a name in quotes and ":"')
            return None
        name = str(_decoded(b'"' + named[1] + b'"', ""))
        start = _SPACE.match(self._buffer, named.end()).end()  # type: ignore[union-attr]  # it matches nothing, too
        if start == len(self._buffer):
            return None
        if name in self._seen:
            raise DocumentInvalid(name, "is there twice")
        if len(self._seen) == _MEMBERS_MAX:
            raise DocumentInvalid("", f"the document has more than {_MEMBERS_MAX} fields")
        if name == "sessions":
            self._open_elements(start)
            return None
        return self._plain_member(name, start)

    def _open_elements(self, start: int) -> None:
        if self._buffer[start : start + 1] != b"[":
            raise DocumentInvalid("sessions", "expected an array")
        self._seen.add("sessions")
        self._at = start + 1
        self._place = _Place.FIRST_ELEMENT

    def _plain_member(self, name: str, start: int) -> Member | None:
        self._scanned = self._depth = 0
        end = self._value_end(start)
        self._scanned = self._depth = 0
        if end is None:
            if len(self._buffer) - start > _MEMBER_BYTES_MAX:
                raise DocumentInvalid(name, f"is longer than {_MEMBER_BYTES_MAX} bytes")
            return None
        member = Member(name, _decoded(bytes(self._buffer[start:end]), name))
        self._seen.add(name)
        self._at = end
        self._place = _Place.AFTER_MEMBER
        return member

    def _element(self, sign: bytes) -> Element | None:
        if sign == b"]" and self._place is _Place.FIRST_ELEMENT:
            self._at += 1
            self._place = self._behind_elements()
            return None
        text = self._whole_line() if not self._scanned else None
        if text is None:
            end = self._value_end(self._at)
            if end is None:
                self._check_length(len(self._buffer) - self._at)
                return None
            text = bytes(self._buffer[self._at : end])
            self._scanned = self._depth = 0
        self._check_length(len(text))
        self._at += len(text)
        self._place = _Place.AFTER_ELEMENT
        self.sessions += 1
        return Element(self.sessions - 1, text)

    def _whole_line(self) -> bytes | None:
        """Give the session that ends where its line ends, if it does; else it has to be looked for.

        The text of one JSON object is never the beginning of another's, so what is JSON as a whole is all of it.
        """
        newline = self._buffer.find(b"\n", self._at)
        if newline < 0:
            return None
        text = bytes(self._buffer[self._at : newline]).rstrip(b" \t\r")
        text = text.removesuffix(b",").rstrip(b" \t")
        if not text.endswith(b"}"):
            return None
        try:
            _SYNTAX(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return text

    def _value_end(self, start: int) -> int | None:
        """Look for the end of the value at `start`; None: it has not come yet. Goes on where it stopped before."""
        if bytes(self._buffer[start : start + 1]) not in (b"{", b"[", b'"'):
            scalar = _SCALAR_END.search(self._buffer, start)
            return scalar.start() if scalar is not None else None
        for token in _TOKEN.finditer(self._buffer, start + self._scanned):
            if token[3]:
                self._scanned = token.start() - start
                return None
            self._depth += bool(token[1]) - bool(token[2])
            if self._depth <= 0:
                return token.end()
        self._scanned = len(self._buffer) - start
        return None

    def _check_length(self, length: int) -> None:
        if length > self._session_bytes_max:
            raise DocumentInvalid(element_path(self.sessions), f"is longer than {self._session_bytes_max} bytes")

    def _here(self) -> str:
        if self._place in (_Place.ELEMENT, _Place.FIRST_ELEMENT):
            return element_path(self.sessions)
        if self._place is _Place.AFTER_ELEMENT:
            return element_path(self.sessions - 1)
        return ""

    def _skip_space(self) -> None:
        found = _SPACE.match(self._buffer, self._at)
        self._at = found.end() if found is not None else self._at


def _decoded(text: bytes, path: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentInvalid(path, f"not valid JSON: {error}") from None
