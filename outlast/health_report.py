"""The health report: from facts to findings, each with what to do about it. Pure.

A table of looks; each look gives the findings of one area. What a finding is about begins with its area, so that areas
can be told to those who may not see more. Everything is said whether it is well or not: who reads a report wants to see
that a thing was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from outlast.doctor import FREE_BYTES_LAST, FREE_BYTES_WANTED, SURVIVES
from outlast.finding import Finding, State, worst
from outlast.health_facts import HealthFacts, ServerFacts, StoreFacts

PROBE_SECONDS_SLOW = 0.25  # a hundred times an ordinary disk's: every answer that tells of a fact takes as long
LAG_SECONDS_MAX = 1.0
LEASE_MARGIN_SECONDS_LEAST = 5.0  # of fifteen, renewed every five: two renewals in a row have failed
LOOP_LAG_SECONDS_MAX = 0.25
SESSIONS_SHARE_MAX = 0.9

REFUSES_CREDENTIALS = "the server refuses the gateway's credentials"
CREDENTIALS_ADVICE = (
    "set its server_headers or server_oauth right and start again, or have the server let them in; its sessions are"
    " kept meanwhile"
)

# By reason: what to do about sessions that are uninitialized.
ADVICE_BY_REASON: Mapping[str, str] = {
    "upstream_rejected": "their server refuses to take them back; their clients have to open new ones",
    "auth_gone": "their server refuses their credentials; with others, their clients open new ones",
    "crash_loop": "a defect: please report the traceback in the log; their records are kept for a day",
    "corrupt": "their records are damaged and set aside: look at the disk, restore a backup if they matter",
    "key_missing": "add the key that they were encrypted with to SESSION_ENCRYPTION_KEY, and start again",
    "too_new": "a newer version wrote them: run that version, or a newer one",
    "store_error": "the store could not be read: see the log, and the store's own",
    "upstream_down": "their server is away: start it, and they come back by themselves",
}


def report(facts: HealthFacts) -> Sequence[Finding]:
    """Judge what is known of a gateway; the findings come in the order of the areas."""
    return [finding for look in LOOKS for finding in look(facts)]


def areas(findings: Sequence[Finding]) -> Mapping[str, State]:
    """Give the state of each area, without what was found there: for those who may not see more."""
    names = dict.fromkeys(area_of(finding) for finding in findings)
    return {name: worst(finding for finding in findings if area_of(finding) == name) for name in names}


def area_of(finding: Finding) -> str:
    """Name the area that a finding belongs to."""
    return finding.about.partition(" ")[0].rstrip(":")


def _serving(facts: HealthFacts) -> Iterator[Finding]:
    if facts.not_ready_reason:
        said = f"no new clients are to be sent here: {facts.not_ready_reason}"
        yield Finding("serving", State.DEGRADED, said, "wait, or see what else is said here")
    else:
        yield Finding("serving", State.HEALTHY, f"ready, up for {_duration(facts.up_seconds)}")


def _store(facts: HealthFacts) -> Iterator[Finding]:
    store = facts.store
    if store.degraded_since_unix_s is not None:
        said = f"{store.url} is away; going on from memory: a crash now would lose {store.degraded_facts} facts"
        yield Finding("store", State.DEGRADED, said, "bring the store back; what is in memory is then written to it")
    elif not store.reachable:
        said = f"{store.url} does not answer: {store.problem}"
        yield Finding("store", State.DOWN, said, "bring the store back; nothing that was acknowledged is lost")
    elif store.probe_seconds is None:
        yield Finding("store", State.HEALTHY, f"{store.url}: not probed yet")
    else:
        yield _probed(store, store.probe_seconds)
    yield from _set_up(store)


def _probed(store: StoreFacts, seconds: float) -> Finding:
    primary = f", primary {store.primary}" if store.primary else ""
    said = f"{store.url}{primary}: a durable write and a read took {seconds * 1000:.1f} ms"
    if seconds > PROBE_SECONDS_SLOW:
        advice = "look at what else uses the disk or the network; outlast doctor measures it"
        return Finding("store", State.DEGRADED, said, advice)
    return Finding("store", State.HEALTHY, f"{said}; survives {SURVIVES.get(store.survives, store.survives)}")


def _set_up(store: StoreFacts) -> Iterator[Finding]:
    if store.notes and store.degraded_since_unix_s is None:
        yield Finding("store set-up", State.DEGRADED, store.notes, "see docs/deploying.md for how to set it up")
    if store.quarantined:
        said = f"{store.quarantined} damaged records were set aside"
        yield Finding("store records", State.DEGRADED, said, "look at the disk; restore a backup if they matter")
    if store.has_ballast is False:
        said = "the room that it holds in reserve was given up to a full disk"
        yield Finding("store ballast", State.DEGRADED, said, "make room: it is taken again when there is some")
    if store.lease_margin_seconds is not None and store.lease_margin_seconds < LEASE_MARGIN_SECONDS_LEAST:
        said = f"its leases run out in {store.lease_margin_seconds:.1f} s: they are not renewed as they should be"
        if store.lease_margin_seconds <= 0:
            said = f"its leases ran out {-store.lease_margin_seconds:.1f} s ago: another may take over"
        yield Finding("store leases", State.DEGRADED, said, "see why the store, or this process, is slow")
    if store.bytes_free is not None and store.bytes_free < FREE_BYTES_WANTED:
        state = State.DEGRADED if store.bytes_free > FREE_BYTES_LAST else State.DOWN
        said = f"{store.bytes_free / 1024**2:,.0f} MiB free"
        yield Finding("store room", state, said, "make room: a full disk refuses what it cannot keep")


def _writer(facts: HealthFacts) -> Iterator[Finding]:
    writer = facts.writer
    if writer.outage_seconds:
        said = f"no commit for {writer.outage_seconds:.1f} s; {writer.sessions_waiting} sessions wait"
        yield Finding("writer", State.DOWN, said, "bring the store back; what waits is then written")
    elif writer.full:
        advice = "make room on its device, or raise maxmemory; ended sessions make some"
        yield Finding("writer", State.DOWN, "the store is full: nothing new can be kept", advice)
    elif writer.lag_seconds > LAG_SECONDS_MAX:
        said = f"the oldest fact that is not durable is {writer.lag_seconds:.1f} s old"
        yield Finding("writer", State.DEGRADED, said, "the store is slow: see what else uses its disk or network")
    else:
        yield Finding("writer", State.HEALTHY, f"{writer.lag_seconds * 1000:.0f} ms behind")


def _sessions(facts: HealthFacts) -> Iterator[Finding]:
    sessions = facts.sessions
    said = f"{sessions.total:,} of {sessions.total_max:,}, {sessions.resident:,} in memory"
    if sessions.total >= sessions.total_max * SESSIONS_SHARE_MAX:
        said = f"{said}; {sessions.turned_away} were turned away"
        yield Finding("sessions", State.DEGRADED, said, "raise sessions_max, or lower session_ttl_seconds")
    else:
        yield Finding("sessions", State.HEALTHY, said)
    for reason, count in sorted(sessions.uninitialized.items()):
        advice = ADVICE_BY_REASON.get(reason, "see the log")
        yield Finding(f"sessions {reason}", State.DEGRADED, f"{count} cannot go on", advice)
    if sessions.reaping_stopped:
        said = "so many sessions are due at once that none is removed for now"
        yield Finding("sessions reaped", State.DEGRADED, said, "see that the clock is right; it goes on in an hour")


def _restore(facts: HealthFacts) -> Iterator[Finding]:
    restore = facts.restore
    if restore.waiting:
        said = f"{restore.total - restore.waiting} of {restore.total} sessions are back, {restore.waiting} to come"
        yield Finding("restore", State.HEALTHY, said)
    if restore.on_use:
        said = f"{restore.on_use} sessions were left to their first use: their servers want a token of each owner"
        yield Finding("restore on use", State.HEALTHY, said)


def _servers(facts: HealthFacts) -> Iterator[Finding]:
    for server in facts.servers:
        yield _server(server)
        if server.has_our_tool:
            said = "it has a tool session_health_check of its own, so the gateway's is not offered there"
            yield Finding(f"server {server.name} tool", State.DEGRADED, said, "rename one, or leave expose_health_tool")


def _server(server: ServerFacts) -> Finding:
    about = f"server {server.name}"
    if server.refuses_credentials:
        return Finding(about, State.DEGRADED, server.last_error or REFUSES_CREDENTIALS, CREDENTIALS_ADVICE)
    if server.state == "closed":
        return Finding(about, State.HEALTHY, f"in use, {server.transport}")
    said = f"away ({server.last_error})" if server.state == "open" else f"being tried again ({server.last_error})"
    return Finding(about, State.DEGRADED, said, "start it, or see why it cannot be reached; sessions are kept")


def _loop(facts: HealthFacts) -> Iterator[Finding]:
    lag = facts.loop.lag_seconds_max
    said = f"at most {lag * 1000:.0f} ms late in the last minutes"
    if lag > LOOP_LAG_SECONDS_MAX:
        advice = "the log has the stacks; fewer sessions for each process, or a faster processor"
        yield Finding("loop", State.DEGRADED, said, advice)
    else:
        yield Finding("loop", State.HEALTHY, said)


__all__ = ["ADVICE_BY_REASON", "LOOKS", "SURVIVES", "area_of", "areas", "report"]

LOOKS: Sequence[Callable[[HealthFacts], Iterator[Finding]]] = (
    _serving,
    _store,
    _writer,
    _sessions,
    _restore,
    _servers,
    _loop,
)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
