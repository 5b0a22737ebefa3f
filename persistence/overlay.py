"""The overlay: facts that lie over an absent store, session by session, until it can take them.

Plain data and arithmetic; `degrading.py` does the waiting. It keeps what a store would have become by the same
commits, no more: of a session's snapshots the newest, the entries that no trim has reached, how far it was trimmed,
or nothing but its tombstone. So its size follows the number of sessions, not the length of the outage. It is bounded
in rows and in bytes; a commit that would let it grow beyond is refused whole (`StoreFull`), one that makes it smaller
never is. Of sessions that ended before, it knows nothing: a late write of theirs is held, and ignored by the store.

Snapshots are sealed as on disk: nothing is shared with a session's present, and what no store could take is refused
at once, not when the store is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import attrs
import msgspec
from msgspec.structs import replace

from persistence.codec import Codec
from persistence.records import (
    HISTORY_STREAM,
    Batch,
    Fence,
    LogEntry,
    Snapshot,
    SnapshotHeader,
    Tombstone,
    Trim,
    log_start,
)
from persistence.store import StoreFull

_NO_ENTRIES: Mapping[int, LogEntry] = MappingProxyType({})


class Held(msgspec.Struct, frozen=True, gc=False):
    """What is held of one session; replaced whole when it changes.

    A msgspec.Struct, since each commit makes one or two for each session; and there may be a hundred thousand.
    """

    number: int  # rises with each session that comes in: its position when scanning
    header: SnapshotHeader | None = None
    record: bytes = b""  # the sealed snapshot, if there is a header
    entries: Mapping[int, LogEntry] = _NO_ENTRIES  # by sequence
    trimmed_through: int = 0  # the store, too, is to forget events up to here
    history_trimmed_through: int = 0  # and history
    tombstone: Tombstone | None = None  # then nothing else is held
    rows: int = 0
    size: int = 0  # bytes of the record and of the entries' bodies

    def adding(self, entries: Sequence[LogEntry]) -> Held:
        """Give this with further entries; one that is held already, or trimmed, changes nothing."""
        new = {
            entry.sequence: entry
            for entry in reversed(entries)  # of two with one sequence the first stays
            if entry.sequence > self.trim_line(entry.stream) and entry.sequence not in self.entries
        }
        body_bytes = sum([len(entry.body) for entry in new.values()])
        return replace(self, entries={**self.entries, **new}, rows=self.rows + len(new), size=self.size + body_bytes)

    def showing(self, header: SnapshotHeader, record: bytes) -> Held:
        """Give this with a snapshot, if it is newer."""
        if self.header is not None and self.header.revision >= header.revision:
            return self
        rows = self.rows + (self.header is None)
        return replace(self, header=header, record=record, rows=rows, size=self.size - len(self.record) + len(record))

    def trimmed(self, through_sequence: int) -> Held:
        """Give this without the entries up to a sequence."""
        start = log_start(through_sequence)
        line = self.history_trimmed_through if start else self.trimmed_through
        if through_sequence <= line:
            return self
        gone = [entry for entry in self.entries.values() if start < entry.sequence <= through_sequence]
        kept = {sequence: entry for sequence, entry in self.entries.items() if not start < sequence <= through_sequence}
        rows = self.rows - len(gone) + (line == 0)
        size = self.size - sum([len(entry.body) for entry in gone])
        if start:
            return replace(self, entries=kept, history_trimmed_through=through_sequence, rows=rows, size=size)
        return replace(self, entries=kept, trimmed_through=through_sequence, rows=rows, size=size)

    def trim_line(self, stream: int) -> int:
        """Give up to which sequence the log that a stream belongs to is trimmed."""
        return self.history_trimmed_through if stream == HISTORY_STREAM else self.trimmed_through

    def trims(self, session_id: str) -> list[Trim]:
        """Give what the store is to trim."""
        return [Trim(session_id, line) for line in (self.trimmed_through, self.history_trimmed_through) if line]


@attrs.frozen
class Portion:
    """A part of the overlay on its way to the store, whole sessions."""

    session_ids: tuple[str, ...]
    batch: Batch


class Overlay:
    """What the store does not have yet. `rows` and `bytes` say how much that is."""

    def __init__(self, *, rows_max: int, bytes_max: int, codec: Codec | None = None) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._codec = codec or Codec()
        self._held: dict[str, Held] = {}  # the session that changed first is first
        self._last_number = 0
        self.rows = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, session_id: str) -> Held | None:
        """Give what is held of a session, if anything is."""
        return self._held.get(session_id)

    def snapshot(self, held: Held) -> Snapshot | None:
        """Give the session's newest state, if it is here."""
        return None if held.header is None else self._codec.open_snapshot(held.header, held.record)

    def take(self, batch: Batch) -> None:
        """Take a batch over, by the rules of `Store.commit`, or nothing of it.

        Raises:
          StoreFull: it would grow beyond its bounds.
          Unencodable: no store could hold this.
        """
        changed = self._changed_by(batch)
        rows, size = self.rows, self.bytes
        for session_id, held in changed.items():
            before = self._held.get(session_id, _NOTHING)
            rows, size = rows + held.rows - before.rows, size + held.size - before.size
        too_many = rows > max(self._rows_max, self.rows)
        if too_many or size > max(self._bytes_max, self.bytes):
            raise StoreFull(
                f"the store is away, and memory holds {self.rows} facts ({self.bytes} bytes) for it, of"
                f" {self._rows_max} ({self._bytes_max} bytes) at most"
            )
        self._held.update(changed)
        self.rows, self.bytes = rows, size

    def oldest(self, fence: Fence, *, rows_max: int, bytes_max: int, ends_only: bool = False) -> Portion:
        """Give the sessions that have waited longest, as one batch; they stay here until `settle`.

        Args:
          rows_max, bytes_max: where to stop; a session is never divided, because its log is a product of its
            snapshot's commit. So there may be more by one session.
          ends_only: only sessions that have ended: what makes room in a store that is full.
        """
        chosen: dict[str, Held] = {}
        rows = size = 0
        for session_id, held in self._held.items():
            if rows >= rows_max or size >= bytes_max:
                break
            if not ends_only or held.tombstone is not None:
                chosen[session_id] = held
                rows, size = rows + held.rows, size + held.size
        snapshots = [self.snapshot(held) for held in chosen.values()]
        return Portion(
            tuple(chosen),
            Batch(
                fence,
                tuple([snapshot for snapshot in snapshots if snapshot is not None]),
                tuple([entry for held in chosen.values() for _, entry in sorted(held.entries.items())]),
                tuple([trim for name, held in chosen.items() for trim in held.trims(name)]),
                tuple([held.tombstone for held in chosen.values() if held.tombstone is not None]),
            ),
        )

    def settle(self, portion: Portion) -> None:
        """Let go of what the store has now. Nothing of it may have changed meanwhile."""
        for session_id in portion.session_ids:
            held = self._held.pop(session_id)
            self.rows -= held.rows
            self.bytes -= held.size

    def scan(self, after: int, limit: int) -> tuple[list[SnapshotHeader], int | None]:
        """Give a page of headers in the order in which the sessions came in, and where the next begins."""
        beyond = [held for held in self._held.values() if held.header is not None and held.number > after]
        page = beyond[:limit]
        headers = [held.header for held in page if held.header is not None]
        return headers, page[-1].number if len(beyond) > limit else None

    def over(self, headers: Iterable[SnapshotHeader]) -> Iterator[SnapshotHeader]:
        """Give the store's headers as they would be with all this in it: newer ones, and none that has ended."""
        for header in headers:
            held = self._held.get(header.session_id, _NOTHING)
            if held.tombstone is None:
                yield held.header or header

    def _changed_by(self, batch: Batch) -> dict[str, Held]:
        """Give what these sessions come to with the batch; nothing is changed yet."""
        changed: dict[str, Held] = {}

        def of(session_id: str) -> Held:
            held = changed.get(session_id) or self._held.get(session_id)
            if held is None:
                self._last_number += 1
                held = Held(self._last_number)
            return held

        for snapshot in batch.snapshots:
            header, record = snapshot.header, self._codec.seal_snapshot(snapshot)
            held = of(header.session_id)
            if held.tombstone is None:
                changed[header.session_id] = held.showing(header, record)
        for entry in batch.entries:
            self._codec.seal_entry(entry)  # only to see whether it can be
        for session_id, entries in _by_session(batch.entries).items():
            held = of(session_id)
            if held.tombstone is None:
                changed[session_id] = held.adding(entries)
        for trim in batch.trims:
            held = of(trim.session_id)
            if held.tombstone is None:
                changed[trim.session_id] = held.trimmed(trim.through_sequence)
        for tombstone in batch.tombstones:
            held = of(tombstone.session_id)
            if held.tombstone is None:
                changed[tombstone.session_id] = Held(held.number, tombstone=tombstone, rows=1)
        return changed


_NOTHING = Held(0)


def _by_session(entries: Sequence[LogEntry]) -> dict[str, list[LogEntry]]:
    sorted_out: dict[str, list[LogEntry]] = {}
    for entry in entries:
        sorted_out.setdefault(entry.session_id, []).append(entry)
    return sorted_out
