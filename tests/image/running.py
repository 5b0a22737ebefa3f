"""Running the built image as Kubernetes would: its user and nobody else, no capability, nothing to write to but /data.

No engine has a part in it: a mount namespace makes the image the root, read-only; a network namespace of the test's own
lets it listen on the port that the image names, whatever else runs here. So the process that is killed is the gateway.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.image.building import Broken, Config

URL = "http://127.0.0.1:8080"
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

# Run by sh in a mount namespace of its own; $1 is the image's root, $2 what is mounted at its volume ("": nothing).
_ENTER = """
set -e
image=$1 data=$2 user=$3 group=$4; shift 4
mount --make-rprivate /
mount --bind "$image" "$image"
mount -t proc proc "$image/proc"
mount --rbind /dev "$image/dev"
[ -z "$data" ] || mount --bind "$data" "$image/data"
mount -o remount,bind,ro "$image"
exec chroot "$image" setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs --bounding-set=-all "$@"
"""


@attrs.frozen
class Container:
    """The image, ready to be run again and again with the same volume."""

    root: Path
    data: Path | None  # what is mounted at /data; None: the image's own folder, read-only as the rest
    config: Config
    environment: Mapping[str, str]  # beside the image's own

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """Start what the image starts by itself, and kill it at the end if it still runs."""
        with self._start(self.config.whole_command) as process:
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run another command in it, to its end."""
        with self._start(command) as process:
            stdout, stderr = process.communicate(timeout=READY_SECONDS_MAX)
            return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        user, _, group = self.config.user.partition(":")
        inside = ["sh", "-c", _ENTER, "enter", str(self.root), str(self.data or ""), user, group, *command]
        # Each of these replaces itself by the next: the process that is started here ends up as the gateway.
        return subprocess.Popen(
            ["unshare", "--mount", *inside],
            env={**self.config.environment, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def make_volume(root: Path, target: Path) -> Path:
    """Make a volume as engines do: what the image has there, with its owner and mode."""
    target.mkdir()
    inside = root / "data"
    owner = inside.stat()
    os.chown(target, owner.st_uid, owner.st_gid)
    shutil.copystat(inside, target)
    return target


def enter_own_network() -> None:
    """Leave this machine's network for one of this process's own, with nothing but the loopback device."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise Broken(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    with socket.socket() as any_socket:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        flags = struct.unpack("16sH14s", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", flags | _IFF_UP, b""))


def wait_ready(process: subprocess.Popen[str]) -> str:
    """Wait until it says that clients may be sent to it; give what it says."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Broken(f"it ended with {process.returncode}: {(process.communicate())}")
        try:
            with urllib.request.urlopen(f"{URL}/readyz", timeout=5) as answer:
                said: str = answer.read().decode()
                return said
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise Broken(f"it was not ready within {READY_SECONDS_MAX:g} s")


def stop(process: subprocess.Popen[str], name: str) -> tuple[int, str]:
    """Ask it to stop, as the image says; give its exit code, and what it said on standard error."""
    process.send_signal(signal.Signals[name])
    _, stderr = process.communicate(timeout=STOP_SECONDS_MAX)
    return process.returncode, stderr
