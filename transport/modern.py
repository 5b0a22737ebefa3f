"""What MCP 2026-07-28 says about a message, apart from any connection. Pure.

No sessions: every request carries its revision and its client's capabilities in `params._meta`, and mirrors what it is
about in headers, so that others can route it without reading its body. Whoever reads both must refuse a request in
which they differ, for it means one thing to the router and another to the server (basic/transports/streamable-http,
Server Validation). So `classify` climbs a ladder again; the first rung that fails is the answer.

What a request says is left to the server: no method is unknown here, no parameter is looked at but those that headers
mirror. `Mcp-Param-*` headers mirror what only the tool's schema tells (`param_headers.py`); they are passed on for the
server to check, or checked where a server is told no headers (`upstreams/tool_headers.py`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from actors import jsonrpc
from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId
from actors.reading import reader
from transport import mcp
from transport.mcp import HEADER_MISMATCH, META_VERSION, Rejection
from transport.revisions import HANDSHAKE_REVISIONS, MODERN_REVISIONS, VERSION_HEADER

REVISION = MODERN_REVISIONS[-1]
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT = "io.modelcontextprotocol/clientInfo"
META_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

LISTEN = "subscriptions/listen"
DISCOVER = "server/discover"

MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
# Only a server of this era says one of these (basic, Error Codes).
ERA_CODES = frozenset((HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION))

METHOD_HEADER = "mcp-method"
NAME_HEADER = "mcp-name"
PARAM_PREFIX = "mcp-param-"

# What `Mcp-Name` mirrors. It is required of the first three; the tasks extension has it too.
_NAMED_BY: Mapping[str, str] = MappingProxyType(
    {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
    | {f"tasks/{verb}": "taskId" for verb in ("get", "update", "cancel")}
)
_SENTINEL = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110, 5.5, without what MCP has encoded
_SHOWN_CHARACTERS = 60
_STATUSES = {
    **dict.fromkeys((jsonrpc.PARSE_ERROR, jsonrpc.INVALID_REQUEST, jsonrpc.INVALID_PARAMS, *ERA_CODES), 400),
    jsonrpc.METHOD_NOT_FOUND: 404,
}

METHOD_NOT_ALLOWED = Rejection(
    405, jsonrpc.INVALID_REQUEST, f"{REVISION} is spoken by POST alone", headers=((b"allow", b"POST"),)
)


class ModernRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that stands for itself."""

    message: Message
    headers: tuple[tuple[str, str], ...]  # those that go on to the server; their values have been checked

    @property
    def id(self) -> RequestId:
        assert self.message.id is not None
        return self.message.id

    @property
    def name(self) -> str:
        """What it names, a tool for instance, as its header says it; "" if nothing."""
        header = next((value for name, value in self.headers if name == NAME_HEADER), "")
        return decode_value(header) or ""

    @property
    def listens(self) -> bool:
        """Whether its answer is a stream that is open for as long as the client likes."""
        return self.message.method == LISTEN


class Dropped(msgspec.Struct, frozen=True, gc=False):
    """A notification: none is defined from clients over HTTP, and nothing remembers what it could be about."""


class _Meta(msgspec.Struct, gc=False):
    version: msgspec.Raw | msgspec.UnsetType = msgspec.field(name=META_VERSION, default=msgspec.UNSET)
    capabilities: msgspec.Raw | msgspec.UnsetType = msgspec.field(name=META_CAPABILITIES, default=msgspec.UNSET)


class _Params(msgspec.Struct, gc=False):
    meta: _Meta | msgspec.UnsetType = msgspec.field(name="_meta", default=msgspec.UNSET)
    name: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    uri: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    taskId: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Request(msgspec.Struct, gc=False):
    params: _Params | msgspec.UnsetType = msgspec.UNSET


class _Code(msgspec.Struct, frozen=True, gc=False):
    code: int = jsonrpc.INTERNAL_ERROR


class _ErrorAnswer(msgspec.Struct, gc=False):
    error: _Code = _Code()


_decode_request = reader(_Request)
_decode_error = reader(_ErrorAnswer)
_decode_text = msgspec.json.Decoder(str).decode  # strict: half a character equals no header


