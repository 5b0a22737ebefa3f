"""Ballast holds room where there is plenty, and gives it back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persistence.ballast import Ballast

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ballast"


class ShortDisk(Ballast):
    """Ballast on a disk that has so much room beside it."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path, SIZE)
        self.room = room

    def free_bytes(self) -> int:
        return self.room


def test_ballast_takes_real_room_and_gives_it_back(path: Path) -> None:
    ballast = Ballast(path, SIZE)
    ballast.take_first()
    ballast.take()
    assert ballast.is_aboard
    assert path.stat().st_blocks * 512 >= SIZE
    assert ballast.drop()
    assert not ballast.drop()
    assert os.listdir(path.parent) == []


def test_on_a_small_disk_ballast_is_a_quarter_of_what_is_left(path: Path) -> None:
    ballast = ShortDisk(path, 3 * SIZE)
    ballast.take_first()
    assert path.stat().st_size == ballast.size == SIZE * 3 // 4


def test_no_ballast_is_taken_where_room_is_short(path: Path) -> None:
    ballast = ShortDisk(path, SIZE)
    ballast.take_first()
    assert (ballast.size, ballast.is_aboard) == (0, False)
    assert os.listdir(path.parent) == []


def test_ballast_is_taken_again_when_the_disk_can_spare_it(path: Path) -> None:
    ballast = ShortDisk(path, 4 * SIZE)
    ballast.take_first()
    ballast.drop()
    ballast.room -= 1
    ballast.take()
    assert not ballast.is_aboard
    ballast.room += 1
    ballast.take()
    assert path.stat().st_size == SIZE


def test_what_a_killed_process_left_is_taken_over(path: Path) -> None:
    ShortDisk(path, 4 * SIZE).take_first()
    ballast = ShortDisk(path, 0)
    ballast.take_first()
    assert (ballast.size, ballast.is_aboard) == (SIZE, True)


def test_a_part_of_a_ballast_is_not_taken_for_the_whole(path: Path) -> None:
    path.write_bytes(bytes(1000))
    ballast = ShortDisk(path, 4 * SIZE)
    ballast.take_first()
    assert path.stat().st_size == SIZE


def test_a_disk_that_refuses_ballast_is_no_error(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "missing" / "ballast")
    ballast.take_first()
    assert not ballast.is_aboard
    assert os.listdir(tmp_path) == []
