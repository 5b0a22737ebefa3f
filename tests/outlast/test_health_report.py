"""From facts to findings, row by row: what is found, how bad it is, and that something can be done about it."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from outlast.finding import Finding, State, worst
from outlast.health_facts import (
    HealthFacts,
    LoopFacts,
    RestoreFacts,
    ServerFacts,
    SessionFacts,
    StoreFacts,
    WriterFacts,
)
from outlast.health_operation import document_of
from outlast.health_report import ADVICE_BY_REASON, LOOKS, areas, report

STORE = StoreFacts(
    url="sqlite:data/outlast.db",
    survives="local",
    reachable=True,
    probe_seconds=0.002,
    probed_seconds_ago=1.0,
    bytes_free=50 * 1024**3,
)
WELL = HealthFacts(
    version="1.2.3",
    up_seconds=7200.0,
    store=STORE,
    sessions=SessionFacts(total=10, total_max=100, resident=3),
    servers=(ServerFacts(name="linear", transport="stdio", state="closed", since_unix_s=0.0),),
)
OPEN = ServerFacts(name="linear", transport="stdio", state="open", since_unix_s=0.0, last_error="refused")


def with_store(**changes: Any) -> HealthFacts:
    return attrs.evolve(WELL, store=attrs.evolve(STORE, **changes))


def sessions(**changes: Any) -> HealthFacts:
    return attrs.evolve(WELL, sessions=attrs.evolve(WELL.sessions, **changes))


def about(facts: HealthFacts, name: str) -> Finding:
    (found,) = [finding for finding in report(facts) if finding.about == name]
    return found


ROWS: list[tuple[HealthFacts, str, State, str]] = [
    (attrs.evolve(WELL, not_ready_reason="draining"), "serving", State.DEGRADED, "draining"),
    (with_store(reachable=False, problem="refused"), "store", State.DOWN, "refused"),
    (with_store(reachable=False, degraded_since_unix_s=1.0, degraded_facts=7), "store", State.DEGRADED, "7 facts"),
    (with_store(probe_seconds=0.3), "store", State.DEGRADED, "300.0 ms"),
    (with_store(notes="no append-only file"), "store set-up", State.DEGRADED, "append-only"),
    (with_store(quarantined=2), "store records", State.DEGRADED, "2 damaged"),
    (with_store(has_ballast=False), "store ballast", State.DEGRADED, "given up"),
    (with_store(lease_margin_seconds=3.0), "store leases", State.DEGRADED, "run out in 3.0 s"),
    (with_store(lease_margin_seconds=-2.0), "store leases", State.DEGRADED, "ran out 2.0 s ago"),
    (with_store(bytes_free=100 * 1024**2), "store room", State.DEGRADED, "100 MiB"),
    (with_store(bytes_free=1024**2), "store room", State.DOWN, "1 MiB"),
    (
        attrs.evolve(WELL, writer=WriterFacts(outage_seconds=3.0, sessions_waiting=4)),
        "writer",
        State.DOWN,
        "4 sessions",
    ),
    (attrs.evolve(WELL, writer=WriterFacts(full=True)), "writer", State.DOWN, "full"),
    (attrs.evolve(WELL, writer=WriterFacts(lag_seconds=1.5)), "writer", State.DEGRADED, "1.5 s"),
    (sessions(total=95, turned_away=6), "sessions", State.DEGRADED, "6 were turned away"),
    *[
        (sessions(uninitialized={reason: 3}), f"sessions {reason}", State.DEGRADED, "3 cannot")
        for reason in ADVICE_BY_REASON
    ],
    (sessions(uninitialized={"unheard_of": 1}), "sessions unheard_of", State.DEGRADED, "1 cannot"),
    (sessions(reaping_stopped=True), "sessions reaped", State.DEGRADED, "due at once"),
    (attrs.evolve(WELL, servers=(OPEN,)), "server linear", State.DEGRADED, "refused"),
    (attrs.evolve(WELL, servers=(attrs.evolve(OPEN, state="half-open"),)), "server linear", State.DEGRADED, "again"),
    (
        attrs.evolve(WELL, servers=(attrs.evolve(OPEN, state="closed", has_our_tool=True),)),
        "server linear tool",
        State.DEGRADED,
        "session_health_check",
    ),
    (attrs.evolve(WELL, loop=LoopFacts(lag_seconds_max=0.4)), "loop", State.DEGRADED, "400 ms"),
]


def test_the_primary_in_use_is_told_of() -> None:
    found = about(with_store(primary="10.0.0.5:6379"), "store")
    assert found.said.startswith("sqlite:data/outlast.db, primary 10.0.0.5:6379: a durable write")


@pytest.mark.parametrize(("facts", "name", "state", "words"), ROWS, ids=[f"{row[1]}: {row[3]}" for row in ROWS])
def test_what_is_not_well_is_found_with_what_to_do(facts: HealthFacts, name: str, state: State, words: str) -> None:
    found = about(facts, name)
    assert found.state is state
    assert words in found.said
    assert found.advice


def test_a_well_gateway_is_healthy_and_everything_was_looked_at() -> None:
    findings = report(WELL)
    assert worst(findings) is State.HEALTHY
    assert [finding.about for finding in findings] == [
        "serving",
        "store",
        "writer",
        "sessions",
        "server linear",
        "loop",
    ]
    assert "survives a crash" in about(WELL, "store").said


def test_each_look_finds_something_that_is_not_well_in_some_row() -> None:
    for look in LOOKS:
        bad = any(finding.state is not State.HEALTHY for facts, *_ in ROWS for finding in look(facts))
        assert bad or look.__name__ == "_restore"


def test_restoring_is_told_and_is_no_trouble() -> None:
    found = about(attrs.evolve(WELL, restore=RestoreFacts(total=10, restored=4, waiting=6)), "restore")
    assert (found.state, found.said) == (State.HEALTHY, "4 of 10 sessions are back, 6 to come")


def test_sessions_that_wait_for_their_owners_are_no_trouble_either() -> None:
    found = about(attrs.evolve(WELL, restore=RestoreFacts(total=1, restored=1, on_use=7)), "restore on use")
    assert found.state is State.HEALTHY
    assert found.said == "7 sessions were left to their first use: their servers want a token of each owner"


def test_a_store_that_was_never_probed_is_not_called_away() -> None:
    assert about(with_store(probe_seconds=None, probed_seconds_ago=None), "store").state is State.HEALTHY


def test_who_is_no_operator_sees_areas_and_nothing_else() -> None:
    state, document = document_of(attrs.evolve(WELL, servers=(OPEN,)), in_full=False)
    assert state is State.DEGRADED
    assert document == {
        "status": "degraded",
        "ready": True,
        "areas": {
            "serving": "healthy",
            "store": "healthy",
            "writer": "healthy",
            "sessions": "healthy",
            "server": "degraded",
            "loop": "healthy",
        },
    }


def test_an_operator_sees_findings_and_facts() -> None:
    _, document = document_of(WELL, in_full=True)
    assert document["version"] == "1.2.3"
    assert document["sessions"] == attrs.asdict(WELL.sessions)
    assert document["findings"]


def test_areas_have_the_state_of_their_worst_finding() -> None:
    assert areas(report(with_store(quarantined=1)))["store"] is State.DEGRADED
