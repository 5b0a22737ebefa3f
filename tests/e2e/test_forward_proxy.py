"""The gateway behind a forward proxy: sessions, streams, a kill and tokens, with servers that nothing else leads to.

Method: server and issuer have names that no resolver knows, and TLS in front of them with certificates for those names;
the proxy alone knows where they are, and counts its tunnels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from tests.certificates import Authority
from tests.e2e.bed import Bed
from tests.e2e.issuer import AUDIENCE, Issuer
from tests.e2e.raw_client import RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.test_gateway_restart import answers_in, frames_until_killed
from tests.e2e.waiting import wait_until_asked
from tests.transport.tokens import AuthorizationServer
from tests.transport.upstreams.fake_proxy import FakeProxy
from tests.transport.upstreams.tls_before import shown_by, tls_before

pytestmark = pytest.mark.one_road  # what is before the gateway is none of its upstreams' business

NAME, ISSUER_NAME = "mcp.invalid", "login.invalid"  # RFC 6761, 6.4: no resolver knows them
PASSWORD = "hunter2-of-the-proxy"


@attrs.frozen
class Company:
    """A network that nothing leaves but by the proxy."""

    proxy: FakeProxy
    environment: dict[str, str]

    def without_proxy(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if name != "OUTLAST_UPSTREAM_PROXY"}


@asynccontextmanager
async def company(directory: Path, *ports: tuple[str, int], scheme: str = "http") -> AsyncIterator[Company]:
    """Have a proxy and, behind it, TLS in front of each name's port."""
    authority = Authority()
    context = shown_by(directory, authority, NAME, ISSUER_NAME, "127.0.0.1")
    proxy = FakeProxy(context if scheme == "https" else None)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        for name, port in ports:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, tls_before(port, context), [listener])
            proxy.places[f"{name}:443"] = listener.socket.getsockname()[1]
        environment = {
            "OUTLAST_UPSTREAM_PROXY": f"{scheme}://ada:{PASSWORD}@{proxy.address}",
            "SSL_CERT_FILE": str(authority.write(directory / "authority.pem")),
            "OUTLAST_RESTORE_WAIT_SECONDS": "10",
        }
        yield Company(proxy, environment)
        nursery.cancel_scope.cancel()


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_sessions_live_through_a_kill_of_the_gateway_behind_a_proxy(
    bed: Bed, scheme: str, tmp_path: Path
) -> None:
    upstream = bed.lasting.resumable
    async with company(tmp_path, (NAME, port_of(upstream.url)), scheme=scheme) as network:
        gateway = await bed.gateway(environment=network.environment, only=f"https://{NAME}/mcp")
        client = RawClient(gateway.url())
        await client.open_session()
        assert await client.call("counter") == "1"
        tunnels = network.proxy.opened
        assert tunnels >= 1
        key = unique_key()
        call = client.tool_call("progress", key=key, count=3, hold=key)
        heard = await frames_until_killed(client, gateway, call, steps=3)
        await gateway.start()
        async with client.get(heard[0].id) as resumed:
            assert resumed.status == 200
            upstream.journal.release(key)
            replayed = await resumed.rest()
        [answer] = answers_in(replayed, call)
        assert answer["result"]["content"][0]["text"] == f"done {key}"
        assert upstream.journal.executions()[key] == 1
        assert await client.call("counter") == "2"

        assert network.proxy.opened > tunnels  # the killed gateway's are gone
        assert set(network.proxy.asked_for) == {f"{NAME}:443"}
        assert all(b"Proxy-Authorization: Basic " in head for head in network.proxy.heads)
        assert PASSWORD not in gateway.stderr


async def test_calls_share_tunnels(bed: Bed, tmp_path: Path) -> None:
    async with company(tmp_path, (NAME, port_of(bed.lasting.json.url))) as network:
        gateway = await bed.gateway(environment=network.environment, only=f"https://{NAME}/mcp")
        client = RawClient(gateway.url())
        await client.open_session()
        for number in range(1, 21):
            assert await client.call("counter") == str(number)
        assert (
            network.proxy.opened <= 5
        )  # one for calls, one for the server's own stream, and what the handshake needed


async def test_there_is_no_other_way_to_the_server(bed: Bed, tmp_path: Path) -> None:
    """The control: the same gateway, but for the proxy."""
    async with company(tmp_path, (NAME, port_of(bed.lasting.plain.url))) as network:
        quick = {"OUTLAST_RESTORE_WAIT_SECONDS": "1"}
        gateway = await bed.gateway(environment={**network.without_proxy(), **quick}, only=f"https://{NAME}/mcp")
        assert await RawClient(gateway.url()).initialize() == 503
        assert network.proxy.heads == []


async def test_a_refusal_of_the_proxy_is_told_to_clients_and_ends_with_it(bed: Bed, tmp_path: Path) -> None:
    async with company(tmp_path, (NAME, port_of(bed.lasting.plain.url))) as network:
        network.proxy.answers = [b"HTTP/1.1 407 Who are you?\r\nProxy-Authenticate: Basic\r\n\r\n"] * 100
        quick = {"OUTLAST_RESTORE_WAIT_SECONDS": "1"}
        gateway = await bed.gateway(environment={**network.environment, **quick}, only=f"https://{NAME}/mcp")
        client = RawClient(gateway.url())
        answer = await client.post_whole(client.request("initialize", client.initialize_params()))
        assert answer.status == 503
        told = answer.body.decode()
        assert "the forward proxy answered CONNECT with 407" in told
        assert network.proxy.address not in told
        assert f"http://{network.proxy.address}" in gateway.stderr
        assert PASSWORD not in told + gateway.stderr

        network.proxy.answers.clear()

        async def is_let_in() -> bool:
            return await client.initialize() == 200

        await wait_until_asked("the session is opened", is_let_in)


async def test_tokens_and_keys_come_through_the_proxy_too(bed: Bed, tmp_path: Path) -> None:
    issuer = Issuer(f"https://{ISSUER_NAME}")
    try:
        ports = (NAME, port_of(bed.lasting.plain.url)), (ISSUER_NAME, issuer.port)
        async with company(tmp_path, *ports) as network:
            oauth = ("grant=client_credentials", "client_id=gateway", "client_secret=secret", f"issuer={issuer.url}")
            environment = {
                **network.environment,
                "OUTLAST_OAUTH_ISSUER": issuer.url,
                "OUTLAST_OAUTH_AUDIENCES": AUDIENCE,
                "OUTLAST_SERVER_OAUTH": "\n".join(f"only: {line}" for line in oauth),
            }
            gateway = await bed.gateway(environment=environment, only=f"https://{NAME}/mcp")
            client = RawClient(gateway.url(), token=issuer.token("ann"))
            await client.open_session()
            assert await client.call("counter") == "1"
            assert {"/keys", "/token"} <= set(issuer.paths())
            assert f"{ISSUER_NAME}:443" in network.proxy.asked_for
            stranger = RawClient(gateway.url(), token=AuthorizationServer(issuer.url).token("ann"))
            assert await stranger.initialize() == 401  # the keys are those of the real one
    finally:
        issuer.close()
