"""ChunkedDecoder: the body of a request sent with Transfer-Encoding: chunked. Pure, strict and bounded.

Written out here, instead of left to llhttp, because httptools shows neither chunk extensions nor how much of the
wire was framing: 60 KB of extension in front of one byte passes, and so do a million one-byte chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from transport.handler import BadRequest

# Framing (size lines, extensions, trailers) may cost this much, and beyond that as much as there is data: a client
# that sends chunks of six bytes and more is never refused, one that sends extensions or single bytes for long is.
FRAMING_FREE_BYTES = 16 * 1024
LINE_BYTES_MAX = 1024  # a chunk size with its extension, or one trailer line
# Size, then extensions of visible characters. No blanks before ";": RFC 9112 only bears them for old senders.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class ChunkedDecoder:
    """Takes the bytes of one chunked body as they come; knows where it ends."""

    __slots__ = ("_data_bytes", "_framing_bytes", "_pending", "_remaining", "_step", "done", "rest")

    def __init__(self) -> None:
        self.done = False
        self.rest = b""  # once done: bytes behind the body, which belong to the next request
        self._pending = b""  # an unfinished line
        self._remaining = 0  # bytes of the current chunk that are still to come
        self._step: _Step = ChunkedDecoder._read_size  # unbound: a bound method would make a cycle for the collector
        self._framing_bytes = 0
        self._data_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Take more bytes; give the part of the body that they hold.

        Raises:
          BadRequest: 400; the connection cannot be used any more.
        """
        found: list[bytes] = []
        data = self._pending + data
        position = 0
        while not self.done:
            following = self._step(self, data, position, found)
            if following < 0:
                break
            position = following
        if self.done:
            self.rest, self._pending = data[position:], b""
        else:
            self._pending = data[position:]
        return b"".join(found)

    # Each step gives the position behind what it has read, or -1 if it needs more bytes to go on.

    def _read_size(self, data: bytes, position: int, found: list[bytes]) -> int:
        line, following = self._read_line(data, position)
        if following < 0:
            return -1
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadRequest(400, "malformed chunk size")
        self._remaining = int(match[1], 16)
        self._step = ChunkedDecoder._read_data if self._remaining else ChunkedDecoder._read_trailer
        return following

    def _read_data(self, data: bytes, position: int, found: list[bytes]) -> int:
        piece = data[position : position + self._remaining]
        if not piece:
            return -1
        found.append(piece)
        self._data_bytes += len(piece)
        self._remaining -= len(piece)
        if not self._remaining:
            self._step = ChunkedDecoder._read_data_end
        return position + len(piece)

    def _read_data_end(self, data: bytes, position: int, found: list[bytes]) -> int:
        end = data[position : position + 2]
        if end == b"\r\n":
            self._step = ChunkedDecoder._read_size
            return position + 2
        if end not in (b"", b"\r"):
            raise BadRequest(400, "a chunk does not end where it said")
        return -1

    def _read_trailer(self, data: bytes, position: int, found: list[bytes]) -> int:
        """Trailers are checked and dropped: nothing here may depend on them."""
        line, following = self._read_line(data, position)
        if following < 0:
            return -1
        if not line:
            self.done = True
        elif not _TRAILER_LINE.fullmatch(line):
            raise BadRequest(400, "malformed trailer")
        return following

    def _read_line(self, data: bytes, position: int) -> tuple[bytes, int]:
        """Give the next line and the position behind it, or -1 for that."""
        end = data.find(b"\r\n", position, position + LINE_BYTES_MAX + 2)
        if end < 0:
            if len(data) - position > LINE_BYTES_MAX:
                raise BadRequest(400, "a chunk size, chunk extension or trailer is too long")
            if b"\n" in data[position:]:
                raise BadRequest(400, "a chunk line ends without a carriage return")
            return b"", -1
        line = data[position:end]
        self._framing_bytes += len(line) + 4  # with its own line end, and that of the chunk's data
        if self._framing_bytes > FRAMING_FREE_BYTES + self._data_bytes:
            raise BadRequest(400, "the chunked body is mostly framing")
        return line, end + 2


_Step = Callable[[ChunkedDecoder, bytes, int, list[bytes]], int]
