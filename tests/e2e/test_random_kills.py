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
from tests.e2e.waiting import wait_until
from tests.e2e.workload import Worker, collect_evidence

# From "just listening" to "well into several calls": a call takes up to half a second.
KILL_AFTER_SECONDS = (0.02, 0.9)


async def work_through_kills(
    gateway: Gateway, workers: list[Worker], *, seed: int, kills: int, after_results: bool = False
) -> None:
    """Let the workers work while the gateway is killed and started again; then let them finish.

    Args:
      after_results: let one call succeed before each kill, where restoring takes longer than the moments do.
    """
    moments = random.Random(seed)
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
        for _ in range(kills):
            if after_results:
                await wait_for_result(workers)
            await trio.sleep(moments.uniform(*KILL_AFTER_SECONDS))  # the moment itself is what is tried
            gateway.kill()
            await gateway.start()
        for worker in workers:
            worker.stop()


async def wait_for_result(workers: list[Worker]) -> None:
    """Wait until one more call has succeeded."""
    before = sum(worker.results for worker in workers)
    await wait_until("a call succeeded", lambda: sum(worker.results for worker in workers) > before)


def make_workers(
    gateway: Gateway, history: History, *servers: str, seed: int, counts: bool = True, calls_per_session: int = 10
) -> list[Worker]:
    """Two clients of each server."""
    return [
        Worker(
            gateway.url(server),
            history,
            seed=seed * 100 + number,
            counts=counts,
            calls_per_session=calls_per_session,
        )
        for server in servers
        for number in range(2)
    ]


@pytest.mark.parametrize("seed", [1])
async def test_nothing_told_is_lost_or_changed_by_kills(bed: Bed, seed: int) -> None:
    plain, resumable = bed.lasting.plain, bed.lasting.resumable
    gateway = await bed.gateway(plain=plain.target, resumable=resumable.target)
    history = History()
    workers = make_workers(gateway, history, "plain", "resumable", seed=seed)
    await work_through_kills(gateway, workers, seed=seed, kills=8)
    evidence = await collect_evidence(history, [plain.journal, resumable.journal])
    assert violations(history, evidence) == []
    # The run was worth something: calls were in the middle of their streams when the gateway was killed.
    assert sum(worker.resumed for worker in workers) >= 4
    assert sum(worker.results for worker in workers) >= 8


@pytest.mark.parametrize("seed", [4])
async def test_nothing_told_is_lost_or_changed_by_kills_over_stdio(bed: Bed, seed: int) -> None:
    gateway = await bed.gateway(only=bed.stdio)
    history = History()
    # The server's state dies with its process: counters begin anew, everything else holds.
    workers = make_workers(gateway, history, "only", seed=seed, counts=False, calls_per_session=25)
    await work_through_kills(gateway, workers, seed=seed, kills=3, after_results=True)
    evidence = await collect_evidence(history, [bed.journal])
    assert violations(history, evidence) == []
    assert sum(worker.resumed for worker in workers) >= 1


async def test_nothing_told_is_lost_where_every_commit_is_slow(bed: Bed) -> None:
    found = await kill_between_answer_and_commit(bed, SLOW_COMMITS)
    assert found == []


async def test_control_an_open_gate_is_found_out(bed: Bed) -> None:
    found = await kill_between_answer_and_commit(bed, SLOW_COMMITS, OPEN_GATE)
    assert any("is not replayed" in text or "does not" in text for text in found), found


async def kill_between_answer_and_commit(bed: Bed, *weakened: str) -> list[str]:
    """Kill a gateway whose commits are slow while clients hear one event after the other."""
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target, weakened=weakened)
    history = History()
    workers = make_workers(gateway, history, "only", seed=3)
    await work_through_kills(gateway, workers, seed=3, kills=3)
    return violations(history, await collect_evidence(history, [upstream.journal]))


async def test_control_a_gateway_that_keeps_nothing_is_found_out(bed: Bed) -> None:
    upstream = bed.lasting.plain
    gateway = await bed.gateway(only=upstream.target, store="memory:")
    history = History()
    workers = make_workers(gateway, history, "only", seed=2)
    await work_through_kills(gateway, workers, seed=2, kills=1, after_results=True)
    evidence = await collect_evidence(history, [upstream.journal])
    assert any("does not answer" in text for text in violations(history, evidence))
