"""Metrics: what is known of a running gateway, in the form that Prometheus reads.

All of it is read off when somebody asks; nothing is counted for this alone. Labels are bounded: names of configured
servers, reasons and states that this program knows. No label names a session, a tool or a client.

The names below are a promise: dashboards and alerts are written against them (`docs/operations.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from actors.analytics import ServerUsage
from actors.event_log import LogCounts
from outlast.health_facts import HealthFacts, RestoreFacts, ServerFacts, SessionFacts, StoreFacts
from persistence.buckets import Buckets
from persistence.writer import WriterStatistics

BREAKER_STATES = ("closed", "half-open", "open")
LEVELS = ("memory", "local", "redis", "replicated")


@attrs.frozen(kw_only=True)
class Counts:
    """What is counted beside the facts of a health report."""

    writer: WriterStatistics
    commit_seconds: Buckets = attrs.field(factory=Buckets)
    batch_rows: Buckets = attrs.field(factory=Buckets)
    pause_seconds: Buckets = attrs.field(factory=Buckets)
    servers: Mapping[str, ServerUsage] = attrs.field(factory=dict)
    events: LogCounts = attrs.field(factory=LogCounts)
    reaped: int = 0
    passivated: int = 0
    ends_told: int = 0
    ends_not_told: int = 0
    restore_permits_in_use: int = 0
    connections_open: int = 0
    connections_accepted: int = 0
    connections_refused: int = 0
    connections_failed: int = 0


def metrics_of(facts: HealthFacts, counts: Counts) -> Iterator[Metric]:
    """Give everything that is known as metrics. Pure."""
    yield InfoMetricFamily("outlast_build", "The program.", value={"version": facts.version})
    yield _gauge("up_seconds", "Since the gateway began to serve.", facts.up_seconds)
    yield _gauge("ready", "1: clients may be sent here.", not facts.not_ready_reason)
    yield from _sessions(facts.sessions, counts)
    yield from _durability(counts)
    yield from _events(counts.events)
    yield from _store(facts.store)
    yield from _restore(facts.restore, counts)
    yield from _servers(facts.servers)
    yield from _usage(counts.servers)
    yield from _process(facts, counts)
    yield from _connections(counts)


def _sessions(sessions: SessionFacts, counts: Counts) -> Iterator[Metric]:
    uninitialized = sum(sessions.uninitialized.values())
    by_state = {"initialized": sessions.total - uninitialized, "uninitialized": uninitialized}
    yield _labelled("sessions", "Sessions that exist.", "state", by_state)
    yield _labelled(
        "sessions_uninitialized", "Sessions that cannot go on, by reason.", "reason", sessions.uninitialized
    )
    yield _gauge("sessions_resident", "Sessions in memory.", sessions.resident)
    yield _gauge("sessions_max", "How many sessions may exist.", sessions.total_max)
    yield _counter("sessions_turned_away", "Sessions not opened since there were too many.", sessions.turned_away)
    yield _counter("sessions_reaped", "Sessions removed since their time was over.", counts.reaped)
    yield _counter("sessions_passivated", "Idle sessions that left memory.", counts.passivated)
    yield _counter("ends_told", "Sessions ended at rest, and at their server.", counts.ends_told)
    yield _counter("ends_not_told", "Sessions ended at rest, whose server was not told.", counts.ends_not_told)
    yield _gauge("reaping_stopped", "1: so many were due at once that none is removed.", sessions.reaping_stopped)


def _durability(counts: Counts) -> Iterator[Metric]:
    writer = counts.writer
    yield _gauge("durable_lag_seconds", "Age of the oldest fact that is not durable.", writer.oldest_seconds)
    yield _gauge("gates_shut", "Sessions whose answers wait until a fact is durable.", writer.sessions_waiting)
    yield _gauge("backlog_rows", "Rows that wait to be written.", writer.backlog_rows)
    yield _gauge("backlog_bytes", "Bytes of events that wait to be written.", writer.backlog_bytes)
    yield _histogram("commit_seconds", "How long commits took.", counts.commit_seconds)
    yield _histogram("commit_rows", "How many rows commits wrote.", counts.batch_rows)
    yield _counter("commits_unavailable", "Commits of unknown outcome, sent again.", writer.unavailable)
    yield _counter("commits_refused", "Commits for which there was no room.", writer.refused)
    yield _counter("commits_fenced", "Commits refused since another owner has come.", writer.fenced)
    yield _gauge("store_outage_seconds", "For so long no commit was answered.", writer.outage_seconds)
    yield _gauge("store_full", "1: the last commit found no room.", writer.full)


def _events(events: LogCounts) -> Iterator[Metric]:
    yield _counter("events_evicted", "Events that fell off their log: not to be replayed any more.", events.left_logs)
    yield _counter("events_left_memory", "Events that are read from the store since.", events.left_memory)
    yield _counter("cursors_lost", "Readers told that what they missed is no longer kept.", events.cursors_lost)


def _store(store: StoreFacts) -> Iterator[Metric]:
    levels = {level: level == store.survives for level in LEVELS}
    yield _labelled("store_survives", "1: what a returned commit has reached now.", "level", levels)
    yield _gauge("store_reachable", "1: the last probe was answered.", store.reachable)
    if store.probe_seconds is not None:
        yield _gauge("store_probe_seconds", "A durable write and a read, as last probed.", store.probe_seconds)
    if store.bytes_free is not None:
        yield _gauge("store_free_bytes", "Room on the store's device.", store.bytes_free)
    yield _gauge("store_quarantined_records", "Damaged records that were set aside.", store.quarantined)
    if store.has_ballast is not None:
        yield _gauge("store_ballast", "1: the room held in reserve is there; 0: it was given up.", store.has_ballast)
    if store.lease_margin_seconds is not None:
        yield _gauge("lease_margin_seconds", "Until the first lease runs out.", store.lease_margin_seconds)
    if store.troubles:
        about = "1: this is not as it should be with a server of the store, or not known."
        yield _labelled("store_trouble", about, "check", store.troubles)
    yield _gauge("store_set_up_warning", "1: see the health report for how it is set up.", bool(store.notes))
    yield _gauge("store_degraded", "1: away, going on from memory.", store.degraded_since_unix_s is not None)
    yield _gauge("store_degraded_facts", "What a crash would lose now.", store.degraded_facts)


def _restore(restore: RestoreFacts, counts: Counts) -> Iterator[Metric]:
    states = {"restored": restore.restored, "uninitialized": restore.uninitialized}
    states |= {"waiting": restore.waiting, "on_use": restore.on_use}
    yield _labelled("restore_sessions", "Stored sessions, as the start has brought them back.", "state", states)
    yield _gauge("restore_permits_in_use", "Sessions being restored now.", counts.restore_permits_in_use)


def _servers(servers: tuple[ServerFacts, ...]) -> Iterator[Metric]:
    breaker = GaugeMetricFamily("outlast_server_breaker", "1: the state it is in.", labels=("server", "state"))
    for server in servers:
        for state in BREAKER_STATES:
            breaker.add_metric((server.name, state), float(server.state == state))
    yield breaker
    refusing = {server.name: server.refuses_credentials for server in servers}
    about = "1: it is there, and refuses the gateway's credentials."
    yield _labelled("server_refuses_credentials", about, "server", refusing)


def _usage(servers: Mapping[str, ServerUsage]) -> Iterator[Metric]:
    requests = CounterMetricFamily("outlast_requests", "Requests that have ended.", labels=("server",))
    tool_calls = CounterMetricFamily("outlast_tool_calls", "Tool calls that have ended.", labels=("server",))
    errors = CounterMetricFamily("outlast_errors", "Requests that ended in an error.", labels=("server",))
    seconds = HistogramMetricFamily("outlast_request_seconds", "How long requests took.", labels=("server",))
    for name, usage in servers.items():
        requests.add_metric((name,), usage.requests)
        tool_calls.add_metric((name,), usage.tool_calls)
        errors.add_metric((name,), usage.errors)
        seconds.add_metric((name,), _cumulative(usage.seconds), usage.seconds.total)
    yield from (requests, tool_calls, errors, seconds)


def _process(facts: HealthFacts, counts: Counts) -> Iterator[Metric]:
    loop = facts.loop
    yield _gauge("loop_lag_seconds", "How late the event loop's last beat was.", loop.lag_seconds)
    yield _gauge("loop_lag_worst_seconds", "How late one was in the last minutes.", loop.lag_seconds_max)
    yield _counter("loop_standstills", "How often it stood still.", loop.standstills)
    yield _histogram("gc_pause_seconds", "Garbage collections, which stop everything.", counts.pause_seconds)


def _connections(counts: Counts) -> Iterator[Metric]:
    yield _gauge("connections", "Clients' connections now.", counts.connections_open)
    yield _counter("connections_accepted", "Connections accepted.", counts.connections_accepted)
    yield _counter("connections_refused", "Connections refused, since there were too many.", counts.connections_refused)
    yield _counter("connections_failed", "Connections that ended in a defect.", counts.connections_failed)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"outlast_{name}", about, value=float(value))


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"outlast_{name}", about, value=float(value))


def _labelled(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"outlast_{name}", about, labels=(label,))
    for value, count in values.items():
        family.add_metric((value,), float(count))
    return family


def _histogram(name: str, about: str, buckets: Buckets) -> Metric:
    return HistogramMetricFamily(f"outlast_{name}", about, buckets=_cumulative(buckets), sum_value=buckets.total)


def _cumulative(buckets: Buckets) -> list[tuple[str, float]]:
    return [("+Inf" if bound == float("inf") else repr(bound), float(seen)) for bound, seen in buckets.cumulative()]
