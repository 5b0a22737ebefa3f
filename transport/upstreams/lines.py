"""Cuts a stream of bytes into lines, none longer than a bound. Pure."""

from __future__ import annotations


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
