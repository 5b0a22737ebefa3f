"""JSON Web Tokens of one issuer: signature, issuer, audience, times (RFC 7519, RFC 9068; MCP authorization, 3.7).

The audience must be this gateway: a token that was issued for another resource is refused, or whoever runs that
resource could act here on its users' behalf (RFC 8707). Algorithms are ours to choose, never the token's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import jwt

from actors.ids import Principal
from transport.authentication import Identity, TokenInvalid
from transport.signing_keys import SigningKeys

# Signatures with keys that are public. Never "none", and never HMAC, where a public key would become a secret.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_REQUIRED = ("exp", "iss", "aud", "sub")


@attrs.frozen
class Issuer:
    """An authorization server whose tokens are taken."""

    url: str  # as in the tokens' `iss`, to the letter
    audiences: tuple[str, ...]  # what names this gateway in `aud`
    leeway_seconds: float = 30.0  # for clocks that differ


class JwtTokens:
    """Implements `transport.authentication.Verifier` for one issuer."""

    def __init__(self, issuer: Issuer, keys: SigningKeys) -> None:
        self._issuer = issuer
        self._keys = keys

    def __repr__(self) -> str:
        return f"JwtTokens({self._issuer.url})"

    async def verify(self, token: str) -> Identity | None:
        """Say whose token this is; None: it is no JWT of this issuer."""
        header = _unverified_header(token)
        if header is None or _unverified_issuer(token) != self._issuer.url:
            return None
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise TokenInvalid("its signature is of a kind that is not taken here")
        key = await self._key(header)
        return self._identity(self._claims(token, key, str(algorithm)))

    async def _key(self, header: Mapping[str, Any]) -> jwt.PyJWK:
        key_id = header.get("kid")
        if key_id is not None and not isinstance(key_id, str):
            raise TokenInvalid("its key id is no text")
        key = await self._keys.find(key_id)
        if key is None:
            raise TokenInvalid("it is signed with a key that its issuer does not publish")
        return key

    def _claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> Mapping[str, Any]:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=list(self._issuer.audiences),
                issuer=self._issuer.url,
                leeway=self._issuer.leeway_seconds,
                options={"require": list(_REQUIRED)},
            )
        except jwt.ExpiredSignatureError:
            raise TokenInvalid("it has expired") from None
        except jwt.InvalidAudienceError:
            raise TokenInvalid("it was issued for another resource") from None
        except (jwt.PyJWTError, TypeError) as error:  # TypeError: an algorithm that is not for keys of this type
            raise TokenInvalid(f"{type(error).__name__.removesuffix('Error')}") from None

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        subject = claims["sub"]
        client = claims.get("client_id", claims.get("azp", ""))
        if not isinstance(subject, str) or not subject or not isinstance(client, str):
            raise TokenInvalid("its subject or client is no text")
        principal = Principal(self._issuer.url, client, subject)
        return Identity(principal, float(claims["exp"]) + self._issuer.leeway_seconds, _scopes(claims))


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Read the scopes: RFC 8693's `scope`, one text; some servers write a list, or call it `scp`."""
    scopes = claims.get("scope", claims.get("scp", ""))
    if isinstance(scopes, str):
        return frozenset(scopes.split())
    return frozenset(scope for scope in scopes if isinstance(scope, str)) if isinstance(scopes, list) else frozenset()


def _unverified_header(token: str) -> Mapping[str, Any] | None:
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return None


def _unverified_issuer(token: str) -> object:
    """Read who says to have issued a token, to choose the verifier; nothing else is believed before it is verified."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        return None
    return claims.get("iss")
