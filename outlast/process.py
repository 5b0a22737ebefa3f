"""The serving process: start, say ready, stop on a signal, end at once on the second.

The first SIGTERM or SIGINT asks: the gateway drains and ends by itself (a start that is still under way is
given up). The second one means it: the process ends where it stands. That is safe, because what was
acknowledged is durable before it is sent; nothing depends on a clean stop.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn, Protocol

import trio

from outlast.service_manager import ServiceManager
from outlast.settings import Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Serving(Protocol):
    """What a gateway tells when it is ready."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    @property
    def sessions_restored(self) -> int:
        """How many sessions it has from before."""
        ...

    @property
    def sessions_uninitialized(self) -> int:
        """How many of them could not be brought back into force."""
        ...

    @property
    def seconds(self) -> float:
        """How long the start took."""
        ...


class Serve(Protocol):
    """Runs the whole gateway until `stop` is set; then it drains and returns."""

    async def __call__(
        self,
        settings: Settings,
        *,
        stop: trio.Event,
        task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
    ) -> None: ...


def ready_line(serving: Serving) -> str:
    """Write the line that says that the gateway is ready."""
    restored, uninitialized = serving.sessions_restored, serving.sessions_uninitialized
    return (
        f"outlast: listening on {serving.url} "
        f"({restored} sessions restored, {uninitialized} uninitialized, {serving.seconds:.2f} s)"
    )


def announce_on_stdout(serving: Serving) -> None:
    """Print the ready line, at once: whoever started us is waiting for it."""
    try:
        print(ready_line(serving), flush=True)
    except BrokenPipeError:
        # Nobody reads it, which is no reason not to serve. What is left in the buffer must go somewhere, or
        # the interpreter complains about it at exit.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def end_at_once(signal_number: int) -> NoReturn:
    """End the process where it stands, with the exit code that shells give for a signal."""
    os._exit(128 + signal_number)


async def serve_until_told(
    settings: Settings,
    serve: Serve,
    announce: Callable[[Serving], None],
    *,
    manager: ServiceManager = ServiceManager(),
    end_at_once: Callable[[int], object] = end_at_once,
) -> None:
    """Serve until a signal asks to stop, and the gateway has drained.

    Args:
      announce: told once, when the gateway is ready.
      manager: told the same, and when it stops, and that it is alive meanwhile.
      end_at_once: what the second signal does.

    Raises:
      Whatever ends `serve`, in exception groups.
    """
    stop = trio.Event()
    starting = trio.CancelScope()
    async with trio.open_nursery() as watching:
        await watching.start(_heed_signals, stop, starting, end_at_once)
        watching.start_soon(manager.give_signs_of_life)
        watching.start_soon(_tell_of_stop, stop, manager)
        async with trio.open_nursery() as serving:
            with starting:
                ready = await serving.start(partial(serve, settings, stop=stop))
                announce(ready)
                manager.ready(ready_line(ready))
        watching.cancel_scope.cancel()


async def _tell_of_stop(stop: trio.Event, manager: ServiceManager) -> None:
    await stop.wait()
    manager.stopping()


async def _heed_signals(
    stop: trio.Event,
    starting: trio.CancelScope,
    end_at_once: Callable[[int], object],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as received:
        task_status.started()
        async for signal_number in received:
            if stop.is_set():  # a second one that came before the handlers below were in place
                end_at_once(signal_number)
            stop.set()
            starting.cancel()
            # From here on without the event loop: whoever asks twice has seen it not answer. The default
            # action would do, were it not that it is ignored in the first process of a container.
            for number in _SIGNALS:
                signal.signal(number, lambda again, _frame: end_at_once(again))
