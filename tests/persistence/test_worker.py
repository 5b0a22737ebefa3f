"""The worker's thread: one job after another, each to its end, and what is done in between."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from persistence.worker import Worker


async def test_jobs_run_one_after_another_in_one_thread_of_their_own() -> None:
    worker = Worker("test")
    seen: list[tuple[int, int]] = []

    def job(number: int) -> int:
        seen.append((number, threading.get_ident()))
        return number * 10

    results: list[int] = []

    async def ask(number: int) -> None:
        results.append(await worker.run(lambda: job(number)))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, number)
    assert sorted(results) == [number * 10 for number in range(20)]
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()
    worker.stop()


async def test_what_a_job_raises_is_raised_where_it_was_asked_for() -> None:
    worker = Worker("test")
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: 1) == 1
    worker.stop()


async def test_a_job_that_has_begun_is_waited_for_when_cancelled() -> None:
    worker = Worker("test")
    go, ended = threading.Event(), []

    def job() -> None:
        go.wait(60)
        ended.append("job")

    async def ask() -> None:
        await worker.run(job)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        assert ended == []
        go.set()
    assert ended == ["job"]
    worker.stop()


async def test_a_cancelled_task_hands_no_job_over() -> None:
    worker = Worker("test")
    ran: list[str] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await worker.run(lambda: ran.append("job"))
    await worker.run(lambda: None)
    assert ran == []
    worker.stop()


async def test_work_after_a_job_follows_its_answer_and_precedes_the_next() -> None:
    order: list[str] = []
    worker = Worker("test", after_job=lambda: order.append("after"))
    await worker.run(lambda: order.append("first"))
    await worker.run(lambda: order.append("second"))
    await worker.run(lambda: None)
    assert order[:4] == ["first", "after", "second", "after"]
    worker.stop()


async def test_an_idle_worker_is_told_once() -> None:
    idle = threading.Event()
    times: list[str] = []

    def when_idle() -> None:
        times.append("idle")
        idle.set()

    worker = Worker("test", when_idle=when_idle, idle_seconds=0.0)
    await worker.run(lambda: None)
    assert await trio.to_thread.run_sync(idle.wait, 60)
    await worker.run(worker.stop)
    assert len(times) == 1


async def test_a_failing_hook_is_told_to_every_later_job() -> None:
    # Or the thread would have ended, and every later job would wait for ever.
    def fail() -> None:
        raise RuntimeError("hook")

    worker = Worker("test", after_job=fail)
    assert await worker.run(lambda: 1) == 1
    for _ in range(2):
        with pytest.raises(RuntimeError, match="hook"):
            await worker.run(lambda: 1)
    worker.stop()
