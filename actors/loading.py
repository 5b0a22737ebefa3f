"""Loading: a stored session's newest durable snapshot, or why it cannot be had."""

from __future__ import annotations

import trio

from actors.messages import NotDone, Problem
from actors.surroundings import Surroundings
from persistence.records import Snapshot
from persistence.store import SnapshotCorrupt, SnapshotTooNew, StoreUnavailable

LOAD_SECONDS_MAX = 5.0  # whoever waits for a session to come to life is told to try again after this


class NotLoaded(Exception):
    """The session cannot come to life."""

    def __init__(self, problem: Problem, detail: str, *, corrupt: bool = False, away: bool = False) -> None:
        super().__init__(detail)
        self.outcome = NotDone(problem, detail)  # for whoever waits
        self.corrupt = corrupt  # it never can
        self.away = away  # nothing is known of it: the store did not answer


async def load(shared: Surroundings, session_id: str) -> Snapshot:
    """Give the session's snapshot, once no older commit of it can be on its way.

    Raises:
      NotLoaded

    Cancellation: safe.
    """
    try:
        with trio.fail_after(LOAD_SECONDS_MAX):
            await shared.writer.settle(session_id)
            snapshot = await shared.store.load(session_id)
    except (StoreUnavailable, trio.TooSlowError) as error:
        raise NotLoaded(Problem.UNAVAILABLE, f"the store does not answer: {error}", away=True) from error
    except SnapshotTooNew as error:
        raise NotLoaded(Problem.UNAVAILABLE, str(error)) from error
    except SnapshotCorrupt as error:
        raise NotLoaded(Problem.UNINITIALIZED, str(error), corrupt=True) from error
    if snapshot is None:  # a crash before the first commit, or a removal beside us
        raise NotLoaded(Problem.UNINITIALIZED, "there is no such session any more")
    return snapshot
