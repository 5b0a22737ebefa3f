"""The backlog: what waits to be written, session by session. Plain data and arithmetic; `writer.py` does the waiting.

For each session there is one `Pending`, which takes in whatever the session submits until a batch is formed, and then
goes into that batch whole: the newest snapshot, all entries, the receipts. Soft facts wait apart, because nobody waits
for them. Both are kept oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from persistence.records import Batch, Fence, LogEntry, Snapshot, Tombstone, Trim
from persistence.shown import shown_id
from persistence.store import StoreFull


@attrs.frozen
class Frozen:
    """A session's snapshot, and what of its history goes with it."""

    snapshot: Snapshot
    entries: tuple[LogEntry, ...] = ()
    trim: Trim | None = None
    tell: Callable[[bool], None] = lambda _: None  # whether it was kept; or refused, and soft facts are to go later


# What rides along is known only when the batch is formed; most sessions have nothing that does.
Freeze = Callable[[], Snapshot | Frozen]


@attrs.frozen
class Receipt:
    """What became of one `submit` or `bury`."""

    session_id: str
    revision: int  # as submitted: this one is durable, itself or in a newer one; 0 for a tombstone
    failure: StoreFull | None = None  # rolled back: the session goes back to what is durable


@attrs.define(eq=False)
class Pending:
    """What has gathered for one session since its last batch was formed."""

    number: int  # rises with each one, over all sessions
    since: float  # when the first of it came, on trio's clock
    revision: int = 0
    freeze: Freeze | None = None
    entries: list[LogEntry] = attrs.field(factory=list)
    trim: Trim | None = None
    tombstone: Tombstone | None = None
    tell: Callable[[bool], None] | None = None  # of what was frozen
    receipts: list[tuple[int, Callable[[Receipt], None]]] = attrs.field(factory=list)
    rows: int = 0  # what it counts for in the backlog: at least one for each receipt
    bytes: int = 0

    @property
    def batch_rows(self) -> int:
        """How many rows a batch gets from it."""
        return 1 if self.tombstone is not None else 1 + len(self.entries) + (self.trim is not None)

    @property
    def makes_room(self) -> bool:
        """Whether the store may be smaller once this is written."""
        return self.tombstone is not None or self.trim is not None


@attrs.define(eq=False)
class Soft:
    """A session's newest state, which nobody waits for."""

    revision: int
    freeze: Freeze
    since: float
    tell: Callable[[bool], None] | None = None  # of what was frozen


@attrs.frozen(eq=False)
class Flight:
    """A batch on its way, and whose it is. No session is in both."""

    pending: dict[str, Pending]
    soft: dict[str, Soft]
    batch: Batch

    @property
    def rows(self) -> int:
        """How many rows are on their way."""
        batch = self.batch
        return len(batch.snapshots) + len(batch.entries) + len(batch.trims) + len(batch.tombstones)

    def concerns(self, session_id: str) -> bool:
        """Whether anything of this session is on its way."""
        return session_id in self.pending or session_id in self.soft

    def tell_kept(self) -> None:
        """Tell whoever gave what rode along that it is durable."""
        for tell in [*[one.tell for one in self.soft.values()], *[one.tell for one in self.pending.values()]]:
            if tell is not None:
                tell(True)

    def only(self, session_ids: Iterable[str]) -> Flight:
        """Give the part of this flight that belongs to some of its waiting sessions; the same records, not new ones."""
        kept = {session_id: self.pending[session_id] for session_id in session_ids}
        batch = Batch(
            self.batch.fence,
            tuple([one for one in self.batch.snapshots if one.header.session_id in kept]),
            tuple([one for one in self.batch.entries if one.session_id in kept]),
            tuple([one for one in self.batch.trims if one.session_id in kept]),
            tuple([one for one in self.batch.tombstones if one.session_id in kept]),
        )
        return Flight(kept, {}, batch)


