"""Weaknesses: protections taken away on purpose, so that the harness is seen to notice.

Each takes its protection away in this process, for good: they are for child processes, and for `weakened` blocks,
which put it back. None of them is reachable from the product's settings.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio

from actors.clock import SteadyClock
from persistence import envelope, redis_scripts, sqlite_connection, sqlite_statements
from persistence.ballast import Ballast
from persistence.records import Batch
from persistence.redis import RedisStore
from persistence.redis_nodes import Nodes
from persistence.sqlite import SqliteStore
from persistence.store import StoreBroken, StoreFull

EARLY = "acknowledges-early"  # receipts do not wait for the commit; the workload and the runtime know how
NORMAL = "synchronous-normal"
OFF = "synchronous-off"
DEAF = "ignores-refusals"
NO_BALLAST = "no-ballast"
UNLOCKED = "no-lock"
UNFENCED = "no-fence"  # of Redis; nor does the workload heed that its lease is lost
UNSEQUENCED = "no-sequences"  # of Redis
UNCOUNTED = "no-replica-counted"  # of Redis: whoever runs the fault opens the store at a lower level
UNCONFIRMED = "sentinels-not-asked-again"  # of Redis
UNCHECKED = "no-checksum"
WALL_CLOCK = "wall-clock"
LYING = "lying-disk"  # a fake's own: tests/persistence/faulty.py

Put = Callable[[object, str, object], None]  # as setattr
Commit = Callable[[Any, Batch], Awaitable[None]]


def weaken(weakness: str) -> None:
    """Take a protection away, for as long as this process lives; "" takes none."""
    _apply(weakness, setattr)


@contextlib.contextmanager
def weakened(weakness: str) -> Iterator[None]:
    """Take a protection away for the length of a block."""
    with contextlib.ExitStack() as undo:

        def put(owner: object, name: str, value: object) -> None:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        _apply(weakness, put)
        yield


def _apply(weakness: str, put: Put) -> None:
    if weakness:
        _WEAKNESSES[weakness](put)


def _nothing(put: Put) -> None:
    """What whoever runs the fault does itself."""


def _synchronous(level: str, put: Put) -> None:
    pragmas = tuple(
        f"synchronous = {level}" if one == "synchronous = FULL" else one for one in sqlite_statements.PRAGMAS
    )
    assert pragmas != sqlite_statements.PRAGMAS
    put(sqlite_statements, "PRAGMAS", pragmas)


def _ignore_refusals(put: Put) -> None:
    for store in (SqliteStore, RedisStore):
        put(store, "commit", _deaf(store.commit))


def _deaf(commit: Commit) -> Commit:
    async def commit_or_not(self: Any, batch: Batch) -> None:
        await trio.lowlevel.checkpoint()
        with contextlib.suppress(StoreBroken, StoreFull):
            await commit(self, batch)

    return commit_or_not


def _carry_no_ballast(put: Put) -> None:
    put(Ballast, "take_first", lambda self: setattr(self, "size", 0))


class _UnlockedConnection(sqlite3.Connection):
    """Leaves the file open to other processes."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(statement.replace("locking_mode = EXCLUSIVE", "locking_mode = NORMAL"), *values)


def _leave_unlocked(put: Put) -> None:
    # Only what the store connects becomes weaker.
    connect = functools.partial(sqlite3.connect, factory=_UnlockedConnection)

    def connect_unlocked(path: Path, mode: str) -> sqlite3.Connection:
        return connect(f"file:{path}?mode={mode}", uri=True, timeout=0, isolation_level=None, check_same_thread=False)

    put(sqlite_connection, "_connect", connect_unlocked)


def _leave_unchecked(put: Put) -> None:
    put(envelope, "_checksum", lambda about, head, payload: 0)


def _change_scripts(what: str, by: str, put: Put) -> None:
    """Take a protection out of the scripts that commit."""
    scripts = {name: getattr(redis_scripts, name).replace(what, by) for name in ("COMMIT", "COMMIT_ANYWAY")}
    for name, script in scripts.items():
        assert script != getattr(redis_scripts, name)
        put(redis_scripts, name, script)
    put(redis_scripts, "ALL", (*redis_scripts.ALL, *scripts.values()))


def _tell_wall_time(put: Put) -> None:
    put(SteadyClock, "now_unix_s", lambda self: time.time())


def _rely_on_primaries(put: Put) -> None:
    put(Nodes, "_confirm", lambda self: None)


_WEAKNESSES: Mapping[str, Callable[[Put], None]] = {
    EARLY: _nothing,
    LYING: _nothing,
    NORMAL: functools.partial(_synchronous, "NORMAL"),
    OFF: functools.partial(_synchronous, "OFF"),
    DEAF: _ignore_refusals,
    NO_BALLAST: _carry_no_ballast,
    UNLOCKED: _leave_unlocked,
    UNFENCED: functools.partial(_change_scripts, "if refused then return refused end", ""),
    UNSEQUENCED: functools.partial(_change_scripts, "if sequence > last then", "if true then"),
    UNCOUNTED: _nothing,
    UNCONFIRMED: _rely_on_primaries,
    UNCHECKED: _leave_unchecked,
    WALL_CLOCK: _tell_wall_time,
}
