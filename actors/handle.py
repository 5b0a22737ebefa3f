"""SessionHandle: a session as seen by those who use it; it outlives the actor behind it.

An actor may crash, be passivated and come back; a handle goes on working, since it finds the actor anew at each
use. All that blocks is waiting for an outcome.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import attrs
import trio

from actors import jsonrpc
from actors import messages as say
from actors.call_history import CallPage
from actors.epochs import epoch_at, is_of
from actors.event_log import CursorLost, ReaderEnded, SessionLeft, StreamReader
from actors.ids import STANDALONE_STREAM, EventId, Principal, SessionId
from actors.keeping import Unkeepable, keep
from actors.mailbox import MailboxFull
from actors.registry import Draining, Registry, SessionNotFound
from actors.session import SessionActor
from actors.state import SessionState, Stream
from persistence.records import LogEntry
from persistence.store import SnapshotCorrupt, StoreUnavailable


class SessionUnavailable(Exception):
    """The session is there but cannot serve now (its upstream or the store is away, or too much is queued): nothing
    was done; try again. You do not get this for a session that is gone for good: that is `SessionNotFound`."""


class OutcomeUnknown(Exception):
    """The session was interrupted, or its store or upstream did not answer, while this was being done: it may have been
    done, and may yet be. You get this for what changes something, never for reading; look before you do it again. Not a
    `SessionUnavailable`, because who catches that one tries again without looking.
    """


class CommandRejected(Exception):
    """The session will not do this, now or later; the message says which rule is against it."""


@attrs.frozen
class Event:
    """One event of a session's stream."""

    id: str  # give it back as `after` to go on behind it
    message: jsonrpc.Message


