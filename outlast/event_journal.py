"""The journal: events of many sessions in one of our stores, durable when they are said to be.

Lives on a trio loop (`outlast/trio_thread.py` gives it one). Knows nothing of MCP: a session has named streams, a
stream has bodies. The writer commits what has gathered as one batch, so sessions that come together share an fsync.

- `append` returns when the event is durable; its id names session, stream and place, and is refused elsewhere.
- `read` gives what is durable behind an id, and waits for more; what is no longer kept is told, never skipped.
- A session that an append fails for goes back to what is durable. It is not left between.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from actors.event_log import CursorLost
from actors.ids import EventId, InvalidEventId, SessionId
from actors.registry import SessionNotFound, TooManySessions
from actors.store_use import EVENT_STORE_SERVER_ID, check_events
from outlast.event_history import EventLimits, History, Stream
from persistence.opening import open_store
from persistence.records import LogEntry, Snapshot, Tombstone, Trim
from persistence.store import EntryCorrupt, Store, StoreFull
from persistence.writer import Receipt, Writer

log = logging.getLogger("outlast.event_journal")

OpenStore = Callable[[], Awaitable[Store]]

PAGE_EVENTS = 100
RESIDENT_SESSIONS_MAX = 2000  # counts of what is kept: 100 KB for a session with 1000 events; others are read again
ENDED_SESSIONS_MAX = 10_000  # remembered, so that a late event does not open a session again; those come in seconds
_REAP_SECONDS_MAX = 60.0
_STOP_SECONDS = 5.0  # for the last flush, and again for closing


@attrs.frozen
class Page:
    """Some events of a stream, in order."""

    stream: str
    events: tuple[tuple[str, bytes], ...]  # (event id, body)
    ended: bool  # no more will come: the stream's request is answered
    interrupted: bool  # no more will come by itself: an earlier opening of the session began the stream


class EventJournal:
    """Keeps events. Made by `open_journal`.

    Args:
      store, writer: where to; the writer is running.
      limits: what is kept.
      now_unix_s: the wall clock.
    """

    def __init__(
        self, store: Store, writer: Writer, limits: EventLimits, *, now_unix_s: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._writer = writer
        self._limits = limits
        self._now_unix_s = now_unix_s
        self._expiries: dict[str, float] = {}  # of every session there is
        self._resident: dict[str, History] = {}  # least recently used first
        self._ended: dict[str, None] = {}
        self._changes: dict[str, trio.Event] = {}  # set when something of the session has become durable
        # One at a time: loading happens once for each session after a start, in a store with one thread.
        self._loading = trio.Lock()

    def __repr__(self) -> str:
        return f"<EventJournal {len(self._expiries)} sessions, {len(self._resident)} resident>"

    async def learn(self) -> None:
        """Read which sessions the store has."""
        after: int | None = 0
        while after is not None:
            headers, after = await self._store.scan(after=after)
            for header in headers:
                assert header.server_id == EVENT_STORE_SERVER_ID, "looked at before the claim"
                self._expiries[header.session_id] = header.expires_unix_s

    async def begin(self, session_id: str, *, owner: str, handshake: bytes) -> None:
        """Keep who opened a session, and with what; durable on return.

        Raises:
          TooManySessions, SessionNotFound, WriterBacklogFull, StoreFull
        """
        history = await self._load_or_make(session_id)
        history.owner, history.handshake = owner, handshake
        await self._keep(history)

    async def adopt(self, session_id: str, *, owner: str | None = None) -> bytes | None:
        """Begin a new opening of a session: what earlier ones were asked will not be answered.

        Args:
          owner: who asks; None: whoever opened it.

        Returns:
          What it was opened with; None if there is no such session, or it is another's.
        """
        history = await self._load(session_id)
        if history is None or (owner is not None and not secrets.compare_digest(history.owner, owner)):
            return None
        history.generation += 1
        history.revision += 1
        self._writer.submit_soft(session_id, history.revision, self._freeze(history))
        return history.handshake

    async def append(self, session_id: str, stream: str, body: bytes, *, ends: bool, standing: bool) -> str:
        """Keep an event; durable on return.

        Args:
          stream: the SDK's name for it.
          ends: it is the last one of its stream.
          standing: the stream belongs to the session, not to one request of it.

        Returns:
          The event's id.

        Raises:
          TooManySessions, WriterBacklogFull: nothing was kept.
          SessionNotFound: the session has ended.
          StoreFull: it was rolled back.

        Cancellation: the event may be kept all the same.
        """
        history = await self._load_or_make(session_id)
        return await self._append(history, history.stream(stream, standing=standing), body, ends=ends)

    async def end_interrupted(self, session_id: str, cursor: str, body: bytes) -> None:
        """End the stream that a cursor is in with a last event, unless it has ended; durable on return.

        Raises: as `append` and `read`.
        """
        history = await self._found(session_id)
        _, stream = _locate(history, cursor)
        if not stream.ended:
            await self._append(history, stream, body, ends=True)

    async def read(self, session_id: str, cursor: str, *, wait_seconds: float) -> Page:
        """Give what comes behind an event, in its stream; what is durable only.

        Args:
          cursor: the event's id.
          wait_seconds: how long to wait if there is nothing yet, and something may come.

        Raises:
          InvalidEventId: no id of this session.
          CursorLost: what comes next is no longer kept, or is damaged.
          SessionNotFound: there is no such session, or it has ended.
        """
        change = self._changes.setdefault(session_id, trio.Event())
        page = await self._page(session_id, cursor)
        if not (page.events or page.ended or page.interrupted):
            with trio.move_on_after(wait_seconds):
                await change.wait()
                page = await self._page(session_id, cursor)
        return page

    async def check(self, session_id: str, cursor: str) -> str:
        """Give the name of the stream that a cursor is in; raises what `read` would."""
        _, stream = _locate(await self._found(session_id), cursor)
        return stream.name

    async def bury(self, session_id: str, reason: str) -> None:
        """End a session: its events go, its id does not come back; durable on return. Fine if there is none.

        Raises:
          StoreFull: there was no room even for that; the session goes on.
        """
        expires_unix_s = self._expiries.pop(session_id, None)
        if expires_unix_s is None:
            return
        self._resident.pop(session_id, None)
        self._ended[session_id] = None
        if len(self._ended) > ENDED_SESSIONS_MAX:
            del self._ended[next(iter(self._ended))]
        told = _Told()
        self._writer.bury(Tombstone(session_id, reason, self._now_unix_s()), told)
        self._tell_change(session_id)
        try:
            await told.wait()
        except StoreFull:
            self._ended.pop(session_id, None)
            self._expiries[session_id] = expires_unix_s
            raise

    async def reap(self) -> None:
        """End sessions whose time is over, for ever."""
        while True:
            try:
                await self._bury_expired()
            except StoreFull as full:
                log.warning("expired sessions could not be removed: %s", full)  # the next round tries again
            await trio.sleep(min(_REAP_SECONDS_MAX, self._limits.ttl_seconds / 4))

    async def _bury_expired(self) -> None:
        now_unix_s = self._now_unix_s()
        for session_id in [one for one, expires_unix_s in self._expiries.items() if expires_unix_s <= now_unix_s]:
            await self.bury(session_id, "expired")

    async def _append(self, history: History, stream: Stream, body: bytes, *, ends: bool) -> str:
        entry = history.entry(stream, body, self._now_unix_s())
        trim = history.surplus(len(body), self._limits)
        event_id = EventId(stream.number, history.epoch, entry.offset).write(SessionId(history.session_id))
        await self._keep(history, (entry,), trim, lambda: history.add(stream, entry, trim, ends=ends))
        return event_id

    async def _keep(
        self,
        history: History,
        entries: tuple[LogEntry, ...] = (),
        trim: Trim | None = None,
        fold: Callable[[], None] = lambda: None,
    ) -> None:
        """Submit first, fold then: if it is refused for want of room in the backlog, nothing has been changed."""
        session_id = history.session_id
        told = _Told(lambda: self._tell_change(session_id))
        freeze = self._freeze(history)
        self._writer.submit(session_id, history.revision + 1, freeze, entries=entries, trim=trim, receipt=told)
        history.revision += 1
        fold()
        history.last_active_unix_s = self._now_unix_s()
        self._expiries[session_id] = history.last_active_unix_s + self._limits.ttl_seconds
        try:
            await told.wait()
        except StoreFull:
            if self._resident.get(session_id) is history:  # back to what is durable: read again at the next use
                del self._resident[session_id]
            raise

    def _freeze(self, history: History) -> Callable[[], Snapshot]:
        return lambda: history.snapshot(self._limits.ttl_seconds)

    async def _read(self, session_id: str, place: EventId, limit: int) -> Sequence[LogEntry]:
        """Give what comes after a place; of a page with a damaged event, what comes before that."""
        try:
            return await self._store.read_log(session_id, stream=place.stream, after=place.offset, limit=limit)
        except EntryCorrupt as damaged:
            log.error("event is damaged: %s", damaged)
            whole = damaged.offset - place.offset - 1
            if not whole:
                raise CursorLost("what comes next is damaged") from None
        return await self._store.read_log(session_id, stream=place.stream, after=place.offset, limit=whole)

    async def _page(self, session_id: str, cursor: str) -> Page:
        history = await self._found(session_id)
        place, stream = _locate(history, cursor)
        entries = await self._read(session_id, place, PAGE_EVENTS)
        if [entry.offset for entry in entries] != list(range(place.offset + 1, place.offset + 1 + len(entries))):
            raise CursorLost("what comes next was trimmed while it was read")
        self._touch(history)
        caught_up = place.offset + len(entries) == stream.offset
        return Page(
            stream.name,
            tuple(
                (EventId(place.stream, place.epoch, entry.offset).write(SessionId(session_id)), entry.body)
                for entry in entries
            ),
            ended=caught_up and stream.ended,
            interrupted=caught_up and not stream.ended and stream.generation != history.generation,
        )

    def _touch(self, history: History) -> None:
        """Count a replay as activity; the store hears of it once in a while."""
        now_unix_s = self._now_unix_s()
        if now_unix_s - history.last_active_unix_s > self._limits.ttl_seconds / 10:
            history.last_active_unix_s = now_unix_s
            history.revision += 1
            self._expiries[history.session_id] = now_unix_s + self._limits.ttl_seconds
            self._writer.submit_soft(history.session_id, history.revision, self._freeze(history))

    def _tell_change(self, session_id: str) -> None:
        change = self._changes.pop(session_id, None)
        if change is not None:
            change.set()

    async def _found(self, session_id: str) -> History:
        history = await self._load(session_id)
        if history is None:
            raise SessionNotFound("no such session is kept here")
        return history

    async def _load_or_make(self, session_id: str) -> History:
        history = await self._load(session_id)
        if history is not None:
            return history
        if session_id in self._ended:
            raise SessionNotFound("this session has ended")
        if len(self._expiries) >= self._limits.sessions_max:
            raise TooManySessions(f"{len(self._expiries)} sessions are kept, and no more may be")
        history = History(session_id, int.from_bytes(secrets.token_bytes(4), "big"))
        self._expiries[session_id] = self._now_unix_s() + self._limits.ttl_seconds
        self._settle_in(history)
        return history

    async def _load(self, session_id: str) -> History | None:
        history = self._resident.pop(session_id, None)
        if history is not None:
            self._resident[session_id] = history  # the most recently used now
            return history
        if session_id not in self._expiries:
            return None
        async with self._loading:
            history = self._resident.get(session_id) or await self._read_session(session_id)
            if history is not None and session_id in self._expiries:
                self._settle_in(history)
                return history
        return None

    async def _read_session(self, session_id: str) -> History | None:
        await self._writer.settle(session_id)  # or we would read the past of what is on its way
        snapshot = await self._store.load(session_id)
        if snapshot is None:
            return None
        history = History.of(snapshot)
        entries: list[LogEntry] = []
        for stream in history.streams():
            entries += await self._whole(session_id, stream.number)
        history.learn(sorted(entries, key=lambda entry: entry.sequence))
        return history

    async def _whole(self, session_id: str, stream: int) -> Sequence[LogEntry]:
        limit = self._limits.events_per_session_max + 1
        found = list(await self._store.read_log(session_id, stream=stream, after=0, limit=limit))
        while len(found) % limit == 0 and found:  # the limit was higher when they were kept
            more = await self._store.read_log(session_id, stream=stream, after=found[-1].offset, limit=limit)
            if not more:
                break
            found += more
        return found

    def _settle_in(self, history: History) -> None:
        self._resident[history.session_id] = history
        if len(self._resident) > RESIDENT_SESSIONS_MAX:
            # What of it is still on its way is waited for before it is read again.
            del self._resident[next(iter(self._resident))]


@asynccontextmanager
async def open_journal(store: str | OpenStore, limits: EventLimits) -> AsyncIterator[EventJournal]:
    """Open a store and keep events in it for the length of a block.

    Args:
      store: a store URL, or what opens a store. It is closed at the end.

    Raises:
      StoreUrlInvalid, StoreInvalid, StoreInUse, StoreUnavailable: before the block.
      StoreBroken, FenceLost: out of the block, which is cancelled.
    """
    kept = await (open_store(store) if isinstance(store, str) else store())
    try:
        journal, writer = await _prepare(kept, limits)
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.run)
            nursery.start_soon(journal.reap)
            try:
                yield journal
            finally:
                # The writer flushes what is left when it is cancelled, and bounds that itself.
                nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(_STOP_SECONDS, shield=True):
            await kept.aclose()


async def _prepare(store: Store, limits: EventLimits) -> tuple[EventJournal, Writer]:
    await check_events(store)
    writer = Writer(
        store,
        await store.claim(f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(4)}"),
        final_flush_seconds=_STOP_SECONDS,
    )
    journal = EventJournal(store, writer, limits)
    await journal.learn()
    return journal, writer


def _locate(history: History, cursor: str) -> tuple[EventId, Stream]:
    """Find the place that an id names.

    Raises:
      InvalidEventId, CursorLost
    """
    place = EventId.read(SessionId(history.session_id), cursor)
    stream = history.numbered(place.stream)
    if place.epoch != history.epoch or stream is None or place.offset < stream.offset - stream.kept:
        raise CursorLost("what comes after this event is no longer kept")
    if place.offset > stream.offset:
        raise InvalidEventId("not an event id of this session: nothing has come so far")
    return place, stream


class _Told:
    """Waits for a receipt."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self._then = then
        self._event = trio.Event()
        self._failure: StoreFull | None = None

    def __call__(self, receipt: Receipt) -> None:
        self._failure = receipt.failure
        self._event.set()
        self._then()

    async def wait(self) -> None:
        await self._event.wait()
        if self._failure is not None:
            raise self._failure
