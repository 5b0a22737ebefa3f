"""A stderr that nobody has to read: a line that finds no room is dropped, and the process goes on.

Whoever starts a program with pipes may never look at its stderr; once that pipe is full, a plain write would stop the
event loop for good. And where stderr and stdout are one pipe, which the protocol has made non-blocking, it would raise
in the middle of whatever was logging.
"""

from __future__ import annotations

import io
import os
import select
from contextlib import suppress
from typing import BinaryIO, TextIO, cast

# Where a pipe is writable at all, it takes so many bytes at once without waiting: POSIX, pipe(7).
LINE_BYTES_MAX = select.PIPE_BUF


def never_waiting(descriptor: int = 2) -> TextIO:
    """Give a text stream on a file descriptor, which stays open; a write that would wait is dropped."""
    unread = cast(BinaryIO, _NeverWaiting(descriptor))  # it has what is asked of it: write, flush, isatty
    return io.TextIOWrapper(unread, encoding="utf-8", errors="backslashreplace", write_through=True)


class _NeverWaiting(io.RawIOBase):
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: object) -> int:
        """Write what fits, or nothing; a line that is too long is cut."""
        line = bytes(data)  # type: ignore[call-overload]
        cut = line if len(line) <= LINE_BYTES_MAX else line[: LINE_BYTES_MAX - 1] + b"\n"
        with suppress(OSError):  # it is closed: the same as not being read
            if select.select([], [self._descriptor], [], 0)[1]:
                os.write(self._descriptor, cut)
        return len(line)
