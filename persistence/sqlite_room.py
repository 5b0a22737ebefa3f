"""Room: how full the write-ahead log is, and what is done when the disk has no room left.

A change is written to the log first, and a checkpoint moves it into the file. So it needs room twice, and a disk can
become full between the two: then the log cannot be emptied, what is in it stays there, and it cannot grow either. No
deletion passes that. What keeps a way out:

- What is in the log is counted in full, and the count goes down when it has been moved, not when that was tried.
- When the log is at its bound and cannot be emptied, nothing more is taken. So what the file may have to grow by is
  never more than `LOG_BYTES_MAX` and one batch as large; batches larger than that are taken only while the disk has
  room for them twice.
- The ballast is twice that. With it gone the log can be emptied, and the largest end be written.
- Where there is no ballast any more, as much room is kept otherwise, free on the disk or in the file: what adds to the
  store is refused where it would take from that. So the room that the ballast was given up for is not filled anew.

In the order of what it costs, whoever finds no room empties the log, and, if it makes room, gives up the ballast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from persistence.ballast import Ballast
from persistence.sqlite_connection import SqliteConnection
from persistence.store import StoreError, StoreFull

Result = TypeVar("Result")

# At this size a checkpoint writes some 1,500 pages in 5 to 10 ms. Larger ones are fewer, and longer: a WAL of 79 MB
# stopped commits for 170 ms.
LOG_BYTES_MAX = 4 << 20
_LOG_BYTES_LEAST = 256 << 10  # however little ballast there is, or checkpoints would be all that is done
_BALLAST_FACTOR = 4  # the log at its bound, one batch as large, and as much again for an end
_TRANSACTION_PAGES = 4  # that change with any transaction: the root, interior pages


class Room:
    """The room of one store. For its thread alone.

    Args:
      ballast: not taken yet; taken by `take_ballast`, given back by `close`.
    """

    def __init__(self, connection: SqliteConnection, ballast: Ballast) -> None:
        self.log_bytes = 0  # in the log and not in the file; an estimate that errs high
        self._connection = connection
        self._ballast = ballast
        self._stuck = False  # the log could not be emptied; tried anew when something is written, or nothing is done

    def close(self) -> None:
        """Give the ballast's room back, for the checkpoint that closing makes."""
        self._ballast.drop()

    @property
    def has_ballast(self) -> bool | None:
        """Whether the reserve is there; None where the disk is too small for any."""
        return self._ballast.is_aboard if self._ballast.size else None

    @property
    def log_bytes_max(self) -> int:
        """Where a checkpoint is due: less where the ballast is less."""
        return max(_LOG_BYTES_LEAST, min(LOG_BYTES_MAX, self._ballast.size // _BALLAST_FACTOR))

    def open(self) -> None:
        """Count what a former process has left in the log."""
        self.log_bytes = self._connection.log_file_bytes()

    def take_ballast(self) -> None:
        """Take the ballast for the first time: last, since what is to be written at the start may need the room."""
        self._ballast.take_first()

    def admit(self, rows: int, size: int, *, adds: bool) -> None:
        """See whether there is room for a batch: also for emptying the log afterwards, and for ends after that.

        Args:
          rows, size: as for `count`.
          adds: whether it has anything beside ends.

        Raises:
          StoreFull: nothing was changed.
        """
        if not adds:
            if not self._ballast.is_aboard and self._ballast.free_bytes() < 2 * self._ballast.size:
                self._empty_log()  # while it can be: a transaction too large leaves its room to the log's file
            return
        coming = self._bytes_of(rows, size)
        if self.log_bytes + coming > 2 * self.log_bytes_max:
            self._admit_much(coming)
        if self._ballast.size and not self._ballast.is_aboard:
            self._keep(2 * coming + self._ballast.size)

    def count(self, rows: int, size: int) -> None:
        """Count what was written to the log.

        Args:
          rows: that were inserted, updated and deleted. Each changes about one page of its own.
          size: bytes of records among them.
        """
        self.log_bytes += self._bytes_of(rows, size)

    def attempt(self, job: Callable[[], Result], *, makes_room: bool = True) -> Result:
        """Do something that writes; where it finds no room, make some, and do it again.

        Args:
          makes_room: whether it is worth the ballast.

        Raises:
          StoreFull: there is no room, and none to be made.
          StoreError: whatever else `job` raises.
        """
        try:
            return job()
        except StoreFull as error:
            refusal = error
        for make in (self._shrink_log, self._give_up_ballast) if makes_room else (self._shrink_log,):
            if make():
                try:
                    return job()
                except StoreFull as error:
                    refusal = error
        raise refusal

    def after_job(self) -> None:
        """Empty the log if it is time."""
        if self.log_bytes >= self.log_bytes_max and not self._stuck:
            self._empty_log()

    def when_idle(self) -> None:
        """Empty the log; take the ballast again, which may have been needed, where there is room again."""
        if self.log_bytes:
            self._empty_log()
        self._ballast.take()

    def _admit_much(self, coming: int) -> None:
        """Admit what would bring the log beyond its bound: only after what is in it, and only with room for all of it.

        Raises:
          StoreFull
        """
        self.log_bytes = min(self.log_bytes, self._connection.log_file_bytes())
        bound = 2 * self.log_bytes_max
        if self.log_bytes + coming > bound and self.log_bytes and not self._empty_log():
            # Ends have been written meanwhile, perhaps: then the file itself has what the ballast was kept for.
            spare = self._connection.free_bytes() >= 2 * coming + self._ballast.size
            if not (spare and self._give_up_ballast() and not self._stuck):
                raise StoreFull(f"{self._connection.path}: the disk is full: its log cannot be moved into the file")
        if coming > bound:
            self._keep(2 * coming)

    def _shrink_log(self) -> bool:
        """Move what is in the log into the file, and give the room of its own file back."""
        return self._connection.log_file_bytes() > 0 and self._empty_log(truncate=True)

    def _give_up_ballast(self) -> bool:
        if not self._ballast.drop():
            return False
        self._shrink_log()
        return True

    def _empty_log(self, *, truncate: bool = False) -> bool:
        """Move what is in the log into the file, and say whether all of it was.

        Nobody waits to be told of a failure: a device that has failed is known to the connection from now on.
        """
        self._stuck = True
        try:
            self.log_bytes = self._connection.checkpoint(truncate=truncate) * self._connection.page_bytes
        except StoreError:
            return False
        self._stuck = self.log_bytes > 0
        return not self._stuck

    def _keep(self, size: int) -> None:
        """See that so much room is left, on the disk or in the file.

        Raises:
          StoreFull
        """
        free = self._ballast.free_bytes()
        if free < size:
            free += self._connection.free_bytes()
        if free < size:
            left = f"{free >> 10} KiB are left, {size >> 10} are kept for making room"
            raise StoreFull(f"{self._connection.path}: the disk is full: {left}")

    def _bytes_of(self, rows: int, size: int) -> int:
        return (rows + _TRANSACTION_PAGES) * self._connection.page_bytes + size
