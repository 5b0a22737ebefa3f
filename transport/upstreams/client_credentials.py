"""Client credentials: one token for all sessions of an upstream, the gateway's own (RFC 6749, 4.4)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import structlog

from actors.ids import Principal
from transport.upstreams.access_tokens import (
    AccessToken,
    HeldToken,
    StartSoon,
    TokenRefused,
    TokenSource,
    TokenUnavailable,
)
from transport.upstreams.thinning import is_power_of_two
from transport.upstreams.token_requests import TokenRequests

_log = structlog.get_logger(__name__)


class ClientCredentials:
    """Implements `Authorization`: everybody's requests carry the same token."""

    def __init__(
        self,
        requests: TokenRequests,
        start_soon: StartSoon,
        *,
        server: str,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Args:
          server: the upstream's name, for the log.
          told: hears why there is no token; "": there is one.
        """
        ask = functools.partial(requests.ask, {"grant_type": "client_credentials"})
        self._held = HeldToken(ask, start_soon, tell=self._note)
        self._server = server
        self._told = told
        self._failures = 0  # in a row

    def __repr__(self) -> str:
        return f"<ClientCredentials for {self._server}, {self._held!r}>"

    def of(self, principal: Principal) -> TokenSource:
        return self._held

    def of_request(self) -> TokenSource:
        return self._held

    def _note(self, outcome: AccessToken | TokenRefused | TokenUnavailable) -> None:
        if isinstance(outcome, AccessToken):
            if self._failures:
                self._told("")
            self._failures = 0
            return
        self._failures += 1
        if is_power_of_two(self._failures):
            _log.error("a server's token cannot be had", server=self._server, why=str(outcome), count=self._failures)
        if not self._held.is_good:
            self._told(str(outcome))
