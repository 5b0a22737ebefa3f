"""Small file systems for harm: one whose power can be cut, one that is soon full. For root only."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.child import HarnessFailed

_IMAGE_BYTES = 96 << 20  # with a journal, and room for the store's ballast
_COMMAND_SECONDS = 60.0


@functools.cache
def missing() -> str:
    """Say why nothing can be mounted here; "" if it can: containers have roots that may not."""
    if os.geteuid():
        return "needs root"
    absent = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt install e2fsprogs mount)"
    with tempfile.TemporaryDirectory() as folder:
        try:
            image = Path(folder) / "image"
            make_image(image)
            with mounted_image(image, Path(folder) / "mounted"):
                return ""
        except HarnessFailed as error:
            return f"cannot mount a loop device: {error}"


def make_image(image: Path) -> None:
    """Make a file with an empty ext4 in it."""
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    _run("mkfs.ext4", "-q", "-F", str(image))


@contextlib.contextmanager
def mounted_image(image: Path, point: Path) -> Iterator[Path]:
    """Mount an image over a loop device; what it holds is recovered from its journal first, as after a power cut."""
    yield from _mounted(point, "-o", "loop", str(image))


@contextlib.contextmanager
def small_disk(point: Path, size: int) -> Iterator[Path]:
    """Mount a file system in memory that holds so many bytes."""
    yield from _mounted(point, "-t", "tmpfs", "-o", f"size={size}", "none")


def enlarge(disk: Path, size: int) -> None:
    """Let a small disk hold more."""
    _run("mount", "-o", f"remount,size={size}", str(disk))


def copy_image(image: Path, copy: Path) -> None:
    """Copy what the device has been given so far: what the file system above still holds back is lost."""
    _run("cp", "--sparse=always", str(image), str(copy))


def _mounted(point: Path, *arguments: str) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    _run("mount", *arguments, str(point))
    try:
        yield point
    finally:
        _run("umount", str(point))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    if done.returncode:
        raise HarnessFailed(f"{' '.join(command[:3])}: {done.stderr.strip()}")
