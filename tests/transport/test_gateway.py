"""The gateway: which path is served by whom, who is let in, and what draining means."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from persistence.store import StoreUnavailable
from tests.actors.worlds import World, open_world
from tests.transport.fake_exchange import FakeExchange, get, post
from tests.transport.fake_socket import FakeSocket
from transport import guard
from transport.authentication import Authentication
from transport.gateway import Gateway
from transport.protected_resource import ProtectedResource
from transport.static_tokens import StaticTokens

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}
ONE = {"linear": "streamable-http"}


def gateway_of(world: World, servers: Mapping[str, str] = ONE) -> Gateway:
    return Gateway(world.runtime, servers, guard.make_policy("127.0.0.1"))


async def asked(gateway: Gateway, exchange: FakeExchange) -> FakeExchange:
    await gateway(exchange)
    return exchange


async def test_one_server_is_at_the_short_path_too(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world)
        for path in ("/mcp", "/servers/linear/mcp"):
            assert (await asked(gateway, post(INITIALIZE, path=path))).status == 200


async def test_several_servers_have_a_path_each(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world, {"linear": "streamable-http", "files": "stdio"})
        assert (await asked(gateway, post(INITIALIZE, path="/mcp"))).status == 404
        exchange = await asked(gateway, post(INITIALIZE, path="/servers/files/mcp"))
        state = await world.runtime.session(exchange.headers["mcp-session-id"]).state()

        assert (state.server_id, state.upstream_transport) == ("files", "stdio")


async def test_nothing_else_is_there(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        exchange = await asked(gateway_of(world), get(path="/elsewhere"))

        assert exchange.status == 404
        assert "/mcp" in exchange.json["error"]["message"]


async def test_stranger_hosts_and_origins_are_kept_out_before_anything(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world)
        assert (await asked(gateway, post(INITIALIZE, host="evil.example"))).status == 421
        assert (await asked(gateway, post(INITIALIZE, origin="https://evil.example"))).status == 403

        assert world.runtime.registry.statistics().resident == 0
        assert world.upstream.journal == []


async def test_page_of_this_machine_may_come(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world)
        exchange = await asked(gateway, post(INITIALIZE, origin="http://localhost"))
        assert exchange.status == 200
        assert exchange.headers["access-control-allow-origin"] == "http://localhost"
        preflight = FakeExchange(
            "OPTIONS", headers={"origin": "http://localhost", "access-control-request-method": "POST"}
        )

        assert (await asked(gateway, preflight)).status == 204


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_are_read_only(path: str, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world)
        assert (await asked(gateway, get(path=path))).status == 200
        assert (await asked(gateway, post({}, path=path))).status == 405


async def test_only_mcp_is_hot(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world)

        assert gateway.is_hot(post(INITIALIZE).head)
        assert not gateway.is_hot(get(path="/healthz").head)


async def test_socket_is_served_at_its_paths_only(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        for servers, path, status in ((ONE, "/ws", 400), (ONE, "/servers/linear/ws", 400), (ONE, "/mcp", 404)):
            socket = FakeSocket(path=path, subprotocols=[])
            await gateway_of(world, servers).serve_socket(socket)
            assert socket.status == status
        assert (await asked(gateway_of(world), get(path="/ws"))).status == 426
        assert not gateway_of(world).is_hot(get(path="/ws").head)


@pytest.mark.parametrize(
    ("headers", "status"), [({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403)]
)
async def test_row_57_stranger_hosts_and_origins_are_kept_out_before_a_socket_is_accepted(
    headers: dict[str, str], status: int, autojump_clock: MockClock
) -> None:
    async with open_world() as world:
        socket = FakeSocket(headers=headers)
        await gateway_of(world).serve_socket(socket)
        assert (socket.status, socket.subprotocol) == (status, "")


async def test_row_11_socket_is_for_whom_its_token_names_and_refused_before_it_is_accepted(
    autojump_clock: MockClock,
) -> None:
    tokens = {"ann": "a-token-for-ann-alone", "bob": "a-token-for-bob-alone"}
    resource = ProtectedResource("", (), frozenset())
    authentication = Authentication((StaticTokens(tokens),), now_unix_s=lambda: 0.0, resource=resource)
    async with open_world() as world, trio.open_nursery() as nursery:
        gateway = Gateway(world.runtime, ONE, guard.make_policy("127.0.0.1"), authentication=authentication)
        nobody = FakeSocket()
        await gateway.serve_socket(nobody)
        assert (nobody.status, nobody.subprotocol) == (401, "")
        ann = FakeSocket(headers={"authorization": f"Bearer {tokens['ann']}"})
        nursery.start_soon(gateway.serve_socket, ann)
        ann.say(INITIALIZE)
        await ann.told(1)
        query = f"session_id={ann.headers['mcp-session-id']}"
        bob = FakeSocket(query=query, headers={"authorization": f"Bearer {tokens['bob']}"})
        nursery.start_soon(gateway.serve_socket, bob)
        assert await bob.wait_closed() == 4404
        assert ann.closed is None
        nursery.cancel_scope.cancel()


async def test_draining_is_not_ready_but_alive_and_ends_listeners(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        gateway = gateway_of(world)
        opened = await asked(gateway, post(INITIALIZE))
        listener = get(mcp_session_id=opened.headers["mcp-session-id"])
        nursery.start_soon(gateway, listener)
        await wait_all_tasks_blocked()
        gateway.drain()
        await wait_all_tasks_blocked()

        assert listener.finished
        ready = await asked(gateway, get(path="/readyz"))
        assert (ready.status, ready.json["reason"]) == (503, "draining")
        assert (await asked(gateway, get(path="/healthz"))).status == 200
        assert (await asked(gateway, post(INITIALIZE))).status == 503


async def test_store_outage_is_not_ready(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world)
        session = await world.runtime.create()
        world.store.begin_outage(StoreUnavailable("away"))
        with trio.move_on_after(1.0):
            await session.emit("waits")
        ready = await asked(gateway, get(path="/readyz"))
        world.store.end_outage()
        await trio.sleep(10.0)

        assert ready.status == 503
        assert (await asked(gateway, get(path="/readyz"))).status == 200


async def test_guard_stands_before_the_paths_of_http_with_sse_too(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        gateway = gateway_of(world)
        for path in ("/sse", "/messages?session_id=x", "/servers/linear/sse", "/servers/linear/messages?session_id=x"):
            for ask in (get, post):
                message = () if ask is get else (INITIALIZE,)
                evil_host = ask(*message, path=path, host="evil.example")
                evil_page = ask(*message, path=path, origin="https://evil.example")
                assert (await asked(gateway, evil_host)).status == 421
                assert (await asked(gateway, evil_page)).status == 403
        page = await asked(gateway, post(INITIALIZE, path="/messages?session_id=x", origin="http://localhost"))

        assert page.status == 404
        assert page.headers["access-control-allow-origin"] == "http://localhost"
        assert world.upstream.journal == []
