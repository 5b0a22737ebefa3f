"""Build the image, run it, kill it, start it again: its session is there.

    python -m tests.image [--folder FOLDER]        (make image-test; as root)

Exit codes:
  0  all is as promised
  1  it is not
  2  it cannot be tried here; why is said
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import attrs
import trio

from tests.e2e.raw_client import RawClient
from tests.image.building import Broken, Builder, CannotTry
from tests.image.running import URL, Container, enter_own_network, make_volume, stop, wait_ready

# All that an image needs for a server of its own is Python; this one lives in its session's memory alone.
_SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    result = {"content": [{"type": "text", "text": "from inside"}]}
    if message["method"] == "initialize":
        info = {"name": "inside", "version": "1"}
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
_ENVIRONMENT = {"OUTLAST_ALLOW_ANONYMOUS": "true", "OUTLAST_SERVERS": "inside=stdio:python /data/server.py"}
_NOT_IN_IT = ("source", "root/.cache", "usr/bin/gcc")  # of building, not of running


def main() -> int:
    """Try it; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.image")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "outlast-image", help="storage")
    builder = Builder(parser.parse_args().folder)
    if why := builder.why_not():
        print(f"image test: not run: {why}")
        return 2
    builder.folder.mkdir(parents=True, exist_ok=True)
    try:
        try_image(builder)
    except CannotTry as cannot:
        print(f"image test: not run: {cannot}")
        return 2
    except Broken as broken:
        print(f"image test: BROKEN: {broken}")
        return 1
    finally:
        builder.forget()
    print("image test: as promised")
    return 0


def try_image(builder: Builder) -> None:
    """Build the image and try all that is promised of it.

    Raises:
      CannotTry, Broken
    """
    say("base", builder.have_base())
    config = builder.build()
    say("built", f"{config.whole_command} as {config.user}, volumes {config.volumes}")
    root = builder.unpack()
    look_into(root)
    enter_own_network()
    with tempfile.TemporaryDirectory(prefix="outlast-image-") as folder:
        data = make_volume(root, Path(folder) / "data")
        (data / "server.py").write_text(_SERVER)
        container = Container(root, data, config, _ENVIRONMENT)
        try_to_write(container)
        trio.run(try_session, container)
        try_without_volume(container)


def look_into(root: Path) -> None:
    """See that nothing of the build is in the image."""
    left = [name for name in _NOT_IN_IT if (root / name).exists()]
    expect(not left, f"left from building: {left}")
    lent = root / "etc/pip.conf"  # where it was mounted there is an empty file now, which is this test's own doing
    expect(not lent.exists() or not lent.stat().st_size, "pip's settings are in the image")
    say("inside", f"nothing of {', '.join(_NOT_IN_IT)}")


def try_to_write(container: Container) -> None:
    """See that what runs in it can write to its volume and to nothing else, and is nobody in particular."""
    for path, code in (("/data/x", 0), ("/opt/outlast/x", 1), ("/tmp/x", 1)):
        ran = container.run(["sh", "-c", f"echo x > {path} || exit 1"])
        expect(ran.returncode == code or (code and ran.returncode), f"writing to {path}: {ran.returncode} {ran.stderr}")
    said = container.run(["sh", "-c", "id -u; grep -E 'NoNewPrivs|CapBnd' /proc/self/status"]).stdout.split()
    expect(said[0] == "10001" and int(said[2], 16) == 0 and said[4] == "1", f"who it runs as: {said}")
    say("confined", "user 10001, no capabilities, writes to /data only")


async def try_session(container: Container) -> None:
    """Open a session, kill the gateway, start it again, go on; then stop it in order."""
    client = RawClient(f"{URL}/mcp")
    with container.running() as process:
        wait_ready(process)
        healthy = container.run(container.config.healthcheck)
        expect(healthy.returncode == 0, f"the health check: {healthy.returncode} {healthy.stdout} {healthy.stderr}")
        await client.open_session()
        expect(await client.call("any") == "from inside", "a call")
        expect(is_the_gateway(process.pid), "what is killed is the gateway")
        process.kill()
        process.wait()
    unhealthy = container.run(container.config.healthcheck)
    expect(unhealthy.returncode != 0, "the health check of a gateway that is not there")
    with container.running() as process:
        begun = time.monotonic()
        wait_ready(process)
        expect(await client.call("any") == "from inside", "a call of the same session after a kill")
        say("kill -9", f"the session is there {time.monotonic() - begun:.1f} s after the start")
        code, stderr = await trio.to_thread.run_sync(stop, process, container.config.stop_signal)
        expect(code == 0, f"{container.config.stop_signal}: exit code {code}: {stderr}")
    say("stopped", f"{container.config.stop_signal}: exit code 0")


def is_the_gateway(pid: int) -> bool:
    """Whether nothing stands between us and the process that serves: no shell, no supervisor, and nobody's root."""
    process = Path(f"/proc/{pid}")
    return b"serve" in (process / "cmdline").read_bytes().split(b"\0") and process.stat().st_uid == 10001


def try_without_volume(container: Container) -> None:
    """The control: a read-only image without its volume keeps nothing, and says so at once."""
    ran = attrs.evolve(container, data=None).run(container.config.whole_command)
    expect(ran.returncode not in (0, 1) and "/data" in ran.stderr, f"without a volume: {ran.returncode} {ran.stderr}")
    say("control", f"without its volume it does not start: {ran.stderr.strip().splitlines()[-1]}")


def expect(holds: object, what: str) -> None:
    """Refuse what is not so."""
    if not holds:
        raise Broken(what)


def say(step: str, what: str) -> None:
    """Tell of a step that is done."""
    print(f"image test: {step}: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
