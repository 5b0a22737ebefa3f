"""One principal's exchanges are bounded, streams among them, and leave the others theirs."""

from __future__ import annotations

import time

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.ids import ANONYMOUS, Principal
from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange, get, post
from transport import guard
from transport.authentication import Authentication
from transport.gateway import Gateway
from transport.protected_resource import ProtectedResource
from transport.quota import Quota
from transport.static_tokens import StaticTokens

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
TOKENS = {"ann": "a-token-for-ann-alone", "bob": "a-token-for-bob-alone"}
ANN, BOB = (f"Bearer {token}" for token in TOKENS.values())


def gateway_of(world: World, exchanges_max: int) -> Gateway:
    authentication = Authentication([StaticTokens(TOKENS)], now_unix_s=time.time, resource=ProtectedResource())
    policy = guard.make_policy("127.0.0.1")
    quota = Quota(exchanges_max)
    return Gateway(world.runtime, {"linear": "stdio"}, policy, authentication=authentication, quota=quota)


async def asked(gateway: Gateway, exchange: FakeExchange) -> FakeExchange:
    await gateway(exchange)
    return exchange


async def statuses_beside_streams(exchanges_max: int) -> tuple[FakeExchange, FakeExchange, FakeExchange]:
    """Have ann listen to two sessions and ask; then have bob ask, and ann once more when one stream has ended."""
    async with open_world() as world, trio.open_nursery() as nursery:
        gateway = gateway_of(world, exchanges_max)
        scopes = []
        for _ in range(2):
            opened = await asked(gateway, post(INITIALIZE, authorization=ANN))
            session_id = opened.headers["mcp-session-id"]
            scopes.append(trio.CancelScope())
            nursery.start_soon(listen, gateway, session_id, scopes[-1])
            await wait_all_tasks_blocked()
        beside = await asked(gateway, post(PING, mcp_session_id=session_id, authorization=ANN))
        other = await asked(gateway, post(INITIALIZE, authorization=BOB))
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        after = await asked(gateway, post(PING, mcp_session_id=session_id, authorization=ANN))
        nursery.cancel_scope.cancel()
    return beside, other, after


async def listen(gateway: Gateway, session_id: str, scope: trio.CancelScope) -> None:
    with scope:
        await gateway(get(mcp_session_id=session_id, authorization=ANN))


async def test_more_at_a_time_than_may_be_is_429_for_who_has_them_alone(autojump_clock: MockClock) -> None:
    beside, other, after = await statuses_beside_streams(2)
    assert (beside.status, beside.headers["retry-after"]) == (429, "1")
    assert beside.json["error"]["code"] == -32013
    assert (other.status, after.status) == (200, 200)


async def test_control_with_a_wider_quota_nobody_is_refused(autojump_clock: MockClock) -> None:
    assert [exchange.status for exchange in await statuses_beside_streams(3)] == [200, 200, 200]


async def test_refused_and_failed_exchanges_count_no_more(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world, 1)
        for _ in range(3):
            assert (await asked(gateway, post(PING, mcp_session_id="unknown", authorization=ANN))).status == 404
            assert (await asked(gateway, post(PING, authorization="Bearer unknown-token"))).status == 401


def test_everybody_without_a_token_is_not_one_client() -> None:
    quota = Quota(1)
    for _ in range(3):
        assert quota.enter(ANONYMOUS) is None
    ann = Principal("issuer", "client", "ann")
    assert quota.enter(ann) is None
    assert quota.enter(ann) is not None
    quota.leave(ann)
    assert quota.enter(ann) is None
    assert quota.rejected == 1
