"""Quota: how much of the gateway one principal may use at a time, so that one client's mistake is not everybody's.

Exchanges count from their first byte to their last: calls in progress and open streams alike. The anonymous principal
is everybody, so a bound on it would be one on all: for that there are `connections_max` and `sessions_max`.
"""

from __future__ import annotations

from actors import jsonrpc
from actors.ids import ANONYMOUS, Principal
from actors.tally import Tally
from transport.guard import Rejection
from transport.handler import JSON_HEADERS, error_body

EXCHANGES_MAX = 1000
RETRY_AFTER_SECONDS = 1


class Quota:
    """Counts exchanges by principal."""

    __slots__ = ("_exchanges", "_exchanges_max", "_rejected")

    def __init__(self, exchanges_max: int = EXCHANGES_MAX) -> None:
        """
        Args:
          exchanges_max: in progress at a time, of each principal.
        """
        self._exchanges = Tally()
        self._exchanges_max = exchanges_max
        self._rejected = 0

    def __repr__(self) -> str:
        return f"Quota({self._exchanges!r}, at most {self._exchanges_max} of each, {self._rejected} refused)"

    @property
    def rejected(self) -> int:
        """Exchanges that were refused."""
        return self._rejected

    def enter(self, principal: Principal) -> Rejection | None:
        """Begin an exchange; whoever is let in must `leave`.

        Returns:
          None: let in. Otherwise the answer: 429 (RFC 6585, 4), since it is this client's own doing.
        """
        if principal is ANONYMOUS:
            return None
        if self._exchanges.of(principal.digest) < self._exchanges_max:
            self._exchanges.add(principal.digest)
            return None
        self._rejected += 1
        reason = f"{self._exchanges_max} requests and streams of yours are in progress already; end some first"
        headers = (*JSON_HEADERS, (b"retry-after", b"%d" % RETRY_AFTER_SECONDS))
        return Rejection(429, error_body(reason, jsonrpc.OVERLOADED), headers)

    def leave(self, principal: Principal) -> None:
        """End an exchange."""
        if principal is not ANONYMOUS:
            self._exchanges.remove(principal.digest)
