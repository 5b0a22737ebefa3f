"""FaultyStore: a store with a bad day, in front of a store that works.

What is behind it is the disk: it survives `crash`, and another FaultyStore in front of the same disk is the process
started anew. Waiting is in trio's time, so that a test with `autojump_clock` takes none. With no fault planned it
passes the same suite of claims as every store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
import trio

from persistence.lease_margin import Leasing
from persistence.leases import Lease
from persistence.records import Batch, Fence, LogEntry, Quarantined, Snapshot, SnapshotHeader, StoreHealth
from persistence.store import Store, StoreUnavailable

Result = TypeVar("Result")


@attrs.frozen
class _Fault:
    error: Exception
    done: bool  # it happens all the same, only the answer is lost


class FaultyStore:
    """Passes operations on to `disk`, except for those that were planned to fail.

    Args:
      disk: where facts go; not closed with this store.
      commit_seconds: how long a commit takes, on trio's clock.
      lies: acknowledge a commit before it is written: what a crash then forgets had been promised. For showing that
        a checker would notice.
    """

    def __init__(self, disk: Store, *, commit_seconds: float = 0.0, lies: bool = False) -> None:
        self.disk = disk
        self.commit_seconds = commit_seconds
        self.operations = 0  # begun so far, of all kinds
        self.commits: list[Batch] = []  # acknowledged, in order
        self.on_operation: Callable[[str], None] | None = None  # called with the operation's name as it begins
        self._lies = lies
        self._unwritten: list[Batch] = []
        self._faults: dict[int, _Fault] = {}
        self._outage: Exception | None = None
        self._crashed = False
        self._keeps_unacknowledged = False
        self._closed = False

    @property
    def url(self) -> str:
        return f"faulty+{self.disk.url}"

    @property
    def survives(self) -> str:
        return self.disk.survives

    def lease_margin_seconds(self) -> float | None:
        return self.disk.lease_margin_seconds() if isinstance(self.disk, Leasing) else None

    def fail(self, nth: int, error: Exception, *, done: bool = False) -> None:
        """Let the n-th operation from now on (1: the next) raise `error`.

        Args:
          done: the operation takes place before it raises: an outcome that the caller cannot know.
        """
        self._faults[self.operations + nth] = _Fault(error, done)

    def begin_outage(self, error: Exception) -> None:
        """Let every operation raise `error`, until `end_outage`."""
        self._outage = error

    def end_outage(self) -> None:
        """Work again."""
        self._outage = None

    def crash(self, *, keep_unacknowledged: bool = False) -> None:
        """End the process that uses this store: nothing is acknowledged from now on.

        Args:
          keep_unacknowledged: a commit in flight reaches the disk all the same. Both are allowed to happen.
        """
        self._crashed = True
        self._keeps_unacknowledged = keep_unacknowledged
        self._unwritten.clear()

    async def claim(self, owner: str) -> Fence:
        return await self._operate("claim", lambda: self.disk.claim(owner))

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        return await self._operate("acquire", lambda: self.disk.acquire(partition, owner, ttl_seconds=ttl_seconds))

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        return await self._operate("renew", lambda: self.disk.renew(lease, ttl_seconds=ttl_seconds))

    async def release(self, lease: Lease) -> None:
        await self._operate("release", lambda: self.disk.release(lease))

    async def commit(self, batch: Batch) -> None:
        await self._operate("commit", lambda: self._commit(batch))
        self.commits.append(batch)

    async def load(self, session_id: str) -> Snapshot | None:
        return await self._operate("load", lambda: self.disk.load(session_id))

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        return await self._operate(
            "read_log", lambda: self.disk.read_log(session_id, stream=stream, after=after, limit=limit)
        )

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        return await self._operate("scan", lambda: self.disk.scan(after=after, limit=limit))

    async def quarantined(self) -> Sequence[Quarantined]:
        return await self._operate("quarantined", self.disk.quarantined)

    async def probe(self) -> StoreHealth:
        return await self._operate("probe", self.disk.probe)

    async def aclose(self) -> None:
        self._closed = True
        await trio.lowlevel.checkpoint()

    async def _operate(self, name: str, operation: Callable[[], Awaitable[Result]]) -> Result:
        if self._closed:
            raise trio.ClosedResourceError(f"{self.url} is closed")
        await trio.lowlevel.checkpoint()
        self.operations += 1
        fault = self._faults.pop(self.operations, None)
        if self.on_operation is not None:
            self.on_operation(name)
        if self._outage is not None:
            raise self._outage
        if self._crashed:
            raise StoreUnavailable("the process has crashed")
        if fault is None:
            return await operation()
        if fault.done:
            await operation()
        raise fault.error

    async def _commit(self, batch: Batch) -> None:
        with trio.CancelScope(shield=True):  # once begun, a commit runs to its end
            if self._lies:
                await self._write_behind(batch)
                return
            if self.commit_seconds:
                await trio.sleep(self.commit_seconds)
            if not self._crashed or self._keeps_unacknowledged:
                await self.disk.commit(batch)
            if self._crashed:
                raise StoreUnavailable("the process has crashed")

    async def _write_behind(self, batch: Batch) -> None:
        """Write what was promised before, and only promise this."""
        while self._unwritten:
            await self.disk.commit(self._unwritten.pop(0))
        self._unwritten.append(batch)
