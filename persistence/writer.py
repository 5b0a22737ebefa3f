"""The writer: the persistence actor. Commits what all sessions submit, batch by batch, and tells them.

Natural group commit: one batch is in flight, the next gathers meanwhile, an idle writer commits at once. So no timer
is needed, and a batch is as large as the store is slow. Of a session's snapshots only the newest is written; its log
entries accumulate, and go into the same batch, because the log is a product of the snapshot's commit.

What happens when the store refuses:

- StoreUnavailable: the outcome is unknown, so the same batch again, with backoff, for as long as it takes. Nothing is
  acknowledged meanwhile; the backlog is bounded, and `submit` refuses beyond.
- StoreFull: the batch was rolled back. All sessions in it get receipts with the failure, and so do those receipts
  that these sessions have coming, because what they have submitted since was built on what failed. Only what may make
  room is tried again by itself: first tombstones together with sessions that trim, then tombstones alone, then half of
  them, and so on. Other sessions are not tried one by one: a full disk would be asked a thousand times. Soft facts wait
  for another time.
- StoreBroken, FenceLost, anything else: out of `run`; the process must end.

The writer says what is durable. Holding outputs back until then is the business of whoever submits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import trio

from persistence.backlog import Backlog, Flight, Freeze, Frozen, Pending, Receipt, body_bytes
from persistence.buckets import ROWS, Buckets
from persistence.records import Batch, Fence, LogEntry, Tombstone, Trim
from persistence.store import FenceLost, Store, StoreFull, StoreUnavailable

__all__ = ["Freeze", "Frozen", "Receipt", "Writer", "WriterBacklogFull", "WriterEnded", "WriterStatistics"]

ROWS_MAX = 1000  # larger batches gain nothing (84k rows/s at 100 as at 1000), and their replies wait longer
BACKLOG_ROWS_MAX = 50_000  # about a second of commits at full speed
BACKLOG_BYTES_MAX = 64 << 20
SOFT_RIDERS_MAX = 64  # soft facts that ride with a batch of hard ones; each costs the replies there some 20 us


class WriterBacklogFull(Exception):
    """So much waits to be written that no more is taken: the store is slow or away. Nothing was submitted."""


class WriterEnded(Exception):
    """The writer has ended; what it had not committed will not be."""


@attrs.frozen
class WriterStatistics:
    """How the writer is doing."""

    backlog_rows: int  # submitted and not durable, with what is in flight; soft facts apart
    backlog_bytes: int  # of log entries' bodies among them
    soft_sessions: int  # sessions with soft facts that are not durable
    oldest_seconds: float  # age of the oldest submitted fact that is not durable; 0 when all is
    commits: int
    rows: int  # snapshots, entries, trims and tombstones, over all commits
    last_batch_rows: int
    outage_seconds: float  # how long the store has been unavailable; 0 when it is not
    sessions_waiting: int  # whose answers are held back until what they rest on is durable
    unavailable: int  # commits whose outcome was unknown, since the start; each was sent again
    refused: int  # commits for which there was no room, since the start
    full: bool  # the last commit was one of those
    fenced: int = 0  # commits refused since another owns what they would write to; the process ends with the first


class Writer:
    """Commits what sessions submit, and tells each when it is durable.

    Args:
      store: where to; stays the caller's to close, after the writer has ended.
      fence: the right to write there.
      rows_max: rows of one batch. What one session has pending is never divided, so it can be more by that.
      backlog_rows_max, backlog_bytes_max: what may wait before `submit` refuses.
      retry_seconds, retry_seconds_max: first and longest pause before a batch of unknown outcome is sent again.
      soft_flush_seconds: how long soft facts wait for a batch to ride with.
      final_flush_seconds: how long the last flush may take once the writer is cancelled.
    """

    def __init__(
        self,
        store: Store,
        fence: Fence,
        *,
        rows_max: int = ROWS_MAX,
        backlog_rows_max: int = BACKLOG_ROWS_MAX,
        backlog_bytes_max: int = BACKLOG_BYTES_MAX,
        retry_seconds: float = 0.05,
        retry_seconds_max: float = 5.0,
        soft_flush_seconds: float = 1.0,
        final_flush_seconds: float = 5.0,
    ) -> None:
        self._store = store
        self._fence = fence
        self._rows_max = rows_max
        self._backlog_rows_max = backlog_rows_max
        self._backlog_bytes_max = backlog_bytes_max
        self._retry_seconds = retry_seconds
        self._retry_seconds_max = retry_seconds_max
        self._soft_flush_seconds = soft_flush_seconds
        self._final_flush_seconds = final_flush_seconds

        self._backlog = Backlog()
        self._flight: Flight | None = None
        self._work: trio.Event | None = None  # set while the writer waits for some
        self._change: trio.Event | None = None  # set while someone waits for a flight to end
        self._ended = False
        self._refusal: StoreFull | None = None  # the last one
        self._commits = 0
        self._rows = 0
        self._last_batch_rows = 0
        self._outage_began: float | None = None
        self._unavailable = 0
        self._refused = 0
        self._fenced = 0
        self._full = False
        self.commit_seconds = Buckets()  # from the hand-over to the outcome, further tries included
        self.batch_rows = Buckets(ROWS)

    def __repr__(self) -> str:
        state = "ended" if self._ended else "in flight" if self._flight else "idle"
        return f"<Writer {state}, backlog {self._backlog.rows} rows, {self._commits} commits>"

    def submit(
        self,
        session_id: str,
        revision: int,
        freeze: Freeze,
        *,
        entries: tuple[LogEntry, ...] = (),
        trim: Trim | None = None,
        receipt: Callable[[Receipt], None],
    ) -> None:
        """Have a session's state at `revision` kept, with the log entries that belong to it.

        Args:
          revision: higher than any submitted for this session before.
          freeze: gives the snapshot at this revision, and what of the session's history goes with it; called once,
            when the batch is formed, or not at all if a newer one is submitted before.
          receipt: called in the writer's task when the revision is durable, or will not be; not called if the writer
            ends first. A session's receipts come in the order of their submission.

        Raises:
          WriterBacklogFull: nothing was submitted. The session is to undo what it wanted kept.
        """
        backlog = self._backlog
        rows = 1 + len(entries) + (trim is not None)
        if (
            backlog.rows + rows > self._backlog_rows_max
            or backlog.bytes + body_bytes(entries) > self._backlog_bytes_max
        ):
            raise WriterBacklogFull(f"{backlog.rows} rows, {backlog.bytes} bytes wait to be written")
        backlog.submit(session_id, revision, freeze, entries, trim, receipt, trio.current_time())
        self._wake()

    def submit_soft(self, session_id: str, revision: int, freeze: Freeze) -> None:
        """Have a session's state kept some time soon: with a batch, or after `soft_flush_seconds`.

        For facts that nobody is told of (last activity, counters): no receipt, and no reply waits for them. `freeze`
        may be called again if its batch was refused.
        """
        self._backlog.submit_soft(session_id, revision, freeze, trio.current_time())
        if len(self._backlog.soft) == 1:  # the writer may be waiting without a deadline
            self._wake()

    def bury(self, tombstone: Tombstone, receipt: Callable[[Receipt], None]) -> None:
        """Have a session's end kept. What has gathered for it is not written any more; its receipts come all the same.

        Never refused: it makes room, and there is one for each session at most.
        """
        self._backlog.bury(tombstone, receipt, trio.current_time())
        self._wake()

    def discard(self, session_id: str) -> None:
        """Forget what has gathered for a session, receipts too: for a session that goes back to what is durable.

        To be called when a session's actor has crashed, before `settle` and `Store.load`. Nobody has been told of
        what gathers, so forgetting it is allowed, as kill -9 would; and it is better: `freeze` has not been called
        yet, and what it would give is the state that the actor crashed in, or on. What is in flight is not called
        back; a tombstone stays, because a session's end does not depend on its state.
        """
        self._backlog.discard(session_id)
        self._tell_change()

    async def settle(self, session_id: str) -> None:
        """Wait until nothing of this session is gathering or in flight, soft facts included; or the writer has ended.

        Recovery calls this before `Store.load`: loading while an older incarnation's commit is still travelling would
        fork the session's history. It waits as long as the store is away: put a deadline around it.

        Cancellation: safe; nothing is changed by waiting.
        """
        await trio.lowlevel.checkpoint()
        self._harden(session_id)
        while not self._ended and self._concerns(session_id):
            await self._wait_for_change()

    async def flush(self) -> None:
        """Wait until everything submitted so far is durable, soft facts included.

        Raises:
          StoreFull: some of it was rolled back.
          WriterEnded: some of it will not be written.

        Cancellation: safe.
        """
        await trio.lowlevel.checkpoint()
        refusal = self._refusal
        flight = self._flight
        self._harden(*self._backlog.soft)
        last = self._backlog.last_number
        while (flight is not None and flight is self._flight) or self._first_number() <= last:
            if self._ended:
                raise WriterEnded("the writer ended before everything was written")
            await self._wait_for_change()
        if self._refusal is not None and self._refusal is not refusal:
            raise self._refusal

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit until cancelled.

        Raises:
          StoreBroken, FenceLost: nothing may be acknowledged any more; the process must end.

        Cancellation: commits what has gathered, soft facts too, then ends; under a shield of `final_flush_seconds`.
        """
        task_status.started()
        try:
            while True:
                await self._wait_for_work()
                await self._commit_next()
        except trio.Cancelled:
            with trio.move_on_after(self._final_flush_seconds, shield=True):
                await self._commit_the_rest()
            raise
        finally:
            self._ended = True
            self._tell_change()

    def statistics(self) -> WriterStatistics:
        """Say how the writer is doing, now."""
        now = trio.current_time()
        waiting = (self._flight.pending if self._flight else None) or self._backlog.gathering
        oldest = next(iter(waiting.values())).since if waiting else now
        return WriterStatistics(
            backlog_rows=self._backlog.rows,
            backlog_bytes=self._backlog.bytes,
            soft_sessions=len(self._backlog.soft) + (len(self._flight.soft) if self._flight else 0),
            oldest_seconds=now - oldest,
            commits=self._commits,
            rows=self._rows,
            last_batch_rows=self._last_batch_rows,
            outage_seconds=0.0 if self._outage_began is None else now - self._outage_began,
            sessions_waiting=len(self._backlog.gathering) + (len(self._flight.pending) if self._flight else 0),
            unavailable=self._unavailable,
            refused=self._refused,
            full=self._full,
            fenced=self._fenced,
        )

    def _wake(self) -> None:
        if self._work is not None:
            self._work.set()

    def _harden(self, *session_ids: str) -> None:
        self._backlog.harden(session_ids, trio.current_time())
        if self._backlog.gathering:
            self._wake()

    def _concerns(self, session_id: str) -> bool:
        backlog, flight = self._backlog, self._flight
        gathers = session_id in backlog.gathering or session_id in backlog.soft
        return gathers or (flight is not None and flight.concerns(session_id))

    def _first_number(self) -> float:
        """Give the number of the oldest pending that is not durable."""
        waiting = (self._flight.pending if self._flight else None) or self._backlog.gathering
        return next(iter(waiting.values())).number if waiting else float("inf")

    async def _wait_for_change(self) -> None:
        if self._change is None:
            self._change = trio.Event()
        await self._change.wait()

    def _tell_change(self) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None

    async def _wait_for_work(self) -> None:
        # Also when there is some: whoever the last receipts woke gets to submit into this batch, not the one after.
        await trio.lowlevel.checkpoint()
        while not self._backlog.gathering and trio.current_time() < self._soft_due_at():
            self._work = trio.Event()
            with trio.move_on_at(self._soft_due_at()):
                await self._work.wait()
            self._work = None

    def _soft_due_at(self) -> float:
        for soft in self._backlog.soft.values():  # the oldest
            return soft.since + self._soft_flush_seconds
        return float("inf")

    async def _commit_next(self) -> None:
        due = trio.current_time() >= self._soft_due_at()
        self._flight = self._backlog.take_off(
            self._fence, rows_max=self._rows_max, soft_max=self._rows_max if due else SOFT_RIDERS_MAX
        )
        await self._commit_flight(self._flight)

    async def _commit_the_rest(self) -> None:
        if self._flight is not None:  # cancelled before its outcome was known
            await self._commit_flight(self._flight)
        self._harden(*self._backlog.soft)
        while self._backlog.gathering:
            await self._commit_next()

    async def _commit_flight(self, flight: Flight) -> None:
        """See a flight through: committed, or refused for want of room and told so."""
        part: Flight | None = flight
        while part is not None:
            self._flight = flight = part
            try:
                await self._commit_until_known(flight.batch)
            except StoreFull as refusal:
                part = self._give_up(flight, refusal)
            else:
                part = None
                self._land(flight)

    async def _commit_until_known(self, batch: Batch) -> None:
        pause_seconds = self._retry_seconds
        began = trio.current_time()
        while True:
            try:
                await self._store.commit(batch)
            except StoreUnavailable:
                self._unavailable += 1
                if self._outage_began is None:
                    self._outage_began = trio.current_time()
            except StoreFull:
                self._outage_began = None
                self._refused += 1
                self._full = True
                raise
            except FenceLost:
                self._fenced += 1
                raise
            else:
                self._outage_began = None
                self._full = False
                self.commit_seconds.add(trio.current_time() - began)
                return
            await trio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, self._retry_seconds_max)

    def _land(self, flight: Flight) -> None:
        self._flight = None
        self._commits += 1
        self._last_batch_rows = flight.rows
        self._rows += flight.rows
        self.batch_rows.add(flight.rows)
        flight.tell_kept()
        for session_id, pending in flight.pending.items():
            self._backlog.done(pending)
            for revision, receipt in pending.receipts:
                receipt(Receipt(session_id, revision))
        self._tell_change()

    def _give_up(self, flight: Flight, refusal: StoreFull) -> Flight | None:
        """Fail the sessions of a flight that was refused; give the part that is to be tried again, if any."""
        self._refusal = refusal
        now = trio.current_time()
        for session_id, soft in flight.soft.items():
            self._backlog.soften(session_id, soft, now)
        part = _what_makes_room(flight)
        self._flight = part
        kept: Mapping[str, Pending] = part.pending if part else {}
        failed: list[tuple[str, Pending]] = []
        for session_id, pending in flight.pending.items():
            if session_id not in kept:
                failed += [(session_id, one) for one in self._take_back(session_id, pending, now)]
        # Told only when all of it is out of the backlog: a session may submit anew from within its receipt.
        for session_id, pending in failed:
            for revision, receipt in pending.receipts:
                receipt(Receipt(session_id, revision, refusal))
        self._tell_change()
        return part

    def _take_back(self, session_id: str, pending: Pending, now: float) -> list[Pending]:
        """Take what failed out of the backlog, with what was built on it; oldest first."""
        self._backlog.done(pending)
        if not pending.receipts and pending.freeze is not None:  # only soft facts that someone wanted flushed
            self._backlog.soften(session_id, pending, now)
            return []
        later = self._backlog.discard(session_id)
        return [pending] if later is None else [pending, later]


def _what_makes_room(flight: Flight) -> Flight | None:
    """Give the largest part of a refused flight that has a better chance, or None."""
    makes_room = [session_id for session_id, pending in flight.pending.items() if pending.makes_room]
    ends = [session_id for session_id in makes_room if flight.pending[session_id].tombstone is not None]
    for chosen in (makes_room, ends):
        if chosen and (len(chosen) < len(flight.pending) or flight.soft):
            return flight.only(chosen)
    # An end takes its session's log along, and so changes many pages at once: fewer of them may fit. Those left out are
    # told so, and asked for again; after a half has passed there is room for them.
    return flight.only(ends[: len(ends) // 2]) if len(ends) > 1 else None
