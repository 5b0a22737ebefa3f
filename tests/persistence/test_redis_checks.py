"""What a server says of itself, judged."""

from __future__ import annotations

import pytest

from persistence.redis_checks import CHECKS, judge, read_info, replicas_missing

FIT = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "connected_slaves": "1",
}


def test_a_fit_server_is_not_remarked_on() -> None:
    found = judge(FIT)
    assert (found.refusals, found.warnings) == ((), ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"redis_version": "6.2.14"}, "Redis 7.0, Valkey 7.2 or newer is needed"),
        ({"role": "slave", "master_host": "a", "master_port": "1"}, "a replica of a:1: name the primary"),
        ({"redis_mode": "sentinel"}, "a sentinel, and keeps nothing: say redis+sentinel://"),
        ({"maxmemory_policy": "allkeys-lru"}, 'Set "CONFIG SET maxmemory-policy noeviction"'),
        ({"maxmemory_policy": "volatile-ttl"}, 'Set "CONFIG SET maxmemory-policy noeviction"'),
        ({"aof_enabled": "0"}, 'Set "CONFIG SET appendonly yes" and "CONFIG SET appendfsync everysec"'),
    ],
)
def test_an_unfit_server_is_refused_with_what_to_do(change: dict[str, str], said: str) -> None:
    [refusal] = judge({**FIT, **change}).refusals
    assert said in refusal


@pytest.mark.parametrize(
    ("facts", "troubles"),
    [
        (FIT, set()),
        ({}, {"hidden"}),
        ({**FIT, "role": "slave"}, {"role"}),
        ({**FIT, "redis_version": "6.2.14"}, {"version"}),
        ({**FIT, "maxmemory_policy": "allkeys-lru", "aof_enabled": "0"}, {"eviction", "append_only"}),
    ],
)
def test_troubles_are_named_for_metrics_also_where_they_are_accepted(facts: dict[str, str], troubles: set[str]) -> None:
    assert judge(facts).troubles == troubles <= set(CHECKS)
    assert judge(facts, frozenset(("eviction", "no-aof"))).troubles == troubles


def test_dangers_that_somebody_chose_are_warned_of() -> None:
    found = judge({**FIT, "maxmemory_policy": "allkeys-lru", "aof_enabled": "0"}, frozenset(("eviction", "no-aof")))
    assert found.refusals == ()
    assert [warning.rpartition("; ")[2] for warning in found.warnings] == [
        "accepted with unsafe=eviction",
        "accepted with unsafe=no-aof",
    ]
    one = judge({**FIT, "maxmemory_policy": "allkeys-lru", "aof_enabled": "0"}, frozenset(("eviction",)))
    assert len(one.refusals) == 1


def test_a_server_that_does_not_say_is_warned_of() -> None:
    assert len(judge({}).warnings) == 1
    found = judge({"redis_version": "7.2.4", "role": "master"})
    assert found.refusals == ()
    assert len(found.warnings) == 1


def test_replicas_are_counted_where_they_are_needed() -> None:
    assert replicas_missing(FIT, 0) == ""
    assert replicas_missing(FIT, 1) == ""
    assert "1 of 2 replicas" in replicas_missing(FIT, 2)
    assert replicas_missing({}, 2) == ""


def test_info_is_read_line_by_line() -> None:
    assert read_info("# Server\r\nredis_version:7.0.1\r\n\r\nexecutable:/a:b\r\n") == {
        "redis_version": "7.0.1",
        "executable": "/a:b",
    }
