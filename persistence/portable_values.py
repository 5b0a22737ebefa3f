"""Stored values <-> JSON: what msgpack keeps and JSON does not know gets a mark, and everything else is as it is.

    bytes                              {"$base64": "..."}
    nan, inf, -inf                     {"$number": "nan"}
    a map with keys that are no text   {"$map": [[key, value], ...]}, also where a text key begins with "$"
    what is nested too deeply          {"$msgpack": "..."}, base64

Marks are read back by their one key, so an object of the application that looks like a mark is written as a ``$map``:
the way there and back loses nothing, not even the difference of 1 and 1.0.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

_SIGN = "$"


class NotPortable(ValueError):
    """This JSON stands for no value; the message says why."""


def to_json_value(value: Any) -> Any:
    """Give what stands for the value in JSON.

    Args:
      value: builtins, as records hold them; it stays as it is.
    """
    try:
        return _marked(value)
    except RecursionError:
        packed: bytes = msgpack.packb(value)
        return {"$msgpack": base64.b64encode(packed).decode()}


def from_json_value(value: Any) -> Any:
    """Give the value that stands there.

    Args:
      value: decoded JSON.

    Raises:
      NotPortable: a mark that this version does not know, or one that says nothing sensible.
    """
    try:
        return _unmarked(value)
    except RecursionError:
        raise NotPortable("is nested too deeply") from None


def _marked(value: Any) -> Any:
    # Loops, not comprehensions: one level of nesting is to cost one frame of Python's stack.
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$number": repr(value)}
    if isinstance(value, bytes):
        return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return _marked_map(value)
    items = []
    for item in value:
        items.append(_marked(item))  # noqa: PERF401
    return items


def _marked_map(value: Mapping[Any, Any]) -> Any:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str) or key.startswith(_SIGN):
            break
        plain[key] = _marked(item)
    else:
        return plain
    pairs = []
    for key, item in value.items():
        pairs.append([_marked(key), _marked(item)])
    return {"$map": pairs}


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        items = []
        for item in value:
            items.append(_unmarked(item))  # noqa: PERF401
        return items
    if not isinstance(value, dict):
        return value
    marks = [key for key in value if key.startswith(_SIGN)]
    if marks:
        return _read_mark(marks[0], value)
    plain = {}
    for key, item in value.items():
        plain[key] = _unmarked(item)
    return plain


def _read_mark(mark: str, value: dict[str, Any]) -> Any:
    if len(value) != 1:
        raise NotPortable(f'"{mark}" must stand alone in its object')
    try:
        return _MARKS[mark](value[mark])
    except KeyError:
        raise NotPortable(f'this version does not know "{mark}"; a map with such a key is written as "$map"') from None
    except NotPortable:
        raise
    except (TypeError, ValueError, binascii.Error, msgpack.UnpackException) as error:
        raise NotPortable(f'"{mark}" cannot be read: {error}') from None


def _read_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read_number(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise NotPortable('"$number" is one of "nan", "inf" and "-inf"')
    return float(text)


def _read_map(pairs: list[list[Any]]) -> dict[Any, Any]:
    found = {}
    for key, item in pairs:
        found[_unmarked(key)] = _unmarked(item)
    return found


def _read_msgpack(text: str) -> Any:
    return msgpack.unpackb(_read_base64(text), strict_map_key=False, max_ext_len=0)


_MARKS: dict[str, Callable[[Any], Any]] = {
    "$base64": _read_base64,
    "$number": _read_number,
    "$map": _read_map,
    "$msgpack": _read_msgpack,
}
