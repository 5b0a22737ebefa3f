"""Ballast holds room where there is plenty, and gives it back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persistence.ballast import Ballast


def test_ballast_takes_real_room_and_gives_it_back(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 1 << 20)
    ballast.take()
    ballast.take()
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= 1 << 20
    assert ballast.drop()
    assert not ballast.drop()
    assert os.listdir(tmp_path) == []


def test_no_ballast_is_taken_where_room_is_short(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    Ballast(tmp_path / "ballast", disk.f_blocks * disk.f_frsize // 2).take()
    assert os.listdir(tmp_path) == []


def test_a_disk_that_refuses_ballast_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ballast(tmp_path / "missing" / "ballast").take()
    assert os.listdir(tmp_path) == []
