"""What is kept: the frozen records that stores take and give, without behaviour.

The snapshot is the truth about a session; log entries are a product of the same commit (replay, history)
and never rebuild state. A record names its session by id and knows nothing of what the fields mean: that is
the business of the floor above.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgspec


@attrs.frozen
class Fence:
    """The right to write, as the store granted it: a later claim makes every earlier fence worthless."""

    owner: str  # who claimed: unique per process start, for people to read
    number: int  # rises with each claim, and never restarts
    nonce: str = ""  # of the process that claimed: tells numbers apart that a lossy failover made the store give twice


class SnapshotHeader(msgspec.Struct, frozen=True, gc=False):
    """What can be known of a stored session without opening its body: the index entry, columns in clear.

    A msgspec.Struct where the other records are attrs classes: a hundred thousand of these stay in memory, and without
    a place in the garbage collector's lists (it holds only strings and numbers) each is smaller, and costs no pause.
    """

    session_id: str
    revision: int  # number of events folded into the state
    server_id: str
    owner: str  # digest of the principal that opened the session
    failure: str  # why it is uninitialized; "" when it is in force
    last_active_unix_s: float
    expires_unix_s: float


@attrs.frozen
class Snapshot:
    """A session's folded state at a revision."""

    header: SnapshotHeader
    fields: Mapping[str, object]  # builtins only (None, bool, int, float, str, bytes, list, dict): msgpack's values


# The stream of a session's history, and the sequence behind which its entries are counted: a log of its own beside that
# of the events, so that trimming one leaves the other as it is. No session has so many streams or events; and it is
# exact as a double, which is all the numbers that Redis's Lua has.
HISTORY_STREAM = 1 << 52


def log_start(sequence: int) -> int:
    """Give the sequence behind which the log begins that this sequence belongs to: the events', or the history's."""
    return HISTORY_STREAM if sequence > HISTORY_STREAM else 0


@attrs.frozen
class LogEntry:
    """One kept entry of a session's log: a message of one of its streams, or a page of its history."""

    session_id: str
    sequence: (
        int  # position in its log: events from 1 without gaps, history behind HISTORY_STREAM; what trimming counts
    )
    stream: int  # which stream of the session
    offset: int  # position in that stream, from 1, without gaps but in the history; what a client's cursor names
    at_unix_s: float
    body: bytes


@attrs.frozen
class Trim:
    """Forget a session's log entries up to and including this sequence, of the log that it belongs to."""

    session_id: str
    through_sequence: int


@attrs.frozen
class Tombstone:
    """A session that has ended: its record and log go, and its id cannot come back."""

    session_id: str
    reason: str
    at_unix_s: float


@attrs.frozen
class Batch:
    """What one commit writes: of each session all of it or nothing, see `Store.commit`.

    Idempotent: a snapshot whose revision is not newer than the stored one, an entry whose sequence is stored
    already and a second tombstone change nothing, so a batch whose outcome is unknown is simply sent again.
    The entries of each of a session's two logs come in the order of their sequence, in a batch and over batches.
    """

    fence: Fence
    snapshots: tuple[Snapshot, ...] = ()
    entries: tuple[LogEntry, ...] = ()
    trims: tuple[Trim, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()


@attrs.frozen
class Quarantined:
    """A record that could not be read: set aside with its bytes untouched, never served, reported."""

    session_id: str
    reason: str
    at_unix_s: float
    raw_bytes: int  # how many bytes are kept aside


@attrs.frozen
class StoreHealth:
    """What a probe saw: a real write and a real read."""

    kind: str
    writable: bool
    latency_seconds: float
    sessions: int
    detail: str = ""
    has_ballast: bool | None = None  # whether the room held in reserve is there; None: the store has no such thing
    # By name, whether what a server of it must be is not so, or not known (`redis_checks.py`); {}: nothing is checked.
    troubles: Mapping[str, bool] = attrs.field(factory=dict)
    primary: str = ""  # the server in use, where others name it (Sentinel); "": it is the one of the URL
