"""Access tokens for an upstream: one that is held, who asks for another, and when.

A held token is renewed ahead of its end, behind the requests that still use it; when there is none, all who need one
wait for the same request to the authorization server. One that does not give any is asked again after a pause that
grows and carries jitter, and meanwhile whoever asks is told at once what it said last.

Tokens are in memory only. Nothing here shows one.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import attrs
import trio

from actors.connecting import Backoff
from actors.ids import Principal
from actors.supervisor import ChildSpec, Restart, supervise

ASK_SECONDS_MAX = 10.0  # for one answer of the authorization server, finding it included
# A token is renewed when this share of its life is left, but not longer before its end than a minute: servers count
# what they issue, and some allow few.
_RENEW_SHARE = 0.2
_RENEW_SECONDS_MAX = 60.0
# What was issued a moment ago and is refused all the same will not be mended by another: then it is not asked for one.
_FRESH_SECONDS = 5.0

StartSoon = Callable[[Callable[[], Awaitable[object]]], bool]  # False: nothing is started any more


class TokenUnavailable(Exception):
    """There is no token now, for a cause that may pass."""


class TokenRefused(Exception):
    """The authorization server, or a rule of ours, says no: somebody has to mend something."""


@attrs.frozen
class AccessToken:
    """One token, as it was issued."""

    value: str = attrs.field(repr=False)
    lasts_seconds: float


class TokenSource(Protocol):
    """Gives the token that requests to an upstream carry."""

    def current(self) -> str:
        """Give a token that is good now, without waiting; "": `obtain` one."""
        ...

    async def obtain(self) -> str:
        """Give a token that is good now, within `ASK_SECONDS_MAX`.

        Raises:
          TokenUnavailable, TokenRefused

        Cancellation: safe; an answer that is on its way is kept for others.
        """
        ...

    def replace(self, value: str) -> bool:
        """Take note that the upstream refuses a token. Returns whether another may be had for it."""
        ...

    def shown(self) -> Iterable[str]:
        """Give the tokens that the upstream may have been shown lately."""
        ...


class Authorization(Protocol):
    """How the gateway gets tokens for one upstream."""

    def of(self, principal: Principal) -> TokenSource:
        """Give what the requests of a principal's sessions carry."""
        ...

    def of_request(self) -> TokenSource:
        """Give what a request without a session carries, from the task that serves it."""
        ...


