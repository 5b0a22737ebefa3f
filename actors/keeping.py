"""What can be kept: builtins that the store's records can hold.

Checked at the door, where the one who brought it can be told. A value that fails only inside a commit would stop
the writer, and with it everybody else's sessions.
"""

from __future__ import annotations

from typing import Any

import msgpack

_NESTED = 8  # how deep in a record a value may come to lie: msgpack's own limit counts from the outside


class Unkeepable(ValueError):
    """This value cannot be kept; the message says why."""


def keep(value: Any) -> tuple[Any, int]:
    """Give the value as it will be after a restart, and its size.

    Tuples become lists, and integers beyond 64 bits, sets, objects and endless nesting are refused.

    Returns:
      a copy that shares nothing with `value`, and its encoded size in bytes.

    Raises:
      Unkeepable
    """
    wrapped = value
    for _ in range(_NESTED):
        wrapped = [wrapped]
    try:
        encoded: bytes = msgpack.packb(wrapped)
        kept = msgpack.unpackb(encoded, strict_map_key=False)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unkeepable(f"only builtins that msgpack can pack can be kept: {error}") from None
    for _ in range(_NESTED):
        (kept,) = kept
    return kept, len(encoded)
