"""Where a forward proxy is, what is reached past it, and what it is shown."""

from __future__ import annotations

import base64

import pytest

from transport.upstreams.forward_proxy import ForwardProxy, StraightHosts

URL = "http://proxy.example:3128"


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("url", "shown", "authorization"),
    [
        (URL, URL, ""),
        (f"{URL}/", URL, ""),
        ("http://Proxy.Example.:3128", URL, ""),
        ("http://[::1]:3128", "http://[::1]:3128", ""),
        ("http://10.0.0.1:80", "http://10.0.0.1:80", ""),
        ("https://proxy.example:443", "https://proxy.example:443", ""),
        ("http://ada:secret@proxy.example:3128", URL, basic("ada:secret")),
        ("http://ada:@proxy.example:3128", URL, basic("ada:")),
        ("http://a%40b:p%3A%2F%C3%BC@proxy.example:3128", URL, basic("a@b:p:/ü")),
    ],
)
def test_a_proxy_is_understood(url: str, shown: str, authorization: str) -> None:
    proxy = ForwardProxy.parse(url)
    assert (str(proxy), proxy.authorization) == (shown, authorization)
    assert "secret" not in f"{proxy!r} {proxy}"
    assert basic("ada:secret") not in f"{proxy!r}"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("proxy.example:3128", "http://"),
        ("socks5://hunter2.example:1080", "http://"),
        ("https://u:hunter2@proxy.example", "host and port"),
        ("http://u:hunter2@proxy.example", "host and port"),
        ("http://u:hunter2@:3128", "host and port"),
        ("http://u:hunter2@proxy.example:port", "HOST:PORT"),
        ("http://u:hunter2@proxy.example:0", "host and port"),
        ("http://hunter2@proxy.example:3128", "a user, a colon and a password"),
        ("http://:hunter2@proxy.example:3128", "a user, a colon and a password"),
        ("http://u:hunter2%0d%0aX: y@proxy.example:3128", "control character"),
        ("http://u%3Av:hunter2@proxy.example:3128", "no colon"),
        ("http://u:hunter2@proxy.example:3128/path", "HOST:PORT"),
        ("http://u:hunter2@proxy.example:3128?x", "HOST:PORT"),
        ("http://u:hunter2@pro xy:3128", "a host"),
        ("http://[::1:3128", "HOST:PORT"),
    ],
)
def test_what_is_no_proxy_is_refused_and_not_quoted(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        ForwardProxy.parse(url)
    assert "hunter2" not in str(refused.value)


STRAIGHT = ("wiki.corp", ".corp.example", "10.0.0.0/8", "192.0.2.7", "2001:db8::/32")


@pytest.mark.parametrize(
    "host",
    [
        *("wiki.corp", "WIKI.corp.", "corp.example", "a.b.corp.example"),
        *("10.1.2.3", "192.0.2.7", "2001:db8::5", "::ffff:10.0.0.1"),
    ],
)
def test_what_is_named_is_reached_past_the_proxy(host: str) -> None:
    assert not ForwardProxy.parse(URL, STRAIGHT).carries(host)
    assert ForwardProxy.parse(URL).carries(host)  # the control


@pytest.mark.parametrize("host", ["a.wiki.corp", "notcorp.example", "corp.example.org", "11.0.0.1", "192.0.2.8"])
def test_what_only_looks_alike_goes_through_the_proxy(host: str) -> None:
    assert ForwardProxy.parse(URL, STRAIGHT).carries(host)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"],
)
def test_this_machine_is_always_reached_straight(host: str) -> None:
    assert not ForwardProxy.parse(URL).carries(host)


@pytest.mark.parametrize("text", ["*", "", ".", "http://a.example", "a.example:443", "10.0.0.1/8", "a b", "*.example"])
def test_what_is_no_exception_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a domain such as \.example\.com|no network"):
        StraightHosts.parse([text])


def test_a_tunnel_is_asked_for_by_host_and_port() -> None:
    proxy = ForwardProxy.parse("http://ada:secret@proxy.example:3128")
    head = proxy.request("mcp.example", 443).decode()
    assert head.startswith("CONNECT mcp.example:443 HTTP/1.1\r\nHost: mcp.example:443\r\nUser-Agent: outlast/")
    assert head.endswith(f"\r\nProxy-Authorization: {basic('ada:secret')}\r\n\r\n")
    assert ForwardProxy.parse(URL).request("2001:db8::1", 8443).startswith(b"CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization" not in ForwardProxy.parse(URL).request("mcp.example", 443)
