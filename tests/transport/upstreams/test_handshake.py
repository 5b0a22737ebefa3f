"""The pure parts: what was agreed, what is missing now, messages under another id, targets and heads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors import jsonrpc
from tests.transport.upstreams.bed import initialize_result
from transport.upstreams.handshake import (
    InvalidTerms,
    Terms,
    lacks,
    list_announcements,
    read_terms,
    split_batch,
    with_id,
)
from transport.upstreams.http_answers import session_is_lost
from transport.upstreams.http_response import ResponseInvalid, ResponseReader
from transport.upstreams.http_target import HttpTarget, check_headers, write_head


@pytest.mark.parametrize(
    ("before", "now", "missing"),
    [
        ({}, {}, ""),
        ({"tools": {}}, {"tools": {}, "prompts": {}}, ""),
        ({"tools": {}}, {}, "tools"),
        ({"tools": {"listChanged": True}}, {"tools": {"listChanged": False}}, "tools.listChanged"),
        ({"tools": {"listChanged": False}}, {"tools": {}}, ""),
        ({"resources": {"subscribe": True}}, {"resources": {}}, "resources.subscribe"),
        ({"tasks": {"requests": {"tools": {"call": {}}}}}, {"tasks": {"requests": {"tools": {}}}}, "tools.call"),
        ({"experimental": {"x": [1]}}, {"experimental": {"x": [2]}}, ""),
        ({"tools": None}, {}, ""),
    ],
)
def test_lacking_capabilities_are_named(before: dict[str, Any], now: dict[str, Any], missing: str) -> None:
    reason = lacks(Terms("v", before), Terms("v", now))
    assert reason.endswith(missing)
    assert bool(reason) is bool(missing)


def test_another_protocol_version_is_less() -> None:
    assert lacks(Terms("2025-06-18", {}), Terms("2025-11-25", {}))


def test_terms_are_read_from_the_whole_answer() -> None:
    assert read_terms(initialize_result({"tools": {}}).raw) == Terms("2025-11-25", {"tools": {}})
    for raw in (b"{}", b'{"result":{}}', b"[", jsonrpc.error(1, 1, "x").raw):
        with pytest.raises(InvalidTerms):
            read_terms(raw)


def test_only_lists_that_announce_changes_are_announced() -> None:
    terms = Terms(
        "v", {"tools": {"listChanged": True}, "prompts": {}, "resources": True, "logging": {"listChanged": True}}
    )
    assert [message.method for message in list_announcements(terms)] == ["notifications/tools/list_changed"]


def test_another_id_leaves_every_other_byte() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"big":123456789012345678901234567890, "f":1.50},"new":null}'
    assert with_id(raw, "a") == raw.replace(b'"id":1,', b'"id":"a",')


def test_batch_is_split_into_the_bytes_of_its_messages() -> None:
    assert split_batch(b' [ {"a": 1.0} , {"b":2}]') == [b'{"a": 1.0}', b'{"b":2}']
    assert split_batch(b'{"a":[1]}') == [b'{"a":[1]}']
    assert split_batch(b"[") == [b"["]


@pytest.mark.parametrize(
    ("status", "body", "lost"),
    [
        (404, b"", True),
        (404, b'{"error":{"code":-32601,"message":"Method not found"}}', False),
        (400, b"Bad Request: No valid session ID provided", True),
        (400, b"Session not found", True),
        (400, b"Bad Request: Unsupported protocol version", False),
        (400, b"missing argument. your session is fine", False),
        (410, b"Gone", False),
        (410, b"the session has expired", True),
        (503, b"session terminated", True),
        (500, b"session not found", False),
        (403, b"session not found", False),
    ],
)
def test_loss_of_a_session_is_told_from_other_refusals(status: int, body: bytes, lost: bool) -> None:
    assert session_is_lost(status, body) is lost


# ---- targets and heads ----


@pytest.mark.parametrize(
    ("url", "authority", "path", "port"),
    [
        ("http://example.org", "example.org", "/", 80),
        ("https://Example.org/mcp?x=1#y", "example.org", "/mcp?x=1", 443),
        ("https://example.org:8443/a%20b", "example.org:8443", "/a%20b", 8443),
        ("http://[::1]:8080/mcp", "[::1]:8080", "/mcp", 8080),
        ("http://b\u00fccher.example/", "xn--bcher-kva.example", "/", 80),
    ],
)
def test_url_is_read(url: str, authority: str, path: str, port: int) -> None:
    target = HttpTarget.parse(url)
    assert (target.authority, target.path, target.origin.port) == (authority, path, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org",
        "http://",
        "http://u:s3cret@example.org",
        "http://h/a b",
        "http://h:99999",
    ],
)
def test_url_that_is_no_target_is_refused(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        HttpTarget.parse(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nHost: evil"),
        ("X-A\r\n", "a"),
        ("X A", "a"),
        ("", "a"),
        ("Host", "x"),
        ("content-LENGTH", "1"),
        ("X", "\u20ac"),
    ],
)
def test_headers_that_would_break_a_request_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_headers({name: value})
    assert "evil" not in str(caught.value)


def test_head_is_written() -> None:
    head = write_head("POST", HttpTarget.parse("http://h:1/p"), [("A", "b")])
    assert head == b"POST /p HTTP/1.1\r\nHost: h:1\r\nA: b\r\n"


# ---- responses ----

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"Mcp-Session-Id: x\r\nX-Other: y\r\nKeep-Alive: timeout=5\r\n\r\n"
    b"3\r\nabc\r\n2;e=1\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
)


def test_response_is_read_alike_however_the_bytes_come() -> None:
    for size in range(1, len(CHUNKED) + 1):
        reader = ResponseReader()
        body = b""
        for _ in range(2):  # one after the other on the same connection
            for at in range(0, len(CHUNKED), size):
                assert not reader.complete
                reader.feed(CHUNKED[at : at + size])
                body += reader.take_body()
            assert reader.reusable
            assert reader.head is not None
            assert (reader.head.status, reader.head.media_type, reader.head.keep_alive_seconds) == (
                200,
                "application/json",
                5.0,
            )
            assert reader.head.fields.keys() == {
                b"content-type",
                b"transfer-encoding",
                b"mcp-session-id",
                b"keep-alive",
            }
            reader.next_response()
        assert body == b"abcdeabcde"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_ambiguous_responses_are_refused(data: bytes) -> None:
    with pytest.raises(ResponseInvalid):
        ResponseReader().feed(data)


def test_messages_kept_raw_are_json() -> None:
    """Control for the raw comparisons above: the decoder they bypass agrees with them."""
    assert msgspec.json.decode(with_id(b'{"id":1,"x":[1, 2]}', 2)) == {"id": 2, "x": [1, 2]}
