"""What is exposed can be read by the tools that read it, and names nobody."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.analytics import ServerUsage
from actors.event_log import LogCounts
from outlast.metrics import Counts
from outlast.metrics_operation import exposition
from outlast.pauses import Pauses
from persistence.buckets import ROWS, Buckets
from persistence.redis_checks import CHECKS
from persistence.writer import WriterStatistics
from tests.outlast.test_health_report import OPEN, WELL, sessions, with_store

ROOT = Path(__file__).parents[2]
WRITER = WriterStatistics(
    backlog_rows=3,
    backlog_bytes=4,
    soft_sessions=0,
    oldest_seconds=0.5,
    commits=1,
    rows=7,
    last_batch_rows=7,
    outage_seconds=0.0,
    sessions_waiting=2,
    unavailable=5,
    refused=6,
    full=False,
    fenced=1,
)


def events() -> LogCounts:
    counts = LogCounts()
    counts.left_logs, counts.left_memory, counts.cursors_lost = 11, 12, 13
    return counts


def buckets(bounds: tuple[float, ...], *values: float) -> Buckets:
    made = Buckets(bounds)
    for value in values:
        made.add(value)
    return made


def usage() -> ServerUsage:
    used = ServerUsage()
    used.note(0.02, failed=False, tool=True)
    used.note(0.3, failed=True, tool=False)
    return used


COUNTS = Counts(
    writer=WRITER,
    commit_seconds=buckets((0.01, 0.1), 0.005, 0.05),
    batch_rows=buckets(ROWS, 7),
    servers={"linear": usage()},
    events=events(),
    reaped=8,
    ends_told=14,
    ends_not_told=15,
    connections_open=9,
)


# What any store may have, and a session that cannot go on: every metric is there.
EVERYTHING = attrs.evolve(
    with_store(has_ballast=True, lease_margin_seconds=9.5, troubles=dict.fromkeys(CHECKS, False)),
    sessions=sessions(uninitialized={"corrupt": 1}).sessions,
)


def samples(text: bytes) -> Mapping[str, float]:
    """Read the text as a scraper would; samples by name and labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def test_what_is_exposed_is_read_as_it_was_meant() -> None:
    facts = attrs.evolve(sessions(uninitialized={"corrupt": 2}), servers=(OPEN,))
    found = samples(exposition(facts, COUNTS))
    expected = {
        "outlast_build_info{version=1.2.3}": 1,
        "outlast_ready": 1,
        "outlast_sessions{state=initialized}": 8,
        "outlast_sessions{state=uninitialized}": 2,
        "outlast_sessions_uninitialized{reason=corrupt}": 2,
        "outlast_sessions_reaped_total": 8,
        "outlast_ends_told_total": 14,
        "outlast_ends_not_told_total": 15,
        "outlast_durable_lag_seconds": 0.5,
        "outlast_gates_shut": 2,
        "outlast_commit_seconds_count": 2,
        "outlast_commit_seconds_bucket{le=0.01}": 1,
        "outlast_commit_seconds_bucket{le=+Inf}": 2,
        "outlast_commits_unavailable_total": 5,
        "outlast_commits_refused_total": 6,
        "outlast_commits_fenced_total": 1,
        "outlast_events_evicted_total": 11,
        "outlast_events_left_memory_total": 12,
        "outlast_cursors_lost_total": 13,
        "outlast_store_survives{level=local}": 1,
        "outlast_store_survives{level=memory}": 0,
        "outlast_server_breaker{server=linear,state=open}": 1,
        "outlast_server_breaker{server=linear,state=closed}": 0,
        "outlast_requests_total{server=linear}": 2,
        "outlast_tool_calls_total{server=linear}": 1,
        "outlast_errors_total{server=linear}": 1,
        "outlast_request_seconds_count{server=linear}": 2,
        "outlast_request_seconds_sum{server=linear}": 0.32,
        "outlast_request_seconds_bucket{le=0.025,server=linear}": 1,
        "outlast_connections": 9,
    }
    assert {name: found[name] for name in expected} == expected
    assert "process_resident_memory_bytes" in found


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "ü"])
def test_names_of_servers_are_escaped(name: str) -> None:
    facts = attrs.evolve(WELL, servers=(attrs.evolve(OPEN, name=name),))
    found = samples(exposition(facts, COUNTS))
    assert found[f"outlast_server_breaker{{server={name},state=open}}"] == 1


def test_what_is_not_known_is_not_exposed() -> None:
    found = samples(exposition(with_store(probe_seconds=None, bytes_free=None), COUNTS))
    unknown = {"store_probe_seconds", "store_free_bytes", "store_ballast", "lease_margin_seconds"}
    assert not {f"outlast_{name}" for name in unknown} & found.keys()
    assert not any(name.startswith("outlast_store_trouble") for name in found)


def test_what_only_some_stores_have_is_exposed_with_them() -> None:
    facts = with_store(has_ballast=False, lease_margin_seconds=9.5, troubles={"eviction": True, "role": False})
    found = samples(exposition(facts, COUNTS))
    expected = {
        "outlast_store_ballast": 0,
        "outlast_lease_margin_seconds": 9.5,
        "outlast_store_trouble{check=eviction}": 1,
        "outlast_store_trouble{check=role}": 0,
    }
    assert {name: found[name] for name in expected} == expected


def test_labels_are_of_kinds_that_are_bounded() -> None:
    labels = {
        label
        for family in text_string_to_metric_families(exposition(EVERYTHING, COUNTS).decode())
        for sample in family.samples
        for label in sample.labels
    }
    assert labels <= {"server", "state", "reason", "level", "le", "version", "check"}


def missing_metrics(dashboard: str, known: set[str]) -> set[str]:
    """Find metrics that a dashboard's queries name, and that do not exist."""
    queries = [target["expr"] for panel in json.loads(dashboard)["panels"] for target in panel.get("targets", [])]
    return {name for query in queries for name in re.findall(r"\b(?:outlast|process)_\w+", query)} - known


def test_the_dashboard_and_the_alerts_name_metrics_that_exist() -> None:
    known = {name.partition("{")[0] for name in samples(exposition(EVERYTHING, COUNTS))}
    dashboard = (ROOT / "docs/grafana-dashboard.json").read_text()
    assert missing_metrics(dashboard, known) == set()
    assert missing_metrics(dashboard.replace("outlast_gates_shut", "outlast_no_such"), known) == {"outlast_no_such"}
    told = set(re.findall(r"\boutlast_[a-z_]+\b", (ROOT / "docs/operations.md").read_text()))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    assert told - known - families == set()
    assert {name for name in families - told if name.startswith("outlast_")} == set(), "docs/operations.md lists all"


def test_collections_are_counted_while_somebody_watches() -> None:
    times = iter([1.0, 1.5, 9.0, 9.0])
    pauses = Pauses(lambda: next(times, 9.0))
    gc.disable()
    try:
        with pauses.watching():
            gc.collect()
    finally:
        gc.enable()
    assert (pauses.seconds.count, pauses.seconds.total) == (1, 0.5)
    assert pauses.note not in gc.callbacks
