"""Which tokens the door notes: those of the issuer, for servers whose own are got for them, and no other."""

from __future__ import annotations

import time

from trio.testing import MockClock

from actors.ids import Principal
from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange, post
from tests.transport.tokens import GATEWAY, ISSUER, TRUSTED, AuthorizationServer
from transport import guard
from transport.authentication import Authentication, Verifier
from transport.gateway import Gateway
from transport.jwt_tokens import JwtTokens
from transport.protected_resource import ProtectedResource
from transport.signing_keys import FetchedKeys
from transport.static_tokens import StaticTokens
from transport.subjects import LiveSubjects

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
STATIC = "a-token-for-ann-alone"
ANN = Principal(ISSUER, "inspector", "ann")


def gateway_of(world: World, server: AuthorizationServer, subjects: LiveSubjects | None) -> Gateway:
    verifiers: list[Verifier] = [
        StaticTokens({"ann": STATIC}),
        JwtTokens(TRUSTED, FetchedKeys(ISSUER, fetch=server.fetch)),
    ]
    resource = ProtectedResource(GATEWAY, (ISSUER,))
    authentication = Authentication(verifiers, now_unix_s=time.time, resource=resource)
    policy = guard.make_policy("127.0.0.1")
    servers = {"wiki": "stdio", "files": "stdio"}
    return Gateway(world.runtime, servers, policy, authentication=authentication, subjects=subjects)


async def opened(gateway: Gateway, server: str, token: str) -> FakeExchange:
    exchange = post(INITIALIZE, path=f"/servers/{server}/mcp", authorization=f"Bearer {token}")
    await gateway(exchange)
    assert exchange.status == 200
    return exchange


async def test_a_token_is_noted_for_the_server_that_it_is_exchanged_for(autojump_clock: MockClock) -> None:
    issuer, subjects = AuthorizationServer(), LiveSubjects(ISSUER, ["wiki"])
    first, second = issuer.token("ann"), issuer.token("ann")
    async with open_world() as world:
        gateway = gateway_of(world, issuer, subjects)
        for token in (first, second):
            await opened(gateway, "wiki", token)
            noted = subjects.newest(ANN)
            assert noted is not None
            assert noted.token == token
        assert subjects.of_request() is None  # the request is over
        assert noted is not None
        assert noted.until_seconds < 600 + 60  # it runs out with its token, whatever the clocks of both say


async def test_no_other_token_is_noted(autojump_clock: MockClock) -> None:
    """For another server, or handed out by other means; and after an exchangeable one on the same connection."""
    issuer, subjects = AuthorizationServer(), LiveSubjects(ISSUER, ["wiki"])
    async with open_world() as world:
        gateway = gateway_of(world, issuer, subjects)
        await opened(gateway, "files", issuer.token("ann"))
        await opened(gateway, "wiki", STATIC)
        assert "0>" in repr(subjects)


async def test_without_such_a_server_nothing_is_noted_anywhere(autojump_clock: MockClock) -> None:
    issuer = AuthorizationServer()
    async with open_world() as world:
        await opened(gateway_of(world, issuer, None), "wiki", issuer.token("ann"))
