"""The script: how the measured upstream answers, apart from what serves it.

Pure: method, session and body in, an answer out. `bench/upstream.py` serves it as fast as we know how; the hypercorn
reference serves the same script, so that what is compared is the servers.

It is a small but honest MCP server of the handshake era: sessions are minted, required and ended; `echo` gives back
the text it was called with, so that a caller can tell its own answer from anybody else's.
"""

from __future__ import annotations

import secrets

import attrs
import msgspec

PROTOCOL_VERSION = "2025-11-25"
SESSIONS_MAX = 1_000_000  # more: 503

_INITIALIZED = msgspec.json.encode(
    {
        "protocolVersion": PROTOCOL_VERSION,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "bench-upstream", "version": "1"},
    }
)
_TOOLS = msgspec.json.encode(
    {
        "tools": [
            {
                "name": "echo",
                "description": "Gives back its text.",
                "inputSchema": {
                    "type": "object",
                    "properties": {"text": {"type": "string"}},
                    "required": ["text"],
                },
            }
        ]
    }
)


@attrs.frozen
class Answer:
    """One HTTP answer. A body that is not empty is one JSON-RPC message."""

    status: int
    body: bytes = b""
    session_id: str = ""  # to be told in Mcp-Session-Id


class _Arguments(msgspec.Struct, gc=False, frozen=True):
    text: msgspec.Raw = msgspec.Raw(b'""')  # raw: it goes back byte for byte


class _Params(msgspec.Struct, gc=False):
    name: str = ""
    arguments: _Arguments = _Arguments()


class _Request(msgspec.Struct, gc=False):
    method: str = ""  # "": an answer of the client to a request of ours
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw = msgspec.Raw(b"{}")


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_params = msgspec.json.Decoder(_Params).decode

_ACCEPTED = Answer(202)
_NOT_ALLOWED = Answer(405)
_UNKNOWN_SESSION = Answer(404, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}')
_BAD_REQUEST = Answer(400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}')
_TOO_MANY = Answer(503, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"Too many sessions"}}')


class Script:
    """The sessions of one scripted server, and its answers."""

    def __init__(self) -> None:
        self._sessions: set[str] = set()

    @property
    def sessions(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    def answer(self, method: str, session_id: str, body: bytes) -> Answer:
        """Answer one HTTP request.

        Args:
          method: the HTTP method.
          session_id: the value of Mcp-Session-Id; "" where there is none.
          body: one JSON-RPC message.
        """
        if method == "POST":
            return self._post(session_id, body)
        if method == "DELETE":
            return self._delete(session_id)
        return _NOT_ALLOWED  # GET among them: this server says nothing unasked

    def _post(self, session_id: str, body: bytes) -> Answer:
        try:
            request = _decode_request(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _BAD_REQUEST
        if request.method == "initialize" and request.id is not msgspec.UNSET:
            return self._initialize(request.id)
        if session_id not in self._sessions:
            return _UNKNOWN_SESSION
        if request.id is msgspec.UNSET or not request.method:
            return _ACCEPTED
        return Answer(200, _message(request.id, request.method, request.params))

    def _initialize(self, id: msgspec.Raw) -> Answer:
        if len(self._sessions) >= SESSIONS_MAX:
            return _TOO_MANY
        session_id = secrets.token_hex(16)
        self._sessions.add(session_id)
        return Answer(200, _result(id, _INITIALIZED), session_id)

    def _delete(self, session_id: str) -> Answer:
        if session_id not in self._sessions:
            return _UNKNOWN_SESSION
        self._sessions.remove(session_id)
        return Answer(200)


def _message(id: msgspec.Raw, method: str, params: msgspec.Raw) -> bytes:
    if method == "tools/call":
        return _call(id, params)
    if method == "tools/list":
        return _result(id, _TOOLS)
    if method == "ping":
        return _result(id, b"{}")
    return _error(id, -32601, b"Method not found")


def _call(id: msgspec.Raw, params: msgspec.Raw) -> bytes:
    try:
        call = _decode_params(params)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _error(id, -32602, b"Invalid params")
    if call.name != "echo":
        return _error(id, -32602, b"Unknown tool")
    text = bytes(call.arguments.text)
    return _result(id, b'{"content":[{"type":"text","text":%b}],"isError":false}' % text)


def _result(id: msgspec.Raw, result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (bytes(id), result)


def _error(id: msgspec.Raw, code: int, reason: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":"%b"}}' % (bytes(id), code, reason)
