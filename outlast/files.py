"""Files beside the event loop: blocks are read and written in threads, and a file is there whole or not at all.

A disk or a pipe may block for as long as it likes; sessions of an application that exports its own store must not
notice. What is written by name appears under that name when it is complete and synced, readable by its owner alone:
documents of sessions hold secrets.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO

import trio

BLOCK_BYTES = 1 << 18


class BlockWriter:
    """Gathers small pieces into blocks, and writes those in a thread. `flush` at the end.

    Cancellation: what a thread is writing is left to it, since a pipe that nobody reads would hold up the end for ever;
    the file is then worth nothing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pieces: list[bytes] = []
        self._bytes = 0

    async def write(self, piece: bytes) -> None:
        """Write a piece, soon."""
        self._pieces.append(piece)
        self._bytes += len(piece)
        if self._bytes >= BLOCK_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what has been gathered."""
        block = b"".join(self._pieces)
        self._pieces = []
        self._bytes = 0
        await trio.to_thread.run_sync(_write_all, self._file, block, abandon_on_cancel=True)


async def read_blocks(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    """Give a file block by block, from where it stands to its end. Cancellation: as `BlockWriter`."""
    while block := await trio.to_thread.run_sync(file.read, BLOCK_BYTES, abandon_on_cancel=True):
        yield block


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of what is at `path` when the block has ended well; else nothing is left of it.

    What is there and is no ordinary file (a pipe, a device) is written to as it is.

    Raises:
      OSError
    """
    if path.exists() and not path.is_file():
        with path.open("wb", buffering=0) as device:
            yield device
        return
    place = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _write_all(file: BinaryIO, block: bytes) -> None:
    rest = memoryview(block)
    while rest:  # an unbuffered pipe takes what it has room for
        rest = rest[file.write(rest) :]
