"""HealthFacts: what is known of a running gateway at one moment. Numbers and names, no judgement.

Made by `vitals.py`, judged by `health_report.py`; the JSON of /health is this record. It holds no secret: no URL with a
password, no token, no session id.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class StoreFacts:
    """The store, as the last probe found it."""

    url: str  # without secrets
    survives: str  # the durability level that a returned commit has reached now
    reachable: bool
    probe_seconds: float | None  # one durable write and one read; None: none was finished yet
    probed_seconds_ago: float | None  # None: never
    problem: str = ""  # why it is not reachable
    notes: str = ""  # what it says about how it is set up; "" where nothing is to be said
    quarantined: int = 0  # records that could not be read and were set aside
    bytes_free: int | None = None  # on its device; None where there is none, or it is not known
    degraded_since_unix_s: float | None = None  # in memory since then, by the outage policy; None: it is not
    degraded_facts: int = 0  # what a crash would lose now
    has_ballast: bool | None = None  # whether the room held in reserve is there; None: it has no such thing
    lease_margin_seconds: float | None = None  # until the first lease runs out; None: none does
    troubles: Mapping[str, bool] = attrs.field(factory=dict)  # by name, what is not as it should be with its servers
    primary: str = ""  # which of its servers is in use, where others say which one it is


@attrs.frozen(kw_only=True)
class WriterFacts:
    """How far commits are behind."""

    lag_seconds: float = 0.0  # age of the oldest fact that is not durable
    outage_seconds: float = 0.0  # for so long the store has answered no commit
    sessions_waiting: int = 0  # whose answers are held back
    full: bool = False  # the last commit found no room


@attrs.frozen(kw_only=True)
class SessionFacts:
    """How many sessions there are."""

    total: int = 0
    total_max: int = 1
    resident: int = 0  # in memory
    uninitialized: Mapping[str, int] = attrs.field(factory=dict)  # by reason
    turned_away: int = 0  # not opened since the start, because there were too many
    reaping_stopped: bool = False  # too many were due at once


@attrs.frozen(kw_only=True)
class ServerFacts:
    """One server behind the gateway."""

    name: str
    transport: str
    state: str  # of its circuit breaker: closed, open, half-open
    since_unix_s: float
    last_error: str = ""
    refuses_credentials: bool = False  # it is there, and does not let the gateway in
    has_our_tool: bool = False  # it has a tool of the name under which the gateway would offer its own


@attrs.frozen(kw_only=True)
class LoopFacts:
    """The event loop."""

    lag_seconds: float = 0.0  # the latest beat's
    lag_seconds_max: float = 0.0  # in the last one to two minutes
    standstills: int = 0  # since the start


@attrs.frozen(kw_only=True)
class RestoreFacts:
    """How far bringing back stored sessions has come."""

    total: int = 0
    restored: int = 0
    uninitialized: int = 0
    waiting: int = 0
    on_use: int = 0  # left to their first use at the start


@attrs.frozen(kw_only=True)
class HealthFacts:
    """A gateway at one moment."""

    version: str
    up_seconds: float
    not_ready_reason: str = ""  # "": clients may be sent here
    store: StoreFacts
    writer: WriterFacts = WriterFacts()
    sessions: SessionFacts = SessionFacts()
    servers: tuple[ServerFacts, ...] = ()
    loop: LoopFacts = LoopFacts()
    restore: RestoreFacts = RestoreFacts()
