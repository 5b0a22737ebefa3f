"""Building the image from deploy/Containerfile as it stands, with buildah: no daemon, no nested container.

The file itself knows nothing of this machine. What the build needs of it comes from outside: pip's settings (where
packages are, whom to trust) are mounted for as long as the build lasts, and the base image, where no registry can be
reached, is a stand-in made of Debian's own packages: the same system, with Debian's Python in place of the newer one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
IMAGE = "localhost/outlast:image-test"

_COMMAND_SECONDS_MAX = 900.0
_PULL_SECONDS_MAX = 120.0
_SUITE, _PACKAGES = "bookworm", "python3,python3-venv,python-is-python3,ca-certificates"


class CannotTry(Exception):
    """The image cannot be built here; the message says what is missing, and how to get it."""


class Broken(Exception):
    """The image, or what runs in it, is not as promised."""


@attrs.frozen
class Config:
    """What the image says of how it is run."""

    user: str
    entrypoint: Sequence[str]
    command: Sequence[str]
    environment: Mapping[str, str]
    volumes: Sequence[str]
    stop_signal: str
    healthcheck: Sequence[str]  # as it stands in the file: images of this format have no place for it

    @property
    def whole_command(self) -> list[str]:
        return [*self.entrypoint, *self.command]


@attrs.frozen
class Builder:
    """buildah, with a storage of its own below a folder: images of this machine are neither used nor touched."""

    folder: Path

    def why_not(self) -> str:
        """Tell why nothing can be built here; empty if it can."""
        if os.geteuid() != 0:
            return "building without a daemon needs root"
        missing = [name for name in ("buildah", "unshare", "setpriv") if shutil.which(name) is None]
        return f"not installed: {', '.join(missing)} (Debian: apt install buildah util-linux)" if missing else ""

    def have_base(self) -> str:
        """See to it that the image that the file builds on is there; say which it is.

        Raises:
          CannotTry: no registry can be reached, and no stand-in be made.
        """
        names = set(re.findall(r"^FROM (\S+)", CONTAINERFILE.read_text(), re.MULTILINE))
        name: str
        (name,) = names
        marker = self.folder / "stand-in"
        if self._run("images", "--quiet", name, check=False).stdout.strip():
            return f"{name}{' (a stand-in)' if marker.exists() else ''}, from an earlier run"
        try:
            self._run("pull", "--quiet", name, seconds=_PULL_SECONDS_MAX)
        except (CannotTry, Broken) as failed:
            self._make_stand_in(name, str(failed))
            marker.touch()
            return f"a stand-in for {name}, of Debian's packages: it could not be fetched"
        return name

    def build(self) -> Config:
        """Build the image; give what it says of how it is run.

        Raises:
          Broken: a step of the file failed.
        """
        settings = self.folder / "pip.conf"
        mounts = {settings: "/etc/pip.conf", **_write_pip_settings(settings)}
        volumes = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        flags = ("--isolation=chroot", "--network=host", "--pull=false", "--no-cache", *volumes)
        self._run("build", *flags, "--file", str(CONTAINERFILE), "--tag", IMAGE, str(ROOT))
        settings.unlink()
        return self._config()

    def unpack(self) -> Path:
        """Give the folder in which the built image lies open; `forget` takes it away."""
        container = self._run("from", "--pull=false", IMAGE).stdout.strip()
        return Path(self._run("mount", container).stdout.strip())

    def forget(self) -> None:
        """Remove what was built, and what was unpacked; the base stays for the next time."""
        self._run("rm", "--all", check=False)
        self._run("rmi", "--force", IMAGE, check=False)

    def _config(self) -> Config:
        inspected: dict[str, Any] = json.loads(self._run("inspect", "--type=image", IMAGE).stdout)
        said = inspected["OCIv1"]["config"]
        healthcheck = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\])$", CONTAINERFILE.read_text(), re.MULTILINE | re.DOTALL)
        assert healthcheck is not None
        return Config(
            said["User"],
            said["Entrypoint"],
            said["Cmd"],
            dict(line.split("=", 1) for line in said["Env"]),
            list(said["Volumes"]),
            said["StopSignal"],
            json.loads(healthcheck[1]),
        )

    def _make_stand_in(self, name: str, why: str) -> None:
        debootstrap = shutil.which("debootstrap")
        if debootstrap is None:
            raise CannotTry(f"{why}\nand debootstrap, to make a stand-in, is not installed (apt install debootstrap)")
        container = self._run("from", "scratch").stdout.strip()
        target = self._run("mount", container).stdout.strip()
        _run_command([debootstrap, "--variant=minbase", f"--include={_PACKAGES}", _SUITE, target], {})
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(target) / folder)
        self._run("umount", container)
        self._run("commit", "--rm", container, name)

    def _run(
        self, *arguments: str, check: bool = True, seconds: float = _COMMAND_SECONDS_MAX
    ) -> subprocess.CompletedProcess[str]:
        storage = ("--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run"))
        command = ["buildah", *storage, "--storage-driver=vfs", *arguments]
        return _run_command(command, {}, check=check, seconds=seconds)


def _run_command(
    command: Sequence[str], environment: Mapping[str, str], *, check: bool = True, seconds: float = _COMMAND_SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    try:
        ran = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotTry(f"{' '.join(command)}: no end within {seconds:g} s") from None
    if check and ran.returncode != 0:
        raise Broken(f"{' '.join(command)}: exit code {ran.returncode}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}")
    return ran


def _write_pip_settings(target: Path) -> dict[Path, str]:
    """Write pip's settings of this machine as one file; give the folders and files that they name, to be mounted."""
    listed = _run_command([sys.executable, "-m", "pip", "config", "list"], {}).stdout
    values = dict(re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    target.touch(mode=0o600)  # an index may be reached with a password
    target.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    return {path: str(path) for value in values.values() for path in _paths(value)}


def _paths(value: str) -> Iterator[Path]:
    for word in re.split(r"\s+|\\n", value):
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # An index on disk names its files relative to itself, beside the folder of its pages.
            yield path.parent if path.name == "simple" else path
