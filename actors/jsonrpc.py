"""The JSON-RPC 2.0 envelope: kind, id and method of a message; its bytes stay as they came.

Sessions speak JSON-RPC on both sides. What a message *says* (params, result, error, fields nobody knows yet)
is never decoded and re-encoded on the way, because a typed model loses what it does not know. So `Message`
carries the raw bytes, and beside them the three things that routing needs.

Ids are kept apart by type: the number 1 and the string "1" are different requests (JSON-RPC 2.0, section 4).
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from actors.reading import REPLACEMENT, legible, reader

RequestId = int | str

_ID_MAX = 2**63 - 1  # what stored records can hold; no client counts that far

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
# The implementation-defined band (-32000 to -32019 in MCP 2026-07-28) holds what only a gateway has to say.
SESSION_NOT_FOUND = -32001  # as the TypeScript SDK says it
UPSTREAM_UNAVAILABLE = -32010  # could not be reached; nothing was run; try again
OUTCOME_UNKNOWN = -32011  # it may have run; the answer is lost; it was not run again
REQUEST_TIMED_OUT = -32012  # no answer within the limit; the upstream was told to cancel
OVERLOADED = -32013  # a bound was reached; nothing was run; try again later
UNREADABLE_ANSWER = -32014  # it may have run; what came in place of its answer is none; it was not run again


class Kind(enum.Enum):
    """What a message is, by which of id, method, result and error it has."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"  # with a result or an error


class Message(msgspec.Struct, frozen=True, gc=False):
    """One JSON-RPC message: the envelope's facts, and its bytes exactly as they came."""

    kind: Kind
    id: RequestId | None  # None: a notification, or an error that answers nothing in particular
    method: str  # "" for a response
    raw: bytes
    is_error: bool = False  # a response that carries an error

    def __repr__(self) -> str:
        """Say what it is, and nothing of its content: arguments and results are their owner's."""
        what = self.method or ("error" if self.is_error else "result")
        return f"<Message {self.kind.value} {what!r} id={self.id!r}, {len(self.raw)} bytes>"


