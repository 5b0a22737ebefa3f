"""Ballast: a file that holds some room on the disk, to be thrown overboard when there is none left.

On a full disk not even a deletion passes: it is written to the log first, and the log can only be emptied into a file
that has room to grow (tried on a full 8 MiB file system: all commits kept, every tombstone refused). With the ballast
gone, what makes room can be written; the room that it makes inside the store is then enough to go on.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Half of it for what the log holds when it is at its bound, half for the largest end: that of a session with a
# thousand entries, each on a page that others' entries share, writes some 4 MB. See `sqlite_room.py`.
BALLAST_BYTES = 16 << 20
_ROOM_FACTOR = 4  # take no more than such a part of what is left
_LEAST_BYTES = 512 << 10  # less would not be worth its file


class Ballast:
    """The file `PATH`, of so many bytes at most. Everything here is a best effort: a store works without ballast.

    `size` is how much there is to be, on this disk: 0 where it is too small for any.
    """

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self.size = size
        self.is_aboard = False
        self._path = path

    def take_first(self) -> None:
        """Take as much on board as the disk can spare, or what a killed process has left; that is the size from now on.

        Where the disk could spare it and refuses files of a given size, the size stays, and nothing is on board.
        """
        self.size = min(self.size, self.free_bytes() // _ROOM_FACTOR)
        with contextlib.suppress(OSError):
            left_bytes = self._path.stat().st_size
            if left_bytes >= max(self.size, _LEAST_BYTES):
                self.size, self.is_aboard = left_bytes, True
                return
            self._path.unlink()  # a part of one
        if self.size < _LEAST_BYTES:
            self.size = 0
        self.take()

    def take(self) -> None:
        """Take the ballast on board, unless it is there or the disk has better use for the room."""
        if self.is_aboard or not self.size or self.free_bytes() < self.size * _ROOM_FACTOR:
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self.size)
                self.is_aboard = True
            finally:
                os.close(descriptor)
                if not self.is_aboard:  # a part of it would pass for the whole at the next start
                    self._path.unlink()

    def drop(self) -> bool:
        """Give the room back, and say whether there was any to give."""
        self.is_aboard = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def free_bytes(self) -> int:
        """Say how much room the disk has, beside the ballast; where it does not tell, as much as can be."""
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize if disk.f_blocks else _UNKNOWN_BYTES


_UNKNOWN_BYTES = 1 << 62  # some network file systems give zeros
