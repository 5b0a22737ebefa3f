"""Commits: how what a session's turns decide becomes durable, and what may leave then; its side of the writer.

Hard events shut the gate and go to the writer with their log entries; soft ones wait there for a commit to ride with.
The calls that ended are noted for the history and counted. When the receipt comes, the gate gives what may leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Protocol

from actors import messages as say
from actors.call_history import CallHistory, CallPage, HistoryState, records_of
from actors.event_log import EventLog
from actors.gate import Gate
from actors.ids import SessionId
from actors.interruption import outcomes_held
from actors.overdue import GRAIN_SECONDS, Watched
from actors.snapshots import to_snapshot
from actors.state import SessionState
from actors.surroundings import Surroundings
from persistence.records import HISTORY_STREAM, LogEntry, Snapshot, Trim
from persistence.store import Store
from persistence.writer import Freeze, Frozen, Receipt, WriterBacklogFull

GATE_TICKET = 0  # under which the gate is watched: nobody's ticket


class StoreRefused(Exception):
    """The store had no room for a commit: the actor goes back to what is durable, and what waited becomes an
    error."""

    def __init__(self, reason: str, *, rolled_back: bool) -> None:
        super().__init__(reason)
        self.rolled_back = rolled_back  # nothing of what is outstanding will become durable after all


class Owner(Watched, Protocol):
    """Whose commits these are."""

    def note_receipt(self, receipt: Receipt) -> None:
        """Note what became of a commit, soon and without waiting."""
        ...


class Commits:
    """The commits of one session."""

    __slots__ = ("_history", "_session_id", "_shared", "_watched", "gate", "log")

    def __init__(self, session_id: SessionId, shared: Surroundings) -> None:
        self._session_id = session_id
        self._shared = shared
        self._history: CallHistory | None = None  # most sessions in memory have none, until a tool is called
        self._watched = False  # the timekeeper will tell of the gate
        self.gate = Gate(0)
        self.log: EventLog | None = None  # most have none, until somebody writes or reads

    def begin(self, state: SessionState, history: HistoryState | None) -> None:
        """Go on from a state that is durable, or of which nothing is."""
        self.gate = Gate(state.revision, open_always=self._shared.gate_open_always)
        self._history = None if history is None else CallHistory(self._session_id, history, self._shared.limits)

    def forget(self) -> None:
        """Let go of all that is in memory; readers are to come back by cursor."""
        if self.log is not None:
            self.log.end_readers()
        self.log = None
        self._history = None
        self._watched = False

    def event_log(self, durable_through: int) -> EventLog:
        """Give the session's log.

        Args:
          durable_through: up to which sequence it is durable, if it is only now made.
        """
        if self.log is None:
            shared = self._shared
            self.log = EventLog(
                self._session_id, shared.store.read_log, durable_through=durable_through, counts=shared.log_counts
            )
        return self.log

    # ---- a turn ----

    def keep(
        self,
        before: SessionState,
        state: SessionState,
        events: Sequence[say.Event],
        now_seconds: float,
        owner: Owner,
    ) -> None:
        """Have what a turn decided kept; the gate is shut until its hard events are durable.

        Args:
          before, state: the session before and after the turn.
          events: what happened in between.
          now_seconds: when, on trio's clock.
          owner: told when it is durable, or will not be; and when the store lets it wait for too long.

        Raises:
          StoreRefused: too much waits to be written already.
        """
        hard = False
        for event in events:
            if event.hard:
                hard = True
            elif type(event) is say.CallEnded:
                self._note_call(before, event)
        if hard:
            self._note_ends(before, state, events)
            if not state.closed:
                self._watch(owner, now_seconds, state.revision)
                self._submit(before, state, events, owner)
        elif state.opened and not state.closed:
            self._shared.writer.submit_soft(self._session_id, state.revision, self._freeze(state))

    def let_out(self, effects: Sequence[say.Effect], state: SessionState) -> Sequence[say.Effect]:
        """Give those of a turn's effects that may leave at once; the others wait at the gate."""
        gate = self.gate
        if gate.is_clear:
            return effects
        log_through = state.log.next_sequence - 1
        if gate.passes():
            self._release(log_through)
            return effects
        gate.hold(log_through, effects)
        return ()

    def _release(self, log_through: int) -> None:
        if self.log is not None:
            self.log.release(log_through)

    def _note_call(self, before: SessionState, ended: say.CallEnded) -> None:
        call = before.calls[ended.request_id]
        self._shared.analytics.note(before.server_id, call, ended)
        if call.label and self._shared.limits.call_history_max:
            if self._history is None:
                self._history = CallHistory(self._session_id, HistoryState(), self._shared.limits)
            self._history.note(call, ended)

    def _note_ends(self, before: SessionState, state: SessionState, events: Sequence[say.Event]) -> None:
        """Keep readers from being told of a stream's end before it is durable; in a session's last turn, at all."""
        for event in events:
            if isinstance(event, say.StreamEnded):
                revision = inf if state.closed else state.revision
                self.event_log(before.log.next_sequence - 1).end_stream(event.stream, revision)

    def _watch(self, watched: Watched, now_seconds: float, revision: int) -> None:
        self.gate.require(revision, now_seconds)
        if not self._watched:  # one watch at a time, however often the gate is shut meanwhile
            self._watched = True
            self._shared.timekeeper.watch(watched, GATE_TICKET, self._shared.store_wait_seconds)

    def _submit(
        self,
        before: SessionState,
        state: SessionState,
        events: Sequence[say.Event],
        owner: Owner,
    ) -> None:
        entries = tuple(self._entries(events))
        for entry in entries:
            self.event_log(before.log.next_sequence - 1).append(entry)
        trim = None
        if state.log.trimmed_through > before.log.trimmed_through:
            trim = Trim(self._session_id, state.log.trimmed_through)
            self._shared.log_counts.left_logs += state.log.trimmed_through - before.log.trimmed_through
            self.event_log(before.log.next_sequence - 1).trim(state.log.trimmed_through)
        try:
            self._shared.writer.submit(
                self._session_id,
                state.revision,
                self._freeze(state),
                entries=entries,
                trim=trim,
                receipt=owner.note_receipt,
            )
        except WriterBacklogFull as full:
            raise StoreRefused(str(full), rolled_back=False) from full

    def _entries(self, events: Sequence[say.Event]) -> list[LogEntry]:
        return [
            LogEntry(self._session_id, e.sequence, e.stream, e.offset, e.at_unix_s, e.body)
            for e in events
            if isinstance(e, say.MessageLogged)
        ]

    def _freeze(self, state: SessionState) -> Freeze:
        history = self._history
        if history is None:
            return lambda: to_snapshot(state)
        return lambda: _with_pages(state, history)

    async def past_calls(self, before: int | None, limit: int) -> CallPage:
        """Give a page of the call history: what is in memory, and what the store has.

        Raises:
          StoreUnavailable, SnapshotCorrupt: as `Store.read_log`.
        """
        history = self._history
        if history is None:
            return CallPage((), None)
        return await read_calls(self._shared.store, self._session_id, history, before, limit)

    # ---- what the writer, and time, have to say ----

    def settle(self, receipt: Receipt, now_seconds: float) -> list[say.Effect]:
        """Note that a commit is durable; give what may leave now, in its order.

        Raises:
          StoreRefused: it will not be.
        """
        if receipt.failure is not None:
            reason = f"the store could not keep a commit: {receipt.failure}"
            raise StoreRefused(reason, rolled_back=True) from receipt.failure
        if self.log is not None:
            self.log.settle_ends(receipt.revision)
        effects: list[say.Effect] = []
        for held in self.gate.settle(receipt.revision, now_seconds):
            self._release(held.log_through)
            effects += held.effects
        return effects

    def gate_is_due(self) -> bool:
        """Whether the gate, whose watch is over, is still to be looked at."""
        self._watched = not self.gate.is_clear
        return self._watched

    def in_doubt(self, watched: Watched, now_seconds: float) -> Mapping[int, say.Outcome]:
        """Give what to tell those who have waited for the store for too long; go on watching while somebody waits."""
        if self.gate.is_clear:
            self._watched = False
            return {}
        outcomes: Mapping[int, say.Outcome] = {}
        rest = self._shared.store_wait_seconds - self.gate.stalled_seconds(now_seconds)
        if rest <= GRAIN_SECONDS:  # not 0: a rest that is lost in rounding would be watched for in vain, for ever
            outcomes = outcomes_held(self.gate.held, rolled_back=False)
            rest = self._shared.store_wait_seconds
        self._shared.timekeeper.watch(watched, GATE_TICKET, rest)
        return outcomes


async def read_calls(store: Store, session_id: str, history: CallHistory, before: int | None, limit: int) -> CallPage:
    """Give a page of a session's call history: what is in memory of it, and what the store has.

    Raises:
      StoreUnavailable, SnapshotCorrupt: as `Store.read_log`.
    """
    first, end = history.place_of(before, limit)
    known = {record.number: record for record in history.recent()}  # first: it may get to the store meanwhile
    if first < end and any(number not in known for number in range(first, end)):
        pages = await store.read_log(session_id, stream=HISTORY_STREAM, after=first - 1, limit=limit)
        known.update((record.number, record) for record in records_of(pages))
    calls = tuple(known[number] for number in range(end - 1, first - 1, -1) if number in known)
    return CallPage(calls, first if history.reaches_before(first) else None)


def _with_pages(state: SessionState, history: CallHistory) -> Snapshot | Frozen:
    """Freeze a state together with the calls that ended since the last commit."""
    pages, trim = history.take_pages(state.last_active_unix_s)
    snapshot = to_snapshot(state, history.state)
    return Frozen(snapshot, pages, trim, history.note_outcome) if pages or trim is not None else snapshot
