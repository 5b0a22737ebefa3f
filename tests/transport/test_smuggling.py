"""What two HTTP parsers in a row might read differently is refused, on both roads, and ends the connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.transport.serving import Answer, connected, echo, get, post, serving
from transport import hypercorn_road
from transport.exchange import Exchange
from transport.handler import HttpLimits

START = b"POST /mcp HTTP/1.1\r\nHost: x\r\n"

# name -> bytes, status. Each is followed by a whole good request, which must never be served.
REFUSED: dict[str, tuple[bytes, int]] = {
    "length and coding": (START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding and length": (START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (START + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "two equal lengths": (START + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "two lengths in two spellings": (START + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", 400),
    "list of lengths": (START + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "signed length": (START + b"Content-Length: +5\r\n\r\nhello", 400),
    "negative length": (START + b"Content-Length: -5\r\n\r\nhello", 400),
    "hexadecimal length": (START + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "empty length": (START + b"Content-Length:\r\n\r\nhello", 400),
    "length with a blank": (START + b"Content-Length: 5 5\r\n\r\nhello", 400),
    "enormous length": (START + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nhello", 400),
    "unknown coding": (START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "coding in front of chunked": (START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked not last": (START + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "identity": (START + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "two codings": (START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "blank in front of the colon": (START + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "folded header": (START + b"X-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n", 400),
    "folded coding": (START + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "folded by a tab": (START + b"X-A: 1\r\n\tb\r\n\r\n", 400),
    "header in front of a name": (b"POST /mcp HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n", 400),
    "bare line feeds": (b"POST /mcp HTTP/1.1\nHost: x\n\n", 400),
    "one bare line feed": (START + b"X-A: b\nContent-Length: 5\r\n\r\nhello", 400),
    "bare return": (START + b"X-A: b\rContent-Length: 5\r\n\r\nhello", 400),
    "NUL in a value": (START + b"X-A: b\0c\r\n\r\n", 400),
    "NUL in a name": (START + b"X\0A: b\r\n\r\n", 400),
    "control character in a value": (START + b"X-A: b\x01c\r\n\r\n", 400),
    "no name": (START + b": b\r\n\r\n", 400),
    "no colon": (START + b"abc\r\n\r\n", 400),
    "no host": (b"GET /mcp HTTP/1.1\r\n\r\n", 400),
    "two hosts": (START + b"Host: x\r\n\r\n", 400),
    "empty host": (b"GET /mcp HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "host with a path": (b"GET /mcp HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    "host with a user": (b"GET /mcp HTTP/1.1\r\nHost: a@x\r\n\r\n", 400),
    "absolute target": (b"GET http://x/mcp HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "authority target": (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "asterisk of another method": (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "fragment in the target": (b"GET /mcp#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "raw bytes in the target": (b"GET /m\xffp HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two blanks": (b"GET  /mcp HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "escaped NUL in the path": (b"GET /m%00p HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "escaped line break in the path": (b"GET /m%0d%0ap HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "path that is no text": (b"GET /m%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "unknown method": (b"SMUGGLE /mcp HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "method in lower case": (b"get /mcp HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/1.0": (b"GET /mcp HTTP/1.0\r\nHost: x\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /mcp\r\n\r\n", 400),
    "HTTP/2 announced": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "another protocol": (b"GET /mcp RTSP/1.1\r\nHost: x\r\n\r\n", 400),
    "version of two digits": (b"GET /mcp HTTP/1.10\r\nHost: x\r\n\r\n", 400),
    "bytes that are no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "two sessions": (START + b"Mcp-Session-Id: a\r\nMcp-Session-Id: b\r\n\r\n", 400),
    "two sessions in two spellings": (START + b"Mcp-Session-Id: a\r\nMCP-SESSION-ID: a\r\n\r\n", 400),
    "two cursors": (START + b"Last-Event-ID: a\r\nLast-Event-ID: b\r\n\r\n", 400),
    "two credentials": (START + b"Authorization: a\r\nAuthorization: b\r\n\r\n", 400),
    "two origins": (START + b"Origin: a\r\nOrigin: b\r\n\r\n", 400),
    "two content types": (START + b"Content-Type: a\r\nContent-Type: b\r\n\r\n", 400),
    "unknown expectation": (START + b"Expect: 200-ok\r\n\r\n", 417),
    "long target": (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "endless target": (b"GET /" + b"x" * 40_000, 414),
    "large head": (START + b"X-A: " + b"x" * 40_000 + b"\r\n\r\n", 431),
    "endless head": (START + b"X-A: " + b"x" * 40_000, 431),
    "many headers": (START + b"".join(b"X-%d: 1\r\n" % index for index in range(101)) + b"\r\n", 431),
    "body over the limit": (START + b"Content-Length: 5000000\r\n\r\n", 413),
}

# These are found while the body is read: the handler has been called, but is not given a body.
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED_BODIES: dict[str, bytes] = {
    "chunk that ends elsewhere": CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n",
    "chunk ended by a bare line feed": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "size ended by a bare line feed": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "signed chunk size": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "hexadecimal mark": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "enormous chunk size": CHUNKED + b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n",
    "long chunk extension": CHUNKED + b"5;" + b"x" * 60_000 + b"\r\nhello\r\n0\r\n\r\n",
    "return in a chunk extension": CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "broken trailer": CHUNKED + b"0\r\nno colon\r\n\r\n",
    "chunks of nothing but framing": CHUNKED + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n",
}

# The strict reading refuses nothing that is plainly good.
ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "length": (START + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "coding in capitals": (START + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi"),
    "short extension and trailer": (CHUNKED + b'5;a="b"\r\nhello\r\n0\r\nX-A: b\r\n\r\n', b"hello"),
    "no blank behind the colon": (b"POST /mcp HTTP/1.1\r\nHost:x\r\nContent-Length:2\r\n\r\nhi", b"hi"),
    "blanks around a value": (START + b"Content-Length: \t2 \r\n\r\nhi", b"hi"),
    "leading zeros": (START + b"Content-Length: 002\r\n\r\nhi", b"hi"),
    "empty line in front": (b"\r\n" + START + b"Content-Length: 2\r\n\r\nhi", b"hi"),
    "repeated list header": (START + b"Accept: a\r\nAccept: b\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "address as host": (b"POST / HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "question to the server": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    "hundred headers": (
        START + b"Content-Length: 2\r\n" + b"".join(b"X-%d: 1\r\n" % index for index in range(98)) + b"\r\nhi",
        b"hi",
    ),
}

BOTH_ROADS = pytest.mark.parametrize("hot", [True, False], ids=["hot", "hypercorn"])


async def _ask(raw: bytes, hot: bool) -> tuple[Answer, bytes, list[str]]:
    """Send the bytes on a connection of their own; give the answer, what came behind it, and what was called."""
    called: list[str] = []

    async def handler(exchange: Exchange) -> None:
        called.append(exchange.head.path)
        await echo(exchange)
        called.append("answered")

    async with (
        serving(handler, hot=hot, limits=HttpLimits(linger_seconds=0.05)) as server,
        connected(server) as client,
    ):
        answer = await client.ask(raw)
        rest = await client.ended()
    return answer, rest, called


@BOTH_ROADS
@pytest.mark.parametrize("name", REFUSED)
async def test_ambiguous_head_is_refused_and_ends_the_connection(name: str, hot: bool) -> None:
    raw, status = REFUSED[name]
    answer, rest, called = await _ask(raw + post(b"smuggled", "/smuggled"), hot)
    assert (answer.status, rest, called) == (status, b"", [])
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    assert b'"jsonrpc"' in answer.body


@BOTH_ROADS
@pytest.mark.parametrize("name", REFUSED_BODIES)
async def test_ambiguous_body_never_reaches_the_handler(name: str, hot: bool) -> None:
    raw = REFUSED_BODIES[name] + post(b"smuggled", "/smuggled")
    called: list[str] = []

    async def handler(exchange: Exchange) -> None:
        called.append(exchange.head.path)
        await exchange.body()
        called.append("body")

    async with (
        serving(handler, hot=hot, limits=HttpLimits(linger_seconds=0.05)) as server,
        connected(server) as client,
    ):
        await client.stream.send_all(raw)
        received = await client.ended()
    assert called in (["/mcp"], [])
    assert received.count(b"HTTP/1.1") <= 1
    assert b" 200 " not in received
    if hot:
        assert received.startswith(b"HTTP/1.1 400")


@BOTH_ROADS
@pytest.mark.parametrize("name", ACCEPTED)
async def test_plain_request_is_served(name: str, hot: bool) -> None:
    raw, body = ACCEPTED[name]
    async with serving(hot=hot) as server, connected(server) as client:
        answer = await client.ask(raw)
        assert (answer.status, answer.body) == (200, body)
        assert (await client.ask(get())).status == 200


@asynccontextmanager
async def _unfiltered(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    class PassAll:
        in_head = False
        has_refused = has_upgraded = False

        def __init__(self, limits: HttpLimits) -> None: ...

        def feed(self, data: bytes) -> bytes:
            return data

    monkeypatch.setattr(hypercorn_road, "RequestFilter", PassAll)
    async with serving(hot=False) as server, connected(server) as client:
        yield client


async def test_without_the_filter_ambiguous_requests_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what stands behind the filter would take this one."""
    async with _unfiltered(monkeypatch) as client:
        assert (await client.ask(REFUSED["two equal lengths"][0])).status == 200
