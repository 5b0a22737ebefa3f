"""The registry: knows every session, finds the live ones, brings the others to life on first use.

Addressing is virtual, as in Orleans: a session that is stored can always be spoken to, whether or not its actor is
in memory. A passivated session costs one index entry. All of this is sync: an actor takes commands while it is
still loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import attrs
import structlog
import trio
from msgspec.structs import replace

from actors import messages as say
from actors.departures import Departures
from actors.ids import ANONYMOUS, Principal, SessionId
from actors.index import SessionIndex
from actors.log_context import start_apart
from actors.session import SessionActor
from actors.snapshots import to_header
from actors.state import SessionState
from actors.supervisor import ChildSpec, supervise
from actors.surroundings import Surroundings
from actors.tally import Tally
from persistence.records import SnapshotHeader

log = structlog.get_logger("outlast.registry")

# Reasons for being uninitialized that are about the session itself. The others (key_missing, too_new, store_error,
# upstream_down) may be our own fault: a session is never reaped for them.
REAPED_REASONS = frozenset({"upstream_rejected", "auth_gone", "crash_loop", "corrupt"})


QUIET_POLL_SECONDS = 0.05  # a stop may take this much longer; watching every call for it would cost each call


class SessionNotFound(Exception):
    """There is no such session, or it belongs to somebody else, or it has ended: from outside these are the same."""


class TooManySessions(Exception):
    """As many sessions exist as may, in all or of this principal; ended or expired ones make room."""


class Draining(Exception):
    """The runtime is going down: nothing new is taken. Try again in a moment."""


class NotKnownYet(Draining):
    """Whether there is such a session cannot be said, since the store was away at the start. Try again in a moment.

    A kind of `Draining`, because whoever asks is to do the same; clients take "not found" for gone for good.
    """


@attrs.frozen
class RegistryStatistics:
    """How many sessions there are, by where they are."""

    sessions: int
    resident: int
    uninitialized: int
    turned_away: int  # not created, because there were too many
    by_reason: Mapping[str, int] = MappingProxyType({})  # how many are uninitialized, by reason


class Registry:
    """All sessions of a runtime."""

    def __init__(
        self,
        shared: Surroundings,
        nursery: trio.Nursery,
        *,
        sessions_max: int,
        sessions_per_principal_max: int | None = None,
    ) -> None:
        self.shared = shared
        self._nursery = nursery
        self._sessions_max = sessions_max
        self._sessions_per_principal_max = sessions_per_principal_max
        self._sessions = ChildSpec("session", SessionActor.run, gave_up=SessionActor.gave_up, ended=self._left)
        self._index = SessionIndex()
        self._residents: dict[SessionId, SessionActor] = {}
        self._opening: dict[SessionId, str] = {}  # residents that are not in the index yet: whose they will be
        self._opening_of = Tally()
        self._turned_away = 0
        self._draining = False
        self._all_gone = trio.Event()
        self.knows_all: Callable[[], bool] = _always  # whether every stored session has been told of
        # Who is there to put a session back: nobody knows more of it than the index did.
        self.departures = Departures(shared, stopping=lambda: self._draining, stays=self._index.put_if_new)

    # ---- the index ----

    def learn(self, headers: Iterable[SnapshotHeader]) -> None:
        """Add stored sessions to the index."""
        self._index.put_all(headers)

    def adopt(self, headers: Iterable[SnapshotHeader]) -> None:
        """Add sessions that were stored all the while, but not known; what is in the index already is fresher."""
        for header in headers:
            if header.session_id not in self.departures:
                self._index.put_if_new(header)

    def __len__(self) -> int:
        return len(self._index)

    def headers(self) -> Iterator[SnapshotHeader]:
        """Give every session's header as last known, in no order. Do not wait while iterating."""
        return iter(self._index)

    def header(self, session_id: SessionId) -> SnapshotHeader | None:
        """Give a session's header as last known; None if there is no such session."""
        return self._index.get(session_id)

    def residents(self) -> list[SessionActor]:
        """Give the live actors."""
        return list(self._residents.values())

    def _changed(self, state: SessionState) -> None:
        if state.closed:
            self._index.pop(state.session_id)
        elif state.opened:
            self._opened(state.session_id)
            if state.failure:
                self._tell_failure(state)
            self._index.put(to_header(state))

    def _tell_failure(self, state: SessionState) -> None:
        """Log that a session cannot go on: once, as what was known of it until now did not say so."""
        known = self._index.get(state.session_id)
        if known is None or not known.failure:
            said = {"session": state.session_id[:6], "server": state.server_id, "reason": state.failure}
            log.warning("session is uninitialized", **said, why=state.failure_detail)

    def _opened(self, session_id: SessionId) -> None:
        """Count a session among those being opened no more: it is in the index now, or will never be."""
        owner = self._opening.pop(session_id, None)
        if owner is not None:
            self._opening_of.remove(owner)

    # ---- finding ----

    def create(self, state: SessionState) -> SessionActor:
        """Begin a session. It is in the index, and can be found, once its opening is durable.

        Raises:
          TooManySessions, Draining
        """
        if self._draining:
            raise Draining("the gateway is restarting; try again in a moment")
        if len(self._index) + len(self._opening) >= self._sessions_max:
            self._turned_away += 1
            raise TooManySessions(f"{self._sessions_max} sessions exist already")
        owner = state.principal.digest
        if self._has_enough(owner):
            self._turned_away += 1
            raise TooManySessions(f"you have {self._sessions_per_principal_max} sessions already; end some first")
        self._opening[state.session_id] = owner
        self._opening_of.add(owner)
        return self._start(state.session_id, fresh=state)

    def _has_enough(self, owner: str) -> bool:
        """Whether a principal has as many sessions as one may. The anonymous one is everybody, and has no bound."""
        bound = self._sessions_per_principal_max
        if bound is None or owner == ANONYMOUS.digest:
            return False
        return self._index.owned_by(owner) + self._opening_of.of(owner) >= bound

    def find(self, session_id: SessionId, principal: Principal, server_id: str | None = None) -> SessionActor:
        """Give the session's actor, brought to life if need be.

        A session that is uninitialized for good, or past its time, is removed by this access.

        Args:
          server_id: find it only if it talks to this server; None: whichever it talks to.

        Raises:
          SessionNotFound: unknown, ended, expired, uninitialized, another principal's or another server's.
          NotKnownYet: unknown, but the store has not told of all its sessions.
          Draining
        """
        header = self._index.get(session_id)
        if header is None and not self.knows_all():
            raise NotKnownYet("the store did not answer at the start, so not all sessions are known; try again")
        if header is None or header.owner != principal.digest or server_id not in (None, header.server_id):
            raise SessionNotFound("no such session")
        actor = self._residents.get(session_id)
        if header.failure in REAPED_REASONS or (
            actor is None and header.expires_unix_s <= self.shared.clock.now_unix_s()
        ):
            self.let_go(session_id, header.failure or "expired")
            raise SessionNotFound("no such session")
        if actor is None:
            if self._draining:
                raise Draining("the gateway is restarting; try again in a moment")
            actor = self._start(session_id)
        return actor

    def resident(self, session_id: SessionId) -> SessionActor | None:
        """Give the session's actor if it is in memory."""
        return self._residents.get(session_id)

    def activate(self, session_id: SessionId) -> SessionActor | None:
        """Bring a session to life whoever owns it (restoring); None if there is no such session."""
        if session_id not in self._index or self._draining:
            return None
        return self._residents.get(session_id) or self._start(session_id)

    def _start(self, session_id: SessionId, *, fresh: SessionState | None = None) -> SessionActor:
        actor = SessionActor(session_id, self.shared, fresh=fresh, changed=self._changed)
        self._residents[session_id] = actor
        # Apart: the request that woke it is soon over, and would be held as long as the session lives (with its notes
        # and the task of its connection 1,600 bytes).
        start_apart(self._nursery, supervise, self._sessions, actor, name="session")
        return actor

    def _left(self, actor: SessionActor) -> None:
        """Take note that an actor has left memory."""
        self._opened(actor.session_id)
        if self._residents.get(actor.session_id) is actor:
            del self._residents[actor.session_id]
        if not self._residents:
            self._all_gone.set()
        if actor.load_failure:
            self._abandon(actor.session_id, actor.load_failure)

    def _abandon(self, session_id: SessionId, reason: str) -> None:
        """Mark a session uninitialized whose actor could not live. Its stored record stays as it is.

        The mark is in the index only: after a restart of the process the session is tried again, once.
        """
        header = self._index.get(session_id)
        log.error("session is uninitialized", session=session_id[:6], reason=reason)
        if header is not None:
            self._index.put(replace(header, failure=reason))

    # ---- removing ----

    def remove(self, session_id: SessionId, reason: str) -> None:
        """End a session, soon and without waiting; where it is not in memory, nobody else is told."""
        header = self._taken_out(session_id, reason)
        if header is not None:
            self.departures.bury(header, reason)

    def let_go(self, session_id: SessionId, reason: str) -> None:
        """End a session whose time is over, soon and without waiting; its server is told, if it can be."""
        header = self._taken_out(session_id, reason)
        if header is not None:
            self.departures.take(header, reason)

    def _taken_out(self, session_id: SessionId, reason: str) -> SnapshotHeader | None:
        """Have a session in memory end by itself; take one at rest out of the index, and give its header."""
        actor = self._residents.get(session_id)
        if actor is not None and not actor.ended:  # one that has ended, and is about to leave, takes nothing more
            actor.tell(say.Close(0, reason))
            return None
        return self._index.pop(session_id)

    # ---- the end ----

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """Take no new sessions from now on, and bring none to life."""
        self._draining = True

    async def wait_quiet(self) -> None:
        """Wait until nobody waits for an answer any more. Cancellation: safe."""
        while not all(actor.is_quiet for actor in self._residents.values()):  # noqa: ASYNC110
            await trio.sleep(QUIET_POLL_SECONDS)

    async def stop_actors(self) -> None:
        """Have every actor leave memory, and wait until they have.

        Cancellation: safe; actors that are still there are cancelled with their nursery.
        """
        self.drain()
        for actor in self.residents():
            actor.stop("the gateway is restarting; try again in a moment")
        while self._residents:
            self._all_gone = trio.Event()
            await self._all_gone.wait()

    def statistics(self) -> RegistryStatistics:
        """Count the sessions."""
        index = self._index
        return RegistryStatistics(
            len(index), len(self._residents), index.uninitialized, self._turned_away, index.by_reason()
        )


def _always() -> bool:
    return True