class Backlog:
    """What has gathered. `rows` and `bytes` count what has been taken off as well, until `done` is told."""

    def __init__(self) -> None:
        self.gathering: dict[str, Pending] = {}
        self.soft: dict[str, Soft] = {}  # its natural bound: one for each live session
        self.rows = 0
        self.bytes = 0
        self.last_number = 0

    def submit(
        self,
        session_id: str,
        revision: int,
        freeze: Freeze,
        entries: tuple[LogEntry, ...],
        trim: Trim | None,
        receipt: Callable[[Receipt], None],
        now: float,
    ) -> None:
        """Take in a session's newest state, and what belongs to it."""
        pending = self._pending(session_id, now)
        if pending.tombstone is None:  # otherwise there is nothing left to write for it
            pending.revision, pending.freeze = revision, freeze
            pending.entries += entries
            pending.trim = trim or pending.trim
        pending.receipts.append((revision, receipt))
        self._count(pending, 1 + len(entries) + (trim is not None), body_bytes(entries))
        self.soft.pop(session_id, None)  # it is in the newer state

    def submit_soft(self, session_id: str, revision: int, freeze: Freeze, now: float) -> None:
        """Take in a session's newest state for some time soon."""
        pending = self.gathering.get(session_id)
        if pending is None:
            soft = self.soft.setdefault(session_id, Soft(revision, freeze, now))
            soft.revision, soft.freeze = revision, freeze
        elif pending.tombstone is None:
            pending.revision, pending.freeze = revision, freeze

    def bury(self, tombstone: Tombstone, receipt: Callable[[Receipt], None], now: float) -> None:
        """Take in a session's end; what has gathered for it need not be written any more."""
        pending = self._pending(tombstone.session_id, now)
        pending.tombstone = pending.tombstone or tombstone
        pending.freeze, pending.trim = None, None
        pending.entries.clear()
        pending.receipts.append((0, receipt))
        self._count(pending, 1, 0)
        self.soft.pop(tombstone.session_id, None)

    def discard(self, session_id: str) -> Pending | None:
        """Drop and give what has gathered for a session, unless it is its end."""
        self.soft.pop(session_id, None)
        pending = self.gathering.get(session_id)
        if pending is None or pending.tombstone is not None:
            return None
        del self.gathering[session_id]
        self.done(pending)
        return pending

    def harden(self, session_ids: Iterable[str], now: float) -> None:
        """Make soft facts of these sessions part of the next batch."""
        for session_id in session_ids:
            soft = self.soft.pop(session_id, None)
            if soft is not None:
                pending = self._pending(session_id, now)
                pending.revision, pending.freeze = soft.revision, soft.freeze

    def soften(self, session_id: str, refused: Soft | Pending, now: float) -> None:
        """Take back a soft fact that could not be written, unless something newer has come."""
        revision, freeze = refused.revision, refused.freeze
        assert freeze is not None
        if refused.tell is not None:
            refused.tell(False)
        if session_id not in self.gathering:
            self.soft.setdefault(session_id, Soft(revision, freeze, now))

    def take_off(self, fence: Fence, *, rows_max: int, soft_max: int) -> Flight:
        """Form the next batch from what is oldest; snapshots are frozen now.

        Args:
          rows_max: where to stop; a session is never divided, so there may be more by one session's rows.
          soft_max: soft facts to take along, at most, if there is room.
        """
        pending = self._oldest(rows_max)
        rows = sum([one.batch_rows for one in pending.values()])
        room = max(0, min(soft_max, rows_max - rows))
        soft = {session_id: self.soft.pop(session_id) for session_id in list(self.soft)[:room]}
        return Flight(pending, soft, _batch(fence, pending, soft))

    def done(self, pending: Pending) -> None:
        """Stop counting what was written or given up."""
        self.rows -= pending.rows
        self.bytes -= pending.bytes

    def _oldest(self, rows_max: int) -> dict[str, Pending]:
        if self.rows <= rows_max:  # the common case: all of it
            taken, self.gathering = self.gathering, {}
            return taken
        taken, rows = {}, 0
        for session_id, pending in self.gathering.items():
            if rows >= rows_max:
                break
            taken[session_id] = pending
            rows += pending.batch_rows
        for session_id in taken:
            del self.gathering[session_id]
        return taken

    def _pending(self, session_id: str, now: float) -> Pending:
        pending = self.gathering.get(session_id)
        if pending is None:
            self.last_number += 1
            pending = self.gathering[session_id] = Pending(self.last_number, now)
        return pending

    def _count(self, pending: Pending, rows: int, size: int) -> None:
        pending.rows += rows
        pending.bytes += size
        self.rows += rows
        self.bytes += size


def body_bytes(entries: Sequence[LogEntry]) -> int:
    """Count the bytes of these entries' bodies."""
    return sum([len(entry.body) for entry in entries]) if entries else 0


def _batch(fence: Fence, pending: dict[str, Pending], soft: dict[str, Soft]) -> Batch:
    snapshots: list[Snapshot] = []
    entries: list[LogEntry] = []
    trims: list[Trim] = []
    tombstones: list[Tombstone] = []
    for session_id, one in pending.items():
        entries += one.entries
        if one.trim is not None:
            trims.append(one.trim)
        if one.freeze is not None:
            one.tell = _freeze(session_id, one.revision, one.freeze, snapshots, entries, trims)
        if one.tombstone is not None:
            tombstones.append(one.tombstone)
    for session_id, unsaved in soft.items():
        unsaved.tell = _freeze(session_id, unsaved.revision, unsaved.freeze, snapshots, entries, trims)
    return Batch(fence, tuple(snapshots), tuple(entries), tuple(trims), tuple(tombstones))


def _freeze(
    session_id: str,
    revision: int,
    freeze: Freeze,
    snapshots: list[Snapshot],
    entries: list[LogEntry],
    trims: list[Trim],
) -> Callable[[bool], None] | None:
    """Add a session's snapshot to a batch in the making, and what rides along; give whom to tell what became of it."""
    frozen = freeze()
    tell: Callable[[bool], None] | None = None
    if isinstance(frozen, Snapshot):
        snapshot = frozen
    else:
        snapshot, tell = frozen.snapshot, frozen.tell
        entries += frozen.entries
        if frozen.trim is not None:
            trims.append(frozen.trim)
    header = snapshot.header
    shown = shown_id(session_id)
    assert header.session_id == session_id, f"session {shown} froze a snapshot of {shown_id(header.session_id)}"
    assert header.revision >= revision, f"session {shown} submitted {revision}, froze {header.revision}"
    snapshots.append(snapshot)
    return tell
