"""The gateway as an OAuth resource server, with an issuer over real HTTP: ways in, fresh tokens, rotated keys."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator

import httpx2
import pytest
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.issuer import AUDIENCE, Issuer
from tests.e2e.raw_client import RawClient, text_of
from tests.e2e.sdk_client import sdk_client, unique_key
from tests.e2e.test_owners import token_of, tokens_setting
from tests.e2e.waiting import wait_until_asked

# Tokens are taken for 30 s longer than they say, since clocks differ: this one has 3 s to live.
SOON_OVER_SECONDS = -27.0
WELL_KNOWN = "/.well-known/oauth-protected-resource"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with contextlib.closing(Issuer()) as issuer:
        yield issuer


async def gateway_for(bed: Bed, issuer: Issuer, **environment: str) -> Gateway:
    trusted = {"OUTLAST_OAUTH_ISSUER": issuer.url, "OUTLAST_OAUTH_AUDIENCES": AUDIENCE}
    return await bed.gateway(environment={**trusted, **environment}, plain=bed.lasting.plain.target)


async def session_of(gateway: Gateway, token: str) -> RawClient:
    client = RawClient(gateway.url(), token=token)
    await client.open_session()
    return client


class Kept:
    """Where the SDK keeps its token."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Nothing: it is fixed."""


async def test_the_sdk_s_client_finds_its_way_in_by_itself(bed: Bed, issuer: Issuer) -> None:
    gateway = await gateway_for(bed, issuer, OUTLAST_OAUTH_SCOPES="mcp:use")
    provider = ClientCredentialsOAuthProvider(
        gateway.url(), Kept(), client_id="robot", client_secret="secret", issuer=issuer.url
    )
    async with sdk_client(gateway.url(), auth=provider) as peer:
        assert [await peer.call("counter"), await peer.call("counter")] == ["1", "2"]
    # From the challenge to the metadata, from there to the issuer; for this endpoint, with the scope that was named.
    [form] = [form for path, form in issuer.requests if path == "/token"]
    assert (form["resource"], form["scope"]) == (gateway.url(), "mcp:use")


class Bearer(httpx2.Auth):
    """A token that somebody handed out."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


async def test_the_sdk_s_client_with_a_static_token(bed: Bed) -> None:
    gateway = await bed.gateway(environment=tokens_setting(["ann"]), plain=bed.lasting.plain.target)
    async with sdk_client(gateway.url(), auth=Bearer(token_of("ann"))) as peer:
        assert await peer.call("echo", text="let in") == "let in"
    assert token_of("ann") not in gateway.stderr


async def test_a_fresh_token_goes_on_with_the_session_and_another_client_s_does_not(bed: Bed, issuer: Issuer) -> None:
    gateway = await gateway_for(bed, issuer)
    client = await session_of(gateway, issuer.token("ann"))
    assert await client.call("counter") == "1"
    client.token = issuer.token("ann")
    assert await client.call("counter") == "2"
    for other in (issuer.token("ann", client_id="another-program"), issuer.token("bob")):
        client.token = other
        assert (await client.post_whole(client.request("ping"))).status == 404
    gateway.kill()
    await gateway.start()
    client.token = issuer.token("ann")
    assert await client.call("counter") == "3"


async def test_streams_end_with_their_token_and_go_on_with_a_fresh_one(bed: Bed, issuer: Issuer) -> None:
    gateway = await gateway_for(bed, issuer)
    client = await session_of(gateway, issuer.token("ann", lasts_seconds=SOON_OVER_SECONDS))
    key = unique_key()
    call = client.tool_call("hold", key=key, hold=key)
    async with client.post(call) as calling, client.get() as listening:
        last_event_id = [frame.id for frame in await calling.rest()][-1]  # both end in order: `rest` raises otherwise
        await listening.rest()
        assert calling.hints
        assert listening.hints
    refused = await client.post_whole(client.request("ping"))
    assert refused.status == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]

    client.token = issuer.token("ann")
    bed.lasting.plain.journal.release(key)
    async with client.get(last_event_id) as resumed:
        while (message := await resumed.next_message()).get("id") != call["id"]:
            pass
    assert text_of(message) == f"done {key}"


async def test_rotated_keys_are_fetched_and_withdrawn_ones_are_no_good_to_new_tokens(bed: Bed, issuer: Issuer) -> None:
    gateway = await gateway_for(bed, issuer)
    client = await session_of(gateway, issuer.token("ann"))
    old = issuer.token("bob")
    issuer.rotate("two")
    client.token = issuer.token("ann")

    async def is_let_in() -> bool:
        return (await client.post_whole(client.request("ping"))).status == 200

    await wait_until_asked("the new key was fetched", is_let_in)  # keys are asked for every 10 s at most
    assert issuer.paths().count("/keys") == 2
    client.token = old
    assert (await client.post_whole(client.request("ping"))).status == 401


async def test_while_the_issuer_is_away_it_is_nobody_s_fault(bed: Bed, issuer: Issuer) -> None:
    gateway = await gateway_for(bed, issuer)
    issuer.close()
    answer = await RawClient(gateway.url(), token=issuer.token()).whole("GET")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize(
    ("claims", "status", "error"),
    [
        ({"aud": "https://another.example"}, 401, "invalid_token"),
        ({"iss": "https://another.example"}, 401, "invalid_token"),
        ({"lasts_seconds": -60.0}, 401, "invalid_token"),
        ({"scope": "mcp:read"}, 403, "insufficient_scope"),
    ],
)
async def test_a_token_that_is_not_good_enough_is_told_why(
    bed: Bed, issuer: Issuer, claims: dict[str, object], status: int, error: str
) -> None:
    gateway = await gateway_for(bed, issuer, OUTLAST_OAUTH_SCOPES="mcp:use")
    token = issuer.token(**{"scope": "mcp:use", **claims})  # type: ignore[arg-type]
    for method in ("POST", "GET", "DELETE"):
        answer = await RawClient(gateway.url(), token=token, session_id="whatever").whole(method)
        assert answer.status == status, answer
        assert f'error="{error}"' in answer.headers["www-authenticate"]
        assert (
            f'resource_metadata="{gateway.url().removesuffix("/mcp")}{WELL_KNOWN}/mcp"'
            in (answer.headers["www-authenticate"])
        )


async def test_the_metadata_is_there_for_every_endpoint_and_needs_no_token(bed: Bed, issuer: Issuer) -> None:
    gateway = await gateway_for(bed, issuer)
    base = gateway.url().removesuffix("/mcp")
    for endpoint in ("", "/mcp", "/servers/plain/mcp"):
        answer = await RawClient(f"{base}{WELL_KNOWN}{endpoint}").whole("GET")
        document = json.loads(answer.body)
        assert (document["resource"], document["authorization_servers"]) == (f"{base}{endpoint}", [issuer.url])
        assert answer.headers["access-control-allow-origin"] == "*"
    assert (await RawClient(f"{base}{WELL_KNOWN}/elsewhere").whole("GET")).status == 404
