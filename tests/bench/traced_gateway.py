"""A gateway that says how many bytes it has allocated, as a process: for `test_idle_session.py`.

`python -m tests.bench.traced_gateway FOLDER UPSTREAM_URL [BALLAST_BYTES]`. It says where it listens; then, for each
line on stdin, how many bytes Python has allocated since the start and not freed. It ends with stdin.

With ballast each session holds so many bytes more: the control, which shows that they would be seen.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import trio

from actors import registry
from actors.session import SessionActor
from outlast.logs import configure_logs
from outlast.serving import serve
from outlast.settings import Settings
from outlast.targets import HttpTarget
from outlast.urls import Address


class LadenActor(SessionActor):
    """A session with ballast."""

    __slots__ = ("ballast",)

    ballast_bytes = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ballast = bytes(self.ballast_bytes)


async def _run(folder: Path, upstream_url: str) -> None:
    settings = Settings(
        listen=Address("127.0.0.1", 0),
        store=f"sqlite:{folder / 'outlast.db'}",
        servers={"bench": HttpTarget(upstream_url)},
    )
    async with trio.open_nursery() as nursery:
        serving = await nursery.start(serve, settings)
        print(f"traced gateway: listening on {serving.url}", flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            gc.collect()
            print(tracemalloc.get_traced_memory()[0], flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    configure_logs(level="warning", form="json", stream=sys.stderr)
    if len(sys.argv) > 3:
        LadenActor.ballast_bytes = int(sys.argv[3])
        setattr(registry, "SessionActor", LadenActor)  # noqa: B010 - a name that it does not export
    tracemalloc.start()
    trio.run(_run, Path(sys.argv[1]), sys.argv[2])
