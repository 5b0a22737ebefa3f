"""Ballast: a file that holds some room on the disk, to be thrown overboard when there is none left.

On a full disk not even a deletion passes: it is written to the log first, and the log can only be emptied into a file
that has room to grow (tried on a full 8 MiB file system: all commits kept, every tombstone refused). With the ballast
gone, what makes room can be written; the room that it makes inside the store is then enough to go on.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

BALLAST_BYTES = 8 << 20  # twice what the log grows to between checkpoints
_ROOM_FACTOR = 4  # take no ballast where it would be a large part of what is left


class Ballast:
    """The file `PATH`, of so many bytes. Everything here is a best effort: a store works without ballast."""

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self._path = path
        self._size = size

    def take(self) -> None:
        """Take the ballast on board, unless it is there or the disk has better use for the room."""
        if self._path.exists():
            return
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < self._size * _ROOM_FACTOR:
                return
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)

    def drop(self) -> bool:
        """Give the room back, and say whether there was any to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
