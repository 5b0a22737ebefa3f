"""Published clients and servers, installed once into a folder of their own below the virtual environment.

Each set gets a folder named after what is in it, so a change of the list installs anew and a second run installs
nothing; of processes that run tests side by side, one installs and the others wait for it. `make clean` takes all of it
away. The project's own environment never sees these packages: version 1 of the
SDK and the one that the tests lean on cannot live together.

What cannot be installed fails the tests that need it, with a message that says what was tried: a test that skips
itself without a network would never be missed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_INSTALL_SECONDS = 400.0  # 170 MB from a registry; half a minute where the network is good

NODE_MAJOR_MIN = 18

NPM_PACKAGES = (
    "@modelcontextprotocol/sdk@^1.30",
    "@modelcontextprotocol/server-everything@^2026.1",
    "@modelcontextprotocol/server-filesystem@^2026.1",
    "@modelcontextprotocol/server-memory@^2026.1",
    "@modelcontextprotocol/inspector@^0.15",  # the last that runs on every Node from 18 on
)
# websockets: the SDK's own extra for WebSocket, which 2.x has dropped (`old_sdk.py`).
PYTHON_PACKAGES = ("mcp>=1.30,<2", "websockets>=14,<18", "mcp-server-git>=2026.1", "mcp-server-time>=2026.1")


class CannotInstall(Exception):
    """A package registry could not be reached, or does not have what was asked for; the message has the installer's."""


def why_no_node() -> str:
    """Tell why peers from npm cannot run on this machine; empty if they can."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "node and npm are not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    major = int(version.strip().removeprefix("v").partition(".")[0])
    return "" if major >= NODE_MAJOR_MIN else f"node is {version.strip()}, {NODE_MAJOR_MIN} or newer is needed"


@functools.cache
def node_modules() -> Path:
    """Give the folder with the packages from npm, after installing them if need be.

    Raises:
      CannotInstall: npm failed.
    """

    def install(folder: Path) -> None:
        (folder / "package.json").write_text(json.dumps({"private": True}))
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        _run(["npm", "install", "--prefix", str(folder), *quiet, *NPM_PACKAGES], folder)

    return _installed("npm", NPM_PACKAGES, install) / "node_modules"


@functools.cache
def python_peers() -> Path:
    """Give the `bin` folder of a virtual environment with `mcp` 1.x and servers built on it.

    Raises:
      CannotInstall: pip failed.
    """

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder)], folder)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *PYTHON_PACKAGES], folder)

    packages = (*PYTHON_PACKAGES, sys.version)  # a venv belongs to one interpreter
    return _installed("python", packages, install, relocatable=False) / "bin"


def python_packages() -> Path:
    """Give the folder to import these packages from.

    Raises:
      CannotInstall: pip failed.
    """
    (folder,) = (python_peers().parent / "lib").glob("python*/site-packages")
    return folder


def _installed(
    kind: str, packages: Sequence[str], install: Callable[[Path], None], *, relocatable: bool = True
) -> Path:
    """Find the folder of these packages, or make it; one that is half made is never found."""
    cache = _cache_folder()
    name = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:12]
    folder = cache / f"{kind}-{name}"
    finished = folder / "finished"
    if finished.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f"{kind}.lock"):
        if finished.exists():  # another process has made it meanwhile
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        if relocatable:
            made = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=cache))
            install(made)
            made.rename(folder)
        else:
            folder.mkdir()  # scripts of a venv name its path: it is made where it stays
            install(folder)
        finished.touch()
    return folder


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only process that is in such a block. The wait is as long as the other's installation, which has a limit;
    the lock goes with the process that holds it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache_folder() -> Path:
    in_environment = sys.prefix != sys.base_prefix
    return (Path(sys.prefix) if in_environment else _ROOT / ".venv") / "peers"


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"no end after {_INSTALL_SECONDS} s: {' '.join(command)}") from None
    if done.returncode != 0:
        raise CannotInstall(
            f"peers of the tests could not be installed; is the package registry within reach?\n"
            f"$ {' '.join(command)}\n{done.stdout}{done.stderr}"
        )


def _environment() -> dict[str, str]:
    """Ours, without what would lead a second interpreter to the first one's packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
