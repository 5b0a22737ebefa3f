"""Raw JSON-RPC messages as the comparison sees them: where their members are, and what of them may differ.

A message is never decoded and encoded again here, since that would hide exactly the differences that are looked for.
Written on the standard library's scanner and apart from the gateway's, so that the two cannot share a mistake.
"""

from __future__ import annotations

import json
import re
from json.decoder import JSONDecoder

import attrs

_decoder = JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")

# What a server says anew each time it is asked: unique ids (of sessions, tasks), times.
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<hex>"),
    (re.compile(r"\b\d{1,2}:\d\d:\d\d [AP]M\b"), "<time of day>"),
    (re.compile(r'"blob":"UmVzb3VyY2U[^"]*"'), '"blob":"<text with a time of day>"'),  # base64 of "Resource ..."
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+\d\d:\d\d)"), "<time>"),
)


@attrs.frozen
class Span:
    """Where the value of one member is, in characters."""

    start: int
    end: int


def members(text: str) -> dict[str, Span]:
    """Find the members of one JSON object; of equal names the last.

    Raises:
      ValueError: this is no JSON object.
    """
    found: dict[str, Span] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError(f"no JSON object: {text[:80]!r}")
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, at = _decoder.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _decoder.raw_decode(text, start)
        found[name] = Span(start, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


@attrs.frozen
class RawMessage:
    """One message with its text as it came."""

    text: str
    spans: dict[str, Span]

    @classmethod
    def of(cls, raw: bytes) -> RawMessage:
        """Look at a message."""
        text = raw.decode()
        return cls(text, members(text))

    def part(self, name: str) -> str:
        """The text of one member; empty where it is not there."""
        span = self.spans.get(name)
        return "" if span is None else self.text[span.start : span.end]

    @property
    def method(self) -> str:
        """The method; empty in an answer."""
        part = self.part("method")
        return json.loads(part) if part else ""

    @property
    def is_question(self) -> bool:
        """Whether the other side waits for an answer."""
        return "id" in self.spans and "method" in self.spans

    def masked(self) -> str:
        """The text, without what may differ between two runs: a question's id, times, unique ids."""
        text = self.text
        if self.is_question:
            span = self.spans["id"]
            text = f"{text[: span.start]}<id>{text[span.end :]}"
        for pattern, mark in _VOLATILE:
            text = pattern.sub(mark, text)
        return text


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()
