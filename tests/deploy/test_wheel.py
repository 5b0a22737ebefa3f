"""What is published: a wheel with the four rooms and nothing else, that imports without a word of warning."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {"outlast", "transport", "actors", "persistence"}
SECONDS_MAX = 120.0  # against a hang; it takes two


def run(*command: str, folder: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, from what the source distribution would hold."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), folder=ROOT)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("outlast-*.whl")
    return found


def test_the_wheel_has_the_four_rooms_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == ROOMS
    assert {f"{room}/py.typed" for room in ROOMS} <= set(names)
    assert [name for name in names if "__pycache__" in name] == []
    in_tree = {str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert in_tree <= set(names)


def test_the_wheel_imports_by_itself_and_without_warnings(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = (
        "import outlast, transport.gateway; print(outlast.__file__); [getattr(outlast, n) for n in outlast.__all__]"
    )
    ran = run(sys.executable, "-W", "error", "-c", program, folder=tmp_path, path=str(tmp_path / "installed"))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(str(tmp_path / "installed"))


def test_the_version_stands_in_one_place(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    ran = run(sys.executable, "-m", "outlast", "--version", folder=tmp_path, path=str(tmp_path / "installed"))
    assert ran.stdout == f"outlast {wheel.name.split('-')[1]}\n"
