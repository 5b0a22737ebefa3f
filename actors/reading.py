"""Reading JSON that may have half a character in it: an escape of one surrogate whose other half is missing. Pure.

RFC 8259 allows `"\\ud83d"` alone (section 8.2 warns of it), JavaScript and Python write it wherever a text was cut in
the middle of a character, and nearly everybody reads it. msgspec does not: it calls the whole document malformed. A
tool's answer would be taken for noise, and its call would wait for ever. So what msgspec refuses is read once more with
U+FFFD in place of each such escape. Only the reader sees that: the message keeps its bytes.

Well-formed documents, which is nearly all of them, pay for none of this.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

REPLACEMENT = "\ufffd"

# A backslash is always the first character of an escape here: from left to right, `\\\\` is taken whole. A pair comes
# before a half, so that what is left is one.
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def legible(raw: bytes) -> bytes | None:
    """Give a document with U+FFFD in place of halves of characters; None if it has none."""
    halves = 0

    def whole(escape: re.Match[bytes]) -> bytes:
        nonlocal halves
        if escape["half"] is None:
            return escape[0]
        halves += 1
        return b"\\ufffd"

    text = _ESCAPES.sub(whole, raw)
    return text if halves else None


def reader(kind: type[T]) -> Callable[[bytes | msgspec.Raw], T]:
    """Make a decoder of one type that takes half characters, too.

    Returns:
      A function with the errors of `msgspec.json.Decoder.decode`. A `msgspec.Raw` that it gives has U+FFFD where the
      document had half a character.
    """
    decode = msgspec.json.Decoder(kind).decode

    def read(raw: bytes | msgspec.Raw) -> T:
        try:
            return decode(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            again = legible(bytes(raw))
            if again is None:
                raise
        return decode(again)

    return read
