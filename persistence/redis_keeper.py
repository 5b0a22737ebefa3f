"""The keeper: what the Redis store does, in its own thread, beside writing (`redis_commits.py`).

What it asks, and how answers are understood: `redis_asking.py`. Who owns what: `redis_leases.py`.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import structlog
from msgspec.structs import replace

from persistence import redis_records, redis_scripts
from persistence.canary import CANARY
from persistence.codec import Codec
from persistence.partitions import PARTITIONS, partition_of
from persistence.records import (
    HISTORY_STREAM,
    Batch,
    Fence,
    LogEntry,
    Quarantined,
    Snapshot,
    SnapshotHeader,
    StoreHealth,
)
from persistence.redis_asking import NO_FENCE, Digest, RedisAsker
from persistence.redis_checks import CHECKS, judge, read_info, replicas_missing
from persistence.redis_commits import GoneBack, RedisCommits
from persistence.redis_leases import RedisLeases
from persistence.redis_nodes import Call, Nodes
from persistence.redis_resealing import RedisResealing
from persistence.redis_scripts import FORMAT
from persistence.redis_url import RedisPlace
from persistence.shown import shown_id
from persistence.store import SnapshotCorrupt, StoreError, StoreInvalid, StoreReplaced, StoreUnavailable

log = structlog.get_logger("persistence.redis")

Result = TypeVar("Result")

_SCAN_PARTITIONS = 4  # asked at a time: a page of 10,000 from 100,000 sessions is 26 of them
_POSITION_BITS = 40  # of a position in `scan`: below, the place in the partition's index; above, the partition


class RedisKeeper:
    """A Redis store's jobs.

    Args:
      nodes: its servers.
      digest: the name under which the servers know a script.
      tombstones_max: how many ended sessions are remembered, over all partitions.
    """

    def __init__(self, place: RedisPlace, nodes: Nodes, codec: Codec, digest: Digest, tombstones_max: int) -> None:
        self.codec = codec
        self.nodes = nodes
        self._asker = RedisAsker(place, nodes, digest)
        self.commits = RedisCommits(self._asker, max(1, tombstones_max // PARTITIONS))
        self.leases = RedisLeases(self._asker, self.commits.history)
        self.resealing = RedisResealing(self._asker)

    def open(self) -> None:
        """Look at the servers, and make the store's first keys where there are none."""
        self._check_servers()
        wanted = (str(uuid.uuid4()), FORMAT, PARTITIONS, f"{time.time():.3f}")
        asker = self._asker
        shown = asker.place.shown
        [found] = asker.answers(self.nodes.ask([asker.call(redis_scripts.FOUND, asker.meta, *wanted)]))
        text = [(one or b"").decode() for one in self._asker.listed(found)]
        if text[1:3] != [str(FORMAT), str(PARTITIONS)]:
            raise StoreInvalid(
                f"{shown} has format {text[1] or 'unknown'} with {text[2] or 'no'} partitions, this version"
                f" knows {FORMAT} with {PARTITIONS}; it was not touched. Use the version that wrote it, or another"
                " prefix"
            )
        self._asker.uuid = text[0]
        [canary] = self._asker.answers(self.nodes.ask([Call(self._asker.meta, ("HGET", self._asker.meta, CANARY))]))
        self.codec.check_canary(canary if isinstance(canary, bytes) else None, self._asker.place.shown)
        self._begin_partitions(generation=int(text[3] or 0))

    def claim(self, owner: str) -> Fence:
        """Take all partitions under one number."""
        return self.leases.claim(owner, self.codec)

    def tend(self, fence: Fence) -> None:
        """Say that the owner is there, and see that all it wrote is."""
        self.leases.tend(fence)
        self.commits.reassert()

    def commit(self, batch: Batch) -> None:
        """Write a batch; on return all of it is written."""
        self.commits.commit(batch, self.codec)

    def load(self, session_id: str) -> Snapshot | None:
        """Give a session's snapshot."""
        return self._up_to_date(lambda: self._load(session_id))

    def read_log(self, session_id: str, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        """Give a stream's entries after an offset."""
        return self._up_to_date(lambda: self._read_log(session_id, stream, after, limit))

    def scan(self, after: int, limit: int) -> tuple[Sequence[SnapshotHeader], int | None]:
        """Give a page of headers: partition by partition, in each in the order in which sessions were first stored."""
        return self._up_to_date(lambda: self._scan(after, limit))

    def _up_to_date(self, read: Callable[[], Result]) -> Result:
        """Read; from a server that has gone back, after it was given what it has lost."""
        try:
            found = read()
            looked = self.commits.check_anew()
        except GoneBack:
            self.commits.reassert()
            return read()
        return read() if looked else found

    def _load(self, session_id: str) -> Snapshot | None:
        partition = partition_of(session_id)
        at = self._asker.at(partition)
        key = f"{at}s:{session_id}"
        calls = [Call(key, ("HMGET", key, "h", "r")), Call(key, ("HMGET", f"{at}lease", "store", "commits"))]
        fields, lease = map(self._asker.listed, self._asker.answers(self.nodes.ask(calls)))
        store, count = lease
        if store != self._asker.uuid.encode():
            self._asker.raise_foreign(at)
        self.commits.check(partition, count)
        packed, record = fields
        if packed is None:
            return None
        [header] = redis_records.unpack_headers(packed)
        if not record:
            raise SnapshotCorrupt(f"session {shown_id(session_id)}…: its record is in quarantine")
        try:
            return self.codec.open_snapshot(header, record)
        except SnapshotCorrupt as error:
            self._set_aside(header, record, error)

    def _read_log(self, session_id: str, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        partition = partition_of(session_id)
        key = redis_records.log_key(session_id, history=stream == HISTORY_STREAM)
        answer = self._asker.ask_one(partition, redis_scripts.READ_LOG, key, stream, after, limit)
        self.commits.check(partition, answer[1])
        return [self.codec.open_entry(redis_records.unpack_entry(session_id, one)) for one in answer[2:]]

    def _scan(self, after: int, limit: int) -> tuple[Sequence[SnapshotHeader], int | None]:
        headers: list[SnapshotHeader] = []
        positions: list[int] = []
        partition, position = after >> _POSITION_BITS, after & ((1 << _POSITION_BITS) - 1)
        while partition < PARTITIONS and len(headers) <= limit:
            window = range(partition, min(partition + _SCAN_PARTITIONS, PARTITIONS))
            wanted = limit + 1 - len(headers)
            starts = [position if one == partition else 0 for one in window]
            calls = [
                self._asker.call_partition(one, redis_scripts.SCAN, start, wanted)
                for one, start in zip(window, starts, strict=True)
            ]
            answers = self._asker.answers(self.nodes.ask(calls))
            self._asker.heed(answers, NO_FENCE)
            for one, answer in zip(window, answers, strict=True):
                count, found, joined, last, *gone = self._asker.listed(answer)[1:]
                self.commits.check(one, count)
                places = [int(place) for place in found.split()]
                positions += [one << _POSITION_BITS | place for place in places]
                headers += redis_records.unpack_headers(joined)
                self._sweep(one, gone)
                partition, position = one + 1, 0
                if len(places) + len(gone) >= wanted:  # there may be more of this one
                    partition, position = one, int(float(last))
                    break
        more = len(headers) > limit
        return headers[:limit], positions[limit - 1] if more else None

    def quarantined(self) -> Sequence[Quarantined]:
        """List what was set aside, by partitions."""
        calls = [self._asker.call_raw(one, "quarantine", "LRANGE", 0, -1) for one in range(PARTITIONS)]
        answers = self._asker.answers(self.nodes.ask(calls))
        return [redis_records.unpack_quarantined(one) for answer in answers for one in self._asker.listed(answer)]

    def probe(self) -> StoreHealth:
        """Write and read, and look at the servers again."""
        began = time.perf_counter()
        generation = self._asker.note(redis_scripts.PROBE, "probed_unix_s", int(time.time()))
        if generation < self.leases.generation:
            raise StoreReplaced(
                f"{self._asker.place.shown} holds an older copy of itself: what was acknowledged since is gone"
            )
        calls = [self._asker.call_raw(one, "index", "ZCARD") for one in range(PARTITIONS)]
        sessions = sum(count for count in self._asker.answers(self.nodes.ask(calls)) if isinstance(count, int))
        latency_seconds = time.perf_counter() - began
        notes, troubles = self._look()
        by_name = {name: name in troubles for name in CHECKS}
        primary = "" if self.nodes.primary is None else str(self.nodes.primary)
        return StoreHealth(
            "redis", True, latency_seconds, sessions, "; ".join(notes), troubles=by_name, primary=primary
        )

    def _check_servers(self) -> None:
        [answer] = self._asker.answers(self.nodes.ask([Call(self._asker.meta, ("INFO", "cluster"))]), tolerant=True)
        if isinstance(answer, bytes) and read_info(answer.decode()).get("cluster_enabled") == "1":
            if self.nodes.seeker is not None:
                raise StoreInvalid(f"{self._asker.place.shown}: a cluster needs no sentinels: name a node, redis://")
            if self._asker.place.database:
                raise StoreInvalid(f"{self._asker.place.shown}: a cluster has no databases but 0")
            self.nodes.use_cluster()
        for warning in self._look()[0]:
            log.warning("redis", store=self._asker.place.shown, warning=warning)

    def _look(self) -> tuple[list[str], set[str]]:
        """Judge every server, and give what someone should know; and which of `CHECKS` it is about."""
        troubles: set[str] = set()
        refusals: list[str] = []
        warnings: list[str] = []
        for answer in self._asker.answers(self.nodes.ask_each("INFO"), tolerant=True):
            facts = read_info(answer.decode("utf-8", "replace")) if isinstance(answer, bytes) else {}
            found = judge(facts, self._asker.place.unsafe)
            missing = replicas_missing(facts, self._asker.place.replicas)
            refusals += found.refusals
            warnings += [*found.warnings, *([missing] if missing else [])]
            troubles |= {*found.troubles, *(["replicas"] if missing else [])}
        troubled = self.nodes.seeker.troubles() if self.nodes.seeker is not None else ()
        warnings += [f"sentinel {one}" for one in troubled]
        troubles |= {"sentinels"} if troubled else set()
        if refusals and not self._asker.uuid:
            raise StoreInvalid(f"{self._asker.place.shown}: {'; '.join(dict.fromkeys(refusals))}")
        # Changed while serving: ending would lose no less than going on, so it is told and left to people.
        return list(dict.fromkeys([*refusals, *warnings])), troubles

    def _begin_partitions(self, generation: int) -> None:
        answers = self._asker.ask_partitions(redis_scripts.BEGIN, generation)
        made = sum(answer[1] for answer in answers)
        if any(answer[2] != self._asker.uuid.encode() for answer in answers):
            raise StoreInvalid(
                f"{self._asker.place.shown} holds partitions of another store: was one of its servers exchanged?"
                " Name another prefix, or bring back what was there"
            )
        if generation and made:
            log.error("redis has lost sessions", store=self._asker.place.shown, partitions_empty=made, of=PARTITIONS)

    def _set_aside(self, header: SnapshotHeader, record: bytes, error: SnapshotCorrupt) -> NoReturn:
        """Move a record to quarantine and say so; without room there, it stays, and is not served all the same."""
        session_id = header.session_id
        aside = redis_records.pack_quarantined(session_id, str(error), time.time(), record)
        corrupt = redis_records.pack_header(replace(header, failure="corrupt"))
        try:
            self._asker.ask_one(partition_of(session_id), redis_scripts.SET_ASIDE, session_id, record, corrupt, aside)
        except StoreError as refusal:
            raise SnapshotCorrupt(f"{error}; it could not be set aside ({refusal})") from error
        raise error

    def _sweep(self, partition: int, gone: Sequence[bytes]) -> None:
        """Take sessions that have expired out of the index. It can wait for another scan: no failure is told."""
        if not gone:
            return
        with contextlib.suppress(StoreUnavailable):
            self.nodes.ask([self._asker.call_partition(partition, redis_scripts.SWEEP, *gone)])
            log.info("the server has removed sessions that nobody did", store=self._asker.place.shown, count=len(gone))
