"""kill -9 at random moments, again and again, under work: nothing that a client was told is lost or changed.

Goal: promises 1, 2 and 7 of the design, judged from outside. Method: clients work over three kinds of upstream
and record what they are told; a killer ends the gateway's process group at moments drawn from a seed; at the
end the checker compares contents. The control runs the same against a gateway that keeps nothing.
"""

from __future__ import annotations

import random

import pytest
import trio

from tests.e2e.bed import Bed
from tests.e2e.gateway import OPEN_GATE, SLOW_COMMITS, Gateway
from tests.e2e.history import History, violations
from tests.e2e.workload import Worker, collect_evidence

KILLS = 8
WORKERS_PER_SERVER = 2
# From "just listening" to "well into several calls": a call takes up to half a second.
KILL_AFTER_SECONDS = (0.02, 0.9)


async def work_through_kills(gateway: Gateway, workers: list[Worker], *, seed: int, kills: int) -> None:
    """Let the workers work while the gateway is killed and started again; then let them finish."""
    moments = random.Random(seed)
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
        for _ in range(kills):
            await trio.sleep(moments.uniform(*KILL_AFTER_SECONDS))  # the moment itself is what is tried
            gateway.kill()
            await gateway.start()
        for worker in workers:
            worker.stop()


def make_workers(gateway: Gateway, history: History, counts: dict[str, bool], seed: int) -> list[Worker]:
    return [
        Worker(gateway.url(server), history, seed=seed * 100 + number, counts=server_counts)
        for server, server_counts in counts.items()
        for number in range(WORKERS_PER_SERVER)
    ]


@pytest.mark.parametrize("seed", [1])
async def test_nothing_told_is_lost_or_changed_by_kills(bed: Bed, seed: int) -> None:
    plain, resumable = await bed.upstream(), await bed.upstream(event_store=True)
    gateway = await bed.gateway(plain=plain.target, resumable=resumable.target, stdio=bed.stdio)
    history = History()
    # Over stdio the server's state dies with its process: only its counters begin anew.
    workers = make_workers(gateway, history, {"plain": True, "resumable": True, "stdio": False}, seed)
    await work_through_kills(gateway, workers, seed=seed, kills=KILLS)
    evidence = await collect_evidence(history, [plain.journal, resumable.journal, bed.journal])
    assert violations(history, evidence) == []
    # The run was worth something: calls were in the middle of their streams when the gateway was killed.
    assert sum(worker.resumed for worker in workers) >= KILLS // 2
    assert len(history.sessions) > len(workers) // 2


async def test_nothing_told_is_lost_where_every_commit_is_slow(bed: Bed) -> None:
    found = await kill_between_answer_and_commit(bed, SLOW_COMMITS)
    assert found == []


async def test_control_an_open_gate_is_found_out(bed: Bed) -> None:
    found = await kill_between_answer_and_commit(bed, SLOW_COMMITS, OPEN_GATE)
    assert any("is not replayed" in text or "does not answer" in text for text in found)


async def test_control_a_gateway_that_keeps_nothing_is_found_out(bed: Bed) -> None:
    plain = await bed.upstream()
    gateway = await bed.gateway(plain=plain.target, store="memory:")
    history = History()
    workers = make_workers(gateway, history, {"plain": True}, seed=2)
    await work_through_kills(gateway, workers, seed=2, kills=2)
    evidence = await collect_evidence(history, [plain.journal])
    assert any("does not answer" in found for found in violations(history, evidence))


async def kill_between_answer_and_commit(bed: Bed, *weakened: str) -> list[str]:
    """Kill a gateway whose commits are slow while clients hear one event after the other."""
    upstream = await bed.upstream()
    gateway = await bed.gateway(only=upstream.target, weakened=weakened)
    history = History()
    workers = make_workers(gateway, history, {"only": True}, seed=3)
    await work_through_kills(gateway, workers, seed=3, kills=3)
    return violations(history, await collect_evidence(history, [upstream.journal]))
