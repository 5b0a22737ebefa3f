"""`outlast serve`, weakened on purpose: for scenarios that need a slow disk, and for their controls.

    python -m tests.e2e.weakened_gateway [--slow-commits] [--open-gate] [--no-owners] [--forget-calls] [--run-again]
        [--forget-places] [--no-looks] serve ...

--slow-commits makes every commit take longer than a client needs to read an answer: whoever kills the process
then, kills it in the moment that matters. --open-gate lets answers out before they are kept: with both, the
history checker must find what was lost. --no-owners makes all principals one: who looks for other people's sessions
must find them. --forget-calls says nothing of calls that cannot go on, --run-again sends calls again that were lost
with their upstream, --forget-places sends whoever comes back all of the session's stream: the matrix of restarts must
find each. --no-looks asks for a resumed stream once: what falls into the window of its server must be lost.
"""

from __future__ import annotations

import functools
import math
import sys

import trio
from msgspec.structs import replace

import actors.decide
import actors.runtime
from actors import messages as say
from actors.handle import Reading, SessionHandle
from actors.ids import STANDALONE_STREAM, EventId, Principal
from actors.link import Failure
from actors.turn import Turn
from outlast.cli import main
from persistence.records import Batch
from persistence.sqlite import SqliteStore
from tests.e2e.gateway import FORGET_CALLS, FORGET_PLACES, NO_LOOKS, NO_OWNERS, OPEN_GATE, RUN_AGAIN, SLOW_COMMITS
from transport.upstreams.http_following import Following

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


def forget_calls() -> None:
    """Let sessions say nothing of calls that cannot go on."""
    for command in (say.Recovered, say.Refused):
        actors.decide._DECISIONS[command] = lambda turn, command: None


def run_again() -> None:
    """Take calls that may have been run for calls that were never sent."""
    refused = actors.decide._DECISIONS[say.Refused]

    def unsend(turn: Turn, command: say.Refused) -> None:
        lost = command.failure is Failure.OUTCOME_UNKNOWN
        refused(turn, replace(command, failure=Failure.NOT_SENT) if lost else command)

    actors.decide._DECISIONS[say.Refused] = unsend


def never_look() -> None:
    """Let resumed streams be silent for ever."""
    Following._look_pause_seconds = lambda self: math.inf  # type: ignore[method-assign]


def forget_places() -> None:
    """Let whoever reads a session's own stream begin at its start, whatever they have."""
    read = SessionHandle.read

    async def read_all(
        self: SessionHandle, after: EventId | None, *, stream: int = STANDALONE_STREAM, unshown: bool = False
    ) -> Reading:
        is_own = (stream if after is None else after.stream) == STANDALONE_STREAM
        return await (read(self, None) if is_own else read(self, after, stream=stream))

    SessionHandle.read = read_all  # type: ignore[method-assign]


WEAKENINGS = {
    SLOW_COMMITS: slow_down_commits,
    OPEN_GATE: open_gate,
    NO_OWNERS: forget_owners,
    FORGET_CALLS: forget_calls,
    RUN_AGAIN: run_again,
    NO_LOOKS: never_look,
    FORGET_PLACES: forget_places,
}

if __name__ == "__main__":
    for flag, weaken in WEAKENINGS.items():
        if flag in sys.argv:
            sys.argv.remove(flag)
            weaken()
    sys.exit(main(sys.argv[1:]))
