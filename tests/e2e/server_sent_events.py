"""Server-sent events as the bed's own client reads them: bytes -> frames.

Written from the WHATWG text and apart from the gateway's own parser, so that the two cannot share a mistake.
"""

from __future__ import annotations

import json
from typing import Any

import attrs


@attrs.frozen
class Frame:
    """One event as it was sent."""

    id: str = ""  # "": none was sent
    event: str = "message"
    data: str = ""
    retry_milliseconds: int | None = None

    @property
    def message(self) -> dict[str, Any] | None:
        """The JSON-RPC message in it; None for a priming event, whose data is empty."""
        if not self.data:
            return None
        message: dict[str, Any] = json.loads(self.data)
        return message


@attrs.define
class FrameReader:
    """Cuts a stream of bytes into frames, wherever the network has cut it."""

    hints: list[int] = attrs.field(factory=list)  # what was said of reconnecting, in milliseconds; no events
    _buffer: bytes = b""
    _lines: list[str] = attrs.field(factory=list)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Take bytes; give the frames that they complete."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        frames = []
        for line in lines:
            text = line.removesuffix(b"\r").decode()
            if text.startswith(":"):
                continue  # a comment, to keep the connection alive
            if text:
                self._lines.append(text)
            elif self._lines:
                frame = _frame(self._lines)
                self._lines = []
                if frame.retry_milliseconds is not None and not frame.id and not frame.data:
                    self.hints.append(frame.retry_milliseconds)
                else:
                    frames.append(frame)
        return frames


def _frame(lines: list[str]) -> Frame:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    retry = fields.get("retry")
    return Frame(
        id=fields.get("id", [""])[-1],
        event=fields.get("event", ["message"])[-1],
        data="\n".join(fields.get("data", [])),
        retry_milliseconds=int(retry[-1]) if retry else None,
    )
