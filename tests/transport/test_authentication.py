"""Who is let in with which token, and what the others are told; keys that rotate, and an issuer that is away."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import jwt
import pytest
import trio
from trio.testing import MockClock

from actors.ids import Principal
from tests.transport.tokens import GATEWAY, ISSUER, TRUSTED, AuthorizationServer
from transport.authentication import (
    REMEMBERED_SECONDS_MAX,
    Authentication,
    Identity,
    KeysUnavailable,
    TokenInvalid,
    Verifier,
)
from transport.exchange import RequestHead
from transport.guard import Rejection
from transport.issuer_metadata import check_url
from transport.jwt_tokens import JwtTokens
from transport.protected_resource import WELL_KNOWN, ProtectedResource
from transport.signing_keys import (
    FETCH_AGAIN_SECONDS,
    RENEW_SECONDS,
    FetchedKeys,
    InvalidKeys,
    KeysOfFile,
    find_key_set,
    parse_keys,
)
from transport.static_tokens import StaticTokens

SECRET = "a-token-for-ann-alone"


def head(token: str | None = None, *, header: str | None = None, path: str = "/mcp") -> RequestHead:
    headers = {"host": "localhost:8080"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    if header is not None:
        headers["authorization"] = header
    return RequestHead("POST", path, "", headers, "192.0.2.1")


class Wall:
    """A wall clock to be set."""

    def __init__(self) -> None:
        self.unix_s = time.time()

    def __call__(self) -> float:
        return self.unix_s


def authentication_of(
    *verifiers: Verifier, wall: Wall | None = None, scopes: Sequence[str] = (), remembered_max: int = 10
) -> Authentication:
    resource = ProtectedResource(GATEWAY, (ISSUER,), frozenset(scopes))
    return Authentication(verifiers, now_unix_s=wall or Wall(), resource=resource, remembered_max=remembered_max)


def jwt_tokens(server: AuthorizationServer) -> JwtTokens:
    return JwtTokens(TRUSTED, FetchedKeys(ISSUER, fetch=server.fetch))


async def refused(authentication: Authentication, request: RequestHead) -> tuple[int, str]:
    """Give status and challenge of a refusal."""
    rejection = await authentication.identify(request)
    assert isinstance(rejection, Rejection)
    assert json.loads(rejection.body)["error"]["message"]
    return rejection.status, dict(rejection.headers).get(b"www-authenticate", b"").decode()


async def admitted(authentication: Authentication, request: RequestHead) -> Identity:
    identity = await authentication.identify(request)
    assert isinstance(identity, Identity), identity
    return identity


# ---- without a token, and with a wrong one ----


async def test_without_a_token_the_client_learns_where_to_get_one() -> None:
    status, challenge = await refused(authentication_of(scopes=["mcp"]), head(path="/servers/linear/mcp"))
    assert status == 401
    metadata = f"{GATEWAY}{WELL_KNOWN}/servers/linear/mcp"
    assert challenge == f'Bearer resource_metadata="{metadata}", scope="mcp"'


async def test_an_unknown_token_is_invalid() -> None:
    status, challenge = await refused(authentication_of(StaticTokens({"ann": SECRET})), head("not-that-token-at-all"))
    assert status == 401
    assert 'error="invalid_token"' in challenge


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer x" * 2000, "Bearer \xe4"]
)
async def test_what_is_no_bearer_token_is_malformed(header: str) -> None:
    status, challenge = await refused(authentication_of(StaticTokens({"ann": SECRET})), head(header=header))
    assert status == 400
    assert 'error="invalid_request"' in challenge


async def test_a_token_without_the_scope_is_insufficient() -> None:
    server = AuthorizationServer()
    authentication = authentication_of(jwt_tokens(server), scopes=["mcp:use"])
    status, challenge = await refused(authentication, head(server.token(scope="mcp:read other")))
    assert status == 403
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="mcp:use"' in challenge
    await admitted(authentication, head(server.token(scope="mcp:read mcp:use")))
    await admitted(authentication, head(server.token(scp=["mcp:use"])))


# ---- static tokens ----


async def test_a_static_token_names_its_principal() -> None:
    authentication = authentication_of(StaticTokens({"ann": SECRET, "bob": SECRET[::-1]}))
    assert (await admitted(authentication, head(SECRET))).principal.subject == "ann"
    assert (await admitted(authentication, head(SECRET[::-1]))).principal.subject == "bob"


@pytest.mark.parametrize("tokens", [{"ann": "short"}, {"ann": SECRET, "bob": SECRET}])
def test_tokens_that_can_be_guessed_or_confused_are_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="token of"):
        StaticTokens(tokens)


def test_static_tokens_are_not_shown() -> None:
    assert SECRET not in repr(StaticTokens({"ann": SECRET}))


# ---- JSON Web Tokens ----


async def test_a_token_of_the_issuer_for_this_gateway_is_good() -> None:
    server = AuthorizationServer()
    identity = await admitted(authentication_of(jwt_tokens(server)), head(server.token("ann")))
    assert identity.principal == Principal(ISSUER, "inspector", "ann")


async def test_a_refreshed_token_is_the_same_principal() -> None:
    server = AuthorizationServer()
    authentication = authentication_of(jwt_tokens(server))
    first, second = server.token(), server.token()
    assert first != second
    assert (await admitted(authentication, head(first))).principal == (
        await admitted(authentication, head(second))
    ).principal


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"lasts_seconds": -60}, "expired"),
        ({"aud": "https://other.example"}, "another resource"),
        ({"aud": None}, "MissingRequiredClaim"),
        ({"exp": None}, "MissingRequiredClaim"),
        ({"sub": None}, "MissingRequiredClaim"),
        ({"nbf": time.time() + 3600}, "ImmatureSignature"),
        ({"client_id": 7}, "no text"),
        ({"subject": ""}, "no text"),
    ],
)
async def test_a_token_that_is_not_for_here_or_not_for_now_is_refused(claims: dict[str, object], reason: str) -> None:
    server = AuthorizationServer()
    with pytest.raises(TokenInvalid, match=reason):
        await jwt_tokens(server).verify(server.token(**claims))  # type: ignore[arg-type]


async def test_tokens_of_other_issuers_are_not_known() -> None:
    stranger = AuthorizationServer("https://stranger.example")
    assert await jwt_tokens(AuthorizationServer()).verify(stranger.token()) is None
    assert await jwt_tokens(AuthorizationServer()).verify("no-jwt") is None


async def test_a_changed_token_is_refused() -> None:
    server = AuthorizationServer()
    first, payload, signature = server.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "bob"}).encode()).rstrip(b"=").decode()
    with pytest.raises(TokenInvalid, match="InvalidSignature"):
        await jwt_tokens(server).verify(f"{first}.{forged}.{signature}")


async def test_a_token_signed_by_somebody_else_in_the_issuer_s_name_is_refused() -> None:
    server, impostor = AuthorizationServer(), AuthorizationServer()
    with pytest.raises(TokenInvalid, match="InvalidSignature"):
        await jwt_tokens(server).verify(impostor.token())


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
async def test_the_token_does_not_choose_how_it_is_verified(algorithm: str) -> None:
    server = AuthorizationServer()
    claims = jwt.decode(server.token(), options={"verify_signature": False})
    key = "" if algorithm == "none" else "x" * 32
    with pytest.raises(TokenInvalid, match="kind that is not taken"):
        await jwt_tokens(server).verify(jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "one"}))


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES384", "EdDSA"])
async def test_an_algorithm_that_is_not_for_the_key_is_refused(algorithm: str) -> None:
    server = AuthorizationServer()
    _, payload, signature = server.token().split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "one"}).encode()).decode().rstrip("=")
    with pytest.raises(TokenInvalid):
        await jwt_tokens(server).verify(f"{header}.{payload}.{signature}")


# ---- what is remembered ----


async def test_a_known_token_is_not_verified_again() -> None:
    server = AuthorizationServer()
    authentication = authentication_of(jwt_tokens(server))
    request = head(server.token())
    assert authentication.remembered(request) is None
    identity = await admitted(authentication, request)
    assert authentication.remembered(request) is identity


async def test_what_is_remembered_ends_with_the_token_and_before_long() -> None:
    server, wall = AuthorizationServer(), Wall()
    authentication = authentication_of(jwt_tokens(server), StaticTokens({"ann": SECRET}), wall=wall)
    short, lasting = head(server.token(lasts_seconds=60)), head(SECRET)
    await admitted(authentication, short)
    await admitted(authentication, lasting)
    wall.unix_s += 100
    assert authentication.remembered(short) is None
    assert authentication.remembered(lasting) is not None
    wall.unix_s += REMEMBERED_SECONDS_MAX
    assert authentication.remembered(lasting) is None


async def test_only_so_many_tokens_are_remembered() -> None:
    server = AuthorizationServer()
    authentication = authentication_of(jwt_tokens(server), remembered_max=3)
    requests = [head(server.token(f"user-{number}")) for number in range(5)]
    for request in requests:
        await admitted(authentication, request)
    assert [authentication.remembered(request) is not None for request in requests] == [False, False, True, True, True]


async def test_refused_tokens_are_not_remembered() -> None:
    server = AuthorizationServer()
    authentication = authentication_of(jwt_tokens(server), scopes=["mcp"])
    request = head(server.token())
    await refused(authentication, request)
    assert authentication.remembered(request) is None


async def test_a_stream_s_deadline_is_the_token_s_end(autojump_clock: MockClock) -> None:
    wall = Wall()
    authentication = authentication_of(wall=wall)
    expiring = Identity(Principal(ISSUER, "", "ann"), wall.unix_s + 30)
    assert authentication.deadline(expiring) == pytest.approx(trio.current_time() + 30)
    assert authentication.deadline(Identity(Principal(ISSUER, "", "ann"))) == float("inf")


# ---- keys ----


async def test_keys_are_found_in_the_issuer_s_metadata() -> None:
    server = AuthorizationServer()
    assert await FetchedKeys(ISSUER, fetch=server.fetch).find("one") is not None
    assert server.asked == [f"{ISSUER}/.well-known/oauth-authorization-server", f"{ISSUER}/keys"]


async def test_a_rotated_key_is_fetched(autojump_clock: MockClock) -> None:
    server = AuthorizationServer()
    tokens = jwt_tokens(server)
    old = server.token()
    await tokens.verify(old)
    server.rotate("two")
    await trio.sleep(FETCH_AGAIN_SECONDS)
    assert await tokens.verify(server.token()) is not None
    with pytest.raises(TokenInvalid, match="does not publish"):
        await tokens.verify(old)


async def test_made_up_key_ids_do_not_make_the_gateway_ask_all_the_time(autojump_clock: MockClock) -> None:
    server = AuthorizationServer()
    keys = FetchedKeys(ISSUER, url=f"{ISSUER}/keys", fetch=server.fetch)
    for number in range(100):
        assert await keys.find(f"made-up-{number}") is None
    assert len(server.asked) == 1


async def test_a_withdrawn_key_is_forgotten_before_long(autojump_clock: MockClock) -> None:
    server = AuthorizationServer()
    keys = FetchedKeys(ISSUER, fetch=server.fetch)
    await keys.find("one")
    server.rotate("two")
    assert await keys.find("one") is not None
    await trio.sleep(RENEW_SECONDS)
    assert await keys.find("one") is None


async def test_while_the_issuer_is_away_known_keys_stay_good(autojump_clock: MockClock) -> None:
    server = AuthorizationServer()
    tokens = jwt_tokens(server)
    await tokens.verify(server.token())
    server.is_away = True
    await trio.sleep(2 * RENEW_SECONDS)
    assert await tokens.verify(server.token()) is not None


async def test_without_any_key_it_is_not_the_client_s_fault(autojump_clock: MockClock) -> None:
    server = AuthorizationServer()
    server.is_away = True
    with pytest.raises(KeysUnavailable):
        await jwt_tokens(server).verify(server.token())
    status, challenge = await refused(authentication_of(jwt_tokens(server)), head(server.token()))
    assert (status, challenge) == (503, "")
    server.is_away = False
    await trio.sleep(FETCH_AGAIN_SECONDS)


async def test_keys_can_come_from_a_file(tmp_path: Path) -> None:
    server = AuthorizationServer()
    (tmp_path / "keys.json").write_bytes(server.key_set())
    keys = KeysOfFile(tmp_path / "keys.json")
    assert await JwtTokens(TRUSTED, keys).verify(server.token()) is not None
    assert await keys.find(None) is not None  # there is but one
    assert await keys.find("two") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}',
        b'{"keys":[{"kty":"x"}]}',
        b"[" * 9999,
    ],
)
def test_what_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidKeys):
        parse_keys(content)


@pytest.mark.parametrize(
    "url", ["http://issuer.example/keys", "file:///etc/passwd", "https://", "https://u:p@h/", "keys"]
)
def test_keys_do_not_come_from_where_they_could_be_changed(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        check_url(url)


async def test_metadata_of_another_issuer_is_refused() -> None:
    with pytest.raises(ValueError, match="another issuer"):
        await find_key_set("https://elsewhere.example", AuthorizationServer().fetch)


async def test_metadata_cannot_point_to_where_keys_must_not_come_from() -> None:
    async def fetch(url: str) -> bytes:
        return json.dumps({"issuer": ISSUER, "jwks_uri": "http://169.254.169.254/keys"}).encode()

    with pytest.raises(ValueError, match="https"):
        await find_key_set(ISSUER, fetch)


# ---- metadata ----


def test_the_metadata_names_resource_and_issuers() -> None:
    resource = ProtectedResource(GATEWAY, (ISSUER,), frozenset({"mcp"}))
    for path in ("", "/servers/linear/mcp"):
        request = head(path=WELL_KNOWN + path)
        assert resource.is_metadata(request.path)
        document = resource.metadata(request, ["/mcp", "/servers/linear/mcp"])
        assert document is not None
        assert json.loads(document) == {
            "resource": GATEWAY + path,
            "authorization_servers": [ISSUER],
            "scopes_supported": ["mcp"],
            "bearer_methods_supported": ["header"],
        }
    assert resource.metadata(head(path=f"{WELL_KNOWN}/elsewhere"), ["/mcp"]) is None


def test_without_an_issuer_there_is_no_metadata_to_point_to() -> None:
    resource = ProtectedResource()
    assert not resource.is_metadata(WELL_KNOWN)
    assert dict(resource.challenge(head()).headers)[b"www-authenticate"] == b"Bearer"


def test_challenges_are_well_formed_whatever_the_reason() -> None:
    rejection = ProtectedResource(GATEWAY, (ISSUER,)).challenge(head(), 'a "quoted" \\ reason\r\nX-Evil: 1 \u00e4')
    challenge = dict(rejection.headers)[b"www-authenticate"].decode("ascii")
    assert re.fullmatch(r'Bearer (\w+="[^"\\\r\n]*"(, )?)+', challenge)