def classify(headers: Mapping[str, str], body: bytes) -> ModernRequest | Dropped | Rejection:
    """Say what a POST is.

    The ladder: 1 content type (415), 2 accept (406), 3 JSON (400, -32700), 4 a request or a notification (400,
    -32600; a notification of a known revision ends here), 5 no characters in MCP's headers that do not belong there
    (400, -32020), 6 `params._meta` (400, -32602), 7 headers and body agree (400, -32020), 8 the revision is known (400,
    -32022). A header that is there twice has been refused before (400, -32020), with the head.

    Args:
      headers: names in lower case.
    """
    if not mcp.is_json(headers.get("content-type", "")):
        return Rejection(415, jsonrpc.INVALID_REQUEST, "Content-Type must be application/json")
    if not mcp.accepts(headers.get("accept", ""), "application/json", "text/event-stream"):
        return Rejection(406, jsonrpc.INVALID_REQUEST, "Accept must list both application/json and text/event-stream")
    try:
        message = jsonrpc.parse(body)
    except InvalidMessage as invalid:
        return Rejection(400, invalid.code, invalid.reason, invalid.id)
    version = headers.get(VERSION_HEADER, "")
    if message.kind is Kind.RESPONSE:
        reason = f"a client of {REVISION} sends requests and notifications, never responses"
        return Rejection(400, jsonrpc.INVALID_REQUEST, reason)
    if message.kind is Kind.NOTIFICATION:
        return Dropped() if version in MODERN_REVISIONS else unsupported(version, None)
    return _classify_request(headers, message, version)


def _classify_request(headers: Mapping[str, str], message: Message, version: str) -> ModernRequest | Rejection:
    passed_on = _passed_on(headers)
    for name, value in passed_on:
        if not _VALUE.fullmatch(value):
            return _mismatch(f"the {name} header has characters that must be base64-encoded", message.id)
    try:
        params = _decode_request(message.raw).params
    except msgspec.ValidationError:
        params = msgspec.UNSET
    meta = msgspec.UNSET if params is msgspec.UNSET else params.meta
    if meta is msgspec.UNSET or meta.version is msgspec.UNSET:
        if version not in MODERN_REVISIONS:  # the header alone tells that we do not understand each other
            return unsupported(version, message.id)
        return _no_meta(META_VERSION, message.id)
    if meta.capabilities is msgspec.UNSET:
        return _no_meta(META_CAPABILITIES, message.id)
    assert params is not msgspec.UNSET
    difference = _difference(headers, message.method, params, meta.version)
    if difference:
        return _mismatch(difference, message.id)
    if version not in MODERN_REVISIONS:
        return unsupported(version, message.id)
    return ModernRequest(message, passed_on)


