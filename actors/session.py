"""SessionActor: the one task that owns a live session.

It awaits in one place, its mailbox. A turn is synchronous: decide, fold, hand hard events to the writer, and let
the effects out through the gate. Everything that blocks lives elsewhere: in the writer, the links, the clients'
handlers.

Restart, crash, passivation and deploy take one road: settle the writer, load the snapshot, `Recovered`, go on. A
crash forgets memory; nothing that left through the gate rests on what was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import structlog
import trio

from actors import messages as say
from actors import notes
from actors.call_history import CallPage
from actors.commits import GATE_TICKET, Commits, StoreRefused
from actors.connecting import Connecting
from actors.decide import decide
from actors.epochs import under_epoch
from actors.event_log import EventLog, StreamReader
from actors.ids import SessionId
from actors.inbox import LinkInbox
from actors.interruption import outcomes_in_doubt
from actors.link import Failure, Link, LinkLost
from actors.link_holder import LinkHolder, Opened
from actors.loading import NotLoaded, load
from actors.log_context import speaking_for
from actors.mailbox import Mailbox, OneShot
from actors.snapshots import from_snapshot, history_of
from actors.state import SessionState, Stream
from actors.surroundings import Surroundings
from actors.upstream_ending import UpstreamEnding
from actors.waiting import Waiting
from persistence.records import Tombstone
from persistence.writer import Receipt

log = structlog.get_logger("outlast.session")

TURNS_PER_CHECKPOINT = 32  # a busy session lets the others run this often
# A refused session goes back to what is durable, and may have to write even for that: it tries once more, then leaves
# memory. Whoever needs it next tries again; a full store is not asked in a loop.
REFUSALS_MAX = 2


class SessionActor:
    """A live session. Made by the registry; runs in its own supervised task."""

    __slots__ = (
        "_burial_ticket",
        "_changed",
        "_commits",
        "_ended",
        "_fresh",
        "_last_turn_seconds",
        "_link",
        "_mailbox",
        "_refusals",
        "_shared",
        "_state",
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
        self._waiting = Waiting()
        self._burial_ticket = 0  # under which somebody waits for the session's end; 0: nobody, or it has not come
        self._state: SessionState | None = None
        self._commits = Commits(session_id, shared)
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
        return self._state is not None and self._state.opened and self._commits.gate.is_clear

    @property
    def is_quiet(self) -> bool:
        """Whether nobody waits for an answer, not even for one that is on its way to the store."""
        return self._state is None or not (self._state.busy or not self._commits.gate.is_clear)

    @property
    def ended(self) -> bool:
        """It takes nothing more; find it anew."""
        return self._ended

    @property
    def upstream_ending(self) -> UpstreamEnding | None:
        """Its end on the other side, once it has ended here; None: there it never began."""
        return self._link.ending

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
        if self._commits.gate.stalled_seconds(trio.current_time()) >= self._shared.store_wait_seconds:
            outcome.set(say.NotDone(say.Problem.UNAVAILABLE, "the store does not answer; nothing was done"))
            return outcome
        self._link.hurry()
        ticket = self._waiting.new_ticket(further_tickets)
        self._mailbox.put(make(ticket))
        self._waiting.add(ticket, outcome)
        return outcome

    def tell(self, command: say.Command) -> None:
        """Queue what the runtime or the link has to say."""
        self._mailbox.put_system(command)

    def overdue(self, ticket: int) -> None:
        state = self._state
        if ticket == GATE_TICKET:
            if self._commits.gate_is_due():
                self._mailbox.put_system(notes.Stalled())
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
        self._mailbox.put_system(notes.Pinged(receive))

    def link_lost(self, inbox: LinkInbox, detail: str) -> None:
        """Take note that the link behind this inbox is gone."""
        self._mailbox.put_system(notes.Lost(inbox, detail))

    def note_receipt(self, receipt: Receipt) -> None:
        self._mailbox.put_system(notes.Settled(receipt))

    def stop(self, detail: str, *, only_if_idle: bool = False) -> None:
        """Leave memory: what waits is told to try again, the record stays, the upstream keeps its session."""
        self._mailbox.put_system(notes.Stop(detail, only_if_idle))

    def idle_seconds(self) -> float:
        """How long nothing has happened here; 0 while somebody waits, reads or writes."""
        state = self._state
        if state is None or state.connect_tickets or self._is_in_use:
            return 0.0
        log = self._commits.log
        used_until = self._last_turn_seconds if log is None else max(self._last_turn_seconds, log.read_until_seconds)
        return trio.current_time() - used_until

    def _works_on_task(self, state: SessionState) -> bool:
        """Whether a task of its client would be lost with its link. One that can be resumed loses none."""
        now_unix_s = self._shared.clock.now_unix_s()
        return not self._link.resumable and any(until > now_unix_s for until in state.tasks.values())

    @property
    def _is_in_use(self) -> bool:
        waits = self.state.busy or self._waiting or len(self._mailbox) or not self._commits.gate.is_clear
        is_read = self._commits.log is not None and self._commits.log.has_readers
        is_updated = self._updating is not None and self._updating.locked()
        return bool(waits or is_read or is_updated or (self.state.tasks and self._works_on_task(self.state)))

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
        return self._log_at_rest().attach(stream_id, after, from_earliest=from_earliest)

    async def check_kept(self, stream: Stream, after: int) -> None:
        """See whether what follows this offset is still kept, before anybody relies on it.

        Raises:
          CursorLost, StoreUnavailable
        """
        await self._log_at_rest().read(stream.id, after, stream.last_offset, limit=1)

    def _log_at_rest(self) -> EventLog:
        """Give the session's log; one that is only now made has nothing outstanding."""
        return self._commits.event_log(self.state.log.next_sequence - 1)

    async def past_calls(self, before: int | None, limit: int) -> CallPage:
        """Give a page of the session's call history.

        Raises:
          StoreUnavailable, SnapshotCorrupt
        """
        return await self._commits.past_calls(before, limit)

    def stream(self, stream_id: int) -> Stream | None:
        """Give one of the session's streams as it is now."""
        return None if self._state is None else self._state.streams.get(stream_id)

    async def wait_listening(self, seconds: float) -> None:
        """Wait until the other side can be heard; see `LinkHolder.wait_listening`."""
        await self._link.wait_listening(seconds)

    # ---- the task ----

    async def run(self) -> None:
        """Live: load, recover, take turns until told to stop, or until the session ends.

        Cancellation: safe at any point; memory is forgotten, as after a crash.
        """
        speaking_for(self.session_id)
        turns = 0
        while not self._ended:
            try:
                await self._come_to_life()
                if self._state is not None:
                    speaking_for(self.session_id, self._state.server_id)
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
            self._state, self._fresh = self._fresh, None
            self._commits.begin(self._state, None)
            return
        try:
            snapshot = await load(self._shared, self.session_id)
        except NotLoaded as failed:
            self.load_failure = "corrupt" if failed.corrupt else ""
            self._end(failed.outcome)
            return
        self._state = self._under_epoch(from_snapshot(snapshot))
        self._commits.begin(self._state, history_of(snapshot))
        self._decide(say.Recovered())

    def _under_epoch(self, state: SessionState) -> SessionState:
        epoch = self._shared.log_epoch
        return state if epoch is None else under_epoch(state, epoch)

    def gave_up(self, error: Exception) -> None:
        """Take note that it crashed too often to be started again."""
        self.load_failure = "crash_loop"

    def _end(self, outcome: say.NotDone) -> None:
        """Take nothing more, and say so to whoever waits."""
        self._ended = True
        self._tell_waiting(outcome)

    def _tell_waiting(self, outcome: say.NotDone, *, rolled_back: bool = False) -> None:
        held = self._commits.gate.clear()
        in_doubt: dict[int, say.Outcome] = {}
        if outcome.problem is say.Problem.UNAVAILABLE:
            in_doubt = outcomes_in_doubt(self._state, held, self._burial_ticket, rolled_back=rolled_back)
        self._waiting.tell_all(outcome, in_doubt)

    def _forget_memory(self) -> None:
        """Let go of everything that a next incarnation must not inherit.

        What is queued goes too: whoever sent it is told to try again, so it must not be done later as well.
        """
        self._tell_waiting(say.NotDone(say.Problem.UNAVAILABLE, "the session was interrupted; try again"))
        self._commits.forget()
        self._burial_ticket = 0
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
        before, own_tools = self.state, self._shared.own_tools
        if own_tools is not None:
            command = own_tools.prepared(before, command)
        now_unix_s = self._shared.clock.at_unix_s(self._last_turn_seconds)
        decision = decide(before, command, now_unix_s=now_unix_s, limits=self._shared.limits)
        self._state = decision.state
        if decision.events:
            self._commits.keep(before, decision.state, decision.events, self._last_turn_seconds, self)
        self._do_all(self._commits.let_out(decision.effects, self._state))

    def _settled(self, item: notes.Settled) -> None:
        effects = self._commits.settle(item.receipt, self._last_turn_seconds)
        self._refusals = 0
        self._do_all(effects)
        self._changed(self.state)

    def _stalled(self, _: notes.Stalled) -> None:
        """Tell those who have waited for the store for too long that what they asked is in doubt."""
        for ticket, outcome in self._commits.in_doubt(self, self._last_turn_seconds).items():
            self._waiting.tell(ticket, outcome)

    # ---- effects ----

    def _do_all(self, effects: Iterable[say.Effect]) -> None:
        for effect in effects:
            _EFFECTS[type(effect)](self, effect)

    def _reply(self, effect: say.Reply) -> None:
        self._waiting.tell(effect.ticket, effect.outcome)

    def _send_upstream(self, effect: say.SendUpstream) -> None:
        try:
            self._link.send(effect.message, effect.ticket)
        except LinkLost as lost:
            self._mailbox.put_system(say.Refused(effect.ticket, Failure.NOT_SENT, str(lost)))

    def _answer_ourselves(self, effect: say.AnswerOurselves) -> None:
        own_tools = self._shared.own_tools
        assert own_tools is not None, "nothing else marks a request as ours"
        self._shared.link_nursery.start_soon(own_tools.answer_to, effect.message, self.state, self.tell)

    def _cancel_upstream(self, effect: say.CancelUpstream) -> None:
        self._link.cancel(effect.request_id, effect.reason)

    def _watch(self, effect: say.Watch) -> None:
        self._shared.timekeeper.watch(self, effect.ticket, effect.seconds)

    def _open_link(self, effect: say.OpenLink) -> None:
        self._link.open(self._shared, self)

    def _listen_upstream(self, effect: say.ListenUpstream) -> None:
        self._link.listen()

    def _close_link(self, effect: say.CloseLink) -> None:
        if effect.end_session:
            self._link.end(self._shared, self.state)
        else:
            self._link.close(end_session=False)

    def _bury(self, effect: say.Bury) -> None:
        tombstone = Tombstone(self.session_id, effect.reason, self._shared.clock.now_unix_s())
        ticket = self._burial_ticket = effect.ticket

        def receipt(receipt: Receipt) -> None:
            self._mailbox.put_system(notes.Buried(ticket, receipt))

        self._shared.writer.bury(tombstone, receipt)

    def _discard(self, effect: say.Discard) -> None:
        self._link.close(end_session=True)
        self._end(say.NotDone(say.Problem.UNINITIALIZED, "the session was never opened"))

    # ---- the link, the end ----

    def _pinged(self, item: notes.Pinged) -> None:
        log = self._commits.log
        read = log.read_streams if log is not None else frozenset[int]()
        self._decide(say.ReceivePing(item.receive, read, self._waiting.tickets))

    def _lost(self, item: notes.Lost) -> None:
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

    def _stop(self, item: notes.Stop) -> None:
        if item.only_if_idle and self._is_in_use:
            return
        self._changed(self.state)
        self._end(say.NotDone(say.Problem.UNAVAILABLE, item.detail))

    def _buried(self, item: notes.Buried) -> None:
        if item.receipt.failure is not None:
            reason = f"the store could not keep a removal: {item.receipt.failure}"
            raise StoreRefused(reason, rolled_back=True) from item.receipt.failure
        self._waiting.tell(item.ticket, say.Accepted())
        self._shared.analytics.note_session_ended(self.state)
        self._changed(self.state)
        self._end(say.NotDone(say.Problem.UNINITIALIZED, "the session was ended"))


_NOTES: dict[type, Callable[[SessionActor, Any], None]] = {
    notes.Settled: SessionActor._settled,
    Opened: SessionActor._linked,
    notes.Pinged: SessionActor._pinged,
    notes.Lost: SessionActor._lost,
    notes.Stalled: SessionActor._stalled,
    notes.Stop: SessionActor._stop,
    notes.Buried: SessionActor._buried,
}

_EFFECTS: dict[type, Callable[[SessionActor, Any], None]] = {
    say.Reply: SessionActor._reply,
    say.SendUpstream: SessionActor._send_upstream,
    say.AnswerOurselves: SessionActor._answer_ourselves,
    say.CancelUpstream: SessionActor._cancel_upstream,
    say.Watch: SessionActor._watch,
    say.OpenLink: SessionActor._open_link,
    say.ListenUpstream: SessionActor._listen_upstream,
    say.CloseLink: SessionActor._close_link,
    say.Bury: SessionActor._bury,
    say.Discard: SessionActor._discard,
}
