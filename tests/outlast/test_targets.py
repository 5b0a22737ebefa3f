"""Targets: what the operator may write for a server, and how it is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.kinds import Refused
from outlast.targets import (
    HttpTarget,
    SseTarget,
    StdioTarget,
    Target,
    WebSocketTarget,
    missing_commands,
    parse_target,
    read_servers,
)
from outlast.urls import Address, local_url, read_address, redacted


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("https://mcp.example/mcp", HttpTarget("https://mcp.example/mcp")),
        ("http://127.0.0.1:3000/mcp?x=1", HttpTarget("http://127.0.0.1:3000/mcp?x=1")),
        ("http://[::1]:3000/mcp", HttpTarget("http://[::1]:3000/mcp")),
        (" HTTPS://mcp.example ", HttpTarget("HTTPS://mcp.example")),
        ("sse+https://mcp.example/sse", SseTarget("https://mcp.example/sse")),
        ("SSE+HTTP://127.0.0.1:3000/sse", SseTarget("HTTP://127.0.0.1:3000/sse")),
        ("ws://127.0.0.1:3000/ws", WebSocketTarget("ws://127.0.0.1:3000/ws")),
        ("wss://mcp.example/ws?x=1", WebSocketTarget("wss://mcp.example/ws?x=1")),
        ("stdio:mcp-server-time", StdioTarget(("mcp-server-time",))),
        ("stdio:uvx 'my server' --x=a:b", StdioTarget(("uvx", "my server", "--x=a:b"))),
        ("stdio: npx -y tool", StdioTarget(("npx", "-y", "tool"))),
    ],
)
def test_a_target_is_understood(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sse+https://user:secret@mcp.example/sse", "user and password"),
        ("sse+ftp://mcp.example", "no kind of server"),
        ("ws:mcp.example/ws", "names no host"),
        ("wss://user@mcp.example/ws", "user and password"),
        ("mcp.example/mcp", "names no kind of server"),
        ("uvx mcp-server-time", "names no kind of server"),
        ("ftp://mcp.example", "'ftp' is no kind of server"),
        ("https://", "names no host"),
        ("https:mcp.example", "names no host"),
        ("https://mcp.example:x/", "not a URL"),
        ("https://mcp.example:0/", "names no host"),
        ("https://[::1/", "not a URL"),
        ("https://mcp.example/#x", "'#'"),
        ("https://user@mcp.example/", "user and password"),
        ("https://mcp.example/a b", "no spaces"),
        ("https://mcp.exämple/", "beyond ASCII"),
        ("stdio:", "names no program"),
        ("stdio:''", "names no program"),
        ("stdio:a\0b", "names no program"),
        ("stdio:tool 'open", "No closing quotation"),
    ],
)
def test_a_target_that_cannot_be_served_is_refused(text: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        parse_target(text)


@given(st.text() | st.sampled_from(["http", "https", "stdio"]).flatmap(lambda s: st.text().map(f"{s}:".__add__)))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(parse_target(text), Target)


def test_a_target_is_shown_without_its_secrets() -> None:
    assert str(SseTarget("https://mcp.example/sse?key=hunter2")) == "sse+https://mcp.example/sse?***"
    assert "hunter2" not in repr(SseTarget("https://mcp.example/sse?key=hunter2"))


def test_a_lone_target_needs_no_name() -> None:
    assert read_servers(("https://mcp.example/mcp?a=b",)) == {"default": HttpTarget("https://mcp.example/mcp?a=b")}
    assert read_servers(("stdio:tool --x=y",)) == {"default": StdioTarget(("tool", "--x=y"))}


def test_several_targets_without_names_are_refused() -> None:
    with pytest.raises(Refused, match="a name of its own"):
        read_servers(("stdio:a", "stdio:b"))


def test_a_name_that_is_no_path_segment_is_refused() -> None:
    for name in ("", "a/b", "ä", ".hidden", "x" * 65, "a b"):
        with pytest.raises(Refused, match=r"1 to 64|names no kind"):
            read_servers({name: "stdio:x"})
    assert list(read_servers({"x" * 64: "stdio:x", "a.b_c-1": "stdio:x"})) == ["x" * 64, "a.b_c-1"]


def test_the_mark_of_event_stores_is_no_server_s_name() -> None:
    with pytest.raises(Refused, match="choose another"):
        read_servers(("mcp-sdk-events=stdio:x",))


def test_every_wrong_server_is_named() -> None:
    with pytest.raises(Refused) as caught:
        read_servers(("a=ws:x", "b=stdio:x", "a b=stdio:x", "b=stdio:y"))

    assert len(caught.value.problems) == 3


def test_reading_servers_twice_changes_nothing() -> None:
    servers = read_servers(("a=stdio:x", "b=https://y/"))

    assert read_servers(servers) == servers


def test_only_missing_programs_are_missing() -> None:
    servers = read_servers(("a=stdio:there", "b=stdio:nowhere --x", "c=https://nowhere/"))

    (line,) = missing_commands(servers, lambda command: "/bin/there" if command == "there" else None)
    assert "server 'b'" in line
    assert "'nowhere'" in line


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("[::]:65535", Address("::", 65535)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert read_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", ":80", "host", "host:", "host:65536", "host:-1", "::1:80", "[::1]", "a b:1", "[x]:1", "host:٣"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="HOST:PORT"):
        read_address(text)


def test_whoever_listens_everywhere_is_reached_here() -> None:
    assert local_url(Address("0.0.0.0", 1)) == "http://127.0.0.1:1"
    assert local_url(Address("::", 1)) == "http://[::1]:1"
    assert local_url(Address("mcp.example", 1)) == "http://mcp.example:1"


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    redacted(text)


def test_a_path_with_an_at_sign_is_no_secret() -> None:
    assert redacted("https://mcp.example/@scope/mcp") == "https://mcp.example/@scope/mcp"
    assert redacted("https://mcp.example:8443/@scope/mcp") == "https://mcp.example:8443/@scope/mcp"
