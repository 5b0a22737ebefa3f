"""What is published: a wheel with the four rooms and nothing else, that imports without a word of warning, installs,
serves, and declares what it needs."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {"outlast", "transport", "actors", "persistence"}
SECONDS_MAX = 120.0  # against a hang; it takes two
# All let anyone use, change and pass on. As libraries write them in one field or the other.
LICENCES = {"MIT", "MIT License", "BSD-3-Clause", "Apache-2.0"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
    assert "version" not in PROJECT, "it stands in outlast/__init__.py"


def test_the_licence_and_the_notice_go_with_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name.rpartition("/")[2] for name in archive.namelist() if ".dist-info/licenses/" in name]
    assert sorted(names) == sorted(PROJECT["license-files"])


def test_the_installed_program_serves(wheel: Path, tmp_path: Path) -> None:
    """Goal: who installs the wheel can serve. Method: pip installs it into a folder of its own, beside the libraries
    of this environment; its program starts there, says that it is ready, and stops when it is told to."""
    installed = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check")
    ran = run(*pip, "--target", str(installed), str(wheel), folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    serving = subprocess.Popen(
        [str(installed / "bin/outlast"), "serve", "--listen", "127.0.0.1:0", "--server", "stdio:sh"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline().startswith("outlast: listening on http://127.0.0.1:")
        serving.send_signal(signal.SIGTERM)
        serving.communicate(timeout=SECONDS_MAX)
    finally:
        serving.kill()
        serving.communicate()
    assert serving.returncode == 0
    assert (tmp_path / "data/outlast.db").exists()


def declared() -> set[str]:
    """Give the names of the libraries that the project says it needs, extras of users included."""
    extras = [need for extra, needs in PROJECT["optional-dependencies"].items() if extra != "test" for need in needs]
    return {_normal(re.split(r"[\[<>=~! ]", need)[0]) for need in [*PROJECT["dependencies"], *extras]}


def _normal(name: str) -> str:
    """Give a library's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> Iterator[str]:
    """Give the name of each module that the rooms import when they run, by its first part."""
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        yield from _imported_in(ast.parse(file.read_text()))


def _imported_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (name.name.partition(".")[0] for name in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        yield node.module.partition(".")[0]
    for child in ast.iter_child_nodes(node):
        yield from _imported_in(child)


def test_each_library_that_is_imported_is_declared() -> None:
    provider = metadata.packages_distributions()
    foreign = set(imported()) - ROOMS - sys.stdlib_module_names
    assert foreign, "there are some"
    undeclared = {name for name in foreign if not {_normal(each) for each in provider.get(name, [])} & declared()}
    assert undeclared == set()


def licences_of(name: str) -> set[str]:
    about = metadata.metadata(name).json
    classified = [line for line in about.get("classifier", []) if line.startswith("License :: ")]
    said = [about.get("license_expression"), about.get("license"), *(line.rpartition(" :: ")[2] for line in classified)]
    return {part for text in said if text for part in re.split(r" OR | AND ", str(text))}


@pytest.mark.parametrize("name", sorted(declared()))
def test_licences_of_what_it_needs_are_permissive(name: str) -> None:
    assert licences_of(name) & LICENCES, licences_of(name)
