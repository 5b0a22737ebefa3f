"""DegradingStore: a store that goes on from memory while the one behind it is away. The outage policy `degrade`.

With a store by itself (the policy `refuse`) nothing is acknowledged during an outage. In front of it, this one is
patient for a moment and then degrades: commits go into a bounded overlay in memory and are acknowledged, though a
crash would lose them. That is this policy's bargain, so it is said wherever one can look: `degraded`, `survives`,
`probe`, and a line in the log when it begins and when it ends.

- What makes it degrade is an operation that has to succeed: claim, commit, scan, probe, and opening. Reading does not:
  memory could not help. `load` and `read_log` give what is in memory, else what the store gives, else its error.
- `run` tries the store again, with backoff. Once it answers: claim it, if it never was; write back, oldest session
  first, whole sessions, in bounded batches that may be sent again; give `on_adopted` what is stored there and no scan
  has told of; and only when nothing is left is it over. Commits and batches on their way back take turns, and a batch
  back may be larger, so that the end is reached however much comes in.
- A store that was claimed by another meanwhile refuses what is written back: `FenceLost`, out of `run`, as ever. A
  store that was claimed before is therefore never claimed again by itself.
- The overlay full: `StoreFull`. The store back, but full: still degraded; what makes room is written first.
- Fences given out here are this store's own, because it may have to give one while there is nobody to ask.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import attrs
import structlog
import trio

from persistence.overlay import Overlay
from persistence.records import Batch, Fence, LogEntry, Snapshot, SnapshotHeader, StoreHealth
from persistence.resealing import marked
from persistence.store import FenceLost, Store, StoreError, StoreFull, StoreUnavailable
from persistence.through import Through

log = structlog.get_logger("outlast.store")

Result = TypeVar("Result")

PATIENCE_SECONDS = 1.0  # short of the five seconds after which callers are told that the outcome is in doubt
# What 100,000 sessions need with a snapshot each and some events: more is a reason to stop taking sessions.
OVERLAY_ROWS_MAX = 500_000
OVERLAY_BYTES_MAX = 256 << 20
# Larger than the writer's batches (1000 rows), so that writing back gains on what comes in meanwhile.
BACK_ROWS_MAX = 4000
BACK_BYTES_MAX = 16 << 20
REACH_SECONDS_MAX = 10.0  # for one attempt to open, claim and probe a store; commits have the store's own bound

_BEHIND = -(1 << 62)  # the position at which a scan that began in the overlay goes on in the store


@attrs.frozen
class Degraded:
    """What would be lost if the process ended now."""

    since_unix_s: float
    sessions: int  # that have facts which are not durable
    facts: int  # snapshots, entries, trims and tombstones
    bytes: int
    reason: str  # what the store said last


@attrs.frozen
class _Outage:
    since_unix_s: float
    since: float  # on trio's clock
    reason: str


def _nobody_to_tell(headers: Sequence[SnapshotHeader]) -> None:
    """What is adopted is in the store, and found there by whoever looks."""


class DegradingStore(Through):
    """Keeps sessions in a store, and in memory while that does not answer. Made by `open`.

    Args:
      open_primary: opens the store behind; called again until it succeeds. It is closed with this one.
      name: what to call it while it has not been opened; without secrets.
      patience_seconds: how long an operation insists on a store that does not answer before this degrades.
      rows_max, bytes_max: what may be held in memory for the store.
      retry_seconds, retry_seconds_max: first and longest pause before the store is tried again.
    """

    def __init__(
        self,
        open_primary: Callable[[], Awaitable[Store]],
        *,
        name: str = "store",
        patience_seconds: float = PATIENCE_SECONDS,
        rows_max: int = OVERLAY_ROWS_MAX,
        bytes_max: int = OVERLAY_BYTES_MAX,
        retry_seconds: float = 0.1,
        retry_seconds_max: float = 5.0,
    ) -> None:
        self.on_adopted: Callable[[Sequence[SnapshotHeader]], None] = _nobody_to_tell
        self._open_primary = open_primary
        self._name = name
        self._patience_seconds = patience_seconds
        self._retry_seconds = retry_seconds
        self._retry_seconds_max = retry_seconds_max

        self._primary: Store | None = None
        self._primary_fence: Fence | None = None  # None: to be claimed when it is back
        self._fence: Fence | None = None  # the newest that was given out here
        self._overlay = Overlay(rows_max=rows_max, bytes_max=bytes_max)
        self._outage: _Outage | None = None
        self._away = trio.Event()  # set while there is an outage
        self._turn = trio.Lock()  # during an outage: commits and batches on their way back, one after the other
        self._known = trio.Event()  # not set: the primary holds sessions that a scan could not tell of
        self._known.set()
        self._blind = False  # it is not known which sessions cannot be opened: they are to be adopted, not scanned
        self._lost: StoreError | None = None  # why nothing may be written any more
        self._closed = False

    @classmethod
    async def open(
        cls,
        open_primary: Callable[[], Awaitable[Store]],
        *,
        name: str = "store",
        patience_seconds: float = PATIENCE_SECONDS,
        rows_max: int = OVERLAY_ROWS_MAX,
        bytes_max: int = OVERLAY_BYTES_MAX,
    ) -> DegradingStore:
        """Open the store behind, or begin degraded if it does not answer. Arguments as of the class.

        Raises:
          StoreUrlInvalid, StoreInvalid, StoreInUse, StoreFull, StoreBroken: it answers, and cannot be used.
        """
        store = cls(open_primary, name=name, patience_seconds=patience_seconds, rows_max=rows_max, bytes_max=bytes_max)
        with suppress(StoreUnavailable):  # degraded now
            store._primary = await store._insist(open_primary)
        return store

    def __repr__(self) -> str:
        state = "closed" if self._closed else "degraded" if self._outage else "durable"
        return f"<DegradingStore {self.url} {state}, {self._overlay.rows} facts in memory>"

    @property
    def url(self) -> str:
        """Where the store behind is."""
        return self._name if self._primary is None else self._primary.url

    @property
    def survives(self) -> str:
        """What the store behind promises; ``memory`` while degraded."""
        return "memory" if self._primary is None or self._outage is not None else self._primary.survives

    @property
    def degraded(self) -> Degraded | None:
        """What is not durable, since when and why; None: everything that was acknowledged is."""
        if self._outage is None:
            return None
        held = self._overlay
        return Degraded(self._outage.since_unix_s, len(held), held.rows, held.bytes, self._outage.reason)

    @property
    def knows_all(self) -> bool:
        """Whether scanning and `on_adopted` together have told of every stored session."""
        return self._known.is_set()

    async def wait_known(self) -> None:
        """Wait for `knows_all`: as long as the store is away. Cancellation: safe."""
        await self._known.wait()

    # ---- what a store does ----

    async def claim(self, owner: str) -> Fence:
        """Become the one owner; of the store behind, too, or as soon as it is back."""
        self._check_open()
        primary = self._primary
        if primary is not None and self._outage is None:
            granted = None
            with suppress(StoreUnavailable):  # degraded now: it may have been claimed or not, so it will be again
                granted = await self._insist(lambda: primary.claim(owner))
            self._primary_fence = granted
        number = self._fence.number + 1 if self._fence is not None else 1
        if self._outage is None and self._primary_fence is not None:
            number = max(number, self._primary_fence.number)
        self._fence = Fence(owner, number)
        await trio.lowlevel.checkpoint()
        return self._fence

    async def obstacles(self) -> Mapping[str, str]:
        """Give the stored sessions that cannot be opened here; while the store is away, it marks those it adopts."""
        self._blind = True
        with suppress(StoreUnavailable):  # degraded now, or before
            found = await self._insist(super().obstacles)
            self._blind = False
            return found
        return {}

    async def commit(self, batch: Batch) -> None:
        """Write the batch durably, or hold it in memory during an outage.

        Cancellation: as the store's; between two attempts the outcome is unknown.
        """
        while True:
            self._check_batch(batch)
            if self._outage is None:
                with suppress(StoreUnavailable):  # degraded now
                    return await self._commit_behind(batch)
            async with self._turn:
                self._check_batch(batch)
                if self._outage is not None:  # otherwise the store came back while this waited for its turn
                    return self._overlay.take(batch)

    async def _commit_behind(self, batch: Batch) -> None:
        primary, fence = self._primary, self._primary_fence
        assert primary is not None, "not degraded, so it was opened"
        assert fence is not None, "not degraded, so it was claimed for the fence that was given out"
        addressed = batch if fence == batch.fence else attrs.evolve(batch, fence=fence)
        await self._insist(lambda: primary.commit(addressed))

    async def load(self, session_id: str) -> Snapshot | None:
        """Give the newest snapshot: the one in memory, else the stored one."""
        self._check_open()
        held = self._overlay.get(session_id)
        if held is None or (held.tombstone is None and held.header is None):
            return await self._behind().load(session_id)
        await trio.lowlevel.checkpoint()
        return self._overlay.snapshot(held)

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        """Give a stream's entries after an offset: the stored ones, then those in memory."""
        self._check_open()
        held = self._overlay.get(session_id)
        if held is None:
            return await self._behind().read_log(session_id, stream=stream, after=after, limit=limit)
        # As they are now: while the store is asked, they may go there.
        newer = sorted(
            [entry for entry in held.entries.values() if entry.stream == stream and entry.offset > after],
            key=lambda entry: entry.offset,
        )
        is_whole = held.tombstone is not None or (bool(newer) and newer[0].offset == after + 1)
        if is_whole:  # offsets have no gaps: nothing stored can be missing
            await trio.lowlevel.checkpoint()
            return newer[:limit]
        stored, through = await self._read_stored(session_id, stream, after, limit, held.trim_line(stream))
        known = {entry.sequence for entry in stored}
        return [*stored, *[one for one in newer if one.sequence not in known and one.offset <= through]][:limit]

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        """Give a page of headers: those in memory first, then the stored ones.

        What the store cannot tell of now goes to `on_adopted` when it is back. A session that is written back
        between two pages, or is in both places, is given twice, the newer header each time.
        """
        self._check_open()
        if after <= 0 and after != _BEHIND and len(self._overlay):
            await trio.lowlevel.checkpoint()
            headers, position = self._overlay.scan(-after, limit)
            return headers, _BEHIND if position is None else -position
        position_behind = max(after, 0)
        primary = self._primary
        if primary is not None and not self._blind:
            with suppress(StoreUnavailable):  # degraded, now or before
                found, following = await self._insist(lambda: primary.scan(after=position_behind, limit=limit))
                return list(self._overlay.over(found)), following
        self._known = trio.Event()
        await trio.lowlevel.checkpoint()
        return [], None

    async def probe(self) -> StoreHealth:
        """Probe the store behind; while degraded, say so, and what is at stake."""
        self._check_open()
        primary = self._primary
        if primary is not None and self._outage is None:
            with suppress(StoreUnavailable):  # degraded now
                return await self._insist(primary.probe)
        await trio.lowlevel.checkpoint()
        degraded = self.degraded
        assert degraded is not None, "a store that is not degraded has been probed"
        detail = f"degraded: {degraded.facts} facts of {degraded.sessions} sessions are in memory only"
        return StoreHealth("degraded", True, 0.0, degraded.sessions, f"{detail}; {degraded.reason}")

    async def aclose(self) -> None:
        """Try once more to write back what is in memory, then close the store behind.

        Cancellation: the store behind is closed all the same; what was in memory is lost, and the log says so.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._known.set()  # nobody is left to tell of stored sessions
        try:
            if self._outage is not None and self._lost is None and len(self._overlay):
                await self._come_back()
        except StoreError as error:
            self._note(error)
        finally:
            if self.degraded is not None and len(self._overlay):
                log.error("closed while degraded: facts are lost", **attrs.asdict(self.degraded))
            if self._primary is not None:
                await self._primary.aclose()

    # ---- the way back ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Bring the store back after each outage, until cancelled.

        Raises:
          FenceLost: another has claimed the store meanwhile; what is in memory will never be written.
          StoreInUse, StoreInvalid, StoreBroken: it is back, and cannot be used; the process must end.

        Cancellation: safe; `aclose` makes the last attempt.
        """
        task_status.started()
        while True:
            await self._away.wait()
            pause_seconds = self._retry_seconds
            while self._outage is not None:
                await trio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, self._retry_seconds_max)
                try:
                    await self._come_back()
                except (StoreUnavailable, StoreFull) as error:
                    self._note(error)
                except StoreError as error:
                    self._lost = error
                    raise

    async def _come_back(self) -> None:
        """Reach the store and give it all that it missed; then the outage is over."""
        primary = await self._reach()
        while self._outage is not None:
            await self._write_back(primary)
            if not len(self._overlay) and not self.knows_all:
                await self._adopt(primary)

    async def _reach(self) -> Store:
        """Open the store if that has not been done, and see that it answers."""
        try:
            with trio.fail_after(REACH_SECONDS_MAX):
                if self._primary is None:
                    self._primary = await self._open_primary()
                with suppress(StoreFull):  # it answers; what makes room may find some
                    await self._primary.probe()
        except trio.TooSlowError:
            raise StoreUnavailable(f"no answer within {REACH_SECONDS_MAX:g} s") from None
        return self._primary

    async def _write_back(self, primary: Store) -> None:
        """Write one batch back, claiming the store first if it never was; end the outage if it was the last."""
        async with self._turn:
            if self._primary_fence is None and self._fence is not None:
                self._primary_fence = await primary.claim(self._fence.owner)
            if len(self._overlay):
                assert self._primary_fence is not None, "what is held was committed with a fence"
                await self._write_portion(primary, self._primary_fence)
            if not len(self._overlay) and self.knows_all:
                self._recover()

    async def _write_portion(self, primary: Store, fence: Fence) -> None:
        portion = self._overlay.oldest(fence, rows_max=BACK_ROWS_MAX, bytes_max=BACK_BYTES_MAX)
        try:
            await primary.commit(portion.batch)
        except StoreFull:
            ends = self._overlay.oldest(fence, rows_max=BACK_ROWS_MAX, bytes_max=BACK_BYTES_MAX, ends_only=True)
            if not ends.session_ids or ends.session_ids == portion.session_ids:
                raise
            portion = ends
            await primary.commit(portion.batch)
        self._overlay.settle(portion)

    async def _adopt(self, primary: Store) -> None:
        """Tell of the sessions that are stored and that no scan has given."""
        obstacles = await super().obstacles()
        self._blind = False
        after: int | None = 0
        while after is not None:
            headers, after = await primary.scan(after=after)
            self.on_adopted([marked(header, obstacles) for header in self._overlay.over(headers)])
        self._known.set()

    # ---- the outage ----

    async def _insist(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        """Do it again until the store answers or patience is over; then the outage has begun.

        Raises:
          StoreUnavailable: degraded.
        """
        patient_until = trio.current_time() + self._patience_seconds
        pause_seconds = self._retry_seconds
        while True:
            try:
                return await operation()
            except StoreUnavailable as error:
                left_seconds = patient_until - trio.current_time()
                if self._outage is not None or left_seconds <= 0:
                    self._note(error)
                    raise
            await trio.sleep(min(pause_seconds, left_seconds))
            pause_seconds *= 2

    def _note(self, error: StoreError) -> None:
        """Begin the outage, or take down what the store said last."""
        if self._outage is not None:
            self._outage = attrs.evolve(self._outage, reason=str(error))
            return
        self._outage = _Outage(time.time(), trio.current_time(), str(error))
        self._away.set()
        log.warning("degraded: what is acknowledged from now on is in memory only", store=self.url, why=str(error))

    def _recover(self) -> None:
        outage, self._outage = self._outage, None
        self._away = trio.Event()
        assert outage is not None, "an outage ends once"
        seconds = trio.current_time() - outage.since
        log.warning("durable again: the store has everything", store=self.url, degraded_seconds=round(seconds, 3))

    def _behind(self) -> Store:
        self._check_open()
        if self._primary is None:
            raise StoreUnavailable(self._outage.reason if self._outage is not None else "the store was not opened")
        return self._primary

    async def _read_stored(
        self, session_id: str, stream: int, after: int, limit: int, trimmed_through: int
    ) -> tuple[list[LogEntry], float]:
        """Read one page past what was trimmed; give it, and up to which offset nothing stored is missing."""
        while True:
            page = await self._behind().read_log(session_id, stream=stream, after=after, limit=limit)
            kept = [entry for entry in page if entry.sequence > trimmed_through]
            if len(page) < limit:
                return kept, float("inf")
            after = page[-1].offset
            if kept:
                return kept, after

    def _fence_behind(self, fence: Fence) -> Fence | None:
        if self._fence is None or fence.number != self._fence.number:
            raise FenceLost(f"claimed since by another; fence {fence.number} is over")
        return None if self._outage is not None else self._primary_fence

    def _check_batch(self, batch: Batch) -> None:
        self._check_open()
        if self._lost is not None:
            raise self._lost
        self._fence_behind(batch.fence)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError(f"{self.url} is closed")
