"""Restarts in the middle of everything: each fault at each step of each flow; the client is never left in silence.

Goal: whatever ends and comes back, and whatever a client is in the middle of, it gets the right answer or an
explicit error, once, and nothing is run twice. Method: `matrix.py`; what is right: `transcript.py`. `make test`
has every fault at every step over HTTP; `make restarts` has the full product of faults, servers and roads.
The controls do the same to gateways that break a rule: they must be found out.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from tests.e2e.bed import Bed, LastingUpstreams
from tests.e2e.gateway import FORGET_CALLS, FORGET_PLACES, RUN_AGAIN, Gateway
from tests.e2e.journal import Journal
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.matrix import Case, Fault, MakeClient, all_cases, references, strike, verdicts
from tests.e2e.restarts.socket_client import WebSocketClient
from tests.e2e.restarts.sse_client import SseClient
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

_PROMISE_SECONDS = 0.5  # a call is promised its answer after 20 ms and a commit, on a machine that is not busy
_CONTROL_SECONDS = 3.0  # what is silent in a control is silent for ever


@attrs.frozen
class Transport:
    """One transport of clients."""

    make: Callable[..., Client]  # (nursery, stage, transcript, *, gateway, revision)
    without: frozenset[str] = frozenset()  # the flows that cannot be had over it
    revision: str = ""  # what its clients speak; "": what the flow is of
    settle_seconds: float = 0.0  # how long all stand still before the fault strikes
    # Where it makes a difference to be tried:
    faults: tuple[str, ...] = FAULTS
    servers: tuple[str, ...] = ("plain", "resumable", "stdio")
    roads: tuple[str, ...] = ("hot", "hypercorn")


def _streamable(
    nursery: trio.Nursery, stage: Stage, transcript: Transcript, *, gateway: Gateway, revision: str
) -> Client:
    return StreamableClient(nursery, stage, transcript, url=gateway.url(), revision=revision)


def _sse(
    nursery: trio.Nursery,
    stage: Stage,
    transcript: Transcript,
    *,
    gateway: Gateway,
    revision: str,
    keeps_ids: bool = True,
) -> Client:
    url = gateway.url().removesuffix("mcp") + "sse"
    return SseClient(nursery, stage, transcript, url=url, revision=revision, keeps_ids=keeps_ids)


TRANSPORTS: Mapping[str, Transport] = {
    # Calls over the other transports become no streams of their own, soon or late.
    "streamable": Transport(_streamable, servers=("plain", "resumable", "impatient", "stdio")),
    "sse": Transport(_sse, SseClient.WITHOUT, "2024-11-05"),
    "websocket": Transport(WebSocketClient, WebSocketClient.WITHOUT, roads=("hot",)),  # hypercorn's on either road
    # What tells clients without ids from those with them is how they come back when the gateway has gone.
    "sse-by-name": Transport(
        partial(_sse, keeps_ids=False),
        SseClient.WITHOUT,
        "2024-11-05",
        faults=("kill", "stop"),
        servers=("plain", "resumable"),
        roads=("hot",),
    ),
    # Nothing tells these that a call was promised; from then on they are owed an end.
    "websocket-plain": Transport(
        partial(WebSocketClient, keeps_ids=False),
        WebSocketClient.WITHOUT,
        settle_seconds=_PROMISE_SECONDS,
        faults=("kill", "stop"),
        servers=("plain", "resumable"),
        roads=("hot",),
    ),
}


ONE_STREAM = ("sse", "sse-by-name", "websocket", "websocket-plain")


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


def worlds() -> Iterator[tuple[str, str, str, str]]:
    """Fault, server, road, transport: what is tried."""
    if not FULL:
        yield from ((fault, "plain", "hot", "streamable") for fault in FAULTS)
        yield "kill", "resumable", "hot", "streamable"
        yield "kill", "plain", "hypercorn", "streamable"
        yield "kill", "resumable", "hot", "sse"
        yield "kill", "plain", "hot", "websocket"
        return
    for name, transport in TRANSPORTS.items():
        for server, road, fault in itertools.product(transport.servers, transport.roads, transport.faults):
            yield fault, server, road, name


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


@pytest.mark.parametrize("transport", [*ONE_STREAM] if FULL else ["websocket"])
async def test_control_a_gateway_that_forgets_what_its_clients_have_is_found_out(bed: Bed, transport: str) -> None:
    clients, only = TRANSPORTS[transport], "long call/answered"
    found = await broken_rules(bed, "stop", SERVERS["plain"], clients, only=only, weakened=[FORGET_PLACES])
    assert "progress: ended 2 times" in found


async def test_control_a_gateway_that_runs_calls_again_is_found_out(bed: Bed) -> None:
    server = Server(environment=_GRACE)  # it looks soon what became of the call
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
    patience = {"patience_seconds": _CONTROL_SECONDS} if weakened or store else {}
    cases = all_cases(journal, only, without=transport.without, **patience)
    direct = await references(direct_clients(upstream, transport), upstream.journal, cases)
    for some in in_groups(cases, server.cases_at_a_time):
        gateway = await bed.gateway(only=target, environment=server.environment, store=store, weakened=weakened)
        fault_of_it = make_fault(fault, gateway, upstream, server, journal)
        await strike(some, clients_of(gateway, transport), fault_of_it, settle_seconds=transport.settle_seconds)
        gateway.kill()  # its sessions, and their servers, are not to be restored with those of the next group
    lost = fault == "upstream"
    circumstances = Circumstances(fault == "kill", server_lost=lost, resumable=server.event_store and not lost)
    found = verdicts(cases, direct, circumstances, journal.executions())
    return "\n".join(f"{name}: {text}" for name, texts in found.items() for text in texts)


def in_groups(cases: list[Case], size: int) -> Iterator[list[Case]]:
    for start in range(0, len(cases), size):
        yield cases[start : start + size]


def clients_of(gateway: Gateway, transport: Transport) -> MakeClient:
    def make(nursery: trio.Nursery, stage: Stage, transcript: Transcript, revision: str) -> Client:
        spoken = transport.revision or revision
        return transport.make(nursery, stage, transcript, gateway=gateway, revision=spoken)

    return make


def direct_clients(upstream: Upstream, transport: Transport) -> MakeClient:
    """Clients without a gateway, which say what those of a transport say, over Streamable HTTP."""

    def make(nursery: trio.Nursery, stage: Stage, transcript: Transcript, revision: str) -> Client:
        spoken = transport.revision or revision
        return StreamableClient(nursery, stage, transcript, url=upstream.url, revision=spoken, direct=True)

    return make


def make_fault(name: str, gateway: Gateway, upstream: Upstream, server: Server, journal: Journal) -> Fault:
    if name != "upstream":
        return gateway_ends(gateway, at_once=name == "kill", settles=server.event_store)
    return stdio_servers_end(journal) if server.stdio else upstream_ends(upstream)


def gateway_ends(gateway: Gateway, *, at_once: bool, settles: bool) -> Fault:
    """The gateway ends and is started again.

    Args:
      settles: have it go on only when all sessions are restored. The SDK's server loses, for whoever resumes a stream,
        what is said between its replay and its live tail (it says so itself): a window that is not ours to try.
    """

    async def strike_gateway(meanwhile: Callable[[], None]) -> None:
        if at_once:
            gateway.kill()
        else:
            assert await gateway.stop() == 0
        meanwhile()
        await gateway.start()
        if settles:
            await wait_until("all are restored", lambda: "sessions restored" in gateway.process.stderr)

    return strike_gateway


def upstream_ends(upstream: Upstream) -> Fault:
    async def strike_upstream(meanwhile: Callable[[], None]) -> None:
        upstream.kill()
        meanwhile()
        await upstream.start()

    return strike_upstream


def stdio_servers_end(journal: Journal) -> Fault:
    """The gateway starts them again by itself, once it has noticed: what it sends before is in doubt."""

    async def strike_servers(meanwhile: Callable[[], None]) -> None:
        running = [process for process in journal.processes() if is_server(process, journal)]
        for process in running:
            os.kill(process, signal.SIGKILL)
        meanwhile()
        # Not looked for in the log, which says the same thing thirty times a minute, and then counts.
        await wait_until("the gateway reaped them", lambda: not any(map(is_there, running)))

    return strike_servers


def is_server(process: int, journal: Journal) -> bool:
    """Whether this is a server of the journal that runs: one of a session that has ended may have left its id to
    a process that is none of ours."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return str(journal.directory).encode() in command.split(b"\0")


def is_there(process: int) -> bool:
    """Whether a process runs, or has ended and is not reaped."""
    return Path(f"/proc/{process}").exists()
