"""A session's event log: a bounded tail in memory, older pages from the store, and the readers of its streams.

Entries are appended by the session's turns and released when they are durable; a reader sees released entries only.
Readers pull by cursor, so nothing is queued for anybody and a slow reader holds nobody up. Where the tail in memory
no longer reaches back to a reader's cursor, pages come from the store. Where the store does not either, or where the
next entry is damaged there, the reader is told (`CursorLost`): a gap is never skipped in silence.

One stream has one reader: the newest takes it over, since a client whose connection broke is often back before its
old connection is known to be dead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog
import trio

from actors.ids import SessionId
from actors.state import Stream
from persistence.records import LogEntry
from persistence.store import EntryCorrupt

log = structlog.get_logger("outlast.event_log")

PAGE_ENTRIES = 100
TAIL_ENTRIES_MAX = 256  # RELIABILITY 5.7's ring; a reader further behind reads from the store
TAIL_BYTES_MAX = 256 * 1024


class CursorLost(Exception):
    """Events after this cursor were trimmed, or are damaged: what is missing cannot be replayed."""


class ReaderEnded(Exception):
    """This reader gets no more: another one took the stream over, or the session left memory. Resume by cursor."""


class SessionLeft(ReaderEnded):
    """The reader ended because its session left memory (a crash, passivation, a stop): read on by cursor."""


class ReadLog(Protocol):
    """Reads kept pages: `Store.read_log`."""

    async def __call__(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]: ...


class LogCounts:
    """What all event logs of a runtime have let go of, since the start."""

    __slots__ = ("cursors_lost", "left_logs", "left_memory")

    def __init__(self) -> None:
        self.left_logs = 0  # events that fell off their log's bounds: they cannot be replayed any more
        self.left_memory = 0  # events that fell off the tails in memory: readers get them from the store
        self.cursors_lost = 0  # readers told that what comes after their cursor is no longer kept


# Most sessions in memory have nothing in their tails and no readers: these stand in until there is something, and save
# a kilobyte for each.
_NO_ORDER: deque[int] = deque(maxlen=0)
_NOBODY = trio.lowlevel.ParkingLot()


class EventLog:
    """The log of one resident session."""

    __slots__ = (
        "_bytes",
        "_counts",
        "_ending",
        "_order",
        "_read_log",
        "_readers",
        "_released",
        "_session_id",
        "_tails",
        "_waiters",
        "changes",
        "read_until_seconds",
    )

    def __init__(
        self, session_id: SessionId, read_log: ReadLog, *, durable_through: int, counts: LogCounts | None = None
    ) -> None:
        """Args:
        counts: are kept along; None: nobody wants to know.
        """
        self._counts = counts or LogCounts()
        self._session_id = session_id
        self._read_log = read_log
        self.read_until_seconds = 0.0  # when a reader left last, on trio's clock
        self.changes = 0  # how often readers were told to look again
        self._released = durable_through  # sequence; everything up to here may be shown
        self._tails: dict[int, deque[LogEntry]] = {}
        self._order: deque[int] = _NO_ORDER  # the stream of each entry in the tails, oldest first
        self._bytes = 0
        self._ending: dict[int, float] = {}  # streams that ended: the revision with which that is durable
        self._readers: dict[int, StreamReader] = {}
        self._waiters = _NOBODY

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    @property
    def read_streams(self) -> frozenset[int]:
        """The streams that have a reader."""
        return frozenset(self._readers)

    def append(self, entry: LogEntry) -> None:
        """Add an entry; its readers get it once it is released."""
        if self._order is _NO_ORDER:
            self._order = deque()
        self._tails.setdefault(entry.stream, deque()).append(entry)
        self._order.append(entry.stream)
        self._bytes += len(entry.body)
        self._shorten()

    def _shorten(self) -> None:
        """Drop the oldest released entries beyond the bounds: the store has them, as it has not the others yet."""
        while len(self._order) > TAIL_ENTRIES_MAX or self._bytes > TAIL_BYTES_MAX:
            tail = self._tails[self._order[0]]
            if tail[0].sequence > self._released:
                return  # bounded all the same: the gate's backlog is what is not yet released
            self._drop_oldest()
            self._counts.left_memory += 1

    def _drop_oldest(self) -> None:
        stream_id = self._order.popleft()
        tail = self._tails[stream_id]
        self._bytes -= len(tail.popleft().body)
        if not tail:
            del self._tails[stream_id]

    def trim(self, through_sequence: int) -> None:
        """Forget entries up to here, as the store does; what is not yet released stays until it is."""
        while self._order:
            tail = self._tails[self._order[0]]
            if tail[0].sequence > min(through_sequence, self._released):
                return
            self._drop_oldest()

    def release(self, through_sequence: int) -> None:
        """Let readers see entries up to here: they are durable."""
        self._released = max(self._released, through_sequence)
        self._shorten()
        self.wake()

    def end_stream(self, stream_id: int, revision: float) -> None:
        """Note that a stream has ended; its reader is told so once this revision is durable."""
        self._ending[stream_id] = revision

    def settle_ends(self, revision: int) -> None:
        """Let readers be told of ends up to this revision: they are durable."""
        if self._ending:
            self._ending = {stream: ends for stream, ends in self._ending.items() if ends > revision}

    def may_tell_end(self, stream_id: int) -> bool:
        """Whether the end of a stream that has ended is durable."""
        return stream_id not in self._ending

    def wake(self) -> None:
        """Have readers look again: a stream may have ended."""
        self.changes += 1
        self._waiters.unpark_all()

    def end_readers(self) -> None:
        """The session leaves memory: its readers are to come back by cursor."""
        for reader in list(self._readers.values()):
            reader.ended = reader.left = True
        self._readers.clear()
        self.wake()

    def attach(self, stream_id: int, after: int, *, from_earliest: bool = False) -> StreamReader:
        """Take a stream over, after this offset. An older reader of the stream ends.

        Args:
          from_earliest: begin with the earliest entry kept if those right after the offset are no longer; for a
            reader without a cursor of its own, who misses nothing that it knows of.
        """
        older = self._readers.get(stream_id)
        if older is not None:
            older.ended = True
            self.wake()
        reader = StreamReader(self, stream_id, after, from_earliest=from_earliest)
        self._readers[stream_id] = reader
        return reader

    def detach(self, reader: StreamReader) -> None:
        """Forget a reader that is done."""
        reader.ended = True
        if self._readers.get(reader.stream_id) is reader:
            del self._readers[reader.stream_id]
            self.read_until_seconds = trio.current_time()

    async def read(
        self, stream_id: int, after: int, last_offset: int, *, gap_allowed: bool = False, limit: int = PAGE_ENTRIES
    ) -> Sequence[LogEntry]:
        """Give the next released entries of a stream after this offset; none if there are none.

        Args:
          stream_id: which stream.
          after: the offset of the last entry that the reader has.
          last_offset: the offset of the stream's last entry, durable or not: tells a gap from the end.
          gap_allowed: begin with the earliest entry kept.

        Raises:
          CursorLost: entries after the cursor were trimmed, or the next one is damaged.
          StoreUnavailable: as `Store.read_log`.
        """
        if last_offset <= after:
            return ()  # nothing can be there: a reader that is up to date costs the store nothing
        entries = self.in_memory(stream_id, after)
        if entries is None:
            kept = await self._read_kept(stream_id, after, limit, gap_allowed=gap_allowed)
            entries = [entry for entry in kept if entry.sequence <= self._released]
            if entries and entries[0].offset != after + 1 and not gap_allowed:
                raise self._cursor_lost(after)
            if not entries and self.in_memory(stream_id, after) is None and last_offset > after and not gap_allowed:
                raise self._cursor_lost(after)
        return entries

    async def _read_kept(self, stream_id: int, after: int, limit: int, *, gap_allowed: bool) -> Sequence[LogEntry]:
        """Give what the store has after this offset; of a page with a damaged entry, what comes before that.

        A reader that was only refused would come back with the same cursor, and be refused again for as long as the
        entry is kept. So it gets what is whole, entry by entry, and is told when the damaged one is next.
        """
        while True:
            try:
                return await self._read_log(self._session_id, stream=stream_id, after=after, limit=limit)
            except EntryCorrupt as damaged:
                if limit > 1:
                    limit = 1
                    continue
                log.error("event is damaged", session=self._session_id[:6], stream=stream_id, why=str(damaged))
                if not gap_allowed:
                    self._counts.cursors_lost += 1
                    raise CursorLost(f"what comes after {after} in this stream is damaged") from None
                after = damaged.offset  # whoever has no cursor misses nothing that it knows of: what is behind it

    def _cursor_lost(self, after: int) -> CursorLost:
        self._counts.cursors_lost += 1
        return CursorLost(f"events after {after} of this stream are no longer kept")

    def in_memory(self, stream_id: int, after: int) -> list[LogEntry] | None:
        """Give the released entries that the tail has after this offset; None if it does not reach back that far."""
        tail = self._tails.get(stream_id)
        if not tail or tail[0].offset > after + 1:
            return None
        first = after + 1 - tail[0].offset
        page: list[LogEntry] = []
        for index in range(first, len(tail)):
            entry = tail[index]
            if entry.sequence > self._released or len(page) >= PAGE_ENTRIES:
                break
            page.append(entry)
        return page

    async def wait_changed(self) -> None:
        """Wait until something was released, or a stream or a reader ended. Cancellation: safe."""
        if self._waiters is _NOBODY:
            self._waiters = trio.lowlevel.ParkingLot()
        await self._waiters.park()


class StreamReader:
    """One reader's place in one stream."""

    __slots__ = ("_from_earliest", "_log", "after", "ended", "left", "stream_id")

    def __init__(self, log: EventLog, stream_id: int, after: int, *, from_earliest: bool) -> None:
        self._log = log
        self._from_earliest = from_earliest
        self.stream_id = stream_id
        self.after = after
        self.ended = False
        self.left = False  # ended since its session left memory

    async def next_page(self, stream: StreamSource) -> Sequence[LogEntry]:
        """Wait for entries after the cursor, and move it.

        Args:
          stream: gives the stream as it is now; None if it was forgotten.

        Returns:
          One entry or more; none: the stream has ended and all of it was given.

        Raises:
          ReaderEnded: taken over by a newer reader, or the session left memory.
          CursorLost: what comes next is no longer kept.

        Cancellation: safe; the cursor moves only with what is returned.
        """
        while True:
            changes = self._log.changes
            if self.left:
                return self._take_leave()
            if self.ended:
                raise ReaderEnded("the stream was taken over by a newer connection")
            now = stream()
            if now is None:
                raise CursorLost("this stream is no longer kept")
            entries = await self._log.read(self.stream_id, self.after, now.last_offset, gap_allowed=self._from_earliest)
            if entries:
                self._from_earliest = False
                self.after = entries[-1].offset
                return entries
            if now.ended and now.last_offset <= self.after and self._log.may_tell_end(self.stream_id):
                return ()
            if self._log.changes != changes or stream() is not now:
                continue  # something happened while the store was read
            await self._log.wait_changed()

    def _take_leave(self) -> Sequence[LogEntry]:
        """Give what was durable in memory when the session left it. A stop waits until calls have their answers, and
        then has sessions leave: a reader that had no turn in between would end with the answer in its hand."""
        entries = self._log.in_memory(self.stream_id, self.after)
        if not entries:
            raise SessionLeft("the session left memory")
        self.after = entries[-1].offset
        return entries

    def end(self) -> None:
        """Have `next_page` raise `ReaderEnded`."""
        self._log.detach(self)
        self._log.wake()

    def close(self) -> None:
        """Give the stream back. Closing twice is fine."""
        self._log.detach(self)


class StreamSource(Protocol):
    """Gives a stream of the session's state as it is now."""

    def __call__(self) -> Stream | None: ...
