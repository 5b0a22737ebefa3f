"""The reaper: ends sessions whose time is over, and lets idle ones leave memory.

A session is reaped when it has expired, or when it is uninitialized for a reason of its own and the grace period is
over (access reaps it sooner: `Registry.find`). Never for a cause that may be ours. And never many at once: if one
sweep would reap more than a twentieth of all sessions something else is probably wrong (a clock, a restored
backup), so it stops and says so; after an hour, in which somebody can look, it goes on in portions of that size.
Sessions that are not meant to last (those of HTTP+SSE end with their stream, but for a short while) go without that:
after a restart of ours many of their clients stay away at once, and nothing is wrong.
"""

from __future__ import annotations

from operator import itemgetter

import attrs
import structlog
import trio

from actors import messages as say
from actors.ids import SessionId
from actors.registry import REAPED_REASONS, Registry
from actors.session import SessionActor
from persistence.records import SnapshotHeader

log = structlog.get_logger("outlast.reaper")

# Somebody who reads for a day does nothing that counts as activity. Noting that he is there costs a soft commit: often
# enough that no session in use is ever close to its expiry, seldom enough to cost nothing.
KEEP_ALIVE_SHARE = 1 / 8


@attrs.frozen
class ReaperRules:
    """When a session goes. All in seconds but the brake."""

    sweep_every_seconds: float = 30.0
    uninitialized_grace_seconds: float = 24 * 3600.0  # from its last activity
    passivate_after_seconds: float = 300.0
    passivate_unresumable_after_seconds: float = 1800.0  # leaving memory would cost the upstream's state (stdio)
    brake_share: float = 0.05
    brake_sessions_min: int = 100  # below this many the brake stays off: small numbers have large shares
    brake_seconds: float = 3600.0
    brief_ttl_seconds_max: float = 0.0  # expired sessions that were to be kept no longer than this know no brake


@attrs.frozen
class Sweep:
    """What one sweep found: pure, so that it can be tested without time passing."""

    expired: tuple[SessionId, ...]
    uninitialized: tuple[SessionId, ...]
    brief: tuple[SessionId, ...] = ()  # expired, and not meant to last

    @property
    def due(self) -> tuple[SessionId, ...]:
        """What the brake looks at."""
        return self.expired + self.uninitialized


def find_due(headers: list[SnapshotHeader], in_use: set[SessionId], now_unix_s: float, rules: ReaperRules) -> Sweep:
    """Choose which sessions are due.

    Args:
      headers: all sessions.
      in_use: those with somebody waiting or reading, which never expire meanwhile.
      now_unix_s: wall clock.
      rules: when a session goes.
    """
    expired: list[SessionId] = []
    uninitialized: list[SessionId] = []
    brief: list[SessionId] = []
    for header in headers:
        session_id = SessionId(header.session_id)
        if header.failure in REAPED_REASONS:
            if header.last_active_unix_s + rules.uninitialized_grace_seconds <= now_unix_s:
                uninitialized.append(session_id)
        elif header.expires_unix_s <= now_unix_s and session_id not in in_use:
            (brief if _is_brief(header, rules) else expired).append(session_id)
    return Sweep(tuple(expired), tuple(uninitialized), tuple(brief))


def _is_brief(header: SnapshotHeader, rules: ReaperRules) -> bool:
    ttl_seconds = header.expires_unix_s - header.last_active_unix_s  # of times of day: exact to a microsecond or so
    return rules.brief_ttl_seconds_max > 0.0 and ttl_seconds < rules.brief_ttl_seconds_max + 0.001


def brake(due: int, sessions: int, rules: ReaperRules) -> int | None:
    """Give how many may be reaped at once, or None if all of those due may."""
    portion = max(rules.brake_sessions_min, int(sessions * rules.brake_share))
    return portion if due > portion else None


class Reaper:
    """Sweeps one registry."""

    def __init__(
        self, registry: Registry, rules: ReaperRules = ReaperRules(), *, resident_sessions_max: int = 10_000
    ) -> None:
        """
        Args:
          rules: when a session goes.
          resident_sessions_max: with more in memory, the longest idle leave before their time.
        """
        self._registry = registry
        self._rules = rules
        self._resident_sessions_max = resident_sessions_max
        self._braked_since: float | None = None
        self.reaped = 0
        self.passivated = 0

    @property
    def braked(self) -> bool:
        """Whether a sweep has stopped because it would have reaped too many."""
        return self._braked_since is not None

    async def run(self) -> None:
        """Sweep, for ever."""
        while True:
            await trio.sleep(self._rules.sweep_every_seconds)
            self.sweep()

    def sweep(self) -> None:
        """Sweep once; not while the process is stopping, when the next one has all the time there is."""
        if self._registry.draining:
            return
        now_unix_s = self._registry.shared.clock.now_unix_s()
        in_use = self._passivate_idle(now_unix_s)
        headers = list(self._registry.headers())
        found = find_due(headers, in_use, now_unix_s, self._rules)
        expired = {*found.expired, *found.brief}
        for session_id in (*found.brief, *self._portion(found, len(headers))):
            reason = "expired" if session_id in expired else "uninitialized"
            self._registry.let_go(session_id, reason)
            self.reaped += 1

    def _portion(self, found: Sweep, sessions: int) -> tuple[SessionId, ...]:
        portion = brake(len(found.due), sessions, self._rules)
        if portion is None:
            self._braked_since = None
            return found.due
        now = trio.current_time()
        if self._braked_since is None:
            self._braked_since = now
            log.error(
                "reaping stopped: too many sessions are due at once",
                due=len(found.due),
                sessions=sessions,
                goes_on_after_seconds=self._rules.brake_seconds,
            )
        if now - self._braked_since < self._rules.brake_seconds:
            return ()
        return found.due[:portion]

    def _passivate_idle(self, now_unix_s: float) -> set[SessionId]:
        """Let idle actors go; give those that are not idle."""
        in_use: set[SessionId] = set()
        idle: list[tuple[float, SessionActor]] = []
        for actor in self._registry.residents():
            idle_seconds = actor.idle_seconds()
            limit = (
                self._rules.passivate_after_seconds
                if actor.resumable
                else self._rules.passivate_unresumable_after_seconds
            )
            if idle_seconds == 0.0 or (actor.is_loaded and actor.state.expires_unix_s > now_unix_s):
                in_use.add(actor.session_id)
            if idle_seconds == 0.0:
                _keep_alive(actor, now_unix_s)
            if idle_seconds >= limit:
                self._passivate(actor)
            elif idle_seconds > 0.0 and actor.resumable:
                idle.append((idle_seconds, actor))
        idle.sort(key=itemgetter(0), reverse=True)
        for _, actor in idle[: max(0, len(self._registry.residents()) - self._resident_sessions_max)]:
            self._passivate(actor)
        return in_use

    def _passivate(self, actor: SessionActor) -> None:
        actor.stop("idle", only_if_idle=True)
        self.passivated += 1


def _keep_alive(actor: SessionActor, now_unix_s: float) -> None:
    """Count the time of a session in use from now: its client may be cut off, or we may crash, in the next instant."""
    if actor.is_loaded:
        state = actor.state
        if now_unix_s - state.last_active_unix_s >= state.ttl_seconds * KEEP_ALIVE_SHARE:
            actor.tell(say.Look(0))
