"""What requests of many callers are called on one wire that they share. Pure.

Callers choose ids, progress tokens and subscription ids without knowing of each other, so two of them choose the same.
On the shared wire each request has a number of ours in all three places; what comes back gets the caller's own again.
Only these values change: every other byte of a message's fields stays, big numbers and unknown fields included.
"""

from __future__ import annotations

import msgspec

from actors.jsonrpc import RequestId
from actors.reading import reader
from transport.modern import META_SUBSCRIPTION

_decode_fields = reader(dict[str, msgspec.Raw])
_decode_number = msgspec.json.Decoder(int).decode
_encode = msgspec.json.Encoder().encode

_REQUEST_TOKEN = ("params", "_meta", "progressToken")
_PROGRESS_TOKEN = ("params", "progressToken")
_NOTE_SUBSCRIPTION = ("params", "_meta", META_SUBSCRIPTION)
_RESULT_SUBSCRIPTION = ("result", "_meta", META_SUBSCRIPTION)
_CANCELLED = ("params", "requestId")

Path = tuple[str, ...]


def rename_request(raw: bytes, number: int) -> tuple[bytes, bytes | None]:
    """Give a request its number.

    Returns:
      The message, and the progress token that it had, as JSON.
    """
    ours = _encode(number)
    token = value_at(raw, _REQUEST_TOKEN) if b"progressToken" in raw else None
    if token is not None:
        raw = replaced(raw, _REQUEST_TOKEN, ours)
    return replaced(raw, ("id",), ours), token


def restore_answer(raw: bytes, id: RequestId) -> bytes:
    """Give an answer the id that its caller knows; also where a subscription's end names it again."""
    theirs = _encode(id)
    if META_SUBSCRIPTION.encode() in raw:
        raw = replaced(raw, _RESULT_SUBSCRIPTION, theirs)
    return replaced(raw, ("id",), theirs)


def restore_progress(raw: bytes, token: bytes) -> bytes:
    """Give a progress notification the token that its caller knows, as JSON."""
    return replaced(raw, _PROGRESS_TOKEN, token)


def restore_subscription(raw: bytes, id: RequestId) -> bytes:
    """Give a notification of a subscription the id that its caller knows."""
    return replaced(raw, _NOTE_SUBSCRIPTION, _encode(id))


def subscription_of(raw: bytes) -> int | None:
    """Read which of our numbers a notification's subscription has."""
    return _number_at(raw, _NOTE_SUBSCRIPTION) if META_SUBSCRIPTION.encode() in raw else None


def cancelled_by(raw: bytes) -> int | None:
    """Read which of our numbers a `notifications/cancelled` names."""
    return _number_at(raw, _CANCELLED)


def value_at(raw: bytes, path: Path) -> bytes | None:
    """Find a value in nested objects, as JSON; None if it is not there."""
    for name in path:
        try:
            fields = _decode_fields(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if name not in fields:
            return None
        raw = bytes(fields[name])
    return raw


def replaced(raw: bytes, path: Path, value: bytes) -> bytes:
    """Put another value in place of one in nested objects; the same bytes if there is none at this path."""
    try:
        fields = _decode_fields(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw
    name, *rest = path
    if name not in fields:
        return raw
    fields[name] = msgspec.Raw(replaced(bytes(fields[name]), tuple(rest), value) if rest else value)
    return _encode(fields)


def _number_at(raw: bytes, path: Path) -> int | None:
    value = value_at(raw, path)
    try:
        return None if value is None else _decode_number(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
