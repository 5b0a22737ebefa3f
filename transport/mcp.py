"""What MCP says about a message, apart from any connection. What is particular to the revision without sessions is in
`modern.py`; how revisions are told apart, in `revisions.py`.

Pure. `classify_post` and its neighbours climb a ladder of checks; the first that fails is the answer. Refusals are
values, with the HTTP status and the JSON-RPC error that the client gets (MCP 2025-11-25, basic/transports,
Streamable HTTP).
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgspec

from actors import jsonrpc
from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId
from actors.messages import Problem
from actors.reading import reader
from actors.state import SetupChange
from transport.revisions import BATCH_REVISION, HANDSHAKE_REVISIONS, MODERN_REVISIONS, VERSION_HEADER, offered

# As many as a session may have waiting for its upstream: a larger batch could not be taken as a whole anyway.
BATCH_MESSAGES_MAX = 64

SESSION_HEADER = "mcp-session-id"
CURSOR_HEADER = "last-event-id"

META_VERSION = "io.modelcontextprotocol/protocolVersion"  # in `params._meta` of every request since 2026-07-28
HEADER_MISMATCH = -32020  # 2026-07-28, basic/transports/streamable-http, Server Validation


@attrs.frozen
class Rejection:
    """A request that goes no further."""

    status: int
    code: int
    reason: str
    id: RequestId | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    data: object = None  # of the JSON-RPC error, where the protocol defines some

    @property
    def body(self) -> bytes:
        return jsonrpc.error(self.id, self.code, self.reason, self.data).raw


class Initialize(msgspec.Struct, frozen=True, gc=False):
    """A client opens a session."""

    message: Message


class Request(msgspec.Struct, frozen=True, gc=False):
    """A client's request in its session."""

    session_id: str
    message: Message
    label: str  # the tool's name; "" for anything but a tool call
    setup: SetupChange | None


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A client's notification in its session."""

    session_id: str
    message: Message
    cancels: RequestId | None
    confirms: bool


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A client's answer to a request of the server."""

    session_id: str
    message: Message


@attrs.frozen
class Batch:
    """Several messages of a client in its session, in order."""

    session_id: str
    revision_told: bool  # by the header; otherwise it is for the session to say whether it takes batches
    messages: tuple[Request | Notification | Answer, ...]  # one at least
    refusals: tuple[Message, ...]  # error answers to the entries that are no messages

    @property
    def is_answered(self) -> bool:
        """Whether there is anything to answer."""
        return bool(self.refusals) or any(isinstance(message, Request) for message in self.messages)


@attrs.frozen
class Tail:
    """A client wants to read a stream: the standalone one, or the one whose event it names."""

    session_id: str
    last_event_id: str | None


@attrs.frozen
class End:
    """A client ends its session."""

    session_id: str


def opens_session(body: bytes) -> bool:
    """Say whether a body is a handshake's `initialize`, whatever its headers claim.

    A client of both eras that falls back to a handshake may leave the header of its first attempt on; a server of both
    eras goes by the body (2026-07-28, basic/versioning, Backward Compatibility).
    """
    if b'"initialize"' not in body or META_VERSION.encode() in body:
        return False
    try:
        message = jsonrpc.parse(body)
    except InvalidMessage:
        return False
    return message.kind is Kind.REQUEST and message.method == "initialize"


Posted = Initialize | Request | Notification | Answer | Batch | Rejection


