"""A gateway with hooks instead of sessions: what the command line runs in these tests.

`python -m tests.outlast.fake_gateway ARGUMENT...` is `outlast ARGUMENT...` with a gateway that, asked to
stop, goes on: for whoever wants to see what the second signal does.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import attrs
import trio

from outlast.cli import main
from outlast.process import Serving
from outlast.settings import Settings


@attrs.frozen
class Ready:
    """What the fake says when it is ready."""

    url: str = "http://127.0.0.1:8080"
    sessions_restored: int = 3
    sessions_uninitialized: int = 1
    seconds: float = 0.25


async def _nothing() -> None:
    pass


@attrs.define
class FakeGateway:
    """Is ready at once, and drains at once, unless its hooks have other plans."""

    before_ready: Callable[[], Awaitable[None]] = _nothing
    while_serving: Callable[[], Awaitable[None]] = _nothing
    while_draining: Callable[[], Awaitable[None]] = _nothing
    settings: Settings | None = None  # what it was started with
    journal: list[str] = attrs.field(factory=list)

    async def __call__(
        self,
        settings: Settings,
        *,
        stop: trio.Event,
        task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self.settings = settings
        self.journal.append("starting")
        await self.before_ready()
        self.journal.append("ready")
        task_status.started(Ready())
        await self.while_serving()
        await stop.wait()
        self.journal.append("draining")
        await self.while_draining()
        self.journal.append("stopped")


def failing(error: BaseException) -> Callable[[], Awaitable[None]]:
    """Make a hook that fails."""

    async def fail() -> None:
        raise error

    return fail


async def _go_on() -> None:
    print("draining", flush=True)
    await trio.sleep_forever()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], serve=FakeGateway(while_draining=_go_on)))
