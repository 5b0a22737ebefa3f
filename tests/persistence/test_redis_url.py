"""The URL of a Redis store: what is understood, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import pytest

from persistence.opening import shown_url
from persistence.redis_url import Endpoint, RedisPlace, is_redis_url, read_redis_url, with_sentinel_password
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
        (
            "redis+sentinel://a,b:26380,[::1]:1/2?service=my-master",
            RedisPlace(
                scheme="redis+sentinel",
                sentinels=(Endpoint("a", 26379), Endpoint("b", 26380), Endpoint("::1", 1)),
                service="my-master",
                database=2,
            ),
        ),
        (
            "rediss+sentinel://me:p%2C%40@[::1]?service=m&sentinel_username=s&sentinel_password=%26&level=replicated",
            RedisPlace(
                scheme="rediss+sentinel",
                sentinels=(Endpoint("::1", 26379),),
                service="m",
                username="me",
                password="p,@",
                sentinel_username="s",
                sentinel_password="&",
                level="replicated",
                replicas=1,
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
        (
            f"redis+sentinel://:{SECRET}@a,[::1]:7/3?sentinel_password={SECRET}&service=m&prefix=a",
            "redis+sentinel://a:26379,[::1]:7/3?service=m&prefix=a",
        ),
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


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("a:1", "service is the name under which the sentinels watch the primary"),
        ("a:1/0?service=", "service is the name"),
        (f"a:1?service={SECRET}%20x", "service is the name"),
        ("?service=m", "name 1 to 16 sentinels"),
        ("/0?service=m", "name 1 to 16 sentinels"),
        (f"{','.join('a' * 17)}?service=m", "name 1 to 16 sentinels"),
        ("a:1,b:port?service=m", "sentinel 2 is not HOST or HOST:PORT"),
        ("a:0?service=m", "sentinel 1 is not"),
        ("a,b,c:65536?service=m", "sentinel 3 is not"),
        ("a,,c?service=m", "sentinel 2 is not"),
        ("::1?service=m", "sentinel 1 is not"),
        ("a:1/one?service=m", "the database is a number"),
        ("a:1?service=m&service=n", "twice"),
        ("a:1?service=m&sentinel_retries=1", "an option beside"),
    ],
)
def test_urls_of_sentinels_that_are_odd_are_refused_with_what_is_odd(rest: str, said: str) -> None:
    with pytest.raises(StoreUrlInvalid, match=said) as caught:
        read_redis_url(f"redis+sentinel://:{SECRET}@{rest}")
    assert "redis+sentinel://HOST:PORT,HOST:PORT/DATABASE?service=NAME" in str(caught.value)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("option", ["service", "sentinel_username", "sentinel_password"])
def test_options_of_sentinels_are_refused_where_there_are_none(option: str) -> None:
    with pytest.raises(StoreUrlInvalid, match=f"{option}.* for redis.sentinel://"):
        read_redis_url(f"redis://cache?{option}=x")


def test_the_password_of_sentinels_is_added_where_it_is_missing() -> None:
    url = "redis+sentinel://:p@a,b?service=m"
    assert read_redis_url(with_sentinel_password(url, "&?#")).sentinel_password == "&?#"
    for as_it_is in (f"{url}&sentinel_password=", f"{url}&sentinel_password=own", "redis://a", "memory:"):
        assert with_sentinel_password(as_it_is, SECRET) == as_it_is
    assert with_sentinel_password(url, "") == url


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
