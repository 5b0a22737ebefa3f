"""Administration: sessions as operators see and change them, whoever they belong to.

Looking costs a session nothing: one that is not in memory is read from the store and stays there; nothing counts as
activity. Changing goes through its actor, as everything does, and is durable when it returns. Work is bounded: a page
of the list takes one walk over the index, in steps that let others run, and reads at most `RECORDS_MAX` records.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import attrs
import trio

from actors import messages as say
from actors.analytics import AnalyticsReport
from actors.call_history import CallHistory, CallPage, HistoryState
from actors.commits import read_calls
from actors.handle import CommandRejected, OutcomeUnknown, SessionUnavailable, require
from actors.ids import SessionId
from actors.listing import Filter, Found, Order, Place, first_of
from actors.loading import NotLoaded, load
from actors.mailbox import MailboxFull
from actors.outcomes import NotDone, Outcome, Problem
from actors.references import CHUNK, References
from actors.registry import Draining, SessionNotFound
from actors.runtime import Runtime
from actors.session import SessionActor
from actors.snapshots import from_snapshot, history_of
from actors.state import SessionState
from actors.upstream_ending import Told, UpstreamEnd
from persistence.records import SnapshotHeader
from persistence.store import SnapshotCorrupt, StoreUnavailable

RECORDS_MAX = 200  # read from the store for one page of the list: 20 ms of SQLite, 60 of Redis


@attrs.frozen
class Listed:
    """One session of the list."""

    header: SnapshotHeader
    reference: str
    resident: bool  # in memory
    state: SessionState | None  # where records were wanted and this one could be read


@attrs.frozen
class Page:
    """A part of the list."""

    sessions: tuple[Listed, ...]
    next: Place | None  # go on behind this; None: that was all
    examined: int  # sessions whose record was looked at
    cut_short: bool  # the bound on records was reached before the page was full: go on from `next`


@attrs.frozen
class Record:
    """One session as it is."""

    header: SnapshotHeader
    reference: str
    resident: bool
    state: SessionState | None
    unreadable: str  # why there is no state


class Administration:
    """The operators' side of a runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._registry = runtime.registry
        self._shared = runtime.registry.shared
        self.references = References(lambda: [header.session_id for header in self._registry.headers()])

    def now_unix_s(self) -> float:
        """Tell the time by the clock that sessions go by."""
        return self._shared.clock.now_unix_s()

    def analytics(self) -> AnalyticsReport:
        """As `Runtime.analytics`."""
        return self._runtime.analytics()

    # ---- looking ----

    async def find(self, name: str) -> SessionId:
        """Give the session of this id or reference.

        Raises:
          SessionNotFound

        Cancellation: safe.
        """
        if self._registry.header(SessionId(name)) is not None:
            return SessionId(name)
        found = await self.references.find(name)
        if found is None or self._registry.header(SessionId(found)) is None:
            raise SessionNotFound("no such session")
        return SessionId(found)

    async def page(
        self, wanted: Filter, *, order: Order, after: Place | None, limit: int, with_records: bool = False
    ) -> Page:
        """Give a part of the list.

        Args:
          wanted: which sessions.
          order: sorted by this.
          after: behind this place; None: from the start.
          limit: at most so many, up to `RECORDS_MAX`.
          with_records: read the record of each that is shown.

        Cancellation: safe.
        """
        records = with_records or wanted.needs_record
        count = RECORDS_MAX if wanted.needs_record else limit
        found = await self._walk(wanted, order, after, count + 1)
        more_found, found = len(found) > count, found[:count]
        listed: list[Listed] = []
        examined = 0
        for candidate in found:
            if len(listed) == limit:
                break
            examined += records
            state = await self._state_or_none(candidate.header) if records else None
            if not wanted.needs_record or (state is not None and wanted.admits_record(state)):
                listed.append(self._listed(candidate, state))
        looked_at = examined if records else len(found)
        if looked_at == len(found) and not more_found:
            return Page(tuple(listed), None, examined, cut_short=False)
        return Page(tuple(listed), found[looked_at - 1].place, examined, cut_short=len(listed) < limit)

    async def _walk(self, wanted: Filter, order: Order, after: Place | None, count: int) -> list[Found]:
        """Find the first sessions, from the index alone."""
        rest = iter(list(self._registry.headers()))  # a list: the index changes while others run
        found: list[Found] = []
        while chunk := list(islice(rest, CHUNK)):
            found = first_of([header for header in chunk if wanted.admits(header)], order, after, found, count)
            await trio.lowlevel.checkpoint()
        return found

    def _listed(self, found: Found, state: SessionState | None) -> Listed:
        session_id = SessionId(found.header.session_id)
        resident = self._registry.resident(session_id) is not None
        return Listed(found.header, self.references.of(session_id), resident, state)

    async def _state_or_none(self, header: SnapshotHeader) -> SessionState | None:
        try:
            return await self._state(SessionId(header.session_id))
        except NotLoaded:
            return None

    async def _state(self, session_id: SessionId) -> SessionState:
        actor = self._registry.resident(session_id)
        if actor is not None and actor.is_loaded:
            return actor.state
        return from_snapshot(await load(self._shared, session_id))

    async def read(self, session_id: SessionId) -> Record:
        """Give a session as it is. What its actor has in memory counts, durable or not.

        Raises:
          SessionNotFound

        Cancellation: safe.
        """
        state, unreadable = None, ""
        try:
            state = await self._state(session_id)
        except NotLoaded as failed:
            unreadable = failed.outcome.detail
        header = self._registry.header(session_id)
        if header is None:
            raise SessionNotFound("no such session")
        resident = self._registry.resident(session_id) is not None
        return Record(header, self.references.of(session_id), resident, state, unreadable)

    async def history(self, session_id: SessionId, *, before: int | None, limit: int) -> CallPage:
        """Give a page of a session's call history; as `SessionHandle.history`.

        Raises:
          SessionUnavailable: it cannot be read.

        Cancellation: safe.
        """
        actor = self._registry.resident(session_id)
        try:
            if actor is not None and actor.is_loaded:
                return await actor.past_calls(before, limit)
            state = history_of(await load(self._shared, session_id)) or HistoryState()
            history = CallHistory(session_id, state, self._shared.limits)
            return await read_calls(self._shared.store, session_id, history, before, limit)
        except (StoreUnavailable, SnapshotCorrupt) as error:
            raise SessionUnavailable(f"the history cannot be read: {error}") from None
        except NotLoaded as failed:
            raise SessionUnavailable(f"the history cannot be read: {failed.outcome.detail}") from None

    # ---- changing ----

    async def close(self, session_id: SessionId) -> UpstreamEnd:
        """End a session for good: here, in the store and upstream. One whose record cannot be read ends, too.

        Returns:
          Whether its server was told, for which this waits for some seconds; it has ended here in any case.

        Raises:
          OutcomeUnknown, SessionUnavailable, SessionNotFound

        Cancellation: it ends all the same.
        """
        actor = self._actor(session_id)
        outcome = await self._ask(actor, lambda ticket: say.Close(ticket, "admin"))
        if not (isinstance(outcome, NotDone) and actor.load_failure):
            _require(outcome)
            ending = actor.upstream_ending
            return UpstreamEnd(Told.NOTHING) if ending is None else await ending.wait()
        self._registry.remove(session_id, "admin")
        with trio.move_on_after(self._shared.store_wait_seconds) as waiting:
            await self._runtime.settled()
        if waiting.cancelled_caught:
            raise OutcomeUnknown("the store does not answer; the session ends when it does")
        return UpstreamEnd(Told.NOT_TOLD, "its record cannot be read, so it is not known as what its server knows it")

    async def reinitialize(self, session_id: SessionId) -> None:
        """Drop a session's upstream session, and do its kept handshake again.

        Raises:
          OutcomeUnknown, SessionUnavailable, SessionNotFound
          CommandRejected: there is no handshake to do again, or its server refused it.

        Cancellation: it is done all the same.
        """
        _require(await self._ask(self._actor(session_id), say.Reinitialize))

    async def update_metadata(self, session_id: SessionId, make: Callable[[int], say.UpdateMetadata]) -> None:
        """Change a session's metadata and tags; durable on return.

        Raises:
          CommandRejected: a limit is against it; nothing was changed.
          OutcomeUnknown, SessionUnavailable, SessionNotFound

        Cancellation: it is done all the same.
        """
        _require(await self._ask(self._actor(session_id), make))

    def _actor(self, session_id: SessionId) -> SessionActor:
        if self._registry.draining:
            raise Draining("shutting down")
        actor = self._registry.activate(session_id)
        if actor is None:
            raise SessionNotFound("no such session")
        return actor

    async def _ask(self, actor: SessionActor, make: Callable[[int], say.Command]) -> Outcome:
        try:
            return await actor.ask(make).wait()
        except MailboxFull as full:
            return NotDone(Problem.OVERLOADED, str(full))


def _require(outcome: Outcome) -> None:
    """As `handle.require`; but who is found and cannot go on is no "not found" to an operator."""
    if isinstance(outcome, NotDone) and outcome.problem is Problem.UNINITIALIZED:
        raise CommandRejected(outcome.detail)
    require(outcome)
