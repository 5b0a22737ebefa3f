"""What the doctor finds, look by look; and what it leaves alone."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import trio

from actors.store_use import EVENT_STORE_SERVER_ID
from outlast import finding
from outlast.at_rest import codec_of
from outlast.cli import main
from outlast.device import Device, SyncTimes, file_system_of, look_at
from outlast.doctor import CLOCK_EARLIEST_UNIX_S, Surroundings, examine
from outlast.finding import Finding, State
from outlast.keygen import make_key
from outlast.settings import Settings
from outlast.sources import load_settings
from persistence.records import Batch, Snapshot, SnapshotHeader
from persistence.sqlite import SqliteStore
from tests.persistence.redis_watched import watched

NOW = CLOCK_EARLIEST_UNIX_S + 1e7
GOOD = Device("ext4", 50 * 1024**3, SyncTimes(0.001, 0.01))


def settings_of(place: Path, **variables: str) -> Settings:
    environment = {
        "SESSION_STORE": f"sqlite:{place / 'outlast.db'}",
        "OUTLAST_SERVERS": "shell=stdio:sh",
        "OUTLAST_LISTEN": "127.0.0.1:0",
        **variables,
    }
    return load_settings(environment=environment)


async def quick() -> float:
    return 0.00001


async def slow() -> float:
    return 0.001


def surroundings(device: Device = GOOD, *, now_unix_s: float = NOW, descriptors: int = 65536) -> Surroundings:
    return Surroundings(lambda _: device, lambda: now_unix_s, lambda: descriptors, quick)


async def test_a_slow_event_loop_is_told(tmp_path: Path) -> None:
    told = (await found(settings_of(tmp_path), attrs.evolve(surroundings(), switch_seconds=slow)))["event loop"]
    assert (told.state, told.said) == (State.DEGRADED, "1000.0 µs from one task to the next")


async def test_the_event_loop_is_really_measured() -> None:
    assert 0 < await Surroundings().switch_seconds() < 1


async def found(settings: Settings, around: Surroundings = surroundings()) -> Mapping[str, Finding]:
    """Examine, and give the findings by what they are about."""
    return {one.about: one for one in await examine(settings, around)}


async def test_a_good_place_is_healthy_and_no_store_is_made(tmp_path: Path) -> None:
    findings = await found(settings_of(tmp_path))
    assert finding.worst(findings.values()) is State.HEALTHY
    assert list(findings) == [
        "configuration",
        "file system",
        "room",
        "sync",
        "store",
        "clock",
        "open files",
        "event loop",
    ]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("device", "about", "state"),
    [
        (attrs.evolve(GOOD, kind="tmpfs"), "file system", State.DEGRADED),
        (attrs.evolve(GOOD, kind="overlay"), "file system", State.DEGRADED),
        (attrs.evolve(GOOD, kind="nfs4"), "file system", State.DOWN),
        (attrs.evolve(GOOD, bytes_free=100 * 1024**2), "room", State.DEGRADED),
        (attrs.evolve(GOOD, bytes_free=1024**2), "room", State.DOWN),
        (attrs.evolve(GOOD, syncs=SyncTimes(0.000001, 0.00001)), "sync", State.DEGRADED),
        (attrs.evolve(GOOD, syncs=SyncTimes(0.05, 0.2)), "sync", State.DEGRADED),
    ],
)
async def test_what_a_device_cannot_promise_is_said(tmp_path: Path, device: Device, about: str, state: State) -> None:
    findings = await found(settings_of(tmp_path), surroundings(device))
    assert findings[about].state is state
    assert findings[about].advice
    assert finding.worst(findings.values()) is state


async def test_a_device_that_fails_is_down(tmp_path: Path) -> None:
    def fails(folder: Path) -> Device:
        raise OSError(5, "Input/output error")

    around = attrs.evolve(surroundings(), look_at_device=fails)
    assert (await found(settings_of(tmp_path), around))["device"].state is State.DOWN


async def test_an_existing_store_is_opened_and_counted(tmp_path: Path) -> None:
    await (await SqliteStore.open(tmp_path / "outlast.db")).aclose()
    store = (await found(settings_of(tmp_path)))["store"]
    assert store.state is State.HEALTHY
    assert "0 sessions, in clear" in store.said
    assert "kill -9" in store.said


async def test_a_store_that_a_gateway_has_is_left_alone(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "outlast.db")
    try:
        said = (await found(settings_of(tmp_path)))["store"]
    finally:
        await store.aclose()
    assert (said.state, said.advice) == (State.HEALTHY, "ask the gateway: outlast health")


async def test_a_key_that_does_not_fit_is_found(tmp_path: Path) -> None:
    right, _ = make_key()
    wrong, _ = make_key()
    with_key = settings_of(tmp_path, SESSION_ENCRYPTION_KEY=right)
    store = await SqliteStore.open(tmp_path / "outlast.db", codec=codec_of(with_key))
    await store.claim("a gateway")
    await store.aclose()
    assert "its key fits" in (await found(with_key))["store"].said
    said = (await found(settings_of(tmp_path, SESSION_ENCRYPTION_KEY=wrong)))["store"]
    assert said.state is State.DOWN
    assert wrong not in said.said


async def test_a_file_that_is_no_store_is_found_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "outlast.db").write_bytes(b"something else" * 100)
    assert (await found(settings_of(tmp_path)))["store"].state is State.DOWN
    assert (tmp_path / "outlast.db").read_bytes() == b"something else" * 100


async def test_the_store_of_an_sdk_server_is_found(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "outlast.db")
    header = SnapshotHeader("hers", 1, EVENT_STORE_SERVER_ID, "", "", 0.0, 1e10)
    await store.commit(Batch(await store.claim("an SDK server"), snapshots=(Snapshot(header, {}),)))
    await store.aclose()
    said = (await found(settings_of(tmp_path)))["store"]
    assert said.state is State.DOWN
    assert "servers on the MCP SDK" in said.said


async def test_a_server_that_is_not_there_is_found(tmp_path: Path) -> None:
    store = (await found(settings_of(tmp_path, SESSION_STORE="redis://:hidden-secret@127.0.0.1:1/0")))["store"]
    assert store.state is State.DOWN
    assert "hidden-secret" not in store.said


async def test_the_primary_that_sentinels_name_is_told_of(tmp_path: Path) -> None:
    with watched(replicas=0) as world:
        settings = settings_of(tmp_path, SESSION_STORE=world.url)
        store = (await found(settings))["store"]
        assert store.state is State.HEALTHY
        assert f"?service=main, primary 127.0.0.1:{world.primary.port}: 0 sessions" in store.said


async def test_a_clock_before_its_time_or_behind_the_store_is_found(tmp_path: Path) -> None:
    await (await SqliteStore.open(tmp_path / "outlast.db")).aclose()
    written = (tmp_path / "outlast.db").stat().st_mtime
    for now, state in ((0.0, State.DOWN), (written - 3600, State.DEGRADED), (written + 3600, State.HEALTHY)):
        assert (await found(settings_of(tmp_path), surroundings(now_unix_s=now)))["clock"].state is state


async def test_few_descriptors_are_found(tmp_path: Path) -> None:
    for limit, state in ((1024, State.DEGRADED), (65536, State.HEALTHY), (resource.RLIM_INFINITY, State.HEALTHY)):
        assert (await found(settings_of(tmp_path), surroundings(descriptors=limit)))["open files"].state is state


async def test_a_configuration_that_cannot_start_is_down(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, OUTLAST_SERVERS="gone=stdio:no-such-program-anywhere")
    configuration = (await found(settings))["configuration"]
    assert configuration.state is State.DOWN
    assert "no-such-program-anywhere" in configuration.said


def test_the_program_tells_it_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--store", f"sqlite:{tmp_path / 'outlast.db'}", "--listen", "127.0.0.1:0"]
    assert main(["doctor", *flags]) == 2  # no server
    assert "FAIL  configuration" in capsys.readouterr().out
    code = main(["doctor", "--json", "--server", "shell=stdio:sh", *flags])
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == ["healthy", "degraded", "down"][code]
    assert {one["about"] for one in document["findings"]} >= {"configuration", "sync", "store"}


# ---- the device ----

MOUNTS = """\
22 28 0:20 / /proc rw,nosuid shared:5 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 28 0:27 / /data rw shared:2 - nfs4 server:/export rw
32 28 0:28 / /data/with\\040space rw shared:2 - xfs /dev/sdb rw
33 28 0:29 / /covered rw - ext4 /dev/sdc rw
34 28 0:30 / /covered rw - tmpfs none rw
malformed
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/var/lib", "ext4"), ("/data/x", "nfs4"), ("/data/with space/x", "xfs"), ("/covered", "tmpfs")],
)
def test_the_innermost_mount_says_the_file_system(folder: str, kind: str) -> None:
    assert file_system_of(Path(folder), MOUNTS) == kind
    assert file_system_of(Path(folder), "") == ""


def test_a_look_at_a_device_leaves_nothing_behind(tmp_path: Path) -> None:
    ticks = iter(range(1000))
    device = look_at(tmp_path, now=lambda: float(next(ticks)))
    assert device.syncs == SyncTimes(1.0, 1.0)
    assert device.bytes_free > 0
    assert list(tmp_path.iterdir()) == []


# ---- findings ----


def test_findings_are_written_for_people_and_for_programs() -> None:
    findings = [Finding("a", State.HEALTHY, "fine"), Finding("long", State.DOWN, "gone", "do this")]
    assert list(finding.lines_of(findings)) == ["ok    a     fine", "FAIL  long  gone", "            -> do this"]
    assert finding.as_json(findings)["status"] == "down"
    assert finding.worst([]) is State.HEALTHY


async def test_a_store_that_does_not_answer_is_a_finding(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            silent = (
                await nursery.start(
                    trio.serve_tcp,
                    _say_nothing,
                    0,
                )
            )[0]
            port = silent.socket.getsockname()[1]
            settings = settings_of(tmp_path, SESSION_STORE=f"redis://127.0.0.1:{port}/0")
            assert (await found(settings))["store"].state is State.DOWN
            nursery.cancel_scope.cancel()


async def _say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()
