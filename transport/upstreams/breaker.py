"""A circuit breaker for one upstream: while it is known to be away, nobody waits for it and nobody knocks.

    closed      all may try; so many failures in a row open it
    open        nobody may, for a while that grows with each failed trial and carries jitter
    half open   the while is over: one may try; success closes it, failure opens it again, for longer

What counts as a failure is what says that the server, not a request, is at fault: no connection, or 502, 503, 504 in
its place. Anything else that it says, errors included, is a sign of life. A call that is lost in the middle is neither:
one tool that crashes its server must not shut the others out. That a server does not let us in is no failure either (it
is there), but kept to be seen: only an operator can mend it. No I/O and no waiting here; who asks is told how long.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable

import attrs
import trio


class BreakerState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@attrs.frozen
class BreakerRules:
    """When a breaker opens, and for how long."""

    failures_max: int = 5  # in a row; a restart of the upstream that takes a moment must not be noticed
    first_seconds: float = 1.0
    # A trial is one connection. A longer pause would spare a dead host nothing that it feels, and have clients of one
    # that is back wait.
    most_seconds: float = 5.0
    trial_seconds: float = 1.0  # half open: a trial that is heard nothing of for so long makes room for another


@attrs.frozen
class BreakerHealth:
    """A breaker, for people to look at."""

    state: BreakerState
    since_unix_s: float  # when it closed, or opened; a trial that failed does not begin it anew
    last_error: str  # "" if there was none; the last one stays to be seen after it has closed again
    refuses_credentials: bool = False  # it is there, and does not let us in


class Breaker:
    """The breaker of one upstream; all its sessions share it."""

    __slots__ = (
        "_draw_chance",
        "_failures",
        "_last_error",
        "_openings",
        "_refuses_credentials",
        "_rules",
        "_since_unix_s",
        "_state",
        "_until_seconds",
        "_wall_clock",
        "is_closed",
    )

    def __init__(
        self,
        rules: BreakerRules = BreakerRules(),
        *,
        draw_chance: Callable[[], float] = random.random,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        draw_chance: uniform in [0, 1), for the jitter.
        wall_clock: gives Unix time, for people; pauses are measured on trio's clock.
        """
        self._rules = rules
        self._draw_chance = draw_chance
        self._wall_clock = wall_clock
        self._state = BreakerState.CLOSED
        self._since_unix_s = wall_clock()
        self._last_error = ""
        self._failures = 0  # in a row
        self._openings = 0  # in a row, without a success between
        self._refuses_credentials = False
        self._until_seconds = 0.0  # trio's clock: open until then; half open: the trial under way has until then
        self.is_closed = True  # a plain attribute, since every call of a client looks at it

    def __repr__(self) -> str:
        return f"<Breaker {self._state.value}, {self._failures} failures in a row>"

    @property
    def health(self) -> BreakerHealth:
        return BreakerHealth(self._state, self._since_unix_s, self._last_error, self._refuses_credentials)

    def admit(self) -> float:
        """Ask to use the upstream: 0.0 if that is allowed (half open: as the one trial), else the seconds to wait."""
        wait_seconds = self.blocked_seconds()
        if self._state is not BreakerState.HALF_OPEN:
            return wait_seconds
        now = trio.current_time()
        if now < self._until_seconds:
            return self._until_seconds - now
        self._until_seconds = now + self._rules.trial_seconds
        return 0.0

    def blocked_seconds(self) -> float:
        """Tell how long nobody may try at all; for what was admitted before and waits, and for links being opened."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        rest = self._until_seconds - trio.current_time()
        if rest > 0:
            return rest
        self._become(BreakerState.HALF_OPEN)
        self._until_seconds = 0.0  # no trial is under way yet
        return 0.0

    def succeeded(self) -> None:
        """The upstream gave a sign of life."""
        self._failures = 0
        self._refuses_credentials = False
        if not self.is_closed:
            self._openings = 0
            self._become(BreakerState.CLOSED)

    def credentials_refused(self, detail: str) -> None:
        """The upstream does not let us in: a sign of life, and something that its operator should know."""
        self.succeeded()
        self._last_error = detail
        self._refuses_credentials = True

    def credentials_missing(self, detail: str) -> None:
        """We have no credentials to show it: nothing is known of the upstream itself."""
        self._last_error = detail
        self._refuses_credentials = True

    def credentials_accepted(self) -> None:
        """The upstream lets us in again; for whoever tells of nothing else."""
        self._refuses_credentials = False

    def failed(self, detail: str) -> None:
        """The upstream could not be reached, or something in its place says that it is away."""
        self._last_error = detail
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN or (self.is_closed and self._failures >= self._rules.failures_max):
            self._open()

    def _open(self) -> None:
        ceiling = min(self._rules.most_seconds, self._rules.first_seconds * 2.0 ** min(self._openings, 16))
        self._openings += 1
        self._until_seconds = trio.current_time() + ceiling * (0.5 + 0.5 * self._draw_chance())
        self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        if self.is_closed or state is BreakerState.CLOSED:  # between open and half open, "since" stays: still away
            self._since_unix_s = self._wall_clock()
        self._state = state
        self.is_closed = state is BreakerState.CLOSED

    def describe(self) -> str:
        """Say why nobody may try, for an error message."""
        return f"the upstream is not there: {self._last_error}"