def classify_post(headers: Mapping[str, str], body: bytes) -> Posted:
    """Say what a POST is.

    The ladder: 1 content type (415), 2 accept (406), 3 JSON and JSON-RPC (400), 4 protocol version (400), 5 session
    id (400). Whether the session exists (404) is for the registry to say.
    """
    if not is_json(headers.get("content-type", "")):
        return Rejection(415, jsonrpc.INVALID_REQUEST, "Content-Type must be application/json")
    if not accepts(headers.get("accept", ""), "application/json", "text/event-stream"):
        return Rejection(406, jsonrpc.INVALID_REQUEST, "Accept must list both application/json and text/event-stream")
    try:
        message = jsonrpc.parse(body)
    except InvalidMessage as invalid:
        if body.lstrip()[:1] == b"[":
            return _classify_batch(headers, body)
        return Rejection(400, invalid.code, invalid.reason, invalid.id)
    session_id = headers.get(SESSION_HEADER, "")
    opens = message.method == "initialize" and message.kind is Kind.REQUEST
    if not (opens and headers.get(VERSION_HEADER) in MODERN_REVISIONS):  # see opens_session
        refusal = _check_version(headers, message.id if message.kind is Kind.REQUEST else None)
        if refusal is not None:
            return refusal
    if opens:
        return _classify_initialize(message, session_id)
    if not session_id:
        return _without_session(message)
    return classify_message(message, session_id)


def _without_session(message: Message) -> Rejection:
    request_id = message.id if message.kind is Kind.REQUEST else None
    if META_VERSION.encode() in message.raw:  # its author forgot a header, not a session
        reason = f"the MCP-Protocol-Version header must say what {META_VERSION} in params._meta says"
        return Rejection(400, HEADER_MISMATCH, reason, request_id)
    return Rejection(400, jsonrpc.INVALID_REQUEST, "missing Mcp-Session-Id header", request_id)


def _classify_initialize(message: Message, session_id: str) -> Initialize | Rejection:
    if session_id:
        return Rejection(
            400,
            jsonrpc.INVALID_REQUEST,
            "initialize opens a new session: send it without an Mcp-Session-Id header",
            message.id,
        )
    return Initialize(offered(message))


def classify_message(message: Message, session_id: str = "") -> Request | Notification | Answer:
    """Say what a message means to a session that is open. Transports without headers give no session id."""
    if message.kind is Kind.REQUEST:
        return Request(session_id, message, _label(message), _setup(message))
    if message.kind is Kind.NOTIFICATION:
        confirms = message.method == "notifications/initialized"
        return Notification(session_id, message, _cancels(message), confirms)
    return Answer(session_id, message)


