"""SessionActor: the one task that owns a live session.

It awaits in one place, its mailbox. A turn is synchronous: decide, fold, hand hard events to the writer, and let
the effects out through the gate. Everything that blocks lives elsewhere: in the writer, the links, the clients'
handlers.

Restart, crash, passivation and deploy take one road: settle the writer, load the snapshot, `Recovered`, go on. A
crash forgets memory; nothing that left through the gate rests on what was forgotten.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import attrs
import structlog
import trio

from actors import messages as say
from actors.connecting import Connecting
from actors.decide import decide
from actors.event_log import EventLog, StreamReader
from actors.gate import Gate, Held
from actors.ids import SessionId
from actors.inbox import LinkInbox
from actors.interruption import outcomes_held, outcomes_in_doubt
from actors.link import Failure, Link, LinkLost
from actors.link_holder import LinkHolder, Opened
from actors.log_context import speaking_for
from actors.mailbox import Mailbox, OneShot
from actors.overdue import GRAIN_SECONDS
from actors.snapshots import from_snapshot, to_snapshot
from actors.state import SessionState, Stream
from actors.surroundings import Surroundings
from persistence.records import LogEntry, Tombstone, Trim
from persistence.store import SnapshotCorrupt, SnapshotTooNew, StoreUnavailable
from persistence.writer import Receipt, WriterBacklogFull

log = structlog.get_logger("outlast.session")

TURNS_PER_CHECKPOINT = 32  # a busy session lets the others run this often


GATE_TICKET = 0  # under which the gate is watched: nobody's ticket
LOAD_SECONDS_MAX = 5.0  # whoever waits for a session to come to life is told to try again after this

# A refused session goes back to what is durable, and may have to write even for that: it tries once more, then leaves
# memory. Whoever needs it next tries again; a full store is not asked in a loop.
REFUSALS_MAX = 2


# ---- what the actor is told besides commands ----


@attrs.frozen
class _Settled:
    receipt: Receipt


@attrs.frozen
class _Buried:
    ticket: int
    receipt: Receipt


@attrs.frozen(eq=False)
class _Lost:
    inbox: LinkInbox
    detail: str


@attrs.frozen
class _Pinged:
    receive: say.Receive


@attrs.frozen
class _Stalled:
    """Something may have waited for the store for too long."""


@attrs.frozen
class _Stop:
    detail: str
    only_if_idle: bool


class StoreRefused(Exception):
    """The store had no room for a commit: the actor goes back to what is durable, and what waited becomes an
    error."""

    def __init__(self, reason: str, *, rolled_back: bool) -> None:
        super().__init__(reason)
        self.rolled_back = rolled_back  # nothing of what is outstanding will become durable after all


class SessionActor:
    """A live session. Made by the registry; runs in its own supervised task."""

    __slots__ = (
        "_changed",
        "_ended",
        "_fresh",
        "_gate",
        "_gate_watched",
        "_last_turn_seconds",
        "_link",
        "_log",
        "_mailbox",
        "_refusals",
        "_shared",
        "_state",
        "_tickets",
        "_updating",
        "_waiting",
        "load_failure",
        "session_id",
    )

    def __init__(
        self,
        session_id: SessionId,
        shared: Surroundings,
        *,
        fresh: SessionState | None = None,
        changed: Callable[[SessionState], None],
    ) -> None:
        """
        Args:
          session_id: whose.
          shared: what all sessions share.
          fresh: the state of a session that is only now made; None to load it from the store.
          changed: told of each new durable state, for the index.
        """
        self.session_id = session_id
        self._shared = shared
        self._fresh = fresh
        self._changed = changed
        self._mailbox: Mailbox[Any] = Mailbox(shared.mailbox_max)
        self._tickets = itertools.count(1)
        self._waiting: dict[int, OneShot[say.Outcome]] = {}
        self._state: SessionState | None = None
        self._log: EventLog | None = None
        self._gate = Gate(0)
        self._gate_watched = False  # the timekeeper will tell of it
        self._link = LinkHolder()
        self._ended = False
        self._refusals = 0  # of the store, since it last kept something of this session
        self._updating: trio.StrictFIFOLock | None = None
        self._last_turn_seconds = trio.current_time()
        self.load_failure = ""  # why it cannot live, where that is for good

    def __repr__(self) -> str:
        return f"<SessionActor {self.session_id[:6]}… {'ended' if self._ended else 'live'}>"

    # ---- asked from outside: sync, they never wait ----

    @property
    def state(self) -> SessionState:
        """The session as it is now, durable or not: for the runtime itself, not for clients."""
        assert self._state is not None
        return self._state

    @property
    def is_loaded(self) -> bool:
        return self._state is not None

    @property
    def is_settled(self) -> bool:
        """Whether it is in memory, and all that is known of it is durable."""
        return self._state is not None and self._state.opened and self._gate.is_clear

    @property
    def ended(self) -> bool:
        """It takes nothing more; find it anew."""
        return self._ended

    @property
    def wants_link(self) -> bool:
        state = self._state
        if self._ended or state is None or state.failure:
            return False
        return bool(not state.opened or state.busy or state.listening or state.connect_tickets)

    def ask(self, make: Callable[[int], say.Command], *, further_tickets: int = 0) -> OneShot[say.Outcome]:
        """Queue a command of the client's side; its outcome comes through the returned one-shot.

        Args:
          make: gives the command, under the ticket that it is given.
          further_tickets: how many tickets right behind that one are the command's own, too (the messages of a batch).

        Raises:
          MailboxFull: too much is queued; nothing was.
        """
        outcome: OneShot[say.Outcome] = OneShot()
        if self._gate.stalled_seconds(trio.current_time()) >= self._shared.store_wait_seconds:
            outcome.set(say.NotDone(say.Problem.UNAVAILABLE, "the store does not answer; nothing was done"))
            return outcome
        self._link.hurry()
        ticket = next(self._tickets)
        if further_tickets:
            self._tickets = itertools.count(ticket + further_tickets + 1)
        self._mailbox.put(make(ticket))
        self._waiting[ticket] = outcome
        return outcome

    def tell(self, command: say.Command) -> None:
        """Queue what the runtime or the link has to say."""
        self._mailbox.put_system(command)

    def overdue(self, ticket: int) -> None:
        state = self._state
        if ticket == GATE_TICKET:
            self._gate_watched = not self._gate.is_clear
            if self._gate_watched:
                self._mailbox.put_system(_Stalled())
        elif state is not None and state.busy:
            self._mailbox.put_system(say.Overdue(ticket))

    def linked(self, by: Connecting, link: Link, inbox: LinkInbox) -> None:
        """Take an opened link, and responsibility for closing it."""
        inbox.link = link
        opened = Opened(by, link, inbox)
        if self._link.expects(by):
            self._mailbox.put_system(opened)
        else:  # it was called off at the last moment
            opened.turn_away()

    def pinged(self, receive: say.Receive) -> None:
        """Take a ping of the other side: in its turn it is seen whether anybody is there to answer."""
        self._mailbox.put_system(_Pinged(receive))

    def link_lost(self, inbox: LinkInbox, detail: str) -> None:
        """Take note that the link behind this inbox is gone."""
        self._mailbox.put_system(_Lost(inbox, detail))

    def stop(self, detail: str, *, only_if_idle: bool = False) -> None:
        """Leave memory: what waits is told to try again, the record stays, the upstream keeps its session."""
        self._mailbox.put_system(_Stop(detail, only_if_idle))

    def idle_seconds(self) -> float:
        """How long nothing has happened here; 0 while somebody waits, reads or writes."""
        state = self._state
        if state is None or state.busy or len(self._mailbox) or not self._gate.is_clear or self._waiting:
            return 0.0
        if state.connect_tickets or self._is_read or self._is_updated or (state.tasks and self._works_on_task(state)):
            return 0.0
        used_until = (
            self._last_turn_seconds if self._log is None else max(self._last_turn_seconds, self._log.read_until_seconds)
        )
        return trio.current_time() - used_until

    def _works_on_task(self, state: SessionState) -> bool:
        """Whether a task of its client would be lost with its link. One that can be resumed loses none."""
        now_unix_s = self._shared.clock.now_unix_s()
        return not self._link.resumable and any(until > now_unix_s for until in state.tasks.values())

    @property
    def _is_read(self) -> bool:
        return self._log is not None and self._log.has_readers

    @property
    def _is_updated(self) -> bool:
        return self._updating is not None and self._updating.locked()

    @property
    def updating(self) -> trio.StrictFIFOLock:
        """Held by whoever changes the application's values: updates of one session go one after the other."""
        if self._updating is None:
            self._updating = trio.StrictFIFOLock()
        return self._updating

    @property
    def resumable(self) -> bool:
        """Whether leaving memory costs nothing upstream."""
        return self._link.resumable

    def attach(self, stream_id: int, after: int, *, from_earliest: bool = False) -> StreamReader:
        """Read a stream from this offset on; see `EventLog.attach`."""
        log = self._event_log(self.state.log.next_sequence - 1)  # a log that is only now made has nothing outstanding
        return log.attach(stream_id, after, from_earliest=from_earliest)

    async def check_kept(self, stream: Stream, after: int) -> None:
        """See whether what follows this offset is still kept, before anybody relies on it.

        Raises:
          CursorLost, StoreUnavailable, SnapshotCorrupt
        """
        log = self._event_log(self.state.log.next_sequence - 1)
        await log.read(stream.id, after, stream.last_offset, limit=1)

    def stream(self, stream_id: int) -> Stream | None:
        """Give one of the session's streams as it is now."""
        return None if self._state is None else self._state.streams.get(stream_id)

    # ---- the task ----

    async def run(self) -> None:
        """Live: load, recover, take turns until told to stop, or until the session ends.

        Cancellation: safe at any point; memory is forgotten, as after a crash.
        """
        turns = 0
        while not self._ended:
            try:
                await self._come_to_life()
                while not self.ended:
                    item = self._mailbox.get_nowait()
                    if item is None:
                        await self._mailbox.wait()
                        continue
                    self._take(item)
                    turns += 1
                    if turns % TURNS_PER_CHECKPOINT == 0:
                        await trio.lowlevel.checkpoint()
            except StoreRefused as refused:
                log.warning("session goes back to what is durable", session=self.session_id[:6], why=str(refused))
                self._refusals += 1
                self._ended = self._refusals >= REFUSALS_MAX
                self._tell_waiting(say.NotDone(say.Problem.UNAVAILABLE, str(refused)), rolled_back=refused.rolled_back)
                self._shared.writer.discard(self.session_id)
            except Exception:
                # What gathers was built on the state that crashed; nobody was told of it.
                self._shared.writer.discard(self.session_id)
                raise
            finally:
                self._forget_memory()

    async def _come_to_life(self) -> None:
        if self._fresh is not None:
            state, self._fresh = self._fresh, None
            self._adopt(state)
            return
        try:
            with trio.fail_after(LOAD_SECONDS_MAX):
                await self._shared.writer.settle(self.session_id)
                snapshot = await self._shared.store.load(self.session_id)
        except (StoreUnavailable, trio.TooSlowError) as error:
            self._end(say.NotDone(say.Problem.UNAVAILABLE, f"the store does not answer: {error}"))
        except SnapshotTooNew as error:
            self._end(say.NotDone(say.Problem.UNAVAILABLE, str(error)))
        except SnapshotCorrupt as error:
            self.load_failure = "corrupt"
            self._end(say.NotDone(say.Problem.UNINITIALIZED, str(error)))
        else:
            if snapshot is None:  # a crash before the first commit, or a removal beside us
                self._end(say.NotDone(say.Problem.UNINITIALIZED, "there is no such session any more"))
                return
            self._adopt(from_snapshot(snapshot))
            self._decide(say.Recovered())

    def gave_up(self, error: Exception) -> None:
        """Take note that it crashed too often to be started again."""
        self.load_failure = "crash_loop"

    def _end(self, outcome: say.NotDone) -> None:
        """Take nothing more, and say so to whoever waits."""
        self._ended = True
        self._tell_waiting(outcome)

    def _tell_waiting(self, outcome: say.NotDone, *, rolled_back: bool = False) -> None:
        held, waiting, self._waiting = self._gate.clear(), self._waiting, {}
        in_doubt: dict[int, say.Outcome] = {}
        if outcome.problem is say.Problem.UNAVAILABLE:
            in_doubt = outcomes_in_doubt(self._state, held, rolled_back=rolled_back)
        for ticket, one_shot in waiting.items():
            one_shot.set(in_doubt.get(ticket, outcome))

    def _adopt(self, state: SessionState) -> None:
        speaking_for(self.session_id, state.server_id)
        self._state = state
        self._gate = Gate(state.revision, open_always=self._shared.gate_open_always)

    def _event_log(self, durable_through: int) -> EventLog:
        """Give the session's log; most sessions in memory have none, until somebody writes or reads."""
        if self._log is None:
            self._log = EventLog(self.session_id, self._shared.store.read_log, durable_through=durable_through)
        return self._log

    def _forget_memory(self) -> None:
        """Let go of everything that a next incarnation must not inherit.

        What is queued goes too: whoever sent it is told to try again, so it must not be done later as well.
        """
        self._tell_waiting(say.NotDone(say.Problem.UNAVAILABLE, "the session was interrupted; try again"))
        if self._log is not None:
            self._log.end_readers()
        self._log = None
        self._gate_watched = False
        self._state = None
        queued = self._mailbox.clear()
        self._link.close(end_session=False)
        for item in queued:
            if isinstance(item, Opened):
                item.turn_away()

    def _take(self, item: object) -> None:
        """One turn."""
        self._last_turn_seconds = trio.current_time()
        note = _NOTES.get(type(item))
        if note is None:
            self._decide(item)  # type: ignore[arg-type]
        else:
            note(self, item)

    def _decide(self, command: say.Command) -> None:
        before = self.state
        now_unix_s = self._shared.clock.at_unix_s(self._last_turn_seconds)
        decision = decide(before, command, now_unix_s=now_unix_s, limits=self._shared.limits)
        state = self._state = decision.state
        if decision.events and any(map(_is_hard, decision.events)):
            self._note_ends(before, decision.events)
            if not state.closed:
                self._submit(before, decision.events)
        elif decision.events and state.opened and not state.closed:
            self._shared.writer.submit_soft(self.session_id, state.revision, self._freeze(state))
        self._let_out(decision.effects)

    def _note_ends(self, before: SessionState, events: Sequence[say.Event]) -> None:
        """Keep readers from being told of a stream's end before it is durable; in a session's last turn, at all."""
        for event in events:
            if isinstance(event, say.StreamEnded):
                revision = inf if self.state.closed else self.state.revision
                self._event_log(before.log.next_sequence - 1).end_stream(event.stream, revision)

    def _submit(self, before: SessionState, events: Sequence[say.Event]) -> None:
        state = self.state
        entries = tuple(self._entries(events))
        for entry in entries:
            self._event_log(before.log.next_sequence - 1).append(entry)
        trim = None
        if state.log.trimmed_through > before.log.trimmed_through:
            trim = Trim(self.session_id, state.log.trimmed_through)
            self._event_log(before.log.next_sequence - 1).trim(state.log.trimmed_through)
        self._gate.require(state.revision, self._last_turn_seconds)
        if not self._gate_watched:  # one watch at a time, however often the gate is shut meanwhile
            self._gate_watched = True
            self._shared.timekeeper.watch(self, GATE_TICKET, self._shared.store_wait_seconds)
        try:
            self._shared.writer.submit(
                self.session_id,
                state.revision,
                self._freeze(state),
                entries=entries,
                trim=trim,
                receipt=self._receipt,
            )
        except WriterBacklogFull as full:
            raise StoreRefused(str(full), rolled_back=False) from full

    def _freeze(self, state: SessionState) -> Callable[[], Any]:
        return lambda: to_snapshot(state)

    def _entries(self, events: Sequence[say.Event]) -> list[LogEntry]:
        return [
            LogEntry(self.session_id, e.sequence, e.stream, e.offset, e.at_unix_s, e.body)
            for e in events
            if isinstance(e, say.MessageLogged)
        ]

    def _receipt(self, receipt: Receipt) -> None:
        self._mailbox.put_system(_Settled(receipt))

    def _settled(self, item: _Settled) -> None:
        receipt = item.receipt
        if receipt.failure is not None:
            reason = f"the store could not keep a commit: {receipt.failure}"
            raise StoreRefused(reason, rolled_back=True) from receipt.failure
        self._refusals = 0
        if self._log is not None:
            self._log.settle_ends(receipt.revision)
        for held in self._gate.settle(receipt.revision, self._last_turn_seconds):
            self._release(held)
        self._changed(self.state)

    def _stalled(self, _: _Stalled) -> None:
        """Tell those who have waited for the store for too long that what they asked is in doubt; go on watching."""
        if self._gate.is_clear or self._state is None:
            self._gate_watched = False
            return
        rest = self._shared.store_wait_seconds - self._gate.stalled_seconds(self._last_turn_seconds)
        if rest <= GRAIN_SECONDS:  # not 0: a rest that is lost in rounding would be watched for in vain, for ever
            for ticket, outcome in outcomes_held(self._gate.held, rolled_back=False).items():
                self._reply(say.Reply(ticket, outcome))
            rest = self._shared.store_wait_seconds
        self._shared.timekeeper.watch(self, GATE_TICKET, rest)

    def _release(self, held: Held) -> None:
        if self._log is not None:
            self._log.release(held.log_through)
        for effect in held.effects:
            self._do(effect)

    def _let_out(self, effects: Sequence[say.Effect]) -> None:
        if self._gate.is_clear:
            for effect in effects:
                self._do(effect)
            return
        log_through = self.state.log.next_sequence - 1
        if self._gate.passes():
            self._release(Held(0, log_through, effects))
        else:
            self._gate.hold(log_through, effects)

    # ---- effects ----

    def _do(self, effect: say.Effect) -> None:
        _EFFECTS[type(effect)](self, effect)

    def _reply(self, effect: say.Reply) -> None:
        one_shot = self._waiting.pop(effect.ticket, None)
        if one_shot is not None:
            one_shot.set(effect.outcome)

    def _send_upstream(self, effect: say.SendUpstream) -> None:
        try:
            self._link.send(effect.message, effect.ticket)
        except LinkLost as lost:
            self._mailbox.put_system(say.Refused(effect.ticket, Failure.NOT_SENT, str(lost)))

    def _cancel_upstream(self, effect: say.CancelUpstream) -> None:
        self._link.cancel(effect.request_id, effect.reason)

    def _watch(self, effect: say.Watch) -> None:
        self._shared.timekeeper.watch(self, effect.ticket, effect.seconds)

    def _open_link(self, effect: say.OpenLink) -> None:
        self._link.open(self._shared, self)

    def _listen_upstream(self, effect: say.ListenUpstream) -> None:
        self._link.listen()

    def _close_link(self, effect: say.CloseLink) -> None:
        self._link.close(end_session=effect.end_session)

    def _bury(self, effect: say.Bury) -> None:
        tombstone = Tombstone(self.session_id, effect.reason, self._shared.clock.now_unix_s())
        ticket = effect.ticket

        def receipt(receipt: Receipt) -> None:
            self._mailbox.put_system(_Buried(ticket, receipt))

        self._shared.writer.bury(tombstone, receipt)

    def _discard(self, effect: say.Discard) -> None:
        self._link.close(end_session=True)
        self._end(say.NotDone(say.Problem.UNINITIALIZED, "the session was never opened"))

    # ---- the link, the end ----

    def _pinged(self, item: _Pinged) -> None:
        read = self._log.read_streams if self._log is not None else frozenset[int]()
        self._decide(say.ReceivePing(item.receive, read, frozenset(self._waiting)))

    def _lost(self, item: _Lost) -> None:
        if self._link.lose(item.inbox):
            self._decide(say.LinkDown(item.detail))

    def _linked(self, opened: Opened) -> None:
        if not self._link.expects(opened.by):  # it was called off in the meantime
            opened.turn_away()
            return
        established = self._link.take(opened)
        if established is None:
            self._decide(say.LinkDown("the link was lost while it was opened"))
        else:
            self._decide(say.LinkUp(established))

    def _stop(self, item: _Stop) -> None:
        if item.only_if_idle and not self._may_leave():
            return
        self._changed(self.state)
        self._end(say.NotDone(say.Problem.UNAVAILABLE, item.detail))

    def _may_leave(self) -> bool:
        state = self.state
        in_use = state.busy or self._waiting or len(self._mailbox) or self._is_read or self._is_updated
        return not in_use and not (state.tasks and self._works_on_task(state)) and self._gate.is_clear

    def _buried(self, item: _Buried) -> None:
        if item.receipt.failure is not None:
            reason = f"the store could not keep a removal: {item.receipt.failure}"
            raise StoreRefused(reason, rolled_back=True) from item.receipt.failure
        self._reply(say.Reply(item.ticket, say.Accepted()))
        self._changed(self.state)
        self._end(say.NotDone(say.Problem.UNINITIALIZED, "the session was ended"))


_is_hard = operator.attrgetter("hard")

_NOTES: dict[type, Callable[[SessionActor, Any], None]] = {
    _Settled: SessionActor._settled,
    Opened: SessionActor._linked,
    _Pinged: SessionActor._pinged,
    _Lost: SessionActor._lost,
    _Stalled: SessionActor._stalled,
    _Stop: SessionActor._stop,
    _Buried: SessionActor._buried,
}

_EFFECTS: dict[type, Callable[[SessionActor, Any], None]] = {
    say.Reply: SessionActor._reply,
    say.SendUpstream: SessionActor._send_upstream,
    say.CancelUpstream: SessionActor._cancel_upstream,
    say.Watch: SessionActor._watch,
    say.OpenLink: SessionActor._open_link,
    say.ListenUpstream: SessionActor._listen_upstream,
    say.CloseLink: SessionActor._close_link,
    say.Bury: SessionActor._bury,
    say.Discard: SessionActor._discard,
}
