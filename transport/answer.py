"""Answers: status, headers and chunks into bytes. Pure but for the clock behind the Date header."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from transport.exchange import Headers

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def answer_head(status: int, headers: Headers, *, closes: bool, body_length: int | None) -> bytes:
    """Make the head of an answer, with Date, its framing, and `Connection: close` if it is the last.

    Args:
      headers: without those; names in lower case.
      body_length: in bytes; None for a body in chunks.

    Raises:
      ValueError: a header would break out of its line. Not every value comes from ourselves.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, _date.line()]
    lines = 3 + len(headers)
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if closes:
        lines += 1
        parts.append(b"connection: close\r\n")
    if status in (204, 304):
        parts.append(b"\r\n")  # these have no body, and say so by their status
    elif body_length is None:
        lines += 1
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
    else:
        lines += 1
        parts.append(b"content-length: %d\r\n\r\n" % body_length)
    head = b"".join(parts)
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise ValueError("a header has a line break or a NUL in it")
    return head


def chunk_frame(data: bytes) -> bytes:
    """Put a bit of a body into one chunk; `data` is not empty (that would be the end)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class _DateLine:
    """The Date header, made once a second: formatting it costs more than the rest of a head."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._line


_date = _DateLine()
