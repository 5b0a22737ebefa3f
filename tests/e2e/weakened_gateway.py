"""`outlast serve`, weakened on purpose: for scenarios that need a slow disk, and for their controls.

    python -m tests.e2e.weakened_gateway [--slow-commits] [--open-gate] [--no-owners] serve ...

--slow-commits makes every commit take longer than a client needs to read an answer: whoever kills the process
then, kills it in the moment that matters. --open-gate lets answers out before they are kept: with both, the
history checker must find what was lost. --no-owners makes all principals one: who looks for other people's sessions
must find them.
"""

from __future__ import annotations

import functools
import sys

import trio

import actors.runtime
from actors.ids import Principal
from outlast.cli import main
from persistence.records import Batch
from persistence.sqlite import SqliteStore
from tests.e2e.gateway import NO_OWNERS, OPEN_GATE, SLOW_COMMITS

COMMIT_SECONDS = 0.15


def slow_down_commits() -> None:
    """Let every commit wait before it is made, as on a disk that is overloaded."""
    commit = SqliteStore.commit

    async def slow_commit(self: SqliteStore, batch: Batch) -> None:
        await trio.sleep(COMMIT_SECONDS)
        await commit(self, batch)

    SqliteStore.commit = slow_commit  # type: ignore[method-assign]


def open_gate() -> None:
    """Let what tells of a fact leave before the fact is kept. To be called before the gateway is imported."""
    open_gated = functools.partial(actors.runtime.RuntimeOptions, gate_open_always=True)
    actors.runtime.RuntimeOptions = open_gated  # type: ignore[misc, assignment]


def forget_owners() -> None:
    """Let every principal look like every other where owners are compared."""
    Principal.digest = property(lambda self: "everybody", lambda self, value: None)  # type: ignore[assignment]


if __name__ == "__main__":
    weakenings = {SLOW_COMMITS: slow_down_commits, OPEN_GATE: open_gate, NO_OWNERS: forget_owners}
    for flag, weaken in weakenings.items():
        if flag in sys.argv:
            sys.argv.remove(flag)
            weaken()
    sys.exit(main(sys.argv[1:]))
