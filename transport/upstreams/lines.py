"""Lines of a stdio transport: messages into lines, and a stream of bytes into lines, none longer than a bound. Pure.

MCP 2025-11-25, basic/transports, stdio: messages are delimited by newlines and must not contain any.
"""

from __future__ import annotations

_SPACES = bytes.maketrans(b"\r\n", b"  ")


def as_line(raw: bytes) -> bytes:
    """Write a message as one line.

    Inside a JSON string, line breaks are escaped (RFC 8259, section 7); bare ones only stand between tokens, where a
    space is as good. In UTF-8 their bytes are part of no other character.
    """
    if b"\n" in raw or b"\r" in raw:
        raw = raw.translate(_SPACES)
    return raw + b"\n"


class LineSplitter:
    """Keeps the unfinished line. A line over the bound is dropped up to its end, and counted."""

    def __init__(self, line_bytes_max: int) -> None:
        self.overlong = 0
        self._bytes_max = line_bytes_max
        self._pieces: list[bytes] = []
        self._pending_bytes = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Give the lines that these bytes complete, without their line feeds."""
        first, *rest = data.split(b"\n")
        if not rest:
            self._keep(first)
            return []
        lines = []
        self._keep(first)
        if not self._skipping:
            lines.append(b"".join(self._pieces))
        self._clear()
        for line in rest[:-1]:
            if len(line) <= self._bytes_max:
                lines.append(line)
            else:
                self.overlong += 1
        self._keep(rest[-1])
        return lines

    def rest(self) -> bytes:
        """Give the last line, where the stream ended without a line feed."""
        line = b"" if self._skipping else b"".join(self._pieces)
        self._clear()
        return line

    def _keep(self, piece: bytes) -> None:
        if self._skipping or not piece:
            return
        self._pieces.append(piece)
        self._pending_bytes += len(piece)
        if self._pending_bytes > self._bytes_max:
            self.overlong += 1
            self._clear()
            self._skipping = True

    def _clear(self) -> None:
        self._pieces = []
        self._pending_bytes = 0
        self._skipping = False
