"""The doctor: what a gateway with these settings would rest on, looked at before it runs. It changes no session.

Each look is a function that gives a finding. A store that a gateway has open is left alone: what it holds is then the
gateway's to say (`outlast health`). No store is made.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import attrs
import trio

from actors.store_use import check_sessions
from outlast.at_rest import codec_of
from outlast.device import Device, look_at
from outlast.endings import StartRefused
from outlast.finding import Finding, State
from outlast.preflight import check_start
from outlast.settings import Settings
from persistence.opening import open_store
from persistence.store import StoreError, StoreInUse

LOOK_SECONDS = 15.0  # for the store: one that does not answer is a finding, too
FREE_BYTES_WANTED = 1024**3
FREE_BYTES_LAST = 2**24  # what the store holds in reserve, to get out of a full disk
SYNC_SECONDS_SLOW = 0.02
SYNC_SECONDS_IMPOSSIBLE = 0.00002  # no device answers so soon: nothing was synced
DESCRIPTORS_WANTED = 4096
SWITCHES, SWITCH_ROUNDS = 1000, 5
SWITCH_SECONDS_SLOW = 0.0001  # ten times an ordinary machine's: a relayed call would cost 2 ms
CLOCK_EARLIEST_UNIX_S = 1767225600.0  # 2026-01-01: this program is younger

_LOST_WITH_THE_MACHINE = ("tmpfs", "ramfs")
_LOST_WITH_THE_CONTAINER = ("overlay", "aufs")
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "ceph", "lustre")

# What the levels survive; docs/durability.md has the same in more words.
SURVIVES = {
    "memory": "nothing: sessions end with the process",
    "local": "a crash, kill -9 and, if the device keeps what it has synced, a power cut; not the loss of the disk",
    "redis": "a crash and kill -9 of the gateway; what Redis survives is up to its append-only file",
    "replicated": "that, and the loss of one Redis node",
}


async def _switch_seconds() -> float:
    """Measure how long the event loop takes from one task to the next; the best of some rounds, so that other
    programs do not count."""
    best = float("inf")
    for _ in range(SWITCH_ROUNDS):
        began = time.perf_counter()
        for _ in range(SWITCHES):
            await trio.lowlevel.checkpoint()
        best = min(best, (time.perf_counter() - began) / SWITCHES)
    return best


@attrs.frozen
class Surroundings:
    """What the doctor looks through; tests put others in."""

    look_at_device: Callable[[Path], Device] = look_at
    now_unix_s: Callable[[], float] = time.time
    descriptors_max: Callable[[], int] = lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    switch_seconds: Callable[[], Awaitable[float]] = _switch_seconds


async def examine(settings: Settings, surroundings: Surroundings = Surroundings()) -> Sequence[Finding]:
    """Look at everything; the findings come in the order in which a start would meet them."""
    findings = [*_configuration(settings)]
    if settings.store.startswith("sqlite:"):
        findings += await trio.to_thread.run_sync(lambda: list(_device(settings, surroundings)))
    findings += [await _store(settings), _clock(settings, surroundings), _descriptors(settings, surroundings)]
    findings.append(await _event_loop(surroundings))
    return findings


def _configuration(settings: Settings) -> Iterator[Finding]:
    try:
        check_start(settings)
    except StartRefused as refused:
        # A port that is in use and a store that has an owner are what a running gateway looks like, too.
        yield from (Finding("configuration", State.DOWN, line) for line in refused.lines)
    else:
        yield Finding(
            "configuration", State.HEALTHY, f"{len(settings.servers)} servers, listening on {settings.listen}"
        )


def _device(settings: Settings, surroundings: Surroundings) -> Iterator[Finding]:
    folder = Path(settings.store.removeprefix("sqlite:")).parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        device = surroundings.look_at_device(folder)
    except OSError as error:
        yield Finding("device", State.DOWN, f"{folder}: {error.strerror or error}", "choose another place with --store")
        return
    yield _file_system(folder, device)
    yield _room(folder, device)
    yield _syncs(device)


def _file_system(folder: Path, device: Device) -> Finding:
    said = f"{folder} is on {device.kind or 'a file system of unknown kind'}"
    advice = "keep the store on a local disk, or in Redis"
    if device.kind in _LOST_WITH_THE_MACHINE:
        return Finding("file system", State.DEGRADED, f"{said}, in memory: lost with the machine", advice)
    if device.kind in _LOST_WITH_THE_CONTAINER:
        return Finding("file system", State.DEGRADED, f"{said}: lost with the container", "mount a volume there")
    if device.kind in _REMOTE:
        said = f"{said}, over a network: its locks and syncs cannot be relied on"
        return Finding("file system", State.DOWN, said, advice)
    return Finding("file system", State.HEALTHY, said)


def _room(folder: Path, device: Device) -> Finding:
    said = f"{device.bytes_free / 1024**2:,.0f} MiB free"
    if device.bytes_free >= FREE_BYTES_WANTED:
        return Finding("room", State.HEALTHY, said)
    advice = f"make room on the device of {folder}: a full disk refuses what it cannot keep"
    return Finding("room", State.DEGRADED if device.bytes_free > FREE_BYTES_LAST else State.DOWN, said, advice)


def _syncs(device: Device) -> Finding:
    median, slowest = device.syncs.median_seconds, device.syncs.slowest_seconds
    said = f"a durable write takes {median * 1000:.2f} ms, {slowest * 1000:.1f} ms at worst"
    if median < SYNC_SECONDS_IMPOSSIBLE:
        said = f"{said}: sooner than any device can sync"
        return Finding("sync", State.DEGRADED, said, "do not count on surviving a power cut here")
    if median > SYNC_SECONDS_SLOW:
        advice = f"one client gets {1 / median:.0f} durable replies a second; a disk with a power-safe cache would help"
        return Finding("sync", State.DEGRADED, said, advice)
    return Finding("sync", State.HEALTHY, said)


async def _store(settings: Settings) -> Finding:
    scheme, _, place = settings.store.partition(":")
    if scheme == "sqlite" and not await trio.Path(place).exists():
        return Finding("store", State.HEALTHY, f"there is none yet at {place}; it is made at the first start")
    said = StoreError(f"it did not answer within {LOOK_SECONDS:g} s")
    with trio.move_on_after(LOOK_SECONDS):
        try:
            return await _opened(settings)
        except StoreInUse as in_use:
            return Finding("store", State.HEALTHY, f"in use: {in_use}", "ask the gateway: outlast health")
        except StoreError as error:
            said = error
    return Finding("store", State.DOWN, str(said))


async def _opened(settings: Settings) -> Finding:
    store = await open_store(settings.store, codec=codec_of(settings))
    try:
        await check_sessions(store)
        page, following = await store.scan(limit=10_000)
        count = f"{len(page)}{'' if following is None else ' or more'} sessions"
        keys = "in clear" if settings.encryption_keys is None else "its key fits"
        primary = (await store.probe()).primary
        shown = f"{store.url}{', primary ' if primary else ''}{primary}"
        return Finding("store", State.HEALTHY, f"{shown}: {count}, {keys}; survives {SURVIVES[store.survives]}")
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LOOK_SECONDS):
            await store.aclose()


def _clock(settings: Settings, surroundings: Surroundings) -> Finding:
    now = surroundings.now_unix_s()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < CLOCK_EARLIEST_UNIX_S:
        return Finding("clock", State.DOWN, f"{shown} is before this program was made", "set the clock; use NTP")
    ahead_seconds = _last_written_unix_s(settings) - now
    if ahead_seconds > 60:
        said = f"{shown}, and the store was last written {ahead_seconds:,.0f} s later than that"
        return Finding("clock", State.DEGRADED, said, "see that the clock is right: sessions expire by it")
    return Finding("clock", State.HEALTHY, shown)


def _last_written_unix_s(settings: Settings) -> float:
    scheme, _, place = settings.store.partition(":")
    try:
        return Path(place).stat().st_mtime if scheme == "sqlite" else 0.0
    except OSError:
        return 0.0


def _descriptors(settings: Settings, surroundings: Surroundings) -> Finding:
    most = surroundings.descriptors_max()
    if most == resource.RLIM_INFINITY:
        return Finding("open files", State.HEALTHY, "no limit")
    said = f"limit {most}: {settings.connections_max} connections at most"
    if most < DESCRIPTORS_WANTED:
        return Finding("open files", State.DEGRADED, said, "raise it: ulimit -n, or LimitNOFILE in the systemd unit")
    return Finding("open files", State.HEALTHY, said)


async def _event_loop(surroundings: Surroundings) -> Finding:
    seconds = await surroundings.switch_seconds()
    said = f"{seconds * 1e6:.1f} µs from one task to the next"
    if seconds > SWITCH_SECONDS_SLOW:
        advice = "the processor is slow, busy, or held back by a quota (cpu.max): give the gateway one of its own"
        return Finding("event loop", State.DEGRADED, said, advice)
    return Finding("event loop", State.HEALTHY, said)
