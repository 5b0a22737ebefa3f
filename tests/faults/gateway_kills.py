"""kill -9 of the whole gateway while clients of real MCP servers work: the end-to-end scenario, as a row.

Every commit is made slow, so that a kill falls between an answer and its commit, if the gate would let it. A fact is
all that a client was told: an event, an answer, a session. What the checker of histories finds is counted as broken
promises: one lost session is many of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import trio

from tests.e2e.gateway import OPEN_GATE, SLOW_COMMITS, Gateway
from tests.e2e.history import History, violations
from tests.e2e.test_random_kills import make_workers, work_through_kills
from tests.e2e.upstream import Upstream
from tests.e2e.workload import collect_evidence
from tests.faults.fault import Control, Fault, Trial
from tests.faults.weaknesses import EARLY

_KILLS = 4


def kill_gateways(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Kill a gateway again and again, and ask what it still knows."""
    upstream = Upstream(folder / "upstream")
    upstream.start_blocking()
    try:
        for number in range(runs):
            flags = (SLOW_COMMITS, OPEN_GATE) if weakness == EARLY else (SLOW_COMMITS,)
            gateway = Gateway(folder / f"gateway-{number}", {"only": upstream.target}, weakened=flags)
            yield trio.run(_work, gateway, upstream, number)
    finally:
        upstream.kill()


async def _work(gateway: Gateway, upstream: Upstream, seed: int) -> Trial:
    try:
        await gateway.start()
        history = History()
        workers = make_workers(gateway, history, "only", seed=seed)
        await work_through_kills(gateway, workers, seed=seed, kills=_KILLS)
        found = violations(history, await collect_evidence(history, [upstream.journal]))
    finally:
        gateway.kill()
    return Trial(_told(history), 0, tuple(found), f"{_KILLS} kills")


def _told(history: History) -> int:
    sessions = history.sessions.values()
    calls = sum(len(call.heard) + call.answers for session in sessions for call in session.calls.values())
    return len(sessions) + calls + sum(len(session.own_stream) for session in sessions)


GATEWAY = Fault(
    "kill -9 of the whole gateway, under clients",
    "all that clients were told is said again, the same",
    kill_gateways,
    3,
    (Control(EARLY, "the output gate left open"),),
    control_runs=1,
    quick_runs=0,
)
