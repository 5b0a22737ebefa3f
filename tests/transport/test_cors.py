"""Pages of allowed origins may use every path; pages of others none (requirement 58), with and without tokens."""

from __future__ import annotations

import time

import pytest
from trio.testing import MockClock

from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange
from transport import guard
from transport.authentication import Authentication
from transport.exchange import Exchange, Headers
from transport.gateway import Gateway
from transport.operation import Operation
from transport.operators import Operators
from transport.protected_resource import WELL_KNOWN, ProtectedResource
from transport.static_tokens import StaticTokens

PAGE = "https://app.example"
TOKEN = "a-token-for-ann-alone"
MCP = ["/mcp", "/servers/linear/mcp", "/sse", "/messages", "/servers/linear/sse", "/servers/linear/messages"]
PATHS = [*MCP, WELL_KNOWN, f"{WELL_KNOWN}/mcp", "/admin/sessions", "/healthz", "/readyz", "/nowhere"]
EVERY_PATH = pytest.mark.parametrize("path", PATHS)


async def administer(exchange: Exchange, is_operator: bool, extra: Headers) -> None:
    await exchange.respond(200, extra, b"{}")


def gateway_of(world: World, *, origins: tuple[str, ...] = (PAGE,), operators_token: str | None = None) -> Gateway:
    resource = ProtectedResource("", ("https://issuer.example",))
    return Gateway(
        world.runtime,
        {"linear": "stdio"},
        guard.make_policy("127.0.0.1", origins=origins),
        authentication=Authentication([StaticTokens({"ann": TOKEN})], now_unix_s=time.time, resource=resource),
        operations=[Operation("/admin/", administer)],
        operators=Operators(operators_token),
    )


async def asked(gateway: Gateway, method: str, path: str, **headers: str) -> FakeExchange:
    exchange = FakeExchange(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    exchange.head = type(exchange.head)(method, path, "", exchange.head.headers, "127.0.0.1")
    await gateway(exchange)
    return exchange


@EVERY_PATH
async def test_a_page_that_is_allowed_may_ask_before_it_has_a_token(path: str, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        answer = await asked(
            gateway_of(world),
            "OPTIONS",
            path,
            origin=PAGE,
            access_control_request_method="DELETE",
            access_control_request_headers="authorization,mcp-session-id,mcp-param-x",
        )
    assert (answer.status, answer.answer) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "last-event-id", "mcp-session-id", "mcp-protocol-version", "mcp-param-x"} <= set(allowed)
    assert "access-control-allow-credentials" not in answer.headers


@EVERY_PATH
@pytest.mark.parametrize("method", ["OPTIONS", "GET", "POST", "DELETE"])
async def test_a_page_that_is_not_allowed_gets_nothing(path: str, method: str, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        for origin in ("https://evil.example", "https://app.example.evil.example", "http://app.example", "null"):
            answer = await asked(
                gateway_of(world),
                method,
                path,
                origin=origin,
                access_control_request_method="POST",
                authorization=f"Bearer {TOKEN}",
            )
            assert answer.status == 403
            assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert world.upstream.journal == []


@EVERY_PATH
async def test_an_allowed_page_can_read_whatever_is_answered(path: str, autojump_clock: MockClock) -> None:
    """Refusals above all: a page that cannot read the challenge does not find its way in."""
    async with open_world() as world:
        answer = await asked(gateway_of(world), "GET", path, origin=PAGE)
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "origin" in answer.headers["vary"].lower()
    exposed = answer.headers["access-control-expose-headers"]
    assert all(name in exposed for name in ("Mcp-Session-Id", "WWW-Authenticate", "Retry-After"))
    if path in MCP:
        assert answer.status == 401
        assert f"{WELL_KNOWN}{path}" in answer.headers["www-authenticate"]


@EVERY_PATH
async def test_where_every_page_may_come_none_comes_with_credentials(path: str, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        for method in ("OPTIONS", "GET"):
            answer = await asked(
                gateway_of(world, origins=("*",)),
                method,
                path,
                origin="https://any.example",
                access_control_request_method="POST",
            )
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers


async def test_a_page_is_no_operator_though_its_origin_is_allowed_and_its_browser_is_here(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        by_machine = gateway_of(world, origins=("*",))
        assert (await asked(by_machine, "GET", "/admin/sessions")).status == 200
        assert (await asked(by_machine, "GET", "/admin/sessions", origin=PAGE)).status == 403
        by_token = gateway_of(world, operators_token="a-token-for-operators")
        assert (await asked(by_token, "GET", "/admin/sessions", origin=PAGE)).status == 401
        presented = {"origin": PAGE, "authorization": "Bearer a-token-for-operators"}
        assert (await asked(by_token, "GET", "/admin/sessions", **presented)).status == 200
