"""A trio loop in a thread of its own, and the bridge to it from any async library.

Our stores and the writer live on trio; servers built on the public MCP SDK usually live on asyncio. Weighed: calling
the SQLite store from a worker thread for each event (no group commit: each event pays an fsync alone, and it would
work for one store only); anyio's `to_thread` and `from_thread` (a worker thread is blocked for each waiting call,
forty at most). So: one thread, one loop, one service; a call costs two wake-ups and holds no thread while it waits.

- Whatever calls (asyncio, trio) is woken through its own loop's thread-safe door.
- Each call has a deadline, kept on trio's clock, on trio's side; a caller that is cancelled cancels its job there.
- When the service ends, in order or by an error, every call that waits and every later one gets `ThreadEnded`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import outcome
import sniffio
import trio

Service = TypeVar("Service")
Result = TypeVar("Result")

GRACE_SECONDS = 2.0  # for calls in progress when the thread is told to stop; a commit takes milliseconds


class ThreadEnded(RuntimeError):
    """The thread's loop has ended, or was never started; its cause, if any, is the error that ended it."""


class TrioThread(Generic[Service]):
    """Runs a service, an async context manager, on a trio loop in a thread of its own.

    The thread is a daemon: a process that ends without `aclose` is not held up. What was acknowledged is durable then,
    too; that does not rest on an orderly end.

    Args:
      service: makes the service; entered and left on the thread's loop.
      name: of the thread, for people.
    """

    def __init__(self, service: Callable[[], AbstractAsyncContextManager[Service]], *, name: str) -> None:
        self._service = service
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lock = threading.Lock()  # guards the two lists of wakers below, which both sides change
        self._token: trio.lowlevel.TrioToken | None = None
        self._flights: trio.Nursery | None = None
        self._stop: trio.Event | None = None
        self._ended = False
        self._failure: BaseException | None = None
        self._until_started: list[Callable[[], None]] | None = []  # None: nothing to wait for any more
        self._until_ended: list[Callable[[], None]] | None = []

    def __repr__(self) -> str:
        state = "ended" if self._ended else "running" if self._flights is not None else "not running"
        return f"<TrioThread {self._thread.name!r} {state}>"

    @property
    def is_running(self) -> bool:
        """Whether calls can be made now."""
        return self._flights is not None and not self._ended

    async def start(self) -> None:
        """Start the thread and wait until the service can be used. Once only.

        Raises:
          Whatever entering the service raised.

        Cancellation: the thread goes on starting; `aclose` ends it.
        """
        self._thread.start()
        await self._wait("_until_started")
        if self._flights is None and self._failure is not None:
            raise self._failure

    async def call(self, job: Callable[[Service], Awaitable[Result]], *, seconds: float) -> Result:
        """Have a job done on the thread's loop, with the service.

        Args:
          job: runs there in a task of its own; gets the service.
          seconds: how long it may take, from when it begins.

        Raises:
          TimeoutError: it took longer, and was cancelled.
          ThreadEnded: the loop has ended, before the job or under it.
          Whatever the job raised.

        Cancellation: cancels the job; what it did before that stays done.
        """
        event, wake = _waker()
        flight = _Flight(job, seconds, wake)
        self._soon(self._begin, flight)
        try:
            await event.wait()
        finally:
            if flight.result is None:  # the caller is cancelled; nobody is left to be told if the loop has ended
                with contextlib.suppress(ThreadEnded):
                    self._soon(flight.scope.cancel)
        assert flight.result is not None, "woken without a result"
        result: Result = flight.result.unwrap()
        return result

    async def aclose(self) -> None:
        """Stop the service in order, and wait for the thread's end. Closing twice is fine, also before `start`.

        Calls in progress get `GRACE_SECONDS`, then `ThreadEnded`.

        Cancellation: the thread ends all the same, on its own time.
        """
        if self._thread.ident is None:
            return
        with contextlib.suppress(ThreadEnded):
            await self._wait("_until_started")
            self._soon(self._ask_to_stop)
        await self._wait("_until_ended")

    async def _wait(self, which: str) -> None:
        event, wake = _waker()
        with self._lock:
            wakers: list[Callable[[], None]] | None = getattr(self, which)
            if wakers is None:
                return
            wakers.append(wake)
        await event.wait()

    def _tell(self, which: str) -> None:
        with self._lock:
            wakers = getattr(self, which) or []
            setattr(self, which, None)
        for wake in wakers:
            wake()

    def _soon(self, function: Callable[..., object], *arguments: object) -> None:
        if self._token is None:
            raise ThreadEnded(f"{self._thread.name} is not running") from self._failure
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            raise ThreadEnded(f"{self._thread.name} has ended") from self._failure

    # From here on: on the thread.

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as failure:  # noqa: BLE001 - a thread's last word: kept for those who call, or start
            self._failure = failure
        finally:
            self._ended = True
            self._tell("_until_started")
            self._tell("_until_ended")

    async def _serve(self) -> None:
        self._stop = trio.Event()
        async with self._service() as service:
            self._using = service
            try:
                async with trio.open_nursery() as nursery:
                    self._flights = nursery
                    self._token = trio.lowlevel.current_trio_token()
                    self._tell("_until_started")
                    await self._stop.wait()
                    self._ended = True  # no new calls
                    nursery.cancel_scope.deadline = trio.current_time() + GRACE_SECONDS
            finally:
                self._ended = True

    def _ask_to_stop(self) -> None:
        assert self._stop is not None
        self._stop.set()

    def _begin(self, flight: _Flight) -> None:
        if self._flights is None or self._ended:
            flight.land(outcome.Error(ThreadEnded(f"{self._thread.name} is stopping")))
        else:
            self._flights.start_soon(self._fly, flight)

    async def _fly(self, flight: _Flight) -> None:
        result: outcome.Maybe[Any] = outcome.Error(ThreadEnded(f"{self._thread.name} ended under the call"))
        try:
            with flight.scope, trio.fail_after(flight.seconds):
                result = outcome.Value(await flight.job(self._using))
        except trio.TooSlowError:
            result = outcome.Error(TimeoutError(f"took longer than {flight.seconds} s"))
        except Exception as error:  # noqa: BLE001 - the caller's to handle, over there; it is no failure of the service
            result = outcome.Error(error)
        finally:
            flight.land(result)


class _Flight:
    """One call on its way: what it is, and how its caller is woken."""

    def __init__(self, job: Callable[[Any], Awaitable[Any]], seconds: float, wake: Callable[[], None]) -> None:
        self.job = job
        self.seconds = seconds
        self.scope = trio.CancelScope()
        self.result: outcome.Maybe[Any] | None = None
        self._wake = wake

    def land(self, result: outcome.Maybe[Any]) -> None:
        self.result = result
        self._wake()


def _waker() -> tuple[asyncio.Event | trio.Event, Callable[[], None]]:
    """Give an event of the running loop, and a function that sets it from any thread."""
    if sniffio.current_async_library() == "trio":
        token = trio.lowlevel.current_trio_token()
        happened = trio.Event()

        def wake_trio() -> None:
            with contextlib.suppress(trio.RunFinishedError):  # who waited is gone
                token.run_sync_soon(happened.set)

        return happened, wake_trio
    loop = asyncio.get_running_loop()
    event = asyncio.Event()

    def wake_asyncio() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: who waited is gone
            loop.call_soon_threadsafe(event.set)

    return event, wake_asyncio
