"""A runtime over sealed records: a session whose key is missing is unavailable, kept, and back with the key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import messages as say
from actors.runtime import Runtime, RuntimeOptions, open_runtime
from persistence.codec import Codec
from persistence.memory import MemoryStore
from persistence.records import Fence
from persistence.resealing import Resealable, Resealed, SealedWith
from persistence.store import Store, StoreUnavailable
from tests.actors.worlds import problem
from tests.persistence.faulty import FaultyStore
from tests.persistence.sealed_codecs import NEW_KEY, OLD_KEY, codec

TTL_SECONDS = 100.0
PAST_TTL_UNIX_S = 10 * TTL_SECONDS


class _Disk(MemoryStore):
    """Outlives the runtimes that are opened over it, each as a process with keys of its own."""

    def keyed(self, codec: Codec) -> Store:
        self._codec, self._closed = codec, False
        return self


async def _make_session(disk: _Disk, codec: Codec, name: str) -> str:
    async with open_runtime(disk.keyed(codec)) as runtime:
        session = await runtime.create(ttl_seconds=TTL_SECONDS)
        async with session.update() as values:
            values["name"] = name
        return session.id


def _let_time_pass(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = runtime.registry.shared.clock
    later_unix_s = clock.now_unix_s() + PAST_TTL_UNIX_S
    monkeypatch.setattr(type(clock), "now_unix_s", lambda _: later_unix_s)


async def _sweep_past_its_time(disk: _Disk, codec: Codec, session_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_runtime(disk.keyed(codec), options=RuntimeOptions(restore=False)) as runtime:
        with monkeypatch.context() as later:
            _let_time_pass(runtime, later)
            assert runtime.reaper is not None
            runtime.reaper.sweep()
            await wait_all_tasks_blocked()
        await runtime.settled()


async def test_a_session_whose_key_is_missing_is_unavailable_and_served_again_with_it(
    autojump_clock: MockClock,
) -> None:
    disk = _Disk()
    session_id = await _make_session(disk, codec(OLD_KEY), "ada")
    async with open_runtime(disk.keyed(codec(NEW_KEY))) as runtime:
        assert problem(await runtime.session(session_id).ask(say.Look)) is say.Problem.UNAVAILABLE
        other = await runtime.create()
        assert (await other.state()).opened, "the others are served"
        assert [one.failure for one in runtime.registry.headers() if one.session_id == session_id] == ["key_missing"]
    async with open_runtime(disk.keyed(codec(NEW_KEY, OLD_KEY))) as runtime:
        state = await runtime.session(session_id).state()
        assert (state.values, state.failure) == ({"name": "ada"}, "")


async def test_a_session_whose_key_is_missing_is_kept_past_its_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk()
    session_id = await _make_session(disk, codec(OLD_KEY), "ada")
    await _sweep_past_its_time(disk, codec(NEW_KEY), session_id, monkeypatch)
    async with open_runtime(disk.keyed(codec(OLD_KEY))) as runtime:
        assert (await runtime.session(session_id).state()).values == {"name": "ada"}


async def test_without_its_mark_such_a_session_would_expire(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk()
    session_id = await _make_session(disk, codec(OLD_KEY), "ada")
    monkeypatch.setattr("actors.runtime.marked", lambda header, obstacles: header)
    await _sweep_past_its_time(disk, codec(NEW_KEY), session_id, monkeypatch)
    assert await disk.keyed(codec(OLD_KEY)).load(session_id) is None


@pytest.mark.parametrize("absent", [False, True])
async def test_a_missing_key_costs_no_session_where_the_store_degrades(
    absent: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The marks come through the store in front; of one that is away at the start, with what it holds.
    disk = _Disk()
    session_id = await _make_session(disk, codec(OLD_KEY), "ada")
    primary = _Sealed(disk.keyed(codec(NEW_KEY)))
    if absent:
        primary.begin_outage(StoreUnavailable("away"))
    options = RuntimeOptions(restore=False, store_outage="degrade")
    async with open_runtime(primary, options=options) as runtime:
        primary.end_outage()
        await trio.sleep(60)
        assert [one.failure for one in runtime.registry.headers()] == ["key_missing"]
        with monkeypatch.context() as later:
            _let_time_pass(runtime, later)
            assert runtime.reaper is not None
            runtime.reaper.sweep()
            await wait_all_tasks_blocked()
        await runtime.settled()
    assert await disk.keyed(codec(OLD_KEY)).load(session_id) is not None


class _Sealed(FaultyStore):
    """A store with outages that knows what it cannot open."""

    async def obstacles(self) -> Mapping[str, str]:
        return await self._operate("obstacles", self._resealable.obstacles)

    async def sealed_with(self) -> Sequence[SealedWith]:
        return await self._resealable.sealed_with()

    async def reseal(self, fence: Fence, *, after: str = "") -> Resealed:
        return await self._resealable.reseal(fence, after=after)

    @property
    def _resealable(self) -> Resealable:
        assert isinstance(self.disk, Resealable)
        return self.disk


async def test_a_session_of_a_newer_version_is_kept_past_its_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk()
    session_id = await _make_session(disk, Codec(version=2, upcasters={}), "ada")
    await _sweep_past_its_time(disk, Codec(), session_id, monkeypatch)
    async with open_runtime(disk.keyed(Codec(version=2, upcasters={}))) as runtime:
        [header] = runtime.registry.headers()
        assert (header.failure, math.isinf(header.expires_unix_s)) == ("", False)
        assert (await runtime.session(session_id).state()).values == {"name": "ada"}


async def test_a_runtime_seals_what_it_keeps(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'outlast.db'}"
    async with open_runtime(url, codec=codec(OLD_KEY, compress=True)) as runtime:
        session = await runtime.create()
        async with session.update() as values:
            values["note"] = "hunter2"
    assert b"hunter2" not in (tmp_path / "outlast.db").read_bytes()
    async with open_runtime(url, codec=codec(NEW_KEY, OLD_KEY)) as runtime:
        assert (await runtime.session(session.id).state()).values == {"note": "hunter2"}


async def test_without_a_codec_it_would_lie_there_in_clear(tmp_path: Path) -> None:
    async with open_runtime(f"sqlite:{tmp_path / 'outlast.db'}") as runtime:
        session = await runtime.create()
        async with session.update() as values:
            values["note"] = "hunter2"
    assert b"hunter2" in (tmp_path / "outlast.db").read_bytes()
