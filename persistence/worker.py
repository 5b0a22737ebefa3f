"""Worker: one thread that does blocking jobs for trio's tasks, one after another.

Why not `trio.to_thread.run_sync` with a limiter of one: a database wants to do something *after* it has answered
(checkpoint once the commit is told) and when nobody asks anything (checkpoint when idle). A thread that owns its
queue sees both moments; a thread that is lent for one call sees neither.

A job that has begun runs to its end: cancellation waits for it. The queue needs no bound of its own: each job in it
is a task that waits.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import trio

Result = TypeVar("Result")


class _Job:
    __slots__ = ("answered", "function", "result", "task", "token")

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()
        self.answered = False
        self.result: Any = None


class Worker:
    """A thread of one's own.

    Args:
      name: what the thread is called, for people who look at stacks.
      after_job: called in the thread after each job has been answered, before the next.
      when_idle: called in the thread once, when no job has come for `idle_seconds` after one was done.

    A hook that raises is a mistake of ours; it must not leave tasks waiting for ever, so from then on every job
    raises the same.
    """

    def __init__(
        self,
        name: str,
        *,
        after_job: Callable[[], None] | None = None,
        when_idle: Callable[[], None] | None = None,
        idle_seconds: float = 1.0,
    ) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._after_job = after_job
        self._when_idle = when_idle
        self._idle_seconds = idle_seconds
        self._failure: BaseException | None = None
        # A daemon: a process that ends without closing its store must not hang; a commit cut short is rolled back.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], Result]) -> Result:
        """Have the thread call `function`, and give what it returns or raise what it raises.

        Cancellation: before the call is handed over; from then on it waits for the end.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(function)
        self._jobs.put(job)
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        if job.answered:
            result: Result = job.result
            return result
        try:
            raise job.result
        finally:
            del job  # the exception's traceback would keep the frame, and the frame the exception

    def stop(self) -> None:
        """End the thread after the jobs that it has. Does not wait."""
        self._jobs.put(None)

    def _work(self) -> None:
        busy = False
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_seconds if busy else None)
            except queue.Empty:
                busy = False
                self._call(self._when_idle)
                continue
            if job is None:
                return
            self._answer(job)
            del job  # or an idle thread would keep the last batch alive
            busy = True
            self._call(self._after_job)

    def _answer(self, job: _Job) -> None:
        try:
            if self._failure is not None:
                raise self._failure
            job.result = job.function()
            job.answered = True
        except BaseException as error:  # noqa: BLE001 - not ours to judge: it is raised in the task that asked
            job.result = error
        # The run can be over only if it was torn down by force: nobody waits for the answer then.
        with contextlib.suppress(trio.RunFinishedError):
            job.token.run_sync_soon(trio.lowlevel.reschedule, job.task)

    def _call(self, hook: Callable[[], None] | None) -> None:
        if hook is None or self._failure is not None:
            return
        try:
            hook()
        except BaseException as error:  # noqa: BLE001 - told to every later job, see the class
            self._failure = error
