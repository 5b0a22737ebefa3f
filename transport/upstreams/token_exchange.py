"""Token exchange: each principal's own token for a server, got for the one that it presents here (RFC 8693).

The client's token goes to the authorization server and nowhere else, and neither it nor what it is exchanged for is
ever kept. A result is for one principal and one of its tokens, and lasts no longer than that token does: two principals
never share one. A session goes on with a result until that runs out, and then gets another for the newest token of
its owner. Without a token that is good now there is none to exchange, and that is said.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

import structlog
import trio

from actors.ids import Principal
from transport.subjects import LiveSubjects, Subject
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

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
EXCHANGES_MAX = 16  # at a time: a restart wakes thousands of owners, whose exchanges are not to come all at once
HELD_MAX = 10_000  # results for one server; two kilobytes each
# One client's token that is not taken is that client's matter; so many in a row are the operator's.
_FAILURES_TOLD = 5

_log = structlog.get_logger(__name__)


def _key_of(subject: Subject) -> Hashable:
    return subject.principal, subject.digest


class TokenExchange:
    """Implements `Authorization`: the requests of each principal carry a token of its own."""

    def __init__(
        self,
        requests: TokenRequests,
        start_soon: StartSoon,
        subjects: LiveSubjects,
        *,
        server: str,
        told: Callable[[str], None] = lambda _: None,
        held_max: int = HELD_MAX,
        key_of: Callable[[Subject], Hashable] = _key_of,
    ) -> None:
        """
        Args:
          subjects: who has presented which token.
          server: the upstream's name, for errors and the log.
          told: hears why nobody gets a token any more; "": somebody does.
          held_max: results to keep; the longest unused are forgotten.
          key_of: what a result is kept under; only a negative control gives another.
        """
        self._requests = requests
        self._start_soon = start_soon
        self._subjects = subjects
        self._server = server
        self._told = told
        self._held: OrderedDict[Hashable, HeldToken] = OrderedDict()
        self._held_max = held_max
        self._key_of = key_of
        self._failures = 0  # in a row, whoever's
        self._at_a_time = trio.Semaphore(EXCHANGES_MAX)

    def __repr__(self) -> str:
        return f"<TokenExchange for {self._server}, {len(self._held)} held>"

    def of(self, principal: Principal) -> TokenSource:
        return _OfOwner(self, principal)

    def of_request(self) -> TokenSource:
        subject = self._subjects.of_request()
        return _OfNobody(self.nobody(None)) if subject is None else self.held_for(subject)

    def newest(self, principal: Principal) -> HeldToken | None:
        """Give what is held, or can be had, for the newest token of a principal."""
        subject = self._subjects.newest(principal)
        return None if subject is None else self.held_for(subject)

    def held_for(self, subject: Subject) -> HeldToken:
        """Give what is held, or can be had, for one token."""
        key = self._key_of(subject)
        held = self._held.get(key)
        if held is None:
            ask = functools.partial(self._exchange, subject)
            held = HeldToken(ask, self._start_soon, tell=self._note, until_seconds=subject.until_seconds)
            self._held[key] = held
            self._forget_some()
        self._held.move_to_end(key)
        return held

    def nobody(self, principal: Principal | None) -> TokenRefused | TokenUnavailable:
        """Say why there is nothing to exchange."""
        issuer = self._subjects.issuer
        if principal is None or principal.issuer != issuer:
            return TokenRefused(
                f"the server {self._server!r} wants a token of each user: present one of {issuer}; other credentials"
                " cannot be exchanged for one"
            )
        return TokenUnavailable(
            f"the server {self._server!r} wants a token of the session's owner, who has presented none that is good"
            " now: it goes on with the owner's next request"
        )

    def _forget_some(self) -> None:
        """Keep to the bound; and what has run out, as far as it was not used since, is not kept either."""
        while len(self._held) > 1 and (len(self._held) > self._held_max or next(iter(self._held.values())).is_over):
            self._held.popitem(last=False)

    async def _exchange(self, subject: Subject) -> AccessToken:
        form = {
            "grant_type": GRANT_TYPE,
            "subject_token_type": ACCESS_TOKEN_TYPE,
            "requested_token_type": ACCESS_TOKEN_TYPE,
        }
        async with self._at_a_time:
            return await self._requests.ask(form, secrets={"subject_token": subject.token})

    def _note(self, outcome: AccessToken | TokenRefused | TokenUnavailable) -> None:
        if isinstance(outcome, AccessToken):
            if self._failures >= _FAILURES_TOLD:
                self._told("")
            self._failures = 0
            return
        self._failures += 1
        if is_power_of_two(self._failures):
            _log.warning("a token was not exchanged", server=self._server, why=str(outcome), count=self._failures)
        if self._failures >= _FAILURES_TOLD:
            self._told(str(outcome))


class _OfOwner:
    """Implements `TokenSource` for the sessions of one principal."""

    __slots__ = ("_exchange", "_former", "_held", "_principal")

    def __init__(self, exchange: TokenExchange, principal: Principal) -> None:
        self._exchange = exchange
        self._principal = principal
        self._held: HeldToken | None = None  # what is used until it runs out, whatever the owner presents meanwhile
        self._former: HeldToken | None = None  # what requests that are on their way may still carry

    def current(self) -> str:
        held = self._held
        if held is not None and held.is_good and not held.is_due:
            return held.current()
        newest = self._exchange.newest(self._principal)
        if newest is not None and (value := newest.current()):
            self._hold(newest)
            return value
        if held is None or not held.is_good:
            return ""
        if newest is not None:
            newest.ask_soon()
        return held.value

    async def obtain(self) -> str:
        if value := self.current():
            return value
        newest = self._exchange.newest(self._principal)
        if newest is None:
            raise self._exchange.nobody(self._principal)
        value = await newest.obtain()
        self._hold(newest)
        return value

    def _hold(self, held: HeldToken) -> None:
        if held is not self._held:
            self._former, self._held = self._held, held

    def replace(self, value: str) -> bool:
        return self._held is not None and self._held.replace(value)

    def shown(self) -> Iterable[str]:
        return [text for held in (self._held, self._former) if held is not None for text in held.shown()]


class _OfNobody:
    """Implements `TokenSource` for a request that shows nobody."""

    __slots__ = ("_why",)

    def __init__(self, why: TokenRefused | TokenUnavailable) -> None:
        self._why = why

    def current(self) -> str:
        return ""

    async def obtain(self) -> str:
        raise self._why

    def replace(self, value: str) -> bool:
        return False

    def shown(self) -> Iterable[str]:
        return ()
