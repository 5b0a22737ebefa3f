"""Who is an operator, and what the gateway does with who is not."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.actors.worlds import open_world
from tests.transport.fake_exchange import FakeExchange, get
from transport import guard
from transport.exchange import Exchange, Headers, RequestHead
from transport.gateway import Gateway
from transport.operation import Operation
from transport.operators import Operators


def head(peer: str = "127.0.0.1", **headers: str) -> RequestHead:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestHead("GET", "/admin/sessions", "", named, peer)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "local"])
def test_without_a_token_who_is_on_this_machine_is_an_operator(peer: str) -> None:
    assert Operators().admits(head(peer))


@pytest.mark.parametrize("peer", ["192.0.2.7", "10.0.0.1", "::2", "fe80::1%eth0", "", "unknown"])
def test_without_a_token_nobody_else_is(peer: str) -> None:
    assert not Operators().admits(head(peer))
    assert Operators().refusal(head(peer)).status == 403


@pytest.mark.parametrize("name", ["forwarded", "x_forwarded_for", "x_real_ip", "via"])
def test_what_a_proxy_on_this_machine_passes_on_is_nobodys(name: str) -> None:
    assert not Operators().admits(head(**{name: "192.0.2.7"}))


@pytest.mark.parametrize(
    "headers", [{"origin": "http://localhost:6274"}, {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}]
)
def test_what_a_page_in_a_browser_on_this_machine_asks_is_nobodys(headers: dict[str, str]) -> None:
    assert not Operators().admits(head(**headers))
    assert Operators("a-long-secret").admits(head(**headers, authorization="Bearer a-long-secret"))


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_what_a_person_asks_in_a_browser_on_this_machine_is_an_operators(site: str) -> None:
    assert Operators().admits(head(sec_fetch_site=site))


def test_the_token_makes_an_operator_from_anywhere() -> None:
    operators = Operators("a-long-secret")
    assert operators.admits(head("192.0.2.7", authorization="Bearer a-long-secret"))
    assert operators.admits(head("192.0.2.7", authorization="bearer  a-long-secret"))


@pytest.mark.parametrize("presented", ["", "Bearer", "Bearer a-long-secre", "Basic a-long-secret", "a-long-secret"])
def test_where_there_is_a_token_nothing_else_does(presented: str) -> None:
    operators = Operators("a-long-secret")
    headers = {"authorization": presented} if presented else {}
    assert not operators.admits(head("127.0.0.1", **headers))
    refusal = operators.refusal(head())
    assert refusal.status == 401
    assert dict(refusal.headers)[b"www-authenticate"] == b'Bearer realm="operators"'


def test_the_token_is_not_shown() -> None:
    assert "a-long-secret" not in repr(Operators("a-long-secret"))


async def told(exchange: Exchange, is_operator: bool, extra: Headers) -> None:
    await exchange.respond(200, extra, b"operator" if is_operator else b"somebody")


async def test_operations_for_operators_are_refused_to_others_and_open_ones_are_not(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        gateway = Gateway(
            world.runtime,
            {"linear": "stdio"},
            guard.make_policy("127.0.0.1"),
            operations=[Operation("/admin/", told), Operation("/health", told, operators_only=False)],
            operators=Operators("a-long-secret"),
        )
        assert (await _asked(gateway, get(path="/admin/sessions"))).status == 401
        assert (await _asked(gateway, get(path="/admin/sessions", authorization="Bearer a-long-secret"))).status == 200
        assert (await _asked(gateway, get(path="/health"))).answer == b"somebody"
        assert (await _asked(gateway, get(path="/health", authorization="Bearer a-long-secret"))).answer == b"operator"
        assert (await _asked(gateway, get(path="/healthy"))).status == 404
        assert (await _asked(gateway, get(path="/healthz"))).status == 200


async def _asked(gateway: Gateway, exchange: FakeExchange) -> FakeExchange:
    await gateway(exchange)
    return exchange
