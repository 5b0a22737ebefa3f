"""Static tokens: for small set-ups, where the operator hands each client a secret of its own.

The name of a token is the principal's subject; the token itself is kept as a digest only, and compared as one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from actors.ids import Principal
from transport.authentication import Identity

ISSUER = "outlast:static"  # no URL, so that no issuer of tokens can be it
TOKEN_CHARACTERS_MIN = 16


class StaticTokens:
    """Implements `transport.authentication.Verifier`."""

    def __init__(self, tokens: Mapping[str, str], *, scopes: frozenset[str] = frozenset()) -> None:
        """
        Args:
          tokens: name -> token. Tokens are at least 16 characters: they must not be guessed.
          scopes: what every one of them allows.

        Raises:
          ValueError: a token is too short, or there twice.
        """
        self._known: list[tuple[bytes, Identity]] = []
        for name, token in tokens.items():
            if len(token) < TOKEN_CHARACTERS_MIN:
                raise ValueError(f"the token of {name!r} has fewer than {TOKEN_CHARACTERS_MIN} characters")
            digest = _digest(token)
            if any(digest == known for known, _ in self._known):
                raise ValueError(f"the token of {name!r} is another one's as well")
            self._known.append((digest, Identity(Principal(ISSUER, "", name), scopes=scopes)))

    def __repr__(self) -> str:
        return f"StaticTokens({', '.join(identity.principal.subject for _, identity in self._known)})"

    async def verify(self, token: str) -> Identity | None:
        """Say whose token this is; None: nobody's here."""
        presented = _digest(token)
        found = None
        for digest, identity in self._known:  # all of them: how long it takes tells nothing
            if hmac.compare_digest(digest, presented):
                found = identity
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