class HeldToken:
    """Implements `TokenSource` for one way of asking."""

    __slots__ = (
        "_ask",
        "_backoff",
        "_draw_chance",
        "_expires_at",
        "_failure",
        "_failures",
        "_flight",
        "_former",
        "_issued_at",
        "_not_before",
        "_renew_at",
        "_start_soon",
        "_tell",
        "_until_seconds",
        "_value",
    )

    def __init__(
        self,
        ask: Callable[[], Awaitable[AccessToken]],
        start_soon: StartSoon,
        *,
        tell: Callable[[AccessToken | TokenRefused | TokenUnavailable], None] = lambda _: None,
        until_seconds: float = float("inf"),
        backoff: Backoff = Backoff(first_seconds=1.0, most_seconds=60.0),
        draw_chance: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
          ask: asks the authorization server once; raises TokenUnavailable or TokenRefused.
          start_soon: runs a task; it may belong to something that lives longer.
          tell: hears of each token, and of each failure.
          until_seconds: on trio's clock: no token is used after this, however long it lasts.
          draw_chance: uniform in [0, 1), for the jitter.
        """
        self._ask = ask
        self._start_soon = start_soon
        self._tell = tell
        self._backoff = backoff
        self._draw_chance = draw_chance
        self._until_seconds = until_seconds
        self._value = self._former = ""
        self._issued_at = self._renew_at = self._expires_at = float("-inf")  # trio's clock, as the next
        self._not_before = float("-inf")
        self._failure: TokenRefused | TokenUnavailable | None = None  # of the last time
        self._failures = 0  # in a row
        self._flight: trio.Event | None = None  # set when the answer that is waited for is there, or will not be

    def __repr__(self) -> str:
        return f"<HeldToken, {'good' if self.is_good else 'none'}>"

    @property
    def is_good(self) -> bool:
        """Whether there is a token that has not run out."""
        return trio.current_time() < self._expires_at

    @property
    def is_due(self) -> bool:
        """Whether it is time to have another in its place."""
        return trio.current_time() >= self._renew_at

    @property
    def is_over(self) -> bool:
        """Whether what it is asked with has run out, so that there will be no other."""
        return trio.current_time() >= self._until_seconds

    @property
    def value(self) -> str:
        """The token, if it is good; nothing is begun about another."""
        return self._value if self.is_good else ""

    def ask_soon(self) -> None:
        """Ask for a token behind what goes on, unless that was in vain a moment ago."""
        if trio.current_time() >= self._not_before:
            self._ask_once()

    def shown(self) -> Iterable[str]:
        return [text for text in (self._value, self._former) if text]

    def current(self) -> str:
        now = trio.current_time()
        if now >= self._expires_at:
            return ""
        if now >= self._renew_at:
            self.ask_soon()
        return self._value

    async def obtain(self) -> str:
        while not (value := self.current()):
            if self._flight is None and trio.current_time() < self._not_before:
                raise self._last_failure()
            self._ask_once()
            if self._flight is None:
                raise TokenUnavailable("the gateway is stopping")
            await self._flight.wait()
            if not self.is_good:
                raise self._last_failure()
        return value

    def replace(self, value: str) -> bool:
        if value != self._value:
            return True  # it has been replaced meanwhile, or is being
        if trio.current_time() < self._issued_at + _FRESH_SECONDS:
            return False
        self._forget()
        return True

    def _forget(self) -> None:
        self._former, self._value = self._value, ""
        self._expires_at = float("-inf")

    def _last_failure(self) -> TokenRefused | TokenUnavailable:
        """Make it anew: an error that is raised again and again gathers tracebacks."""
        if isinstance(self._failure, TokenRefused):
            return TokenRefused(str(self._failure))
        return TokenUnavailable(str(self._failure or "no token was given in time"))

    # ---- asking ----

    def _ask_once(self) -> None:
        if self._flight is not None:
            return
        self._flight = trio.Event()
        # Supervised: what a server says may find a defect, which is not to take others' requests along.
        child = ChildSpec("access token", self._fly, Restart.TEMPORARY)
        if not self._start_soon(functools.partial(supervise, child)):
            self._flight = None

    async def _fly(self) -> None:
        try:
            await self._ask_and_note()
        finally:  # cancelled, and after a defect, too: whoever waits is not left waiting
            assert self._flight is not None
            self._flight.set()
            self._flight = None

    async def _ask_and_note(self) -> None:
        failure: TokenRefused | TokenUnavailable | None = None
        token: AccessToken | None = None
        try:
            with trio.fail_after(ASK_SECONDS_MAX):
                token = await self._ask()
        except trio.TooSlowError:
            failure = TokenUnavailable(f"the authorization server gave no answer within {ASK_SECONDS_MAX:g} s")
        except (TokenRefused, TokenUnavailable) as error:
            failure = error
        finally:
            self._note(token, failure)

    def _note(self, token: AccessToken | None, failure: TokenRefused | TokenUnavailable | None) -> None:
        if token is not None:
            self._take(token)
            self._tell(token)
            return
        self._failures += 1
        self._failure = failure or TokenUnavailable("asking for a token was broken off")
        self._not_before = trio.current_time() + self._backoff.draw(self._failures, self._draw_chance())
        if failure is not None:  # the others are a stop, or logged by who supervises
            self._tell(failure)

    def _take(self, token: AccessToken) -> None:
        now = trio.current_time()
        self._former = self._value or self._former
        self._value, self._issued_at = token.value, now
        self._expires_at = min(now + token.lasts_seconds, self._until_seconds)
        lasts_seconds = self._expires_at - now
        self._renew_at = self._expires_at - min(lasts_seconds * _RENEW_SHARE, _RENEW_SECONDS_MAX)
        self._failure, self._failures = None, 0
