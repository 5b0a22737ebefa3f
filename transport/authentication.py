"""Authentication: on whose behalf a request is asked, from the credential that it carries.

The gateway is an OAuth 2.1 resource server (MCP 2025-11-25, basic/authorization): it verifies tokens and never issues
one. Whatever verifies them gives an `Identity`; a session belongs to its principal, that is (issuer, client, subject),
never to the bytes of a token: a refreshed token goes on with the same sessions.

A verified token is remembered, by its digest and until it expires, so that a call costs a look into a dictionary and
no signature. What is remembered is bounded, and holds no token.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from actors.ids import Principal
from transport.exchange import RequestHead
from transport.guard import Rejection
from transport.protected_resource import ProtectedResource

REMEMBERED_MAX = 10_000  # verified tokens; 200 bytes each
REMEMBERED_SECONDS_MAX = 300.0  # so that a token whose key or name was withdrawn is refused after this, at the latest
TOKEN_BYTES_MAX = 8 * 1024  # larger ones are no tokens, and are not looked at
# RFC 6750, 2.1: b64token
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)


@attrs.frozen
class Identity:
    """Who asks, as a credential showed it."""

    principal: Principal
    expires_unix_s: float = float("inf")  # of the credential; streams end then, sessions do not
    scopes: frozenset[str] = frozenset()


class TokenInvalid(Exception):
    """A token that is no good; the message is told to who brought it, so it says nothing of others."""


class KeysUnavailable(Exception):
    """Whether a token is good cannot be told now, since its issuer's keys cannot be had."""


class Verifier(Protocol):
    """Knows the tokens of one kind."""

    async def verify(self, token: str) -> Identity | None:
        """Say whose token this is.

        Returns:
          None: it is none of this kind; another verifier may know it.

        Raises:
          TokenInvalid: it is of this kind, and no good.
          KeysUnavailable: it cannot be told now.

        Cancellation: safe.
        """
        ...


class Authentication:
    """Identifies requests, or says how to come back with a better credential."""

    def __init__(
        self,
        verifiers: Sequence[Verifier],
        *,
        now_unix_s: Callable[[], float],
        resource: ProtectedResource,
        remembered_max: int = REMEMBERED_MAX,
    ) -> None:
        """
        Args:
          verifiers: asked in this order.
          now_unix_s: wall-clock time, for the expiry of tokens.
          resource: what is protected: its metadata, and the scopes that are needed.
          remembered_max: verified tokens to remember; the least recently used are forgotten.
        """
        self._verifiers = tuple(verifiers)
        self._now_unix_s = now_unix_s
        self._resource = resource
        self._remembered: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()  # until when
        self._remembered_max = remembered_max

    @property
    def resource(self) -> ProtectedResource:
        """What is protected."""
        return self._resource

    def remembered(self, head: RequestHead) -> Identity | None:
        """Give the identity of a request whose token was verified before, without waiting.

        None: ask `identify`.
        """
        header = head.headers.get("authorization")
        if header is None or len(header) > TOKEN_BYTES_MAX:
            return None
        key = _digest(header)
        found = self._remembered.get(key)
        if found is None:
            return None
        if found[1] <= self._now_unix_s():
            del self._remembered[key]
            return None
        self._remembered.move_to_end(key)
        return found[0]

    def deadline(self, identity: Identity) -> float:
        """Give the time, by trio's clock, at which a credential expires."""
        if identity.expires_unix_s == float("inf"):
            return identity.expires_unix_s
        return trio.current_time() + identity.expires_unix_s - self._now_unix_s()

    async def identify(self, head: RequestHead) -> Identity | Rejection:
        """Say who asks, or what to answer.

        Statuses (MCP 2025-11-25, basic/authorization; RFC 6750, 3.1): 401 no token, or an invalid or expired one; 400 a
        malformed header; 403 a token without the needed scope; 503 keys that cannot be had.
        """
        known = self.remembered(head)
        if known is not None:
            return known
        header = head.headers.get("authorization")
        if header is None:
            return self._resource.challenge(head)
        match = _BEARER.fullmatch(header) if len(header) <= TOKEN_BYTES_MAX else None
        if match is None:
            return self._resource.malformed(head)
        try:
            identity = await self._verify(match[1])
        except TokenInvalid as invalid:
            return self._resource.challenge(head, str(invalid))
        except KeysUnavailable as unavailable:
            return self._resource.unavailable(str(unavailable))
        missing = self._resource.scopes_required - identity.scopes
        if missing:
            return self._resource.insufficient(head)
        self._remember(_digest(header), identity)
        return identity

    async def _verify(self, token: str) -> Identity:
        for verifier in self._verifiers:
            identity = await verifier.verify(token)
            if identity is not None:
                return identity
        raise TokenInvalid("the token is not known here")

    def _remember(self, key: bytes, identity: Identity) -> None:
        until = min(identity.expires_unix_s, self._now_unix_s() + REMEMBERED_SECONDS_MAX)
        self._remembered[key] = (identity, until)
        while len(self._remembered) > self._remembered_max:
            self._remembered.popitem(last=False)


def _digest(header: str) -> bytes:
    return hashlib.blake2b(header.encode("latin-1", "replace"), digest_size=16).digest()