class InvalidMessage(Exception):
    """These bytes are no JSON-RPC message.

    `code` and `reason` are what the error answer says; `id` is the request's id where it could be read.
    """

    def __init__(self, code: int, reason: str, id: RequestId | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.id = id


class _Envelope(msgspec.Struct, gc=False):
    jsonrpc: str
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _OnlyId(msgspec.Struct, gc=False):
    id: int | str | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_id = msgspec.json.Decoder(_OnlyId).decode


def parse(raw: bytes) -> Message:
    """Read the envelope of one message; the bytes are kept as they are.

    Args:
      raw: one JSON document. The returned message keeps a reference to it.

    Raises:
      InvalidMessage: not JSON (-32700), or not a JSON-RPC 2.0 message (-32600); batches are not messages.
    """
    try:
        envelope = _decode_envelope(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        envelope = _read_again(raw, error)
    if isinstance(envelope.id, int) and not -_ID_MAX <= envelope.id <= _ID_MAX:
        raise InvalidMessage(INVALID_REQUEST, 'field "id" must be a string or an integer of at most 63 bits')
    if envelope.jsonrpc != "2.0":
        raise InvalidMessage(INVALID_REQUEST, 'field "jsonrpc" must be "2.0"', _known_id(envelope.id))
    if envelope.method is not msgspec.UNSET:
        return _parse_call(envelope, envelope.method, raw)
    return _parse_response(envelope, raw)


def _read_again(raw: bytes, error: Exception) -> _Envelope:
    """Read what cannot be read because it has half a character somewhere; see actors/reading.py."""
    text = legible(raw)
    if text is None:
        raise _explain(raw, error) from None
    try:
        envelope = _decode_envelope(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as other:
        raise _explain(text, other) from None
    for name, value in (("id", envelope.id), ("method", envelope.method)):
        if isinstance(value, str) and REPLACEMENT in value:  # two of them could not be told apart
            raise InvalidMessage(INVALID_REQUEST, f'field "{name}" has half a character: an unpaired surrogate')
    return envelope


def _parse_call(envelope: _Envelope, method: str, raw: bytes) -> Message:
    if envelope.result is not msgspec.UNSET or envelope.error is not msgspec.UNSET:
        raise InvalidMessage(INVALID_REQUEST, 'a message has either "method" or "result"/"error", not both')
    _check_params(envelope)
    if envelope.id is msgspec.UNSET:
        return Message(Kind.NOTIFICATION, None, method, raw)
    if envelope.id is None:
        raise InvalidMessage(INVALID_REQUEST, 'field "id" of a request must be a string or an integer, not null')
    return Message(Kind.REQUEST, envelope.id, method, raw)


def _parse_response(envelope: _Envelope, raw: bytes) -> Message:
    has_result = envelope.result is not msgspec.UNSET
    has_error = envelope.error is not msgspec.UNSET
    if has_result == has_error:
        raise InvalidMessage(
            INVALID_REQUEST,
            'a message needs "method" (request, notification) or one of "result" and "error" (response)',
            _known_id(envelope.id),
        )
    if envelope.id is msgspec.UNSET or (envelope.id is None and has_result):
        raise InvalidMessage(INVALID_REQUEST, 'a response needs the "id" of its request')
    return Message(Kind.RESPONSE, envelope.id, "", raw, is_error=has_error)


def _check_params(envelope: _Envelope) -> None:
    if envelope.params is msgspec.UNSET:
        return
    if bytes(envelope.params)[:1] not in (b"{", b"["):
        raise InvalidMessage(INVALID_REQUEST, 'field "params" must be an object or an array', _known_id(envelope.id))


def _known_id(id: RequestId | msgspec.UnsetType | None) -> RequestId | None:
    return None if id is msgspec.UNSET else id


def _explain(raw: bytes, error: Exception) -> InvalidMessage:
    """Tell bad JSON (-32700) from good JSON that is no JSON-RPC message (-32600)."""
    if isinstance(error, RecursionError):
        return InvalidMessage(PARSE_ERROR, "JSON is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidMessage(PARSE_ERROR, f"not valid JSON: {error}")
    if raw.lstrip()[:1] == b"[":
        return InvalidMessage(INVALID_REQUEST, "an array (a batch) is not one message")
    try:
        id = _decode_id(raw).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        id = None
    return InvalidMessage(INVALID_REQUEST, f"not a JSON-RPC 2.0 message: {error}", id)


class _Misanswer(msgspec.Struct, gc=False):
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    jsonrpc: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    method: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_misanswer = reader(_Misanswer)
_decode_request_id = msgspec.json.Decoder(int | str).decode


def misanswered_id(raw: bytes) -> RequestId | None:
    """Tell which request something that is no message was meant to answer.

    Args:
      raw: what `parse` has refused.

    Returns:
      None where it names none, is no JSON, or could be something else: a request, which has ids of its own, or a line
      of a log in JSON, which has nothing of an answer but perhaps an id.
    """
    try:
        seen = _decode_misanswer(raw)
        id = None if seen.id is msgspec.UNSET else _decode_request_id(seen.id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    answers = seen.result is not msgspec.UNSET or seen.error is not msgspec.UNSET
    is_ours = answers or (seen.jsonrpc is not msgspec.UNSET and seen.method is msgspec.UNSET)
    return id if is_ours else None


_encode = msgspec.json.Encoder().encode


def request(id: RequestId, method: str, params: object = None) -> Message:
    """Make a request; `params` are builtins, or `msgspec.Raw` for JSON that is to stay as it is."""
    fields: dict[str, object] = {"jsonrpc": "2.0", "id": id, "method": method}
    if params is not None:
        fields["params"] = params
    return Message(Kind.REQUEST, id, method, _encode(fields))


def notification(method: str, params: object = None) -> Message:
    """Make a notification."""
    fields: dict[str, object] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        fields["params"] = params
    return Message(Kind.NOTIFICATION, None, method, _encode(fields))


def result(id: RequestId, value: object) -> Message:
    """Make the successful answer to a request."""
    return Message(Kind.RESPONSE, id, "", _encode({"jsonrpc": "2.0", "id": id, "result": value}))


def error(id: RequestId | None, code: int, reason: str, data: object = None) -> Message:
    """Make the error answer to a request; `id` is None where the request's own id could not be read."""
    problem: dict[str, object] = {"code": code, "message": reason}
    if data is not None:
        problem["data"] = data
    raw = _encode({"jsonrpc": "2.0", "id": id, "error": problem})
    return Message(Kind.RESPONSE, id, "", raw, is_error=True)


def with_id(message: Message, id: RequestId) -> Message:
    """Give the same message under another id; everything else, order and unknown fields included, stays as it is."""
    fields = _decode_fields(message.raw)
    fields["id"] = msgspec.Raw(_encode(id))
    return Message(message.kind, id, message.method, _encode(fields), is_error=message.is_error)


_decode_fields = reader(dict[str, msgspec.Raw])


class _RequestIdOnly(msgspec.Struct, frozen=True, gc=False):
    requestId: int | str | None = None


class _Cancellation(msgspec.Struct, gc=False):
    params: _RequestIdOnly = _RequestIdOnly()


_decode_cancellation = reader(_Cancellation)


def cancelled_id(message: Message) -> RequestId | None:
    """Read which request a cancellation withdraws; None where it does not say."""
    try:
        return _decode_cancellation(message.raw).params.requestId
    except msgspec.MsgspecError:
        return None


def with_cancelled_id(message: Message, id: RequestId) -> Message:
    """Give the same cancellation, of a request under another id; `cancelled_id` must have found one."""
    fields = _decode_fields(message.raw)
    params = _decode_fields(fields["params"])
    params["requestId"] = msgspec.Raw(_encode(id))
    fields["params"] = msgspec.Raw(_encode(params))
    return Message(message.kind, message.id, message.method, _encode(fields))


class RequestFailed(Exception):
    """The answer to a request is a JSON-RPC error: its code, message and data."""

    def __init__(self, code: int, reason: str, data: object = None) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason
        self.data = data


class _Problem(msgspec.Struct):
    code: int = INTERNAL_ERROR
    message: str = ""
    data: object = None


class _Answer(msgspec.Struct):
    result: object = None
    error: _Problem | None = None


_decode_answer = reader(_Answer)


def code_of(answer: Message) -> int:
    """Give the code of an error answer, and 0 of any other.

    An error whose code is none, or has more than 63 bits, which no record can hold, is an internal one.
    """
    if not answer.is_error:
        return 0
    try:
        problem = _decode_answer(answer.raw).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the code is no number: passed on all the same
        return INTERNAL_ERROR
    if problem is None or not -_ID_MAX <= problem.code <= _ID_MAX:
        return INTERNAL_ERROR
    return problem.code


def result_of(answer: Message) -> Any:
    """Decode the result of an answer.

    Raises:
      RequestFailed: the answer is an error.
    """
    decoded = _decode_answer(answer.raw)
    if decoded.error is not None:
        raise RequestFailed(decoded.error.code, decoded.error.message, decoded.error.data)
    return decoded.result
