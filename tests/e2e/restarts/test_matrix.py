"""Restarts in the middle of everything: each fault at each step of each flow; the client is never left in silence.

Goal: whatever ends and comes back, and whatever a client is in the middle of, it gets the right answer or an
explicit error, once, and nothing is run twice. Method: `matrix.py`; what is right: `transcript.py`. `make test`
has every fault at every step over HTTP; `make restarts` has the full product of faults, servers and roads.
The controls do the same to gateways that break a rule: they must be found out.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest
import trio

from tests.e2e.bed import Bed, LastingUpstreams
from tests.e2e.gateway import FORGET_CALLS, RUN_AGAIN, Gateway
from tests.e2e.journal import Journal
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.matrix import Case, Fault, MakeClient, all_cases, references, strike, verdicts
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.streamable_client import StreamableClient
from tests.e2e.restarts.transcript import Circumstances, Transcript
from tests.e2e.upstream import Upstream
from tests.e2e.waiting import wait_until

FULL = os.environ.get("E2E_RESTARTS") == "full"
ONLY = os.environ.get("E2E_RESTARTS_CASE", "")

FAULTS = ("kill", "stop", "upstream")

# What is held here outlasts any grace.
_GRACE = {"OUTLAST_SHUTDOWN_GRACE_SECONDS": "0.3"}
# A call becomes a stream when its server tells something about it, and never because time has passed.
_PATIENT = {"OUTLAST_ANSWER_JSON_WITHIN_SECONDS": "60", **_GRACE}

_CONTROL_SECONDS = 3.0  # what is silent in a control is silent for ever


@attrs.frozen
class Server:
    """One kind of server behind the gateway."""

    event_store: bool = False
    stdio: bool = False
    environment: Mapping[str, str] = attrs.field(default=_PATIENT)
    cases_at_a_time: int = 1000


SERVERS: Mapping[str, Server] = {
    "plain": Server(),
    "resumable": Server(event_store=True),
    "impatient": Server(event_store=True, environment=_GRACE),  # every held call is a stream
    # A process with the SDK in it for each session: more of them at a time are only slower.
    "stdio": Server(stdio=True, cases_at_a_time=8),
}


def worlds() -> Iterator[tuple[str, str, str]]:
    """Fault, server, road: what is tried."""
    for server in SERVERS if FULL else ("plain",):
        for road in ("hot", "hypercorn") if FULL else ("hot",):
            yield from ((fault, server, road) for fault in FAULTS)
    if not FULL:
        yield "kill", "resumable", "hot"
        yield "kill", "plain", "hypercorn"


@pytest.fixture
def bed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bed]:
    """A bed on the world's own road, without the lasting servers: these here are killed."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    bed = Bed(tmp_path, parameters.get("through", "hot"), LastingUpstreams(tmp_path))
    try:
        yield bed
    finally:
        bed.close()


@pytest.mark.parametrize(("fault", "server", "through"), list(worlds()))
async def test_every_step_of_every_flow_outlasts_every_fault(bed: Bed, fault: str, server: str, through: str) -> None:
    assert await broken_rules(bed, fault, SERVERS[server], only=ONLY) == ""


async def test_control_a_gateway_that_keeps_nothing_is_found_out(bed: Bed) -> None:
    found = await broken_rules(bed, "kill", SERVERS["plain"], only="short call/answered", store="memory:")
    assert "echo: ended in 404" in found


async def test_control_a_gateway_that_forgets_calls_is_found_out(bed: Bed) -> None:
    found = await broken_rules(bed, "kill", SERVERS["plain"], only="long call/in progress", weakened=[FORGET_CALLS])
    assert "progress: silence: it never ended" in found


async def test_control_a_gateway_that_runs_calls_again_is_found_out(bed: Bed) -> None:
    server = Server(environment=_GRACE)  # it looks soon what became of the call
    found = await broken_rules(bed, "upstream", server, only="short call/running", weakened=[RUN_AGAIN])
    assert "hold: ran 2 times" in found


async def broken_rules(
    bed: Bed, fault: str, server: Server, *, only: str, store: str = "", weakened: Sequence[str] = ()
) -> str:
    """Let one fault strike at all points (or `only` at one), and give one line for each rule that was broken."""
    upstream = await bed.upstream(event_store=server.event_store)
    journal, target = (bed.journal, bed.stdio) if server.stdio else (upstream.journal, upstream.target)
    gateway = await bed.gateway(only=target, environment=server.environment, store=store, weakened=weakened)
    direct = await references(clients_of(lambda: upstream.url, direct=True), upstream.journal)
    patience = {"patience_seconds": _CONTROL_SECONDS} if weakened or store else {}
    cases = all_cases(journal, only, **patience)
    for some in in_groups(cases, server.cases_at_a_time):
        await strike(some, clients_of(gateway.url), make_fault(fault, gateway, upstream, server, journal))
    lost = fault == "upstream"
    circumstances = Circumstances(fault == "kill", server_lost=lost, resumable=server.event_store and not lost)
    found = verdicts(cases, direct, circumstances, journal.executions())
    return "\n".join(f"{name}: {text}" for name, texts in found.items() for text in texts)


def in_groups(cases: list[Case], size: int) -> Iterator[list[Case]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]


def clients_of(url: Callable[[], str], *, direct: bool = False) -> MakeClient:
    def make(nursery: trio.Nursery, stage: Stage, transcript: Transcript, revision: str) -> Client:
        return StreamableClient(nursery, stage, transcript, url=url(), revision=revision, direct=direct)

    return make


def make_fault(name: str, gateway: Gateway, upstream: Upstream, server: Server, journal: Journal) -> Fault:
    if name != "upstream":
        return gateway_ends(gateway, at_once=name == "kill")
    return stdio_servers_end(gateway, journal) if server.stdio else upstream_ends(upstream)


def gateway_ends(gateway: Gateway, *, at_once: bool) -> Fault:
    """The gateway ends and is started again, and the case goes on as soon as it serves."""

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


def stdio_servers_end(gateway: Gateway, journal: Journal) -> Fault:
    """The gateway starts them again by itself, once it has noticed: what it sends before is in doubt."""

    async def strike_servers(meanwhile: Callable[[], None]) -> None:
        for process in journal.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue  # of a session that has ended
        meanwhile()
        ended = [f'"pid": {process}, "how"' for process in journal.processes()]
        await wait_until("the gateway noticed", lambda: all(text in gateway.stderr for text in ended))

    return strike_servers
