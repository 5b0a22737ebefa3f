"""Request heads: bytes, or an ASGI server's header pairs, into a checked `RequestHead`. Pure.

Strict on purpose. Whatever two HTTP parsers in a row may read differently (a length given twice, a length beside a
transfer coding, folded headers, bare line feeds, absolute targets) is how requests are smuggled past whatever stands
in front of us; so all of it is refused with 400 and the connection closed, although RFC 9112 would let us guess.

llhttp (through httptools) checks the syntax: line ends, tokens, control characters, folding, contradicting lengths.
What it lets pass is checked here, and `tests/transport/test_smuggling.py` pins both. One parser object is made per
head and fed nothing but the head: framing of bodies stays with us (`chunked.py`), where it can be bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
import httptools

from transport.exchange import RequestHead
from transport.handler import BadRequest, HttpLimits
from transport.mcp import HEADER_MISMATCH

CHUNKED = -1  # a body length that only the body itself tells

# Repeating one of these changes what a request means, or who it speaks for; every `mcp-` header counts as well
# (2026-07-28 asks to verify them against the body: two values cannot both be verified).
SENSITIVE = frozenset(
    (
        *("host", "content-length", "transfer-encoding", "content-type", "content-encoding", "authorization"),
        *("proxy-authorization", "origin", "last-event-id", "expect", "upgrade", "mcp-session-id"),
        *("sec-websocket-key", "sec-websocket-version"),
    )
)
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.%]+\])(?::[0-9]*)?")
_DIGITS_MAX = 15  # of a Content-Length: a petabyte; longer ones only look for overflows
_TARGET = re.compile(r"/[!-\"$-~]*")  # visible ASCII without "#"

# Lower-case names as text, by the spellings that clients really use: saves two calls and an object per header.
_COMMON_NAMES = (
    *("Host", "Connection", "Content-Type", "Content-Length", "Accept", "Accept-Encoding", "Accept-Language"),
    *("User-Agent", "Authorization", "Origin", "Referer", "Cookie", "Cache-Control", "Last-Event-ID"),
    *("Last-Event-Id", "Mcp-Session-Id", "MCP-Session-Id", "MCP-Protocol-Version", "Mcp-Protocol-Version"),
    *("Mcp-Method", "Mcp-Name", "X-Forwarded-For", "X-Forwarded-Proto", "Traceparent"),
)
_NAMES = {spelling.encode(): name.lower() for name in _COMMON_NAMES for spelling in (name, name.lower())}


@attrs.frozen
class ParsedHead:
    """A head, and what it says about the bytes that follow."""

    head: RequestHead
    body_length: int  # bytes; CHUNKED
    expects_continue: bool  # the client waits for "100 Continue" before it sends the body
    wants_close: bool  # the client asked that this be the connection's last request


class _Sink:
    """Where httptools puts what it finds: a C function, so that no Python runs per header."""

    __slots__ = ("on_header",)

    def __init__(self, on_header: Any) -> None:
        self.on_header = on_header


def parse_head(raw: bytes, limits: HttpLimits, peer: str, scheme: str = "http") -> ParsedHead:
    """Read one head.

    Args:
      raw: from the first byte of the request line to the empty line, included.

    Raises:
      BadRequest: with the status to answer.
    """
    method, target = _read_request_line(raw, limits)
    found: dict[bytes, bytes] = {}
    parser = httptools.HttpRequestParser(_Sink(found.setdefault))
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # syntactically whole; whether anything is upgraded is decided elsewhere
    except httptools.HttpParserError as error:
        raise BadRequest(400, f"malformed request: {error}") from None
    lines = raw.count(b"\r\n") - 2
    if lines > limits.headers_max:
        raise BadRequest(431, f"more than {limits.headers_max} headers")
    headers = {
        _NAMES.get(name) or _name_text(name): value.decode("latin-1").strip(" \t") for name, value in found.items()
    }
    if len(headers) != lines:  # some name is there twice, and the dictionaries kept one of them
        headers = fold_headers(_split_lines(raw), limits)
    return _judge(method, target, headers, peer, scheme)


def head_from_pairs(
    method: str,
    target: bytes,
    pairs: Iterable[tuple[bytes, bytes]],
    limits: HttpLimits,
    peer: str,
    scheme: str = "http",
) -> ParsedHead:
    """Make the head of a request that another server has parsed; `target` is raw, with the query.

    Raises:
      BadRequest
    """
    if len(target) > limits.target_bytes_max:
        raise BadRequest(414, "the request target is too long")
    return _judge(method, target, fold_headers(pairs, limits), peer, scheme)


def fold_headers(pairs: Iterable[tuple[bytes, bytes]], limits: HttpLimits) -> dict[str, str]:
    """Join repeated headers by ", " (RFC 9110, 5.3), or "; " for cookies.

    Raises:
      BadRequest: a header that must not be repeated is (400), or there are too many (431).
    """
    headers: dict[str, str] = {}
    for count, (raw_name, raw_value) in enumerate(pairs, start=1):
        if count > limits.headers_max:
            raise BadRequest(431, f"more than {limits.headers_max} headers")
        name = _name_text(raw_name)
        value = raw_value.decode("latin-1").strip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in SENSITIVE:
            raise BadRequest(400, f"the header {name} is there more than once")
        elif name.startswith("mcp-"):  # they repeat what the body says, once
            raise BadRequest(400, f"the header {name} is there more than once", HEADER_MISMATCH)
        else:
            headers[name] += ("; " if name == "cookie" else ", ") + value
    return headers


def refuse_endless_head(raw: bytes, limits: HttpLimits) -> None:
    """Check a head that is not whole yet.

    Raises:
      BadRequest: it can not become a good one any more: too long (414, 431), or its lines end in bare line feeds,
        so that the empty line we wait for would never come (400).
    """
    if len(raw) > limits.target_bytes_max + 64 and b"\r\n" not in raw[2 : limits.target_bytes_max + 64]:
        raise BadRequest(414, "the request target is too long")
    if len(raw) > limits.head_bytes_max:
        raise BadRequest(431, f"the head is larger than {limits.head_bytes_max} bytes")
    if raw.count(b"\n") != raw.count(b"\r\n"):
        raise BadRequest(400, "malformed request: a line ends without a carriage return")


def _read_request_line(raw: bytes, limits: HttpLimits) -> tuple[str, bytes]:
    line = raw[: raw.index(b"\r\n")]
    parts = line.split(b" ")
    if len(parts) != 3:  # HTTP/0.9, doubled spaces, nothing at all
        raise BadRequest(400, "malformed request line")
    method, target, version = parts
    if version != b"HTTP/1.1":
        known = re.fullmatch(rb"HTTP/[0-9](?:\.[0-9])?", version) is not None
        raise BadRequest(505 if known else 400, "only HTTP/1.1 is spoken here")
    if len(target) > limits.target_bytes_max:
        raise BadRequest(414, "the request target is too long")
    return method.decode("latin-1"), target  # llhttp has its list of methods


def _split_lines(raw: bytes) -> list[tuple[bytes, bytes]]:
    """Split the header lines of a head that llhttp has found well-formed."""
    pairs = []
    for line in raw[:-4].split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        pairs.append((name, value))
    return pairs


def _name_text(name: bytes) -> str:
    return name.lower().decode("latin-1")


def _judge(method: str, target: bytes, headers: dict[str, str], peer: str, scheme: str) -> ParsedHead:
    """Check what a head means, once its syntax is known to be good."""
    host = headers.get("host")
    if host is None or not _HOST.fullmatch(host):
        raise BadRequest(400, "exactly one Host header with a valid name is needed")
    path, query = _read_target(method, target)
    length = _read_length(headers)
    expectation = headers.get("expect")
    if expectation is not None and expectation.lower() != "100-continue":
        raise BadRequest(417, "the only expectation met here is 100-continue")
    connection = headers.get("connection")
    wants_close = connection is not None and "close" in map(str.strip, connection.lower().split(","))
    head = RequestHead(method, path, query, headers, peer, scheme)
    return ParsedHead(head, length, expectation is not None and length != 0, wants_close)


def _read_target(method: str, target: bytes) -> tuple[str, str]:
    text = target.decode("latin-1")
    if text == "*" and method == "OPTIONS":
        return text, ""
    if not _TARGET.fullmatch(text):  # absolute and authority forms are for proxies
        raise BadRequest(400, "the request target must be a path")
    path, _, query = text.partition("?")
    if "%" not in path:
        return path, query
    try:
        path = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise BadRequest(400, "the path is not UTF-8") from None
    if any(letter < " " or letter == "\x7f" for letter in path):
        raise BadRequest(400, "the path has control characters in it")
    return path, query


def _read_length(headers: dict[str, str]) -> int:
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "Content-Length and Transfer-Encoding exclude each other")
        if coding.lower() != "chunked":
            raise BadRequest(400, "the only transfer coding known here is chunked")
        return CHUNKED
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) <= _DIGITS_MAX):
        raise BadRequest(400, "Content-Length is not a number")
    return int(length)
