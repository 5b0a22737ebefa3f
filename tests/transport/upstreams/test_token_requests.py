"""Asking for tokens: what goes out, what may come back, and what is told of a refusal."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import structlog

from tests.transport.upstreams.token_server import ENDPOINT, ISSUER, SECRET, SERVER, TokenServer, client
from transport.upstreams.access_tokens import TokenRefused, TokenUnavailable
from transport.upstreams.token_discovery import TokenClient, find_token_endpoint
from transport.upstreams.token_requests import LASTS_SECONDS_DEFAULT, LASTS_SECONDS_MAX, TokenRequests

GRANT = {"grant_type": "client_credentials"}
RESOURCE_PLACE = "https://wiki.example/.well-known/oauth-protected-resource"
METADATA_PLACE = f"{ISSUER}/.well-known/oauth-authorization-server"
RESOURCE = {"resource": SERVER, "authorization_servers": [ISSUER]}
METADATA = {"issuer": ISSUER, "token_endpoint": ENDPOINT}


async def refused(server: TokenServer, **changes: Any) -> str:
    with pytest.raises(TokenRefused) as caught:
        await TokenRequests("wiki", client(**changes), server).ask(GRANT)
    assert SECRET not in str(caught.value)
    return str(caught.value)


async def unavailable(server: TokenServer, **changes: Any) -> str:
    with pytest.raises(TokenUnavailable) as caught:
        await TokenRequests("wiki", client(**changes), server).ask(GRANT)
    return str(caught.value)


# ---- what goes out ----


async def test_the_gateway_says_who_it_is_and_what_for() -> None:
    server = TokenServer()
    token = await TokenRequests("wiki", client(scope="read write"), server).ask(GRANT)
    assert (token.value, token.lasts_seconds) == ("token-1", 100.0)
    assert server.forms == [{**GRANT, "scope": "read write", "resource": SERVER}]
    assert server.headers[0]["Authorization"] == f"Basic {base64.b64encode(f'outlast:{SECRET}'.encode()).decode()}"


async def test_id_and_secret_are_form_encoded_in_the_header() -> None:
    """RFC 6749, 2.3.1: a colon in the id would end it."""
    server = TokenServer()
    await TokenRequests("wiki", client(client_id="a:b", client_secret="c d%"), server).ask(GRANT)
    credentials = server.headers[0]["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(credentials) == b"a%3Ab:c+d%25"


async def test_they_go_into_the_form_where_the_operator_says_so() -> None:
    server = TokenServer()
    await TokenRequests("wiki", client(authentication="client_secret_post"), server).ask(GRANT)
    assert server.forms == [{**GRANT, "resource": SERVER, "client_id": "outlast", "client_secret": SECRET}]
    assert server.headers == [{}]


@pytest.mark.parametrize(("resource", "sent"), [(None, SERVER), ("urn:wiki", "urn:wiki"), ("", None)])
async def test_the_resource_is_the_server_unless_the_operator_says_otherwise(
    resource: str | None, sent: str | None
) -> None:
    server = TokenServer()
    await TokenRequests("wiki", client(resource=resource, server_url=f"{SERVER}?key=s"), server).ask(GRANT)
    assert server.forms[0].get("resource") == sent


# ---- what may come back ----


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(60, 60.0), ("60", 60.0), (0.5, 0.5), (10**9, LASTS_SECONDS_MAX), (10**400, LASTS_SECONDS_DEFAULT)]
    + [(wrong, LASTS_SECONDS_DEFAULT) for wrong in (None, 0, -5, True, "soon", "nan", [60])],
)
async def test_a_token_lasts_as_long_as_its_issuer_says_within_reason(given: object, seconds: float) -> None:
    token = await TokenRequests("wiki", client(), TokenServer(lasts_seconds=given)).ask(GRANT)
    assert token.lasts_seconds == seconds


@pytest.mark.parametrize(
    "wrong",
    [{"access_token": value} for value in (None, "", 7, "a b", "a\r\nX-Evil: 1", "\xe9", "x" * 16385)]
    + [{"token_type": value} for value in (None, "mac", "DPoP", 7)],
)
async def test_what_could_not_be_sent_as_a_bearer_token_is_none(wrong: dict[str, object]) -> None:
    assert "'wiki' gave" in await refused(TokenServer(extra=wrong))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"null", b"[" * 100_000, b"\xff"])
async def test_an_answer_that_is_none_is_no_token(body: bytes) -> None:
    assert "gave no token" in await refused(TokenServer(refusal=(200, body)))


@pytest.mark.parametrize(
    ("code", "look_at"),
    [
        ("invalid_client", "client_id and client_secret"),
        ("invalid_scope", "the scope"),
        ("invalid_target", "resource"),
        ("unauthorized_client", "this grant"),
        ("made_up", "its own log"),
    ],
)
async def test_a_refusal_says_what_to_look_at(code: str, look_at: str) -> None:
    said = await refused(TokenServer(refusal=(400, {"error": code})))
    assert said.startswith(f"the authorization server for 'wiki' gives no token ({code}): look at ")
    assert look_at in said


async def test_a_description_is_for_the_log_and_repeats_no_secret() -> None:
    content = {"error": "invalid_client", "error_description": f"no client outlast with {SECRET}, nor\nany other"}
    with structlog.testing.capture_logs() as lines:
        said = await refused(TokenServer(refusal=(401, content)))
    assert "nor any other" not in said
    assert [line["description"] for line in lines] == ["no client outlast with <hidden>, nor any other"]


async def test_a_code_that_is_none_is_not_repeated() -> None:
    assert "evil" not in await refused(TokenServer(refusal=(400, {"error": "evil\r\n" + "x" * 100})))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_a_status_that_may_pass_is_no_refusal(status: int) -> None:
    assert f"HTTP {status}" in await unavailable(TokenServer(refusal=(status, b"<html>")))


@pytest.mark.parametrize("status", [301, 302, 404, 405])
async def test_an_answer_from_elsewhere_is_a_wrong_address(status: int) -> None:
    assert f"HTTP {status}: look at its token endpoint's address" in await refused(TokenServer(refusal=(status, b"")))


async def test_a_server_that_is_away_is_unavailable() -> None:
    assert "cannot be asked" in await unavailable(TokenServer(is_away=True))


# ---- where ----


async def found(server: TokenServer, **changes: Any) -> tuple[str, str, str]:
    endpoint = await find_token_endpoint(client(token_endpoint="", **changes), server)
    return endpoint.url, endpoint.authentication, endpoint.resource


async def test_the_server_s_metadata_leads_to_the_token_endpoint() -> None:
    server = TokenServer(documents={f"{RESOURCE_PLACE}/mcp": RESOURCE, METADATA_PLACE: METADATA})
    assert await found(server) == (ENDPOINT, "client_secret_basic", SERVER)
    assert server.fetched == [f"{RESOURCE_PLACE}/mcp", METADATA_PLACE]


async def test_so_does_one_document_for_the_whole_host() -> None:
    whole = {**RESOURCE, "resource": "https://wiki.example/"}
    server = TokenServer(documents={RESOURCE_PLACE: whole, METADATA_PLACE: METADATA})
    assert await found(server) == (ENDPOINT, "client_secret_basic", "https://wiki.example/")


async def test_or_the_place_that_its_challenge_names() -> None:
    place = "https://wiki.example/elsewhere"
    challenge = f'Bearer realm="x", error="invalid_token", resource_metadata="{place}", scope="read"'
    server = TokenServer(documents={place: RESOURCE, METADATA_PLACE: METADATA}, challenges=challenge)
    assert await found(server) == (ENDPOINT, "client_secret_basic", SERVER)
    assert server.fetched == [f"{RESOURCE_PLACE}/mcp", RESOURCE_PLACE, SERVER, place, METADATA_PLACE]


@pytest.mark.parametrize(
    ("place", "document", "why"),
    [
        ("http://wiki.example/elsewhere", RESOURCE, "https://"),
        ("https://wiki.example/elsewhere", {**RESOURCE, "resource": "https://other.example"}, "another resource"),
    ],
)
async def test_a_challenge_that_leads_elsewhere_is_refused(place: str, document: object, why: str) -> None:
    challenge = f'Bearer resource_metadata="{place}"'
    server = TokenServer(documents={place: document, METADATA_PLACE: METADATA}, challenges=challenge)
    assert why in await refused(server, token_endpoint="")


async def test_the_metadata_says_how_to_authenticate() -> None:
    only_post = {**METADATA, "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_post"]}
    server = TokenServer(documents={METADATA_PLACE: only_post})
    assert (await found(server, issuer=ISSUER))[1] == "client_secret_post"
    assert server.fetched == [METADATA_PLACE]


@pytest.mark.parametrize(
    ("resource", "metadata", "why"),
    [
        ({**RESOURCE, "resource": "https://wiki.example.evil/mcp"}, METADATA, "another resource"),
        ({**RESOURCE, "resource": "https://wiki.example/mc"}, METADATA, "another resource"),
        ({**RESOURCE, "authorization_servers": []}, METADATA, "no authorization server"),
        ({**RESOURCE, "authorization_servers": ["http://login.example"]}, METADATA, "https://"),
        (RESOURCE, {**METADATA, "issuer": "https://other.example"}, "another issuer"),
        (RESOURCE, {**METADATA, "token_endpoint": "http://login.example/token"}, "https://"),
        (RESOURCE, {"issuer": ISSUER}, "no token endpoint"),
    ],
)
async def test_metadata_that_leads_elsewhere_is_refused(resource: object, metadata: object, why: str) -> None:
    server = TokenServer(documents={f"{RESOURCE_PLACE}/mcp": resource, METADATA_PLACE: metadata})
    assert why in await refused(server, token_endpoint="")
    assert server.forms == []


async def test_nothing_is_believed_that_came_in_clear() -> None:
    """Whoever changes it on the way would be told the gateway's secret."""
    assert "https://" in await refused(TokenServer(), token_endpoint="", server_url="http://wiki.example/mcp")


async def test_metadata_that_is_not_there_may_come() -> None:
    assert "cannot be found" in await unavailable(TokenServer(), token_endpoint="")


async def test_an_endpoint_is_looked_for_again_when_it_answers_no_more() -> None:
    server = TokenServer(documents={METADATA_PLACE: METADATA})
    requests = TokenRequests("wiki", client(token_endpoint="", issuer=ISSUER), server)
    await requests.ask(GRANT)
    await requests.ask(GRANT)
    assert len(server.fetched) == 1
    server.refusal = (404, b"")
    with pytest.raises(TokenRefused):
        await requests.ask(GRANT)
    server.refusal = None
    await requests.ask(GRANT)
    assert len(server.fetched) == 2


def test_a_client_shows_no_secret() -> None:
    shown = repr(TokenClient("outlast", SECRET, f"{SERVER}?key=s3cret"))
    assert "s3cret" not in shown
