"""The worlds of the matrix: transports of clients, kinds of servers, and which of them are tried with which fault.

`make test` has the most telling; `make restarts` has all that make a difference.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import attrs
import trio

from tests.e2e.gateway import Gateway
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.faults import FAULTS
from tests.e2e.restarts.matrix import ARRIVE_SECONDS, MakeClient
from tests.e2e.restarts.socket_client import WebSocketClient
from tests.e2e.restarts.sse_client import SseClient
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.streamable_client import StreamableClient
from tests.e2e.restarts.transcript import Transcript
from tests.e2e.upstream import Upstream
from tests.e2e.waiting import DEADLINE_SECONDS

FULL = os.environ.get("E2E_RESTARTS") == "full"

# What is held here outlasts any grace.
GRACE = {"OUTLAST_SHUTDOWN_GRACE_SECONDS": "0.3"}
# A call becomes a stream when its server tells something about it, and never because time has passed.
_PATIENT = {"OUTLAST_ANSWER_JSON_WITHIN_SECONDS": "60", **GRACE}

_PROMISE_SECONDS = 0.5  # a call is promised its answer after 20 ms and a commit, on a machine that is not busy


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


@attrs.frozen
class Server:
    """One kind of server behind the gateway."""

    event_store: bool = False
    stdio: bool = False
    environment: Mapping[str, str] = attrs.field(default=_PATIENT)
    cases_at_a_time: int = 1000
    patience_seconds: float = DEADLINE_SECONDS  # what takes longer is silence


SERVERS: Mapping[str, Server] = {
    "plain": Server(),
    "resumable": Server(event_store=True),
    "impatient": Server(event_store=True, environment=GRACE),  # every held call is a stream
    # A process with the SDK in it for each session: more of them at a time are only slower, and on a machine with other
    # work all of them together take half a minute to come back; until then clients are told to try again.
    "stdio": Server(stdio=True, cases_at_a_time=8, patience_seconds=ARRIVE_SECONDS),
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