def _classify_batch(headers: Mapping[str, str], body: bytes) -> Batch | Rejection:
    """Say what an array is: each entry by itself, but none if an `initialize` is among them (2025-03-26, lifecycle)."""
    try:
        entries = _first_entries(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejection(400, jsonrpc.PARSE_ERROR, f"not valid JSON: {error}")
    refusal = _check_version(headers, None)
    if refusal is not None:
        return refusal
    told = VERSION_HEADER in headers
    if told and headers[VERSION_HEADER] != BATCH_REVISION:
        return BATCH_REFUSED
    session_id = headers.get(SESSION_HEADER, "")
    if not session_id:
        return Rejection(400, jsonrpc.INVALID_REQUEST, "missing Mcp-Session-Id header")
    if not 0 < len(entries) <= BATCH_MESSAGES_MAX:
        reason = f"a batch has 1 to {BATCH_MESSAGES_MAX} messages; send more in several"
        return Rejection(400, jsonrpc.INVALID_REQUEST, reason)
    return _classify_entries(session_id, told, entries)


def _classify_entries(session_id: str, revision_told: bool, entries: list[bytes]) -> Batch | Rejection:
    messages: list[Request | Notification | Answer] = []
    refusals: list[Message] = []
    for entry in entries:
        try:
            message = jsonrpc.parse(entry)
        except InvalidMessage as invalid:
            refusals.append(jsonrpc.error(invalid.id, invalid.code, invalid.reason))
            continue
        if message.method == "initialize":
            return Rejection(400, jsonrpc.INVALID_REQUEST, "initialize must not be part of a batch", message.id)
        messages.append(classify_message(message, session_id))
    if not messages:
        return Rejection(400, jsonrpc.INVALID_REQUEST, "no entry of this batch is a JSON-RPC 2.0 message")
    return Batch(session_id, revision_told, tuple(messages), tuple(refusals))


def classify_socket_message(raw: bytes, session_id: str) -> Initialize | Request | Notification | Answer | Rejection:
    """Say what a message of a WebSocket is: 1 JSON and JSON-RPC, 2 `initialize` first, and once.

    Args:
      session_id: of the session that the connection has opened or come back to; "": none yet.
    """
    try:
        message = jsonrpc.parse(raw)
    except InvalidMessage as invalid:
        return Rejection(400, invalid.code, invalid.reason, invalid.id)
    request_id = message.id if message.kind is Kind.REQUEST else None
    if message.method == "initialize" and message.kind is Kind.REQUEST:
        if session_id:
            reason = "this connection has a session: initialize opens a new one, on a connection of its own"
            return Rejection(400, jsonrpc.INVALID_REQUEST, reason, request_id)
        return Initialize(message)
    if not session_id:
        return Rejection(400, jsonrpc.INVALID_REQUEST, "the session is not open yet: send initialize", request_id)
    return classify_message(message, session_id)


def classify_get(headers: Mapping[str, str]) -> Tail | Rejection:
    """Say what a GET is: 1 accept (406), 2 protocol version (400), 3 session id (400)."""
    if not accepts(headers.get("accept", ""), "text/event-stream"):
        return Rejection(406, jsonrpc.INVALID_REQUEST, "Accept must list text/event-stream")
    refusal = _check_version(headers, None)
    if refusal is not None:
        return refusal
    session_id = headers.get(SESSION_HEADER, "")
    if not session_id:
        return Rejection(400, jsonrpc.INVALID_REQUEST, "missing Mcp-Session-Id header")
    return Tail(session_id, headers.get(CURSOR_HEADER))


def classify_delete(headers: Mapping[str, str]) -> End | Rejection:
    """Say what a DELETE is: 1 protocol version (400), 2 session id (400)."""
    refusal = _check_version(headers, None)
    if refusal is not None:
        return refusal
    session_id = headers.get(SESSION_HEADER, "")
    if not session_id:
        return Rejection(400, jsonrpc.INVALID_REQUEST, "missing Mcp-Session-Id header")
    return End(session_id)


# What a session has to say of its own, as JSON-RPC errors: docs/protocol.md, "Error codes of the gateway".
PROBLEM_CODES: Mapping[Problem, int] = {
    Problem.UNAVAILABLE: jsonrpc.UPSTREAM_UNAVAILABLE,
    Problem.OVERLOADED: jsonrpc.OVERLOADED,
    Problem.DUPLICATE: jsonrpc.INVALID_REQUEST,
    Problem.UNINITIALIZED: jsonrpc.SESSION_NOT_FOUND,
    Problem.REFUSED: jsonrpc.INTERNAL_ERROR,
    Problem.LOST: jsonrpc.OUTCOME_UNKNOWN,
}


def classify_sse_post(
    headers: Mapping[str, str], session_id: str, body: bytes
) -> Initialize | Request | Notification | Answer | Rejection:
    """Say what a POST to the message endpoint of HTTP+SSE is (MCP 2024-11-05, transports, HTTP with SSE).

    The ladder: 1 session id (400), 2 content type (415), 3 JSON and JSON-RPC (400), 4 protocol version (400). Nothing
    is asked of Accept: nothing but a receipt is answered.
    """
    if not session_id:
        return Rejection(400, jsonrpc.INVALID_REQUEST, "missing session_id: post to the URI of the endpoint event")
    if not is_json(headers.get("content-type", "")):
        return Rejection(415, jsonrpc.INVALID_REQUEST, "Content-Type must be application/json")
    try:
        message = jsonrpc.parse(body)
    except InvalidMessage as invalid:
        return Rejection(400, invalid.code, invalid.reason, invalid.id)
    is_request = message.kind is Kind.REQUEST
    refusal = _check_version(headers, message.id if is_request else None)
    if refusal is not None:
        return refusal
    if is_request and message.method == "initialize":
        return Initialize(message)
    return classify_message(message, session_id)


def classify_sse_get(headers: Mapping[str, str]) -> Rejection | None:
    """Say what is wrong with a GET for the stream of HTTP+SSE: 1 accept (406), 2 protocol version (400)."""
    if not accepts(headers.get("accept", "*/*"), "text/event-stream"):
        return Rejection(406, jsonrpc.INVALID_REQUEST, "Accept must list text/event-stream")
    return _check_version(headers, None)


METHOD_NOT_ALLOWED = Rejection(
    405, jsonrpc.INVALID_REQUEST, "use GET, POST or DELETE", headers=((b"allow", b"GET, POST, DELETE"),)
)
BATCH_REFUSED = Rejection(
    400,
    jsonrpc.INVALID_REQUEST,
    f"an array (a batch) is taken under MCP-Protocol-Version {BATCH_REVISION} only; send one message at a time",
)
SESSION_NOT_FOUND = Rejection(404, jsonrpc.SESSION_NOT_FOUND, "Session not found")


def _check_version(headers: Mapping[str, str], request_id: RequestId | None) -> Rejection | None:
    version = headers.get(VERSION_HEADER)
    if version is None or version in HANDSHAKE_REVISIONS:
        return None
    supported = ", ".join(HANDSHAKE_REVISIONS)
    reason = f"unsupported MCP-Protocol-Version {version[:40]!r}; supported: {supported}"
    return Rejection(400, jsonrpc.INVALID_REQUEST, reason, request_id)


def is_json(content_type: str) -> bool:
    """Say whether a Content-Type header means JSON, whatever its parameters."""
    if content_type == "application/json":
        return True
    return content_type.partition(";")[0].strip().lower() == "application/json"


def accepts(accept: str, *wanted: str) -> bool:
    """Say whether an Accept header lists each of these, by name or by a range (RFC 9110, 12.5.1)."""
    if accept == "application/json, text/event-stream":  # what every SDK sends
        return True
    ranges = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return all(bool(ranges & {kind, kind.partition("/")[0] + "/*", "*/*"}) for kind in wanted)


# ---- looking into the messages that mean something to a session ----


class _NameOnly(msgspec.Struct, gc=False):
    name: str = ""
    uri: str = ""


class _NamedRequest(msgspec.Struct, gc=False):
    params: _NameOnly | msgspec.UnsetType = msgspec.UNSET


# A tuple of one more than may be: what follows is checked and skipped, so that an array of a million numbers costs
# no memory.
_Entries = msgspec.defstruct(
    "_Entries",
    [(f"entry_{n}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for n in range(BATCH_MESSAGES_MAX + 1)],
    array_like=True,
    gc=False,
)
_decode_entries = reader(_Entries)


def _first_entries(body: bytes) -> list[bytes]:
    """Give the entries of an array, their bytes as they came; of a longer one the first few."""
    entries = msgspec.structs.astuple(_decode_entries(body))
    return [bytes(entry) for entry in entries if entry is not msgspec.UNSET]


_decode_named = reader(_NamedRequest)


def _named(message: Message) -> _NameOnly:
    try:
        params = _decode_named(message.raw).params
    except msgspec.MsgspecError:
        return _NameOnly()  # not for us to complain about: the upstream will
    return _NameOnly() if params is msgspec.UNSET else params


def _label(message: Message) -> str:
    return (_named(message).name or "?") if message.method == "tools/call" else ""


def _setup(message: Message) -> SetupChange | None:
    """Which requests a re-initialized upstream must hear again: its log level and its subscriptions."""
    if message.method == "logging/setLevel":
        return SetupChange("logging/setLevel", keep=True)
    if message.method in ("resources/subscribe", "resources/unsubscribe"):
        uri = _named(message).uri
        return SetupChange(f"resources/subscribe {uri}", keep=message.method == "resources/subscribe")
    return None


def _cancels(message: Message) -> RequestId | None:
    if message.method != "notifications/cancelled":
        return None
    return jsonrpc.cancelled_id(message)
