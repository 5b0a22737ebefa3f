"""Servers that ask for tokens of an issuer: how the gateway gets them, and what becomes of sessions meanwhile.

Method: an authorization server over real HTTP, and for a server that checks tokens a second gateway, which takes those
of that issuer alone that are meant for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.issuer import GATEWAY_CLIENT, UPSTREAM, Issuer
from tests.e2e.raw_client import RawClient
from tests.e2e.test_credentials import exported, in_the_store, tapped
from tests.e2e.waiting import wait_until_asked

SECRET = "s3cret-of-the-gateway"
OF_A_CLIENT = "s3cret-token-of-a-client"
CREDENTIALS = {"grant": "client_credentials", "client_id": GATEWAY_CLIENT, "client_secret": SECRET}
# Tokens are taken for 30 s longer than they say, since clocks differ: this one has 6 s to live, which is long enough
# for it not to be a fresh one then.
SOON_OVER_SECONDS = -24.0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with contextlib.closing(Issuer()) as issuer:
        yield issuer


async def asking_server(bed: Bed, issuer: Issuer) -> Gateway:
    trusted = {"OUTLAST_OAUTH_ISSUER": issuer.url, "OUTLAST_OAUTH_AUDIENCES": UPSTREAM}
    return await bed.gateway(environment=trusted, it=bed.stdio)


async def gateway_for(bed: Bed, target: str, **changes: str) -> Gateway:
    lines = "\n".join(f"wiki: {key}={value}" for key, value in {**CREDENTIALS, **changes}.items())
    environment = {
        "OUTLAST_SERVER_OAUTH": lines,
        "OUTLAST_CLIENT_TOKENS": f"ann={OF_A_CLIENT}",
        "OUTLAST_LOG_LEVEL": "debug",
        "SESSION_COMPRESSION": "none",
        "OUTLAST_RESTORE_WAIT_SECONDS": "5",
    }
    return await bed.gateway(environment=environment, wiki=target)


async def client_of(gateway: Gateway) -> RawClient:
    client = RawClient(gateway.url(), token=OF_A_CLIENT)
    await client.open_session()
    return client


@pytest.mark.parametrize("kind", ["http", "sse", "websocket"])
async def test_a_server_that_asks_for_tokens_is_reached_before_and_after_a_kill(
    bed: Bed, issuer: Issuer, kind: str
) -> None:
    server = await asking_server(bed, issuer)
    place = {"http": "http://{}/mcp", "sse": "sse+http://{}/sse", "websocket": "ws://{}/ws"}[kind]
    gateway = await gateway_for(bed, place.format(server.address), issuer=issuer.url)
    client = await client_of(gateway)
    assert await client.call("echo", text="relayed") == "relayed"
    gateway.kill()
    await gateway.start()
    assert await client.call("echo", text="relayed again") == "relayed again"
    assert len(issuer.issued) == 2  # none was kept
    assert {form["grant_type"] for path, form in issuer.requests if path == "/token"} == {"client_credentials"}


async def test_where_its_tokens_come_from_is_found_by_its_own_metadata(bed: Bed, issuer: Issuer) -> None:
    server = await asking_server(bed, issuer)
    gateway = await gateway_for(bed, server.url(), scope="wiki:read")
    client = await client_of(gateway)
    assert await client.call("counter") == "1"
    [form] = [form for path, form in issuer.requests if path == "/token"]
    assert (form["resource"], form["scope"]) == (server.url(), "wiki:read")


async def test_nothing_of_it_is_kept_said_or_passed_on(bed: Bed, issuer: Issuer, tmp_path: Path) -> None:
    server = await asking_server(bed, issuer)
    async with tapped(server.url()) as tap:
        gateway = await gateway_for(bed, tap.url, issuer=issuer.url)
        client = await client_of(gateway)
        assert await client.call("counter") == "1"
        await gateway.stop()
        kept, document = in_the_store(tmp_path / "gateway-1"), await exported(tmp_path / "gateway-1")
    [token] = issuer.issued
    assert all(f"authorization: bearer {token}".encode().lower() in head.lower() for head in tap.heads())
    assert OF_A_CLIENT.encode() not in tap.sent
    assert SECRET.encode() not in tap.sent
    for place, content in (("store", kept), ("export", document), ("logs", gateway.stderr.encode())):
        for secret in (token, SECRET, OF_A_CLIENT):
            assert secret.encode() not in content, place
    assert client.session_id.encode() in kept, "this is where it would be"


async def test_a_token_is_renewed_before_its_end(bed: Bed, issuer: Issuer) -> None:
    issuer.says_seconds = 1.0
    server = await asking_server(bed, issuer)
    client = await client_of(await gateway_for(bed, server.url(), issuer=issuer.url))

    async def was_renewed() -> bool:
        await client.call("counter")
        return len(issuer.issued) >= 3

    await wait_until_asked("it was renewed twice", was_renewed)


async def test_a_token_that_is_refused_is_replaced_and_nobody_notices(bed: Bed, issuer: Issuer) -> None:
    issuer.lasts_seconds = SOON_OVER_SECONDS
    server = await asking_server(bed, issuer)
    client = await client_of(await gateway_for(bed, server.url(), issuer=issuer.url))
    calls = 0

    async def was_replaced() -> bool:
        nonlocal calls
        calls += 1
        assert await client.call("counter") == str(calls)
        return len(issuer.issued) == 2

    await wait_until_asked("the upstream had refused the first", was_replaced)


async def test_an_issuer_that_refuses_is_told_of_and_the_sessions_are_kept(bed: Bed, issuer: Issuer) -> None:
    server = await asking_server(bed, issuer)
    gateway = await gateway_for(bed, server.url(), issuer=issuer.url)
    client = await client_of(gateway)
    issuer.refusal = "invalid_client"
    gateway.kill()
    await gateway.start()
    answer = await client.post_whole(client.tool_call("counter"))
    said = answer.body.decode()
    assert (
        "the authorization server for 'wiki' gives no token (invalid_client): look at the gateway's client_id" in said
    )
    assert answer.status == 503
    issuer.refusal = ""

    async def is_back() -> bool:
        return (await client.post_whole(client.tool_call("counter"))).status == 200

    await wait_until_asked("the session goes on", is_back)
    assert SECRET not in gateway.stderr + said
    assert "token_refused" in gateway.stderr
