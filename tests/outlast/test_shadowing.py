"""Shadows: an application's own `actors.py` is named plainly instead of failing somewhere deep inside.

Method: a fresh interpreter whose path begins with a folder that holds the application's module.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from outlast.shadowing import ROOMS, check_rooms

ROOT = Path(__file__).parent.parent.parent


def run(application: Path, code: str) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path[:0] = [{str(application)!r}, {str(ROOT)!r}]\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", start + code], capture_output=True, text=True, check=False, timeout=60
    )


CHECK = "from outlast.shadowing import check_rooms; check_rooms(); print('fine')"


def test_our_own_rooms_are_fine(tmp_path: Path) -> None:
    check_rooms()

    assert run(tmp_path, CHECK).stdout == "fine\n"


@pytest.mark.parametrize("room", ROOMS)
def test_a_module_that_shadows_a_room_is_named(room: str, tmp_path: Path) -> None:
    (tmp_path / f"{room}.py").write_text("raise SystemExit('the shadow was run')")
    ended = run(tmp_path, CHECK)

    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: outlast has a package of its own called {room!r}")
    assert str(tmp_path / f"{room}.py") in last
    assert "Rename that module" in last


def test_a_package_that_shadows_a_room_is_named(tmp_path: Path) -> None:
    (tmp_path / "transport").mkdir()
    (tmp_path / "transport" / "__init__.py").write_text("")

    assert str(tmp_path / "transport" / "__init__.py") in run(tmp_path, CHECK).stderr


def test_a_shadow_that_was_imported_before_is_named(tmp_path: Path) -> None:
    (tmp_path / "actors.py").write_text("")
    hidden = f"import actors; sys.path.remove({str(tmp_path)!r})\n"

    assert "Rename that module" in run(tmp_path, hidden + CHECK).stderr


def test_a_module_made_at_run_time_is_named(tmp_path: Path) -> None:
    made = "import types; sys.modules['actors'] = types.ModuleType('actors')\n"

    assert "a module made at run time" in run(tmp_path, made + CHECK).stderr


def test_a_path_that_changes_later_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "actors.py").write_text("")
    late = f"{CHECK}\nsys.path.insert(0, {str(tmp_path)!r}); from actors import ids; print('ours')"

    assert run(tmp_path / "elsewhere", late).stdout == "fine\nours\n"


def test_without_the_check_a_shadow_fails_deep_inside(tmp_path: Path) -> None:
    """The negative control: this is what users would see."""
    (tmp_path / "actors.py").write_text("")
    last = run(tmp_path, "import actors.ids").stderr.splitlines()[-1]

    assert last == "ModuleNotFoundError: No module named 'actors.ids'; 'actors' is not a package"


def test_a_missing_room_is_named(tmp_path: Path) -> None:
    (tmp_path / "outlast").mkdir()
    (tmp_path / "outlast" / "__init__.py").touch()
    (tmp_path / "outlast" / "shadowing.py").write_text((ROOT / "outlast" / "shadowing.py").read_text())
    ended = subprocess.run(
        # -S: an outlast that is installed where the tests run has its rooms
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CHECK}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert "outlast is not installed completely" in ended.stderr