class SessionHandle:
    """A session, by its id and on behalf of a principal."""

    __slots__ = ("_registry", "_server_id", "id", "principal")

    def __init__(
        self, registry: Registry, session_id: SessionId, principal: Principal, server_id: str | None = None
    ) -> None:
        self._registry = registry
        self._server_id = server_id
        self.id = session_id
        self.principal = principal

    def __repr__(self) -> str:
        return f"<SessionHandle {self.id[:6]}…>"

    # ---- what transports use ----

    def actor(self) -> SessionActor:
        """Find the session's actor.

        Raises:
          SessionNotFound, Draining: see `Registry.find`.
        """
        return self._registry.find(self.id, self.principal, self._server_id)

    async def ask(self, make: Callable[[int], say.Command], *, further_tickets: int = 0) -> say.Outcome:
        """Have the session do something, and wait for what comes of it.

        Args:
          make, further_tickets: as `SessionActor.ask`.

        Raises:
          SessionNotFound, Draining

        Cancellation: safe; what was asked is done all the same.
        """
        try:
            reply = self.actor().ask(make, further_tickets=further_tickets)
        except MailboxFull as full:
            return say.NotDone(say.Problem.OVERLOADED, str(full))
        return await reply.wait()

    async def ask_all(self, makes: Sequence[Callable[[int], say.Command]]) -> say.Outcome:
        """Have the session do several things in this order, and wait for all of them.

        Returns:
          the first outcome that is a refusal; if there is none, that of the last.

        Raises, Cancellation: as `ask`.
        """
        actor = self.actor()
        replies = []
        outcomes: list[say.Outcome] = []
        for make in makes:
            try:
                replies.append(actor.ask(make))
            except MailboxFull as full:
                outcomes = [say.NotDone(say.Problem.OVERLOADED, str(full))]
                break
        outcomes = [*[await reply.wait() for reply in replies], *outcomes]
        return next((outcome for outcome in outcomes if isinstance(outcome, say.NotDone)), outcomes[-1])

    async def read(self, after: EventId | None, *, stream: int = STANDALONE_STREAM, unshown: bool = False) -> Reading:
        """Begin to read one of the session's streams.

        Args:
          after: the event behind which to begin; None: from the stream's start.
          stream: which stream, if `after` does not tell.
          unshown: without `after`, begin behind what was last sent to a client of the standalone stream.

        Raises:
          SessionNotFound, SessionUnavailable
          CursorLost: that stream, or the event behind which to begin, is no longer kept, or never was.
        """
        stream_id = stream if after is None else after.stream
        actor = await self._present(say.Listen if stream_id == STANDALONE_STREAM else say.Look)
        found = actor.stream(stream_id)
        if found is None or (after is not None and not is_of(after, found, actor.state.log.epoch)):
            self._registry.shared.log_counts.cursors_lost += 1
            raise CursorLost("the stream of this event id is no longer kept")
        if after is None:
            offset = actor.state.shown_offset if unshown else 0
            reader = actor.attach(stream_id, offset, from_earliest=stream_id == STANDALONE_STREAM)
            return Reading(self.id, actor, reader, found)
        if after.offset > found.last_offset:
            raise CursorLost("this stream has no such event")
        try:
            await actor.check_kept(found, after.offset)
        except StoreUnavailable as error:
            raise SessionUnavailable(f"the stream cannot be read: {error}") from None
        if not actor.is_loaded:
            raise SessionUnavailable("the session was interrupted; try again")
        return Reading(self.id, actor, actor.attach(stream_id, after.offset), found)

    async def listen(self, seconds: float) -> None:
        """Let the other side speak unasked, and wait until it can be heard; `seconds` at most, once it was asked.

        Raises:
          SessionNotFound, SessionUnavailable, Draining
        """
        await (await self._present(say.Listen)).wait_listening(seconds)

    # ---- what embedding applications use ----

    async def state(self) -> SessionState:
        """Give the session as it is.

        Raises:
          SessionNotFound, SessionUnavailable
        """
        return (await self._present()).state

    async def _present(self, look: Callable[[int], say.Command] = say.Look) -> SessionActor:
        """Have the session in memory, with all that is known of it durable; give its actor."""
        actor = self.actor()
        if look is say.Look and actor.is_settled:
            return actor
        while True:
            _require_present(await self.ask(look))
            actor = self.actor()
            if actor.is_loaded:
                return actor
            # Interrupted in the instant after it answered: looking changes nothing, so once more.

    async def request(self, method: str, params: object = None, *, id: jsonrpc.RequestId | None = None) -> Any:
        """Ask the other side, and give its result.

        Args:
          method: e.g. ``tools/call``.
          params: JSON-like builtins.
          id: the JSON-RPC id; a random one if not given.

        Raises:
          RequestFailed: the answer is an error (also `jsonrpc.OUTCOME_UNKNOWN`: it may have been run, and was not run
            again).
          SessionNotFound, SessionUnavailable, CommandRejected

        Cancellation: the request goes on; its answer is dropped, or is in the session's log if it took long.
        """

        # Not a count that would begin anew after a restart: a call from before may still be in progress then.
        message = jsonrpc.request(secrets.token_hex(8) if id is None else id, method, params)

        def make(ticket: int) -> say.Command:
            return say.SendRequest(ticket, message, label=_tool_of(method, params))

        outcome = await self.ask(make)
        if isinstance(outcome, say.Streaming):
            return jsonrpc.result_of(await self._last_of(outcome.stream))
        return jsonrpc.result_of(_require_answer(outcome))

    async def _last_of(self, stream_id: int) -> jsonrpc.Message:
        last: Event | None = None
        try:
            async with aclosing(self._to_the_end(await self.read(None, stream=stream_id))) as events:
                async for event in events:
                    last = event
        except (SessionUnavailable, Draining) as error:
            raise jsonrpc.RequestFailed(jsonrpc.OUTCOME_UNKNOWN, f"the answer cannot be had now: {error}") from None
        if last is None or last.message.kind is not jsonrpc.Kind.RESPONSE:
            raise CommandRejected("the request was withdrawn, or another reader has taken its stream over")
        return last.message

    async def notify(self, method: str, params: object = None) -> None:
        """Tell the other side; returns when it has it.

        Raises:
          OutcomeUnknown: the other side may have it.
          SessionNotFound, SessionUnavailable, CommandRejected
        """
        message = jsonrpc.notification(method, params)
        require(await self.ask(lambda ticket: say.SendNotification(ticket, message)))

    async def emit(self, method: str, params: object = None) -> None:
        """Add an event of the application's own to the session's standalone stream; durable on return.

        Raises:
          OutcomeUnknown: it may be there, or come to be there.
          SessionNotFound, SessionUnavailable
        """
        message = jsonrpc.notification(method, params)
        require(await self.ask(lambda ticket: say.Emit(ticket, message)))

    @asynccontextmanager
    async def update(self) -> AsyncIterator[dict[str, Any]]:
        """Change the session's values: yields a copy to change; the change is durable when the block has ended.

        Updates of one session go one after the other. A block that raises changes nothing.

        Raises:
          CommandRejected: the values are too large, or hold what cannot be kept (builtins can).
          OutcomeUnknown: the change may have been kept; the values tell.
          SessionNotFound, SessionUnavailable

        Cancellation: inside the block nothing is changed; while it ends the change may or may not be kept.
        """
        actor = self.actor()
        async with _held(actor.updating):
            values = await self.values()
            yield values
            try:
                kept, encoded_bytes = keep(values)
            except Unkeepable as error:
                raise CommandRejected(f"values: {error}") from None
            if self.actor() is not actor:  # so others did not wait for this one, and these values may be old
                raise SessionUnavailable("the session left memory while its values were changed; try again")
            require(await self.ask(lambda ticket: say.Update(ticket, kept, encoded_bytes)))

    async def values(self) -> dict[str, Any]:
        """Give a copy of the session's values."""
        return dict((await self.state()).values)

    async def history(self, *, before: int | None = None, limit: int = 50) -> CallPage:
        """Give the session's tool calls that have ended, newest first.

        An audit rather than a promise: the calls of the last second before a crash may be missing, and only so many
        are kept (`Limits.call_history_max`).

        Args:
          before: only calls before this one, by number: what the former page gave; None: from the newest on.
          limit: how many, at most.

        Raises:
          SessionNotFound, SessionUnavailable
        """
        actor = await self._present()
        try:
            return await actor.past_calls(before, limit)
        except (StoreUnavailable, SnapshotCorrupt) as error:
            raise SessionUnavailable(f"the history cannot be read: {error}") from None

    async def events(self, after: str | None = None, *, stream: int = STANDALONE_STREAM) -> AsyncGenerator[Event, None]:
        """Give a stream's events, those kept first, then each as it comes.

        Ends when the stream ends, or when a newer reader takes it over. A session that is interrupted and comes back
        is read on. Who leaves the loop early closes the iterator (`contextlib.aclosing`), and with it the stream.

        Args:
          after: the id of the last event seen; None: from the start of what is kept.
          stream: which stream, if `after` does not tell.

        Raises:
          InvalidEventId, CursorLost, SessionNotFound, SessionUnavailable, Draining
        """
        cursor = None if after is None else EventId.read(self.id, after)
        async with aclosing(self._to_the_end(await self.read(cursor, stream=stream))) as events:
            async for event in events:
                yield event

    async def _to_the_end(self, reading: Reading) -> AsyncGenerator[Event, None]:
        """Give a stream's events until it ends or is taken over; go on where the session left memory meanwhile."""
        while True:
            try:
                while page := await reading.next_page():
                    for entry in page:
                        yield Event(reading.event_id(entry.offset), jsonrpc.parse(entry.body))
                return
            except SessionLeft:
                after = reading.position
            except ReaderEnded:
                return
            except StoreUnavailable as error:
                raise SessionUnavailable(f"the stream cannot be read: {error}") from None
            finally:
                reading.close()
            reading = await self.read(after if after.offset else None, stream=after.stream)

    async def close(self, reason: str = "client") -> None:
        """End the session for good: here, in the store and upstream.

        Raises:
          OutcomeUnknown: it may have ended; ending it again does no harm.
          SessionNotFound, SessionUnavailable
        """
        require(await self.ask(lambda ticket: say.Close(ticket, reason)))


