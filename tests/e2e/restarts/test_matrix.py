"""Restarts in the middle of everything: each fault at each step of each flow; the client is never left in silence.

Goal: whatever ends and comes back, and whatever a client is in the middle of, it gets the right answer or an
explicit error, once, and nothing is run twice. Method: `matrix.py`; what is tried: `worlds.py`; what is right:
`transcript.py`. The controls do the same to gateways that break a rule: they must be found out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.bed import Bed, LastingUpstreams
from tests.e2e.gateway import FORGET_CALLS, FORGET_PLACES, RUN_AGAIN, Gateway
from tests.e2e.journal import Journal
from tests.e2e.restarts.faults import gateway_ends, stdio_servers_end, upstream_ends
from tests.e2e.restarts.matrix import Case, Fault, all_cases, references, strike, verdicts
from tests.e2e.restarts.transcript import Circumstances
from tests.e2e.restarts.worlds import (
    FULL,
    GRACE,
    SERVERS,
    TRANSPORTS,
    Server,
    Transport,
    clients_of,
    direct_clients,
    worlds,
)
from tests.e2e.upstream import Upstream

ONLY = os.environ.get("E2E_RESTARTS_CASE", "")

_CONTROL_SECONDS = 3.0  # what is silent in a control is silent for ever


@pytest.fixture
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    """A bed on the world's own road, without the lasting servers: these here are killed."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    bed = Bed(tmp_path, parameters.get("through", "hot"), LastingUpstreams(tmp_path))
    try:
        yield bed
    finally:
        bed.close()


@pytest.mark.parametrize(("fault", "server", "through", "transport"), list(worlds()))
async def test_every_step_of_every_flow_outlasts_every_fault(
    bed: Bed, fault: str, server: str, through: str, transport: str
) -> None:
    assert await broken_rules(bed, fault, SERVERS[server], TRANSPORTS[transport], only=ONLY) == ""


async def test_control_a_gateway_that_keeps_nothing_is_found_out(bed: Bed) -> None:
    found = await broken_rules(bed, "kill", SERVERS["plain"], only="short call/answered", store="memory:")
    assert "echo: ended in 404" in found


@pytest.mark.parametrize("transport", TRANSPORTS if FULL else ["streamable", "sse", "websocket-plain"])
async def test_control_a_gateway_that_forgets_calls_is_found_out(bed: Bed, transport: str) -> None:
    clients, only = TRANSPORTS[transport], "long call/in progress"
    found = await broken_rules(bed, "kill", SERVERS["plain"], clients, only=only, weakened=[FORGET_CALLS])
    assert "progress: silence: it never ended" in found


@pytest.mark.parametrize("transport", [name for name in TRANSPORTS if name != "streamable"] if FULL else ["websocket"])
async def test_control_a_gateway_that_forgets_what_its_clients_have_is_found_out(bed: Bed, transport: str) -> None:
    clients, only = TRANSPORTS[transport], "long call/answered"
    found = await broken_rules(bed, "stop", SERVERS["plain"], clients, only=only, weakened=[FORGET_PLACES])
    assert "progress: ended 2 times" in found


async def test_control_a_gateway_that_runs_calls_again_is_found_out(bed: Bed) -> None:
    server = Server(environment=GRACE)  # it looks soon what became of the call
    found = await broken_rules(bed, "upstream", server, only="short call/running", weakened=[RUN_AGAIN])
    # On a machine that is too busy to have the server back in time, it is an invitation to run it again.
    assert "hold: ran 2 times" in found or "hold: was refused (503: try again) though it ran" in found


async def broken_rules(
    bed: Bed,
    fault: str,
    server: Server,
    transport: Transport = TRANSPORTS["streamable"],
    *,
    only: str,
    store: str = "",
    weakened: Sequence[str] = (),
) -> str:
    """Let one fault strike at all points (or `only` at one), and give one line for each rule that was broken."""
    upstream = await bed.upstream(event_store=server.event_store)
    journal, target = (bed.journal, bed.stdio) if server.stdio else (upstream.journal, upstream.target)
    patience_seconds = _CONTROL_SECONDS if weakened or store else server.patience_seconds
    cases = all_cases(journal, only, without=transport.without, patience_seconds=patience_seconds)
    direct = await references(direct_clients(upstream, transport), upstream.journal, cases)
    for some in in_groups(cases, server.cases_at_a_time):
        gateway = await bed.gateway(only=target, environment=server.environment, store=store, weakened=weakened)
        fault_of_it = make_fault(fault, gateway, upstream, server, journal)
        await strike(some, clients_of(gateway, transport), fault_of_it, settle_seconds=transport.settle_seconds)
        gateway.assert_is_well()
        gateway.kill()  # its sessions, and their servers, are not to be restored with those of the next group
    lost = fault == "upstream"
    circumstances = Circumstances(fault == "kill", server_lost=lost, resumable=server.event_store and not lost)
    found = verdicts(cases, direct, circumstances, journal.executions())
    return "\n".join(f"{name}: {text}" for name, texts in found.items() for text in texts)


def in_groups(cases: list[Case], size: int) -> Iterator[list[Case]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]


def make_fault(name: str, gateway: Gateway, upstream: Upstream, server: Server, journal: Journal) -> Fault:
    if name != "upstream":
        return gateway_ends(gateway, at_once=name == "kill")
    return stdio_servers_end(journal) if server.stdio else upstream_ends(upstream)
