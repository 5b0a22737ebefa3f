"""Keys in stores: a wrong key is refused at the door, a missing one costs no session, changing keys loses nothing.

Most claims are shown on every kind of store that can be rewritten; the canary is the SQLite store's, since memory has
nobody to come back to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from persistence import redis_resealing
from persistence.canary import CANARY
from persistence.codec import Codec, KeyMissing, SecretsNeedKey
from persistence.memory import MemoryStore
from persistence.opening import open_store
from persistence.records import HISTORY_STREAM, Batch, Fence
from persistence.redis import RedisStore
from persistence.resealing import PAGE_RECORDS, Resealable, Resealed, SealedWith
from persistence.sqlite import SqliteStore
from persistence.store import FenceLost, SnapshotTooNew, StoreInvalid, StoreUnavailable
from tests.persistence.making import entry, snapshot
from tests.persistence.places import MemoryPlace, RedisPlace, SqlitePlace, execute
from tests.persistence.redis_servers import RedisServer, running
from tests.persistence.sealed_codecs import CODECS, NEW_KEY, OLD_KEY, OTHER_KEY, codec

Place = MemoryPlace | SqlitePlace | RedisPlace
KeyedStore = MemoryStore | SqliteStore | RedisStore


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    with running(server):
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("server")
        return RedisPlace(server.url)
    return MemoryPlace() if request.param == "memory" else SqlitePlace(tmp_path)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[KeyedStore]:
    opened = await place.open()
    assert isinstance(opened, MemoryStore | SqliteStore | RedisStore)
    yield opened
    await opened.aclose()


@pytest.fixture
async def fence(store: KeyedStore) -> Fence:
    return await store.claim("test")


async def _reseal_all(store: Resealable, fence: Fence) -> tuple[int, int, int]:
    """Rewrite; give how many were rewritten and left, in how many steps."""
    rewritten = left = steps = 0
    after: str | None = ""
    while after is not None:
        step = await store.reseal(fence, after=after)
        after, rewritten, left, steps = step.after, rewritten + step.rewritten, left + step.left, steps + 1
    return rewritten, left, steps


def _counts(counts: object) -> Mapping[int, tuple[int, int]]:
    assert isinstance(counts, list)
    return {count.key_id: (count.snapshots, count.entries) for count in counts}


# ---- records ----


@pytest.mark.parametrize("name", CODECS)
async def test_a_store_gives_back_what_it_was_given(name: str, place: Place, store: KeyedStore, fence: Fence) -> None:
    place.use_codec(store, CODECS[name])
    large = snapshot(fields={"text": "the same again and again " * 99})
    await store.commit(Batch(fence, (large,), (entry(body=b"progress " * 99),)))
    assert await store.load("s") == large
    assert await store.read_log("s", stream=0, after=0, limit=9) == [entry(body=b"progress " * 99)]
    assert (b"again and again" in await place.record(store, "s")) == (name == "plain")


async def test_a_snapshot_whose_key_is_missing_stays_as_it_is(place: Place, store: KeyedStore, fence: Fence) -> None:
    place.use_codec(store, codec(OLD_KEY))
    await store.commit(Batch(fence, (snapshot(),), (entry(),)))
    record = await place.record(store, "s")
    for stranger in (codec(NEW_KEY), Codec()):
        place.use_codec(store, stranger)
        with pytest.raises(KeyMissing, match=f"{OLD_KEY.id:08x}"):
            await store.load("s")
        with pytest.raises(StoreUnavailable):
            await store.read_log("s", stream=0, after=0, limit=9)
        assert await _reseal_all(store, fence) == (0, 2, _steps(store))
    assert await place.record(store, "s") == record
    assert await store.quarantined() == []
    place.use_codec(store, codec(NEW_KEY, OLD_KEY))
    assert await store.load("s") == snapshot()


async def test_calls_of_the_history_are_counted_and_rewritten_like_events(
    place: Place, store: KeyedStore, fence: Fence
) -> None:
    place.use_codec(store, codec(OLD_KEY))
    pages = [entry(sequence=HISTORY_STREAM + n, stream=HISTORY_STREAM, offset=n, body=b"call") for n in range(1, 16)]
    events = [entry(sequence=n, offset=n) for n in range(1, 4)]
    await store.commit(Batch(fence, (snapshot(),), (*events, *pages)))
    assert _counts(await store.sealed_with()) == {OLD_KEY.id: (1, 18)}
    place.use_codec(store, codec(NEW_KEY, OLD_KEY))
    assert (await _reseal_all(store, fence))[:2] == (19, 0)
    assert _counts(await store.sealed_with()) == {NEW_KEY.id: (1, 18)}
    place.use_codec(store, codec(NEW_KEY))
    assert await store.read_log("s", stream=HISTORY_STREAM, after=0, limit=99) == pages
    assert await store.read_log("s", stream=0, after=0, limit=99) == events


def _steps(store: KeyedStore) -> int:
    if isinstance(store, SqliteStore):
        return 4  # a page of each table, and that there is none after it
    return 2 if isinstance(store, RedisStore) else 1  # the partition's, and that there is nothing in those after it


async def test_secrets_are_refused_by_a_store_without_a_key(place: Place, store: KeyedStore, fence: Fence) -> None:
    secret = snapshot("t", fields={"secrets": {"authorization": "hunter2"}})
    with pytest.raises(SecretsNeedKey):
        await store.commit(Batch(fence, (snapshot(), secret)))
    assert await store.scan() == ([], None)
    place.use_codec(store, codec(NEW_KEY))
    await store.commit(Batch(fence, (snapshot(), secret)))
    assert await store.load("t") == secret


# ---- what cannot be opened ----


async def test_sessions_that_cannot_be_opened_are_named_with_the_reason(
    place: Place, store: KeyedStore, fence: Fence
) -> None:
    for session_id, writer in (
        ("clear", Codec()),
        ("old", codec(OLD_KEY)),
        ("new", codec(NEW_KEY)),
        ("newer", Codec(version=99)),
    ):
        place.use_codec(store, writer)
        await store.commit(Batch(fence, (snapshot(session_id),), (entry("place", body=b"no snapshot"),)))
    place.use_codec(store, codec(NEW_KEY))
    assert await store.obstacles() == {"old": "key_missing", "newer": "too_new"}
    place.use_codec(store, codec(NEW_KEY, OLD_KEY))
    assert await store.obstacles() == {"newer": "too_new"}
    with pytest.raises(SnapshotTooNew):
        await store.load("newer")


# ---- another key ----


async def test_rewriting_puts_everything_under_the_newest_key(place: Place, store: KeyedStore, fence: Fence) -> None:
    number = PAGE_RECORDS + 20
    for writer, first in ((Codec(), 0), (codec(OLD_KEY, compress=True), number // 2)):
        place.use_codec(store, writer)
        batch = [snapshot(f"session {n}") for n in range(first, first + number // 2)]
        entries = [entry(one.header.session_id, n) for one in batch[:10] for n in (1, 2)]
        await store.commit(Batch(fence, tuple(batch), tuple(entries)))
    ring = codec(NEW_KEY, OLD_KEY)
    place.use_codec(store, ring)
    assert _counts(await store.sealed_with()) == {0: (number // 2, 20), OLD_KEY.id: (number // 2, 20)}
    assert (await _reseal_all(store, fence))[:2] == (number + 40, 0)
    assert await store.sealed_with() == [SealedWith(NEW_KEY.id, number, 40)]
    assert (await _reseal_all(store, fence))[:2] == (0, 0)
    place.use_codec(store, codec(NEW_KEY))
    for n in range(number):
        assert await store.load(f"session {n}") == snapshot(f"session {n}")
    assert len(await store.read_log("session 0", stream=0, after=0, limit=9)) == 2
    headers, _ = await store.scan()
    if isinstance(store, RedisStore):
        headers = sorted(headers, key=lambda header: int(header.session_id.removeprefix("session ")))
    assert headers == [snapshot(f"session {n}").header for n in range(number)]


async def test_a_commit_puts_a_session_under_the_newest_key(place: Place, store: KeyedStore, fence: Fence) -> None:
    place.use_codec(store, codec(OLD_KEY))
    await store.commit(Batch(fence, (snapshot("s"), snapshot("t"))))
    place.use_codec(store, codec(NEW_KEY, OLD_KEY))
    await store.commit(Batch(fence, (snapshot("s", 2),)))
    assert _counts(await store.sealed_with()) == {NEW_KEY.id: (1, 0), OLD_KEY.id: (1, 0)}


async def test_what_cannot_be_opened_is_left_and_the_rest_rewritten(
    place: Place, store: KeyedStore, fence: Fence
) -> None:
    for session_id, writer in (("a", codec(OTHER_KEY)), ("b", codec(OLD_KEY)), ("damaged", codec(OLD_KEY))):
        place.use_codec(store, writer)
        await store.commit(Batch(fence, (snapshot(session_id),), (entry(session_id),)))
    await place.flip_snapshot(store, "damaged")
    left = {session_id: await place.record(store, session_id) for session_id in ("a", "damaged")}
    place.use_codec(store, codec(NEW_KEY, OLD_KEY))
    assert (await _reseal_all(store, fence))[:2] == (3, 3)
    assert {session_id: await place.record(store, session_id) for session_id in left} == left
    assert await store.load("b") == snapshot("b")


async def test_only_the_owner_rewrites(place: Place, store: KeyedStore, fence: Fence) -> None:
    await store.commit(Batch(fence, (snapshot(),)))
    record = await place.record(store, "s")
    place.use_codec(store, codec(NEW_KEY))
    await store.claim("successor")
    with pytest.raises(FenceLost):
        await store.reseal(fence)
    assert await place.record(store, "s") == record


async def test_large_records_are_rewritten_few_at_a_time(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path)
    store = await place.open()
    assert isinstance(store, SqliteStore)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (), tuple(entry("s", n, body=bytes(3 << 20)) for n in range(1, 6))))
    place.use_codec(store, codec(NEW_KEY))
    after = (await store.reseal(fence)).after  # there are no snapshots
    assert after is not None
    assert (await store.reseal(fence, after=after)) == Resealed("entry:2", 2, 0)  # 6 MiB, where 4 are enough
    await store.aclose()


async def test_large_records_on_redis_are_rewritten_few_at_a_time(server: RedisServer) -> None:
    place = RedisPlace(server.url)
    store = await place.open()
    assert isinstance(store, RedisStore)
    fence = await store.claim("test")
    for n in range(1, 6):
        await store.commit(Batch(fence, (snapshot("s", n),), (entry("s", n, body=bytes(3 << 20)),)))
    place.use_codec(store, codec(NEW_KEY))
    after: str | None = ""
    steps = []
    while after is not None:
        step = await store.reseal(fence, after=after)
        after = step.after
        steps.append(step.rewritten)
    assert steps == [3, 2, 1, 0], "the snapshot and 6 MiB, where 4 are enough"
    assert await store.read_log("s", stream=0, after=0, limit=9) == [
        entry("s", n, body=bytes(3 << 20)) for n in range(1, 6)
    ]
    await store.aclose()


async def test_what_expires_while_it_is_rewritten_stays_gone(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RedisPlace(server.url)
    store = await place.open()
    assert isinstance(store, RedisStore)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s"),), (entry("s", 1), entry("s", 2))))
    place.use_codec(store, codec(NEW_KEY))
    reseal = redis_resealing._resealed

    def meanwhile(*arguments: Any) -> Any:
        server.ask("DEL", place.key("s", "s"))
        server.ask("LPOP", place.key("l", "s"))
        return reseal(*arguments)

    monkeypatch.setattr(redis_resealing, "_resealed", meanwhile)
    await store.reseal(fence)
    assert await store.load("s") is None
    assert await store.read_log("s", stream=0, after=0, limit=9) == [entry("s", 2)]
    await store.aclose()


# ---- the canary ----


def _digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


async def _make(path: Path, codec: Codec) -> None:
    store = await open_store(f"sqlite:{path}", codec=codec)
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot(),), (entry(),)))
    await store.aclose()


@pytest.mark.parametrize("stranger", [codec(NEW_KEY), codec(NEW_KEY, OTHER_KEY), Codec()])
async def test_a_store_under_another_key_is_refused_and_not_touched(stranger: Codec, tmp_path: Path) -> None:
    path = tmp_path / "outlast.db"
    await _make(path, codec(OLD_KEY))
    before = _digest(tmp_path)
    with pytest.raises(StoreInvalid, match=f"{OLD_KEY.id:08x}.*not touched"):
        await open_store(f"sqlite:{path}", codec=stranger)
    assert _digest(tmp_path) == before
    again = await open_store(f"sqlite:{path}", codec=codec(NEW_KEY, OLD_KEY))
    assert await again.load("s") == snapshot()
    await again.aclose()


async def test_without_the_canary_a_wrong_key_would_be_noticed_too_late(tmp_path: Path) -> None:
    path = tmp_path / "outlast.db"
    await _make(path, codec(OLD_KEY))
    store = await open_store(f"sqlite:{path}", codec=codec(OLD_KEY))
    await execute(store, "DELETE FROM meta WHERE key = ?", CANARY)
    await store.aclose()
    store = await open_store(f"sqlite:{path}", codec=codec(NEW_KEY))
    with pytest.raises(KeyMissing):
        await store.load("s")
    await store.aclose()


async def test_the_canary_is_that_of_the_last_owner_s_key(tmp_path: Path) -> None:
    # From then on records are written with the new key: whoever goes back to the old one alone could not read them.
    path = tmp_path / "outlast.db"
    await _make(path, codec(OLD_KEY))
    for keys in ((NEW_KEY, OLD_KEY), (NEW_KEY,)):
        store = await open_store(f"sqlite:{path}", codec=codec(*keys))
        await store.claim("test")
        await store.aclose()
    with pytest.raises(StoreInvalid, match=f"{NEW_KEY.id:08x}"):
        await open_store(f"sqlite:{path}", codec=codec(OLD_KEY))


async def test_looking_into_a_store_without_claiming_it_leaves_its_canary(tmp_path: Path) -> None:
    path = tmp_path / "outlast.db"
    await _make(path, codec(OLD_KEY))
    store = await open_store(f"sqlite:{path}", codec=codec(NEW_KEY, OLD_KEY))
    await store.aclose()
    await (await open_store(f"sqlite:{path}", codec=codec(OLD_KEY))).aclose()


async def test_a_damaged_canary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outlast.db"
    await _make(path, codec(OLD_KEY))
    store = await open_store(f"sqlite:{path}", codec=codec(OLD_KEY))
    [[canary]] = await execute(store, "SELECT value FROM meta WHERE key = ?", CANARY)
    assert isinstance(canary, bytes)
    await execute(store, "UPDATE meta SET value = ? WHERE key = ?", canary[:-1] + bytes([canary[-1] ^ 1]), CANARY)
    await store.aclose()
    with pytest.raises(StoreInvalid, match="canary is damaged"):
        await open_store(f"sqlite:{path}", codec=codec(OLD_KEY))


async def test_a_store_from_before_there_was_a_key_can_be_opened_with_one(tmp_path: Path) -> None:
    path = tmp_path / "outlast.db"
    await _make(path, Codec())
    store = await open_store(f"sqlite:{path}", codec=codec(NEW_KEY))
    await store.claim("test")
    assert await store.load("s") == snapshot()
    await store.aclose()
    with pytest.raises(StoreInvalid, match="no key was given"):
        await open_store(f"sqlite:{path}")
