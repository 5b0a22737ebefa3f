"""Files: whole or not at all, for their owner alone; blocks in order, whatever a pipe takes at a time."""

from __future__ import annotations

import io
import os
import stat
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from outlast.files import BLOCK_BYTES, BlockWriter, read_blocks, whole_file


class Sparing(io.RawIOBase):
    """Takes a few bytes at a time, as a pipe may; notes who wrote."""

    def __init__(self) -> None:
        self.taken = b""
        self.threads: set[threading.Thread] = set()

    def write(self, data: Any) -> int:
        self.threads.add(threading.current_thread())
        part = bytes(data[:1000])
        self.taken += part
        return len(part)


async def test_pieces_arrive_whole_and_in_order_from_a_thread() -> None:
    file = Sparing()
    writer = BlockWriter(file)  # type: ignore[arg-type]
    pieces = [b"%d," % number * 50 for number in range(2000)]
    for piece in pieces:
        await writer.write(piece)
    await writer.flush()

    assert file.taken == b"".join(pieces)
    assert threading.current_thread() not in file.threads


async def test_a_file_is_read_to_its_end_in_blocks() -> None:
    text = os.urandom(2 * BLOCK_BYTES + 5)
    async with aclosing(read_blocks(io.BytesIO(text))) as blocks:
        found = [block async for block in blocks]
    assert [len(block) for block in found] == [BLOCK_BYTES, BLOCK_BYTES, 5]
    assert b"".join(found) == text


async def test_a_pipe_that_nobody_reads_does_not_hold_up_the_end() -> None:
    ends = os.pipe()
    try:
        with os.fdopen(ends[1], "wb", buffering=0, closefd=False) as full, trio.CancelScope() as scope:
            writer = BlockWriter(full)
            scope.cancel()
            await writer.write(b"x" * (4 * BLOCK_BYTES))
        assert scope.cancelled_caught
    finally:
        os.close(ends[0])  # and the thread that was left behind hears of it
        os.close(ends[1])


def test_a_file_appears_when_it_is_whole_and_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("before")
    with whole_file(path) as file:
        file.write(b"after")
        assert path.read_text() == "before"

    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_file_that_did_not_become_whole(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "out.json") as file:
        file.write(b"half" * (1 // 0))
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    with whole_file(link) as file:
        file.write(b"after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    with whole_file(Path(os.devnull)) as file:
        file.write(b"x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
