"""The store's file as the file system sees it: what lies there, who holds it, how a new one comes to be.

Everything here works without a database connection, because it answers what must be known before one is opened:
opening a foreign or newer file with SQLite may already change it.

POSIX record locks have a trap: closing *any* descriptor of a file drops all locks that the process holds on it. So
a file that this process has open as a store is never opened here a second time (`_held`), not even for a look.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import attrs

from persistence.store import StoreBroken, StoreError, StoreFull, StoreInUse, StoreInvalid, StoreUnavailable

APPLICATION_ID = 0x4F75746C  # "Outl", at offset 68 of the file: what `file` shows, and what says that it is ours
FORMAT = 1  # user_version, at offset 60: readable without touching the file

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\x00"
_LOCK_BYTES_AT = 0x40000000  # where SQLite puts its locks in every file: PENDING, RESERVED, SHARED
_LOCK_BYTES = 512

_held: set[tuple[int, int]] = set()
_guard = threading.Lock()  # stores are opened in their own threads


@attrs.frozen
class Hold:
    """This process's entry for a file that it has open."""

    identity: tuple[int, int]

    def release(self) -> None:
        """Forget it; the file may be opened again."""
        with _guard:
            _held.discard(self.identity)


def hold(path: Path) -> Hold:
    """Check that `path` is a store of a known format, and note that this process has it open from now on.

    Raises:
      StoreInvalid: it is something else. It was read and not touched.
      StoreInUse: this process has it open already.
      StoreUnavailable: it is not there, or may not be read.
    """
    status = _look(path)
    if not stat.S_ISREG(status.st_mode):
        raise StoreInvalid(f"{path} is not a file")
    hold = Hold((status.st_dev, status.st_ino))
    with _guard:
        if hold.identity in _held:
            raise StoreInUse(f"this process has {path} open already; use that store, or close it first")
        _held.add(hold.identity)
    try:
        _check_header(path)
    except StoreError:
        hold.release()
        raise
    return hold


def create(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a new file, whole or not at all: filled under another name, synced, then linked into its place.

    Missing directories are made, readable by their owner only: sessions are nobody else's business. If another
    process was faster, its file stays and this is no error.

    Raises:
      StoreFull, StoreBroken, StoreUnavailable: nothing is left behind.
    """
    made: list[Path] = []
    draft = path.with_name(f"{path.name}.new-{secrets.token_hex(6)}")
    try:
        _make_directories(path.parent, made)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        fill(draft)
        _put_in_place(draft, path)
        for directory in (path.parent, *(one.parent for one in made)):
            _sync(directory)
    except (OSError, StoreError) as error:
        _remove(draft, made)
        if isinstance(error, OSError):
            raise translate(error, path) from error
        raise


def held_by(path: Path) -> str:
    """Say which process has locked the file, as far as the system tells; "" if it does not."""
    if not sys.platform.startswith("linux"):
        return ""  # struct flock is laid out differently elsewhere, and a name is only a kindness
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTES_AT, _LOCK_BYTES, 0)
    try:
        with path.open("r+b") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, request)
    except OSError:
        return ""
    kind, _, _, _, process_id = struct.unpack("hhqqi4x", answer)
    return f" (process {process_id})" if kind != fcntl.F_UNLCK and process_id > 0 else ""


def translate(error: OSError, path: Path) -> StoreError:
    """Say what an operating system's error means for the store."""
    reason = f"{path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(reason)
    if error.errno == errno.EIO:
        return StoreBroken(reason)
    return StoreUnavailable(reason)


def _look(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise translate(error, path) from error


def _check_header(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise translate(error, path) from error
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise StoreInvalid(f"{path} is not a database; it was not touched. Move it away, or name another path")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise StoreInvalid(f"{path} is a database of another application; it was not touched. Name another path")
    check_format(int.from_bytes(header[60:64], "big"), path)


def check_format(found: int, path: Path) -> None:
    """Refuse a format that this version does not know.

    Raises:
      StoreInvalid
    """
    if found != FORMAT:
        raise StoreInvalid(
            f"{path} has format {found}, this version knows {FORMAT}; it was not touched. Use the version that wrote it"
        )


def _make_directories(directory: Path, made: list[Path]) -> None:
    if directory.is_dir():
        return
    _make_directories(directory.parent, made)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError as error:
        if not directory.is_dir():
            raise FileExistsError(
                error.errno, f"{directory} is no directory, or leads to none that is there"
            ) from error
    else:
        made.append(directory)


def _put_in_place(draft: Path, path: Path) -> None:
    _sync(draft)
    try:
        os.link(draft, path)  # unlike rename, it cannot take the place of a file that is in use
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        draft.rename(path)  # a file system without hard links: two first starts at once are the operator's to avoid
        return
    draft.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(draft: Path, made: list[Path]) -> None:
    with contextlib.suppress(OSError):  # it may not have come to be
        draft.unlink()
    with contextlib.suppress(OSError):  # someone else may have put something there in the meantime
        for directory in reversed(made):
            directory.rmdir()
