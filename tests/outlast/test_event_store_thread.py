"""The bridge: jobs run on the thread's loop, results and errors come back, nobody waits for a loop that has ended."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest
import trio

from outlast.trio_thread import ThreadEnded, TrioThread
from tests.outlast.event_store_bed import LIBRARIES, run

pytestmark = pytest.mark.parametrize("library", LIBRARIES)


class Service:
    """Notes where it was used, and can be made to fail."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.left = False
        self.began = threading.Event()
        self.cancelled = threading.Event()
        self.fail = trio.Event()

    async def where(self) -> str:
        await trio.lowlevel.checkpoint()
        return threading.current_thread().name

    async def wait(self) -> None:
        self.began.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise


def serving(service: Service) -> Callable[[], AbstractAsyncContextManager[Service]]:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Service]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing)
            yield service
            nursery.cancel_scope.cancel()
        service.left = True

    async def failing() -> None:
        await service.fail.wait()
        raise OSError("the device is gone")

    return serve


async def in_thread(event: threading.Event) -> None:
    await anyio.to_thread.run_sync(event.wait, 10.0)


def test_jobs_run_on_the_threads_loop_and_their_results_come_back(library: str) -> None:
    async def main() -> None:
        service = Service()
        thread = TrioThread(serving(service), name="bridge")
        await thread.start()
        assert await thread.call(Service.where, seconds=10) == "bridge"
        await thread.aclose()
        await thread.aclose()
        assert service.left

    run(library, main)


def test_error_of_a_job_is_its_callers_and_harms_nobody_else(library: str) -> None:
    async def failing(_: Service) -> None:
        raise KeyError("mine")

    async def main() -> None:
        thread = TrioThread(serving(Service()), name="bridge")
        await thread.start()
        with pytest.raises(KeyError, match="mine"):
            await thread.call(failing, seconds=10)
        assert await thread.call(Service.where, seconds=10) == "bridge"
        await thread.aclose()

    run(library, main)


def test_job_that_takes_too_long_is_cancelled(library: str) -> None:
    async def main() -> None:
        service = Service()
        thread = TrioThread(serving(service), name="bridge")
        await thread.start()
        with pytest.raises(TimeoutError):
            await thread.call(Service.wait, seconds=0.01)
        assert service.cancelled.is_set()
        await thread.aclose()

    run(library, main)


def test_cancelled_caller_cancels_its_job(library: str) -> None:
    async def main() -> None:
        service = Service()
        thread = TrioThread(serving(service), name="bridge")
        await thread.start()

        async def call() -> None:
            await thread.call(Service.wait, seconds=1000)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await in_thread(service.began)
            group.cancel_scope.cancel()
        await in_thread(service.cancelled)
        assert service.cancelled.is_set()
        await thread.aclose()

    run(library, main)


def test_service_that_fails_ends_every_call_and_says_why(library: str) -> None:
    async def main() -> None:
        service = Service()
        thread = TrioThread(serving(service), name="bridge")
        await thread.start()

        async def wait_in_vain() -> None:
            with pytest.raises(ThreadEnded):
                await thread.call(Service.wait, seconds=1000)

        async def fail(service: Service) -> None:
            await trio.lowlevel.checkpoint()
            service.fail.set()

        async with anyio.create_task_group() as group:
            group.start_soon(wait_in_vain)
            await in_thread(service.began)
            await thread.call(fail, seconds=10)
        await thread.aclose()
        with pytest.raises(ThreadEnded) as ended:
            await thread.call(Service.where, seconds=10)
        assert isinstance(ended.value.__cause__, BaseExceptionGroup)
        assert not thread.is_running

    run(library, main)


def test_service_that_cannot_start_says_so_to_who_starts_it(library: str) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Service]:
        service = Service()
        if not service.left:
            raise OSError("no such device")
        yield service

    async def main() -> None:
        thread = TrioThread(broken, name="bridge")
        with pytest.raises(OSError, match="no such device"):
            await thread.start()
        await thread.aclose()

    run(library, main)


def test_call_before_the_start_is_refused(library: str) -> None:
    async def main() -> None:
        thread = TrioThread(serving(Service()), name="bridge")
        with pytest.raises(ThreadEnded):
            await thread.call(Service.where, seconds=10)
        await thread.aclose()

    run(library, main)


def test_stop_ends_a_call_that_would_wait_for_ever(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlast.trio_thread.GRACE_SECONDS", 0.01)

    async def main() -> None:
        service = Service()
        thread = TrioThread(serving(service), name="bridge")
        await thread.start()

        async def wait_in_vain() -> None:
            with pytest.raises(ThreadEnded):
                await thread.call(Service.wait, seconds=1000)

        async with anyio.create_task_group() as group:
            group.start_soon(wait_in_vain)
            await in_thread(service.began)
            await thread.aclose()
        assert service.left

    run(library, main)
