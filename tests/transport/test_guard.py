"""Who is let in, by Host and Origin; what browsers are told."""

from __future__ import annotations

import json

import pytest

from transport.exchange import Headers, RequestHead
from transport.guard import cors_headers, guard, is_preflight, make_policy, preflight_headers

LOCAL = make_policy("127.0.0.1")
PUBLIC = make_policy(
    "0.0.0.0", hosts=["gateway.example", "Other.Example:8443", "2001:DB8::1"], origins=["https://app.example/"]
)


def head(method: str = "POST", **headers: str) -> RequestHead:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestHead(method, "/mcp", "", {"host": "localhost:8080", **named}, "127.0.0.1")


def value(headers: Headers, name: bytes) -> bytes | None:
    found = [text for key, text in headers if key == name]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080", "localhost."]
)
def test_loopback_names_are_ours_on_any_port(host: str) -> None:
    assert guard(head(host=host), LOCAL) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "[::2]", ""],
)
def test_rebound_name_is_answered_421(host: str) -> None:
    rejection = guard(head(host=host), LOCAL)
    assert rejection is not None
    assert rejection.status == 421
    assert json.loads(rejection.body)["error"]["code"] == -32600
    assert (b"content-type", b"application/json") in rejection.headers


def test_host_check_can_be_turned_off_by_name_only() -> None:
    """The negative control: with every name allowed, a re-bound one gets in."""
    assert guard(head(host="evil.example"), make_policy(hosts=["*"])) is None
    assert guard(head(host="evil.example"), make_policy("*")) is not None


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.example", None),
        ("gateway.example:443", None),
        ("other.example:8443", None),
        ("other.example", 421),
        ("other.example:1", 421),
        ("[2001:db8::1]:8080", None),
        ("0.0.0.0", 421),
        ("localhost", None),
    ],
)
def test_listed_names_are_ours(host: str, status: int | None) -> None:
    rejection = guard(head(host=host), PUBLIC)
    assert (rejection.status if rejection else None) == status


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("http://LOCALHOST:8080", "localhost:8080", True),
        ("http://127.0.0.1", "127.0.0.1:80", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://localhost:3000", "localhost:8080", False),
        ("http://127.0.0.1:8080", "localhost:8080", False),
        ("http://evil.example", "localhost:8080", False),
        ("null", "localhost:8080", False),
        ("", "localhost:8080", False),
        ("file://", "localhost:8080", False),
        ("http://localhost:8080.evil.example", "localhost:8080", False),
        ("http://localhost:8080@evil.example", "localhost:8080", False),
    ],
)
def test_only_our_own_loopback_pages_are_let_in_by_default(origin: str, host: str, allowed: bool) -> None:
    rejection = guard(head(host=host, origin=origin), LOCAL)
    assert (rejection is None) == allowed
    assert rejection is None or rejection.status == 403


def test_program_without_an_origin_is_let_in() -> None:
    assert guard(head(), LOCAL) is None


def test_listed_origin_is_let_in_and_no_other() -> None:
    assert guard(head(host="gateway.example", origin="https://app.example"), PUBLIC) is None
    for origin in (
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil",
        "https://gateway.example",
    ):
        rejection = guard(head(host="gateway.example", origin=origin), PUBLIC)
        assert rejection is not None
        assert rejection.status == 403


def test_origin_may_be_listed_for_any_port() -> None:
    policy = make_policy(origins=["http://localhost:*"])
    assert guard(head(origin="http://localhost:6274"), policy) is None
    assert guard(head(origin="https://localhost:6274"), policy) is not None


def test_refusal_names_the_setting_that_would_let_it_pass_and_repeats_nothing_of_the_request() -> None:
    for asked, setting in (
        (head(host="evil.example"), "allowed_hosts"),
        (head(origin="http://evil"), "allowed_origins"),
    ):
        rejection = guard(asked, LOCAL)
        assert rejection is not None
        assert setting in json.loads(rejection.body)["error"]["message"]
        assert b"evil" not in rejection.body


def test_host_is_checked_before_origin() -> None:
    rejection = guard(head(host="evil.example", origin="http://evil.example"), LOCAL)
    assert rejection is not None
    assert rejection.status == 421


def test_preflight_is_told_from_other_options() -> None:
    asked = {"origin": "https://app.example", "access_control_request_method": "POST"}
    assert is_preflight(head("OPTIONS", **asked))
    assert not is_preflight(head("POST", **asked))
    assert not is_preflight(head("OPTIONS", origin="https://app.example"))


def test_preflight_allows_what_mcp_needs() -> None:
    asked = head(
        "OPTIONS",
        host="gateway.example",
        origin="https://app.example",
        access_control_request_method="DELETE",
        access_control_request_headers="Mcp-Session-Id, mcp-param-Region, x-other, mcp-bad name",
    )
    headers = preflight_headers(asked, PUBLIC)
    assert value(headers, b"access-control-allow-origin") == b"https://app.example"
    assert value(headers, b"access-control-allow-methods") == b"GET, POST, DELETE, OPTIONS"
    allowed = (value(headers, b"access-control-allow-headers") or b"").decode().split(", ")
    assert {
        *("authorization", "content-type", "accept", "last-event-id"),
        *("mcp-session-id", "mcp-protocol-version", "mcp-param-region"),
    } <= set(allowed)
    assert "x-other" not in allowed
    assert not any(" " in name for name in allowed)
    assert value(headers, b"access-control-allow-credentials") is None
    assert b"Origin" in (value(headers, b"vary") or b"")


def test_answer_exposes_the_session_id() -> None:
    headers = cors_headers(head(host="gateway.example", origin="https://app.example"), PUBLIC)
    assert value(headers, b"access-control-allow-origin") == b"https://app.example"
    assert b"Mcp-Session-Id" in (value(headers, b"access-control-expose-headers") or b"")
    assert value(headers, b"vary") == b"Origin"


def test_answer_to_a_program_has_no_cors_headers() -> None:
    assert cors_headers(head(), PUBLIC) == ()


def test_refused_page_is_not_named() -> None:
    headers = cors_headers(head(host="gateway.example", origin="https://evil.example"), PUBLIC)
    assert value(headers, b"access-control-allow-origin") is None


def test_star_never_comes_with_credentials() -> None:
    policy = make_policy(origins=["*", "https://app.example"], credentials=True)
    stranger = cors_headers(head(origin="https://any.example"), policy)
    assert value(stranger, b"access-control-allow-origin") == b"*"
    assert value(stranger, b"access-control-allow-credentials") is None
    listed = cors_headers(head(origin="https://app.example"), policy)
    assert value(listed, b"access-control-allow-origin") == b"https://app.example"
    assert value(listed, b"access-control-allow-credentials") == b"true"
