"""The restorer: brings the stored sessions back at start-up, in the background, most recently active first.

Restoring a session means: its actor lives, and its upstream handshake is in force again. The gateway serves
meanwhile; a session that a client asks for comes to life at once, past this queue. Permits bound the work: so many
at a time in all (Akka's recovery permits: 50), so many per upstream server. An upstream that does not answer is
left alone for a growing while; the sessions behind it stay as they are, and are tried again. One that refuses a
session makes that session uninitialized.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection

import attrs
import structlog
import trio

from actors import messages as say
from actors.connecting import Backoff
from actors.ids import SessionId
from actors.mailbox import MailboxFull
from actors.registry import Registry

log = structlog.get_logger("outlast.restorer")

RESTORE_SECONDS_MAX = 30.0  # no session stays "restoring" longer; akka#28658 shows what happens without


@attrs.frozen
class RestoreProgress:
    """How far restoring has come."""

    total: int = 0
    restored: int = 0
    uninitialized: int = 0
    waiting: int = 0  # behind an upstream that does not answer, or not yet begun
    on_use: int = 0  # beside these: left to their first use, since only their owners can have them opened

    @property
    def done(self) -> bool:
        return self.waiting == 0


class Restorer:
    """Restores the sessions of one registry."""

    def __init__(
        self,
        registry: Registry,
        *,
        permits: int = 64,
        permits_per_server: int = 8,
        sessions_max: int = 10_000,
        on_use: Collection[str] = (),
        backoff: Backoff = Backoff(first_seconds=1.0, most_seconds=60.0),
        progress: Callable[[RestoreProgress], None] = lambda _: None,
        draw_chance: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
          sessions_max: how many of the most recently active sessions are restored; the others wait for their first
            use.
          on_use: servers none of whose sessions is restored before its first use.
          progress: told after each session.
        """
        self._registry = registry
        self._limiter = trio.CapacityLimiter(permits)
        self._permits_per_server = permits_per_server
        self._sessions_max = sessions_max
        self._on_use = frozenset(on_use)
        self._backoff = backoff
        self._tell = progress
        self._draw_chance = draw_chance
        self.progress = RestoreProgress()

    @property
    def permits_in_use(self) -> int:
        """How many sessions are being restored now."""
        return int(self._limiter.statistics().borrowed_tokens)

    async def run(self) -> None:
        """Restore, until each session was restored or found uninitialized. Cancellation: safe."""
        queues = self._plan()
        total = sum(map(len, queues.values()))
        left = sum(header.server_id in self._on_use for header in self._registry.headers()) if self._on_use else 0
        self.progress = RestoreProgress(total=total, waiting=total, on_use=left)
        if left and not total:  # else it is told with the last of the others
            self._tell(self.progress)
        async with trio.open_nursery() as nursery:
            for queue in queues.values():
                server = _Server(queue)
                for _ in range(min(self._permits_per_server, len(queue))):
                    nursery.start_soon(self._work, server)

    def _plan(self) -> dict[str, deque[SessionId]]:
        headers = [
            header for header in self._registry.headers() if not header.failure and header.server_id not in self._on_use
        ]
        headers.sort(key=lambda header: header.last_active_unix_s, reverse=True)
        queues: dict[str, deque[SessionId]] = {}
        for header in headers[: self._sessions_max]:
            queues.setdefault(header.server_id, deque()).append(SessionId(header.session_id))
        return queues

    async def _work(self, server: _Server) -> None:
        while server.queue and not self._registry.draining:
            session_id = server.queue.popleft()
            async with self._limiter:
                outcome = await self._restore(session_id)
            if isinstance(outcome, say.NotDone) and outcome.problem is not say.Problem.UNINITIALIZED:
                server.queue.append(session_id)
                server.failures += 1
                await trio.sleep(self._backoff.draw(server.failures, self._draw_chance()))
            else:
                server.failures = 0
                self._count(uninitialized=isinstance(outcome, say.NotDone))

    async def _restore(self, session_id: SessionId) -> say.Outcome:
        actor = self._registry.activate(session_id)
        if actor is None:
            return say.Accepted()  # it has ended in the meantime
        try:
            reply = actor.ask(say.ConnectNow)
        except MailboxFull as full:
            return say.NotDone(say.Problem.OVERLOADED, str(full))
        with trio.move_on_after(RESTORE_SECONDS_MAX):
            return await reply.wait()
        return say.NotDone(say.Problem.UNAVAILABLE, f"not restored within {RESTORE_SECONDS_MAX:g} s")

    def _count(self, *, uninitialized: bool) -> None:
        now = self.progress
        self.progress = RestoreProgress(
            now.total,
            now.restored + (not uninitialized),
            now.uninitialized + uninitialized,
            now.waiting - 1,
            now.on_use,
        )
        self._tell(self.progress)


@attrs.define(eq=False)
class _Server:
    """What is left to restore behind one upstream."""

    queue: deque[SessionId]
    failures: int = 0  # in a row