def _passed_on(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Pick the headers that are about the message; all others are between this client and us."""
    return tuple(
        (name, value)
        for name, value in headers.items()
        if name in (METHOD_HEADER, NAME_HEADER) or name.startswith(PARAM_PREFIX)
    )


def _difference(headers: Mapping[str, str], method: str, params: _Params, version: msgspec.Raw) -> str:
    """Say in what headers and body differ; "" if they agree."""
    claimed = headers.get(VERSION_HEADER, "")
    if claimed != _text(version):
        return f"MCP-Protocol-Version is {_shown(claimed)}, {META_VERSION} in the body is something else"
    claimed_method = headers.get(METHOD_HEADER)
    if claimed_method is None:
        return f"the Mcp-Method header is missing; it must be {_shown(method)}"
    if claimed_method != method:
        return f"Mcp-Method is {_shown(claimed_method)}, the body's method {_shown(method)}"
    field = _NAMED_BY.get(method)
    return "" if field is None else _name_difference(headers.get(NAME_HEADER), params, field)


def _name_difference(header: str | None, params: _Params, field: str) -> str:
    value = getattr(params, field)
    if value is msgspec.UNSET or bytes(value) == b"null":
        return ""  # what its absence means is for the server to say
    if header is None:
        return f"the Mcp-Name header is missing; it must be the body's params.{field}" if field != "taskId" else ""
    decoded = decode_value(header)
    if decoded is None:
        return "the Mcp-Name header is not correctly base64-encoded"
    if decoded != _text(value):
        return f"Mcp-Name is {_shown(decoded)}, the body's params.{field} is something else"
    return ""


def decode_value(header: str) -> str | None:
    """Read a header value that may be base64-encoded (2026-07-28, basic/transports/streamable-http, Value Encoding).

    Returns:
      None if it claims to be encoded and is not, or not in the one canonical way: two readers might differ.
    """
    match = _SENTINEL.fullmatch(header)
    if match is None:
        return header
    try:
        decoded = base64.b64decode(match[1], validate=True)
        text = decoded.decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text if base64.b64encode(decoded).decode() == match[1] else None


def unsupported(version: str, request_id: RequestId | None) -> Rejection:
    """Refuse a revision that nobody here knows, and name those that are known: a client goes on with one of them."""
    supported = [*reversed(MODERN_REVISIONS), *reversed(HANDSHAKE_REVISIONS)]
    requested = version[:_SHOWN_CHARACTERS]
    reason = f"unsupported MCP-Protocol-Version {requested!r}; supported: {', '.join(supported)}"
    data = {"supported": supported, "requested": requested}
    return Rejection(400, UNSUPPORTED_VERSION, reason, request_id, data=data)


def not_spoken(request_id: RequestId) -> Rejection:
    """Refuse a request since the server behind us speaks earlier revisions only, so that clients open a session.

    Clients that know both eras take every refusal for an invitation to `initialize` but those that only a modern server
    makes (basic/versioning, Backward Compatibility). So this must not be -32022, though that would tell more; nor
    -32601 with 404, which tells of a modern server, too.
    """
    supported = [*reversed(HANDSHAKE_REVISIONS)]
    reason = f"this server does not speak {REVISION}: open a session with initialize ({', '.join(supported)})"
    return Rejection(400, jsonrpc.INVALID_REQUEST, reason, request_id, data={"supported": supported})


def status_of(answer: Message) -> int:
    """Give the HTTP status that goes with an answer, where the server gave none (SDK: ERROR_CODE_HTTP_STATUS)."""
    return _STATUSES.get(error_code(answer), 200) if answer.is_error else 200


def error_code(answer: Message) -> int:
    """Read the code of an error answer."""
    try:
        return _decode_error(answer.raw).error.code
    except msgspec.MsgspecError:
        return jsonrpc.INTERNAL_ERROR


def listening_ended(request_id: RequestId) -> Message:
    """Make the answer that ends `subscriptions/listen` in order (2026-07-28, basic/patterns/subscriptions)."""
    return jsonrpc.result(request_id, {"resultType": "complete", "_meta": {META_SUBSCRIPTION: request_id}})


def discover(request_id: RequestId, client: Mapping[str, str]) -> ModernRequest:
    """Make a request of our own that asks a server what it speaks.

    Args:
      client: how we present ourselves: name and version.
    """
    return own_request(request_id, DISCOVER, client)


def list_tools(request_id: RequestId, client: Mapping[str, str], cursor: str) -> ModernRequest:
    """Make a request of our own that asks a server for its tools.

    Args:
      client: how we present ourselves: name and version.
      cursor: of the page; "": the first.
    """
    return own_request(request_id, "tools/list", client, {"cursor": cursor} if cursor else {})


def mismatched(request: ModernRequest, reason: str) -> Message:
    """Make the answer to a request whose headers and body differ."""
    return jsonrpc.error(request.id, HEADER_MISMATCH, f"header mismatch: {reason}")


def own_request(
    request_id: RequestId,
    method: str,
    client: Mapping[str, str],
    params: Mapping[str, str] = MappingProxyType({}),
) -> ModernRequest:
    """Make a request of our own, of a method that names nothing in its headers.

    Args:
      client: how we present ourselves: name and version.
      params: besides what every request carries.
    """
    meta = {META_VERSION: REVISION, META_CAPABILITIES: {}, META_CLIENT: dict(client)}
    return ModernRequest(jsonrpc.request(request_id, method, {**params, "_meta": meta}), ((METHOD_HEADER, method),))


def _mismatch(reason: str, request_id: RequestId | None) -> Rejection:
    return Rejection(400, HEADER_MISMATCH, f"header mismatch: {reason}", request_id)


def _no_meta(key: str, request_id: RequestId | None) -> Rejection:
    reason = f"params._meta must be an object with {META_VERSION} and {META_CAPABILITIES}; {key} is missing"
    return Rejection(400, jsonrpc.INVALID_PARAMS, reason, request_id)


def _text(raw: msgspec.Raw) -> str | None:
    try:
        return _decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARACTERS])
