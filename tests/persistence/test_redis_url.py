"""The URL of a Redis store: what is understood, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import pytest

from persistence.opening import shown_url
from persistence.redis_url import RedisPlace, is_redis_url, read_redis_url
from persistence.store import StoreUrlInvalid

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", RedisPlace(scheme="redis", host="localhost")),
        ("redis://cache", RedisPlace(scheme="redis", host="cache")),
        ("redis://cache:6380/3", RedisPlace(scheme="redis", host="cache", port=6380, database=3)),
        ("redis://[::1]:6380", RedisPlace(scheme="redis", host="::1", port=6380)),
        ("rediss://cache?db=2", RedisPlace(scheme="rediss", host="cache", database=2)),
        ("redis://:p%40ss@cache", RedisPlace(scheme="redis", host="cache", password="p@ss")),
        ("redis://me:p@cache", RedisPlace(scheme="redis", host="cache", username="me", password="p")),
        ("unix:///run/redis.sock?db=1", RedisPlace(scheme="unix", path="/run/redis.sock", database=1)),
        ("redis+unix://me:p@/r.sock", RedisPlace(scheme="unix", path="/r.sock", username="me", password="p")),
        (
            "redis://c?level=replicated&replicas=2&prefix=tenant-1",
            RedisPlace(scheme="redis", host="c", level="replicated", replicas=2, prefix="tenant-1"),
        ),
        ("redis://c?level=replicated", RedisPlace(scheme="redis", host="c", level="replicated", replicas=1)),
        (
            "rediss://c?ssl_ca_certs=/ca.pem&unsafe=eviction,no-aof",
            RedisPlace(
                scheme="rediss",
                host="c",
                files={"ssl_ca_certs": "/ca.pem"},
                unsafe=frozenset(("eviction", "no-aof")),
            ),
        ),
    ],
)
def test_urls_are_understood(url: str, expected: RedisPlace) -> None:
    assert is_redis_url(url)
    assert read_redis_url(url) == expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{SECRET}@cache", "redis://cache:6379"),
        (f"rediss://me:{SECRET}@[::1]:1/2?ssl_keyfile=/{SECRET}", "rediss://[::1]:1/2"),
        (f"unix://me:{SECRET}@/r.sock?db=2&prefix=a", "unix:///r.sock?db=2&prefix=a"),
        ("redis://c?level=replicated&prefix=a", "redis://c:6379?level=replicated&replicas=1&prefix=a"),
    ],
)
def test_what_is_shown_can_be_opened_by_who_knows_the_password(url: str, shown: str) -> None:
    place = read_redis_url(url)
    assert place.shown == shown
    assert read_redis_url(shown).shown == shown
    assert f":{SECRET}" not in repr(place)
    assert "password" not in repr(place)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@cache:port",
        f"redis://:{SECRET}@cache:99999",
        f"redis://:{SECRET}@[cache",
        f"redis://:{SECRET}@cache/one",
        f"redis://:{SECRET}@cache/1/2",
        f"redis://:{SECRET}@cache?level=strong",
        f"redis://:{SECRET}@cache?replicas=1",
        f"redis://:{SECRET}@cache?level=replicated&replicas=0",
        f"redis://:{SECRET}@cache?level=replicated&replicas=²",
        f"redis://:{SECRET}@cache?prefix=a{{b}}",
        f"redis://:{SECRET}@cache?prefix=",
        f"redis://:{SECRET}@cache?unsafe=everything",
        f"redis://:{SECRET}@cache?socket_timeout=9",
        f"redis://:{SECRET}@cache?{SECRET}",
        f"redis://:{SECRET}@cache?db=1&db=2",
        f"redis://:{SECRET}@cache#{SECRET}",
        f"unix://:{SECRET}@relative.sock",
        f"unix://:{SECRET}@",
        f"unix://:{SECRET}@/",
    ],
)
def test_other_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreUrlInvalid, match="redis://HOST:PORT") as caught:
        read_redis_url(url)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_other_stores_urls_are_none() -> None:
    assert [is_redis_url(url) for url in ("redis", "sqlite:redis:", "memory:", "redis+tls://x")] == [False] * 4


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("sqlite:./data/outlast.db", "sqlite:./data/outlast.db"),
        ("redis://someone:hunter2@kv.example:6380/3", "redis://kv.example:6380/3"),
        ("postgres://someone:hunter2@db.example", "postgres:"),
    ],
)
def test_a_store_url_is_shown_without_what_is_secret_in_it(url: str, shown: str) -> None:
    assert shown_url(url) == shown
