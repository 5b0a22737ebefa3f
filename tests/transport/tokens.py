"""An authorization server without a network: its keys, its tokens."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from transport.jwt_tokens import Issuer

ISSUER = "https://issuer.example"
GATEWAY = "https://mcp.example.com"
TRUSTED = Issuer(ISSUER, (GATEWAY,))


class AuthorizationServer:
    """Issues tokens, and publishes the keys that they are signed with."""

    def __init__(self, issuer: str = ISSUER) -> None:
        self.issuer = issuer
        self._private = {"one": ec.generate_private_key(ec.SECP256R1())}
        self.asked: list[str] = []  # URLs
        self.is_away = False

    def rotate(self, key_id: str) -> None:
        """Sign with a new key from now on, and withdraw the old ones."""
        self._private = {key_id: ec.generate_private_key(ec.SECP256R1())}

    def key_set(self) -> bytes:
        return json.dumps(
            {"keys": [_public_jwk(key_id, key) for key_id, key in self._private.items()]},
        ).encode()

    async def fetch(self, url: str) -> bytes:
        """Be the network: what `signing_keys.fetch_document` does."""
        await trio.lowlevel.checkpoint()
        self.asked.append(url)
        if self.is_away:
            raise OSError("connection refused")
        if url.endswith("/.well-known/oauth-authorization-server"):
            return json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}).encode()
        return self.key_set()

    def token(self, subject: str = "ann", *, lasts_seconds: float = 600, **claims: Any) -> str:
        """Issue a token; a claim given as None is left out."""
        ((key_id, key),) = self._private.items()
        standard = {
            "iss": self.issuer,
            "aud": GATEWAY,
            "sub": subject,
            "client_id": "inspector",
            "exp": int(time.time() + lasts_seconds),
            "jti": str(time.perf_counter_ns()),
        }
        payload = {name: value for name, value in {**standard, **claims}.items() if value is not None}
        return jwt.encode(payload, key, algorithm="ES256", headers={"kid": key_id})


def _public_jwk(key_id: str, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    jwk: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": key_id, "use": "sig", "alg": "ES256"}
