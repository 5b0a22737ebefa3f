"""The Redis store keeps the contract of stores: on Valkey 9, on Redis 7 where it is installed, and on a cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest
import trio
from redis.exceptions import RedisError

from persistence.codec import Codec
from persistence.opening import open_store
from persistence.partitions import PARTITIONS, partition_of
from persistence.records import Batch, Trim
from persistence.redis import RedisStore
from persistence.redis_records import MARGIN_SECONDS
from persistence.store import FenceLost, StoreInvalid, StoreUnavailable
from tests.persistence.contract import *  # noqa: F403 - the suite of claims
from tests.persistence.lease_contract import *  # noqa: F403 - and of those about leases
from tests.persistence.making import entry, snapshot, tombstone
from tests.persistence.places import Place, RedisPlace, ask
from tests.persistence.redis_servers import RedisServer, cluster, programs, running

KINDS = (*programs(), "cluster")


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """One server for all tests; each has a prefix of its own."""
    if request.param == "cluster":
        with cluster() as nodes:
            yield nodes[1].tcp_url
    else:
        server = RedisServer(programs()[request.param])
        with running(server):
            yield server.url


@pytest.fixture
def place(url: str) -> Place:
    return RedisPlace(url)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    with running(server):
        yield server


@pytest.fixture
def redis_place(server: RedisServer) -> RedisPlace:
    """A place on Valkey, for what does not depend on the kind of server."""
    return RedisPlace(server.url)


async def test_everything_committed_is_there_when_opened_again(place: Place) -> None:
    store = await place.open()
    fence = await store.claim("first")
    await store.commit(Batch(fence, (snapshot("s"), snapshot("t")), (entry(),), (), (tombstone("t"),)))
    await store.aclose()
    store = await place.open()
    assert await store.load("s") == snapshot("s")
    assert await store.load("t") is None
    assert await store.read_log("s", stream=0, after=0, limit=9) == [entry()]
    assert (await store.claim("second")).number > fence.number
    with pytest.raises(FenceLost, match="second"):
        await store.commit(Batch(fence, (snapshot("s", 2),)))
    await store.aclose()


async def test_many_sessions_are_scanned_over_many_partitions(place: Place) -> None:
    store = await place.open()
    many = tuple(snapshot(f"session-{number}") for number in range(1500))
    await store.commit(Batch(await store.claim("test"), many))
    found, after = await store.scan(limit=700)
    for _ in range(2):
        assert after is not None
        page, after = await store.scan(after=after, limit=700)
        found = [*found, *page]
    assert after is None
    assert {header.session_id for header in found} == {one.header.session_id for one in many}
    assert len(found) == len(many)
    assert (await store.probe()).sessions == len(many)
    await store.aclose()


async def test_a_long_log_is_read_in_pages_and_trimmed(place: Place) -> None:
    store = await place.open()
    fence = await store.claim("test")
    log = tuple(entry("s", number) for number in range(1, 1501))
    await store.commit(Batch(fence, (snapshot(),), log))
    assert await store.read_log("s", stream=0, after=990, limit=20) == list(log[990:1010])
    await store.commit(Batch(fence, (), (), (Trim("s", 700),)))
    assert await store.read_log("s", stream=0, after=0, limit=2000) == list(log[700:])
    await store.commit(Batch(fence, (), log[:10]))  # late, and trimmed already
    assert await store.read_log("s", stream=0, after=0, limit=1) == [log[700]]
    await store.aclose()


async def test_a_log_with_a_gap_is_trimmed_by_sequence_and_not_by_count(redis_place: RedisPlace) -> None:
    # As a failover that lost a tail leaves it.
    store = await redis_place.open()
    fence = await store.claim("test")
    log = [entry("s", number) for number in (1, 2, 7, 8, 9)]
    await store.commit(Batch(fence, (snapshot(),), tuple(log), (Trim("s", 3),)))
    assert await store.read_log("s", stream=0, after=0, limit=9) == log[2:]
    await store.commit(Batch(fence, (), (), (Trim("s", 8),)))
    assert await store.read_log("s", stream=0, after=0, limit=9) == log[4:]
    await store.aclose()


# Keys and their time

AN_HOUR_EACH_AT_MOST_BEYOND = range(MARGIN_SECONDS - 60, MARGIN_SECONDS + 2 * 3600 + 1)


async def test_a_session_s_keys_outlive_its_expiry_by_the_margin(redis_place: RedisPlace) -> None:
    store = await redis_place.open()
    await store.commit(Batch(await store.claim("test"), (snapshot("s"),), (entry("s"), entry("alone"))))
    for kind, session_id in (("s", "s"), ("l", "s"), ("l", "alone")):
        remaining = await ask(store, "TTL", redis_place.key(kind, session_id))
        assert remaining in AN_HOUR_EACH_AT_MOST_BEYOND, (kind, session_id)
    at = redis_place.key("s", "s").rpartition("s:")[0]
    assert await ask(store, "TTL", f"{at}index") in AN_HOUR_EACH_AT_MOST_BEYOND
    assert await ask(store, "TTL", f"{at}lease") == -1  # or its number would restart
    await store.aclose()


async def test_a_session_that_the_server_removed_is_gone_and_leaves_no_trace(redis_place: RedisPlace) -> None:
    store = await redis_place.open()
    await store.commit(Batch(await store.claim("test"), (snapshot("s"), snapshot("t")), (entry("s"),)))
    for kind in "sl":
        await ask(store, "PEXPIRE", redis_place.key(kind, "s"), 0)
    assert await store.load("s") is None
    assert await store.scan() == ([snapshot("t").header], None)
    assert (await store.probe()).sessions == 1
    await store.aclose()


async def test_an_ended_session_leaves_one_name_behind(redis_place: RedisPlace, server: RedisServer) -> None:
    store = await redis_place.open()
    fence = await store.claim("test")
    await store.commit(Batch(fence, (snapshot("s"),), (entry("s"),)))
    await store.commit(Batch(fence, (), (), (), (tombstone("s"),)))
    kept = {key.decode() for key in server.ask("KEYS", f"{redis_place.prefix}:*") if not key.endswith(b"lease")}
    at = redis_place.key("s", "s").rpartition("s:")[0]
    assert kept == {f"{redis_place.prefix}:meta", f"{at}tombs"}
    await store.aclose()


async def test_tenants_of_one_server_do_not_meet(server: RedisServer) -> None:
    one, other = await RedisPlace(server.url).open(), await RedisPlace(server.url).open()
    fence = await one.claim("one")
    await other.claim("other")
    await one.commit(Batch(fence, (snapshot("s"),)))
    assert await other.load("s") is None
    assert await other.scan() == ([], None)
    with pytest.raises(FenceLost):
        await other.commit(Batch(fence, (snapshot("s"),)))
    for store in (one, other):
        await store.aclose()


# Opening


async def test_store_urls_open_it_by_socket_and_by_port() -> None:
    from tests.persistence.redis_servers import free_ports

    server = RedisServer(port=free_ports(1)[0])
    with running(server):
        for url in (server.url, server.url.replace("unix:", "redis+unix:"), server.tcp_url, f"{server.tcp_url}/1"):
            store = await open_store(url, codec=Codec())
            assert store.survives == "redis"
            assert store.url == url.replace("redis+unix:", "unix:")
            await store.aclose()


async def test_a_password_opens_the_store_and_is_in_nothing_that_is_shown(server: RedisServer) -> None:
    secret = "hunter2"
    server.ask("ACL", "SETUSER", "keeper", "on", f">{secret}", "~*", "&*", "+@all")
    url = server.url.replace("unix://", f"unix://keeper:{secret}@") + "?prefix=secret"
    store = await open_store(url)
    await store.commit(Batch(await store.claim("test"), (snapshot(),)))
    assert secret not in f"{store!r} {store.url} {vars(store)} {(await store.probe())}"
    await store.aclose()
    with pytest.raises(StoreUnavailable) as caught:
        await open_store(url.replace(secret, f"wrong-{secret}"))
    assert secret not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__cause__}"
    assert "password" in str(caught.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("maxmemory-policy", "allkeys-lru"), "CONFIG SET maxmemory-policy noeviction"),
        (("maxmemory-policy", "volatile-ttl"), "CONFIG SET maxmemory-policy noeviction"),
        (("appendonly", "no"), "CONFIG SET appendonly yes"),
    ],
)
async def test_a_server_that_forgets_is_refused_with_what_to_set(option: tuple[str, str], said: str) -> None:
    server = RedisServer()
    with running(server):
        server.ask("CONFIG", "SET", *option)
        with pytest.raises(StoreInvalid, match=said):
            await open_store(server.url)
        assert server.ask("DBSIZE") == 0
        store = await open_store(f"{server.url}?unsafe=eviction,no-aof")
        detail = (await store.probe()).detail
        await store.aclose()
    assert "accepted with unsafe=" in detail


async def test_a_server_that_begins_to_forget_is_told_of(server: RedisServer, redis_place: RedisPlace) -> None:
    store = await redis_place.open()
    assert (await store.probe()).detail == ""
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    try:
        assert "CONFIG SET maxmemory-policy noeviction" in (await store.probe()).detail
    finally:
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await store.aclose()


async def test_a_server_that_hides_how_it_is_set_up_is_believed_with_a_warning(server: RedisServer) -> None:
    server.ask("ACL", "SETUSER", "guest", "on", "nopass", "~*", "&*", "+@all", "-config", "-info")
    store = await open_store(server.url.replace("unix://", "unix://guest:x@") + "?prefix=hidden")
    await store.commit(Batch(await store.claim("test"), (snapshot(),)))
    assert "INFO is denied" in (await store.probe()).detail
    await store.aclose()


async def test_another_format_is_refused_and_not_touched(server: RedisServer, redis_place: RedisPlace) -> None:
    key = f"{redis_place.prefix}:meta"
    server.ask("HSET", key, "uuid", "x", "format", "2", "partitions", str(PARTITIONS))
    with pytest.raises(StoreInvalid, match="not touched"):
        await redis_place.open()
    assert server.ask("KEYS", f"{redis_place.prefix}:*") == [key.encode()]


async def test_what_another_application_has_under_the_prefix_is_refused(
    server: RedisServer, redis_place: RedisPlace
) -> None:
    server.ask("SET", f"{redis_place.prefix}:meta", "theirs")
    with pytest.raises(StoreInvalid, match="another prefix"):
        await redis_place.open()


async def test_an_address_where_nobody_listens_is_unavailable_soon() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(StoreUnavailable, match="redis://127"):
            await open_store(url)


async def test_partitions_of_a_cluster_lie_on_all_its_nodes() -> None:
    with cluster() as nodes:
        store = await RedisStore.open(nodes[0].tcp_url)
        fence = await store.claim("test")
        await store.commit(Batch(fence, tuple(snapshot(str(number)) for number in range(300))))
        assert all(int(node.ask("DBSIZE")) > 100 for node in nodes)
        # A node that has given a slot away says where it went; nobody waits for that, and nothing is lost.
        await trio.to_thread.run_sync(_move_slots, nodes)
        await store.commit(Batch(fence, (snapshot(EMPTIED), *(snapshot(str(number), 2) for number in range(300)))))
        assert (await store.probe()).sessions == 301
        await store.aclose()


EMPTIED = "moved"


def _move_slots(nodes: Sequence[RedisServer]) -> None:
    """Give the slot of a partition to another node, with what is in it."""
    from persistence.redis_records import slot_of, tag_of

    slot = slot_of(tag_of(partition_of(EMPTIED)))
    owner = next(node for node in nodes if _owns(node, slot))
    taker = next(node for node in nodes if node is not owner)
    names = {node: node.ask("CLUSTER", "MYID").decode() for node in nodes}
    taker.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[owner])
    owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[taker])
    for key in owner.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
        owner.ask("MIGRATE", "127.0.0.1", taker.port, key, 0, 5000)
    for node in (taker, owner, *nodes):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[taker])


def _owns(node: RedisServer, slot: int) -> bool:
    try:
        node.ask("CLUSTER", "COUNTKEYSINSLOT", slot)
        mine = node.ask("CLUSTER", "MYID")
    except RedisError:
        return False
    rows = node.ask("CLUSTER", "SLOTS")
    return any(first <= slot <= last and primary[2] == mine for first, last, primary, *_ in rows)