class Reading:
    """One reader of one stream of a session. Close it."""

    __slots__ = ("_actor", "_began", "_epoch", "_reader", "session_id")

    def __init__(self, session_id: SessionId, actor: SessionActor, reader: StreamReader, stream: Stream) -> None:
        self.session_id = session_id
        self._actor = actor
        self._epoch = actor.state.log.epoch
        self._began = stream  # for what it knows of older epochs, which does not change
        self._reader = reader

    @property
    def stream_id(self) -> int:
        return self._reader.stream_id

    @property
    def is_standalone(self) -> bool:
        return self._reader.stream_id == STANDALONE_STREAM

    @property
    def is_awaited(self) -> bool:
        """Whether calls of the session are in progress, whose answers may come on this stream."""
        return self._actor.is_loaded and self._actor.state.busy

    def end(self) -> None:
        """Have the reader end, as if the stream had been taken over."""
        self._reader.end()

    @property
    def position(self) -> EventId:
        """Behind which event it goes on."""
        return self._id(self._reader.after)

    def event_id(self, offset: int) -> str:
        """Give the id of the stream's event at this offset; 0: the start."""
        return self._id(offset).write(self.session_id)

    def _id(self, offset: int) -> EventId:
        return EventId(self._reader.stream_id, epoch_at(self._began, offset, self._epoch), offset)

    def shown(self, offset: int) -> None:
        """Note that the standalone stream was sent to a client up to this offset."""
        if self.is_standalone:
            self._actor.tell(say.NoteShown(offset))

    async def next_page(self) -> Sequence[LogEntry]:
        """Wait for events; none: the stream has ended. Raises as `StreamReader.next_page`."""
        stream_id = self._reader.stream_id
        return await self._reader.next_page(lambda: self._actor.stream(stream_id))

    async def wait_heard(self, seconds: float) -> None:
        """Wait until what the other side says unasked comes to this stream, or is known not to come; `seconds` at most.

        Before that a server without an event store says it to nobody. Who tells a client that it can be heard waits
        for this first, as the client would have waited for the server's own word.
        """
        if self.is_standalone:
            await self._actor.wait_listening(seconds)

    def close(self) -> None:
        """Stop reading. Closing twice is fine."""
        self._reader.close()


