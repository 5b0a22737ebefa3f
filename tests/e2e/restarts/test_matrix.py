"""Restarts in the middle of everything: each fault at each step of each flow; the client is never left in silence.

Goal: whatever ends and comes back, and whatever a client is in the middle of, it gets the right answer or an
explicit error, once, and nothing is run twice. Method: `matrix.py`; what is right: `transcript.py`. `make test`
has every fault at every step once, over HTTP; `make restarts` has the full product of servers, clients and roads.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import trio

from tests.e2e.bed import Bed, LastingUpstreams
from tests.e2e.gateway import Gateway
from tests.e2e.journal import Journal
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.matrix import Case, Fault, MakeClient, all_cases, references, strike, verdicts
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.streamable_client import StreamableClient
from tests.e2e.restarts.transcript import Circumstances, Transcript
from tests.e2e.upstream import Upstream

FULL = os.environ.get("E2E_RESTARTS") == "full"
ONLY = os.environ.get("E2E_RESTARTS_CASE", "")

# A stdio server is a process with the SDK in it, for each session: more at a time than cores are only slower.
CASES_AT_A_TIME = {"stdio": 8}

ENVIRONMENT = {
    # A call becomes a stream when its server tells something about it, and never because this machine is slow.
    "OUTLAST_ANSWER_JSON_WITHIN_SECONDS": "60",
    "OUTLAST_SHUTDOWN_GRACE_SECONDS": "0.3",  # what is held here outlasts any grace
}


def worlds() -> Iterator[tuple[str, str, str]]:
    """Fault, server, road: what is tried."""
    servers = ("plain", "resumable", "stdio") if FULL else ("plain",)
    for road in ("hot", "hypercorn") if FULL else ("hot",):
        for server in servers:
            for fault in ("kill", "stop", "upstream"):
                yield fault, server, road


@pytest.fixture
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    """A bed on the world's own road, without the lasting servers: these here are killed."""
    road = request.node.callspec.params["through"] if hasattr(request.node, "callspec") else "hot"
    bed = Bed(tmp_path, road, LastingUpstreams(tmp_path))
    try:
        yield bed
    finally:
        bed.close()


def clients_of(url: Callable[[], str], *, direct: bool = False) -> MakeClient:
    def make(nursery: trio.Nursery, stage: Stage, transcript: Transcript, revision: str) -> Client:
        return StreamableClient(nursery, stage, transcript, url=url(), revision=revision, direct=direct)

    return make


def gateway_ends(gateway: Gateway, *, at_once: bool) -> Fault:
    async def strike_gateway(meanwhile: Callable[[], None]) -> None:
        if at_once:
            gateway.kill()
        else:
            assert await gateway.stop() == 0
        meanwhile()
        await gateway.start()

    return strike_gateway


def upstream_ends(upstream: Upstream) -> Fault:
    async def strike_upstream(meanwhile: Callable[[], None]) -> None:
        upstream.kill()
        meanwhile()
        await upstream.start()

    return strike_upstream


def stdio_servers_end(journal: Journal) -> Fault:
    """The gateway starts them again by itself."""

    async def strike_servers(meanwhile: Callable[[], None]) -> None:
        for process in journal.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue  # of a session that has ended
        meanwhile()

    return strike_servers


@pytest.mark.parametrize(("fault", "server", "through"), list(worlds()))
async def test_every_step_of_every_flow_outlasts_every_fault(bed: Bed, fault: str, server: str, through: str) -> None:
    upstream = await bed.upstream(event_store=server == "resumable")
    journal = bed.journal if server == "stdio" else upstream.journal
    gateway = await bed.gateway(only=bed.stdio if server == "stdio" else upstream.target, environment=ENVIRONMENT)
    direct = await references(clients_of(lambda: upstream.url, direct=True), upstream.journal)
    if fault != "upstream":
        strikes = gateway_ends(gateway, at_once=fault == "kill")
    else:
        strikes = stdio_servers_end(journal) if server == "stdio" else upstream_ends(upstream)
    cases = all_cases(journal, ONLY)
    for some in in_groups(cases, CASES_AT_A_TIME.get(server, len(cases))):
        await strike(some, clients_of(gateway.url), strikes)
    circumstances = Circumstances(killed=fault == "kill", resumable=server == "resumable" and fault in ("kill", "stop"))
    assert broken_rules(verdicts(cases, direct, circumstances, journal.executions())) == ""


def broken_rules(found: Mapping[str, Sequence[str]]) -> str:
    """Give one line for each broken rule of each case."""
    return "\n".join(f"{name}: {text}" for name, texts in found.items() for text in texts)


def in_groups(cases: list[Case], size: int) -> Iterator[list[Case]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]
