"""Facts: what the workload has kept, computable anew by whoever judges.

A fact is one revision of a session by one author: the snapshot at that revision, and the log entry with the same
number. Both are made from the names alone, so that the judge compares contents, not counters. Snapshot and entry
travel in one batch: one without the other is a batch that was torn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs

from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.store import SnapshotCorrupt, Store

_LOG_LIMIT = 1_000_000
_AT_UNIX_S = 1_000_000.0
_EXPIRES_UNIX_S = 4_000_000_000.0


@attrs.frozen
class Fact:
    """A revision of a session, as its author told of it; revision 0 tells of its end."""

    session_id: str
    revision: int
    author: str


def snapshot_of(fact: Fact, filling_bytes: int) -> Snapshot:
    """Give the snapshot that a fact is kept as."""
    header = SnapshotHeader(
        fact.session_id, fact.revision, "faults", fact.author, "", _AT_UNIX_S + fact.revision, _EXPIRES_UNIX_S
    )
    return Snapshot(header, {"author": fact.author, "filling": _filling(fact, filling_bytes)})


def entry_of(fact: Fact) -> LogEntry:
    """Give the log entry that a fact is kept as."""
    body = f"{fact.session_id} {fact.revision} {fact.author}".encode()
    return LogEntry(fact.session_id, fact.revision, 0, fact.revision, _AT_UNIX_S + fact.revision, body)


async def lost_facts(store: Store, told: Sequence[Fact]) -> tuple[int, list[str]]:
    """Compare what a store holds with what was told.

    Returns:
      How many told facts it does not hold, and what is wrong with what it holds.
    """
    by_session: dict[str, list[Fact]] = {}
    for fact in told:
        by_session.setdefault(fact.session_id, []).append(fact)
    lost, wrong = 0, []
    for session_id, facts in by_session.items():
        try:
            kept = await store.load(session_id)
            log = await store.read_log(session_id, stream=0, after=0, limit=_LOG_LIMIT)
        except SnapshotCorrupt as error:
            lost += len(facts)
            wrong.append(f"{session_id}: {error}")
            continue
        if any(not fact.revision for fact in facts):
            lost += kept is not None  # its end was told
            continue
        lost += _lost_of(facts, kept, log)
        wrong += what_is_wrong(session_id, kept, log)
    return lost, wrong


def what_is_wrong(session_id: str, kept: Snapshot | None, log: Sequence[LogEntry]) -> list[str]:
    """Find what no workload can have written: other contents, gaps, half a batch."""
    if kept is None:
        return [f"{session_id}: entries without a snapshot"] if log else []
    header, filling = kept.header, kept.fields.get("filling")
    fact = Fact(session_id, header.revision, header.owner)
    wrong = []
    if not isinstance(filling, bytes) or kept != snapshot_of(fact, len(filling)):
        wrong.append(f"{session_id}: another snapshot than was written at revision {header.revision}")
    if [entry.sequence for entry in log] != list(range(1, header.revision + 1)):
        wrong.append(f"{session_id}: {len(log)} entries with revision {header.revision}: half a batch, or a gap")
    for entry in log:
        author = entry.body.decode(errors="replace").rpartition(" ")[2]
        if entry != entry_of(Fact(session_id, entry.sequence, author)):
            wrong.append(f"{session_id}: another entry than was written at {entry.sequence}")
    return wrong


def _lost_of(facts: Sequence[Fact], kept: Snapshot | None, log: Sequence[LogEntry]) -> int:
    revision = kept.header.revision if kept else 0
    bodies = {entry.sequence: entry.body for entry in log}
    return sum(fact.revision > revision or bodies.get(fact.revision) != entry_of(fact).body for fact in facts)


def _filling(fact: Fact, count: int) -> bytes:
    return random.Random(f"{fact.session_id} {fact.revision} {fact.author}").randbytes(count)