@asynccontextmanager
async def _held(lock: trio.StrictFIFOLock) -> AsyncIterator[None]:
    """Hold a lock; where nobody else does, without the pass through the scheduler that trio's own way takes."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _tool_of(method: str, params: object) -> str:
    """Name the tool that a request calls, for the session's metrics; "" if it calls none."""
    if method != "tools/call" or not isinstance(params, Mapping):
        return ""
    return str(params.get("name", "?"))


def require(outcome: say.Outcome) -> None:
    """Turn an outcome that is a refusal into the exception for it."""
    if not isinstance(outcome, say.NotDone):
        return
    if outcome.problem is say.Problem.LOST:
        raise OutcomeUnknown(outcome.detail)
    if outcome.problem in (say.Problem.UNAVAILABLE, say.Problem.OVERLOADED):
        raise SessionUnavailable(outcome.detail)
    if outcome.problem is say.Problem.UNINITIALIZED:
        raise SessionNotFound(outcome.detail)
    raise CommandRejected(outcome.detail)


def _require_present(outcome: say.Outcome) -> None:
    """The same for a look, which changes nothing: there is no doubt about what it did."""
    if isinstance(outcome, say.NotDone) and outcome.problem is say.Problem.LOST:
        raise SessionUnavailable(outcome.detail)
    require(outcome)


def _require_answer(outcome: say.Outcome) -> jsonrpc.Message:
    if isinstance(outcome, say.NotDone) and outcome.problem is say.Problem.LOST:
        raise jsonrpc.RequestFailed(jsonrpc.OUTCOME_UNKNOWN, outcome.detail)  # it may have run: not "try again"
    require(outcome)
    if isinstance(outcome, say.Answered):
        return outcome.message
    raise CommandRejected("the request was withdrawn")
