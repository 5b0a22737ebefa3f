"""The keeper: what the Redis store does, in its own thread, by asking scripts and translating their answers.

- One call writes a batch whole where all partitions are on one server. In a cluster there is one call for each
  partition, so a batch is admitted first, by every server that is concerned (`ADMIT`), and then written by scripts
  that are not refused for want of room any more. So `StoreFull` leaves nothing behind there either; what a server that
  dies in the midst leaves undone, the same batch again completes.
- Each script compares the store's uuid, so contents that have gone are noticed by the first call after, and the
  process is told to end (`StoreReplaced`) rather than to answer that no session exists.
- At level `replicated` each answer is counted (WAIT) on the connection that wrote, as many replicas as were promised,
  or it is no acknowledgement. So is a claim: whatever a new owner reads is on the replicas as well.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import attrs
import structlog
from msgspec.structs import replace

from persistence import redis_records, redis_scripts
from persistence.canary import CANARY
from persistence.codec import Codec
from persistence.leases import Lease, check_partition, check_ttl, draw_nonce, lost, ran_out
from persistence.partitions import PARTITIONS, partition_of
from persistence.records import Batch, Fence, LogEntry, Quarantined, Snapshot, SnapshotHeader, StoreHealth
from persistence.redis_checks import judge, read_info, replicas_missing
from persistence.redis_nodes import Call, Declined, Nodes
from persistence.redis_records import MARGIN_SECONDS, Share, tag_of
from persistence.redis_scripts import FORMAT
from persistence.redis_url import RedisPlace
from persistence.shown import shown_id
from persistence.store import (
    FenceLost,
    LeaseHeld,
    SnapshotCorrupt,
    StoreError,
    StoreFull,
    StoreInvalid,
    StoreReplaced,
    StoreUnavailable,
)

log = structlog.get_logger("persistence.redis")

Word = bytes | str | int | float
Digest = Callable[[str], str]

_CLAIM_ROUNDS_MAX = 5  # two claimers who meet part in the second round, three in the third
_SCAN_PARTITIONS = 4  # asked at a time: a page of 10,000 from 100,000 sessions is 26 of them
_POSITION_BITS = 40  # of a position in `scan`: below, the place in the partition's index; above, the partition

# The server is there, and cannot just now: another moment, or another server that has taken over.
_AGAIN = (
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "NOREPLICAS",
    "BUSY",
    "CLUSTERDOWN",
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "NOSCRIPT",
)
_NO_FENCE = Fence("", 0)  # for what needs none
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")


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
        self._place = place
        self._prefix = f"{place.prefix}:"
        self._digest = digest
        self._tombstones_max = max(1, tombstones_max // PARTITIONS)
        self._nonce = draw_nonce()
        self._uuid = ""
        self._generation = 0  # number of our newest claim
        self._notes: tuple[str, ...] = ()

    def open(self) -> None:
        """Look at the servers, and make the store's first keys where there are none."""
        self._check_servers()
        wanted = (str(uuid.uuid4()), FORMAT, PARTITIONS, f"{time.time():.3f}")
        [found] = self._answers(self.nodes.ask([self._call(redis_scripts.FOUND, self._meta, *wanted)]))
        text = [(one or b"").decode() for one in self._list(found)]
        if text[1:3] != [str(FORMAT), str(PARTITIONS)]:
            raise StoreInvalid(
                f"{self._place.shown} has format {text[1] or 'unknown'} with {text[2] or 'no'} partitions, this version"
                f" knows {FORMAT} with {PARTITIONS}; it was not touched. Use the version that wrote it, or another"
                " prefix"
            )
        self._uuid = text[0]
        [canary] = self._answers(self.nodes.ask([Call(self._meta, ("HGET", self._meta, CANARY))]))
        self.codec.check_canary(canary if isinstance(canary, bytes) else None, self._place.shown)
        self._begin_partitions(generation=int(text[3] or 0))

    def claim(self, owner: str) -> Fence:
        """Take all partitions under one number."""
        number = 1 + max(self._numbers())
        for _ in range(_CLAIM_ROUNDS_MAX):
            answers = self._ask_partitions(redis_scripts.CLAIM, self._nonce, number, owner)
            behind = [int(answer[1]) for answer in answers if answer[0] == b"behind"]
            if not behind:
                canary = self.codec.canary()
                if canary is not None:
                    self._note(redis_scripts.KEEP, CANARY, canary)
                self._note(redis_scripts.NOTE, "generation", number)
                self._generation = number
                return Fence(owner, number, self._nonce)
            number = 1 + max(behind)
        raise StoreUnavailable(f"{self._place.shown}: others claim it at the same time")

    def acquire(self, partition: int, owner: str, ttl_seconds: float) -> Lease:
        """Take a partition that nobody holds."""
        check_partition(partition)
        check_ttl(ttl_seconds)
        ttl_ms = _ms(ttl_seconds)
        answer = self._ask_one(
            partition, redis_scripts.ACQUIRE, self._nonce, owner, ttl_ms, replicas=self._place.replicas
        )
        if answer[0] == b"held":
            raise LeaseHeld(partition, answer[1].decode(), int(answer[2]) / 1000)
        return Lease(partition, Fence(owner, answer[1], self._nonce), int(answer[2]) / 1000)

    def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        """Prolong a lease."""
        check_ttl(ttl_seconds)
        fence = lease.fence
        answer = self._ask_one(
            lease.partition, redis_scripts.RENEW, fence.nonce, fence.number, _ms(ttl_seconds), fence=fence
        )
        return attrs.evolve(lease, until_unix_s=int(answer[1]) / 1000)

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        try:
            self._ask_one(
                lease.partition, redis_scripts.RELEASE, lease.fence.nonce, lease.fence.number, fence=lease.fence
            )
        except FenceLost:
            return

    def commit(self, batch: Batch) -> None:
        """Write a batch; on return all of it is written."""
        shares = redis_records.shares_of(batch, self.codec, time.time())
        if not shares:
            return
        frees = not batch.snapshots and not batch.entries
        script = redis_scripts.COMMIT_ANYWAY if frees else redis_scripts.COMMIT
        if not self.nodes.is_cluster:
            self._write(script, [shares], batch.fence)
            return
        if len(shares) > 1 and not frees:
            self._admit(shares, batch.fence)
            script = redis_scripts.COMMIT_ANYWAY
        self._write(script, [{partition: share} for partition, share in shares.items()], batch.fence)

    def load(self, session_id: str) -> Snapshot | None:
        """Give a session's snapshot."""
        at = self._at(partition_of(session_id))
        key = f"{at}s:{session_id}"
        calls = [Call(key, ("HMGET", key, "h", "r")), Call(key, ("HGET", f"{at}lease", "store"))]
        fields, store = self._answers(self.nodes.ask(calls))
        if store != self._uuid.encode():
            self._raise_foreign(at)
        packed, record = self._list(fields)
        if packed is None:
            return None
        [header] = redis_records.unpack_headers(packed)
        if not record:
            raise SnapshotCorrupt(f"session {shown_id(session_id)}: its record is in quarantine")
        try:
            return self.codec.open_snapshot(header, record)
        except SnapshotCorrupt as error:
            self._set_aside(header, record, error)

    def read_log(self, session_id: str, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        """Give a stream's entries after an offset."""
        answer = self._ask_one(partition_of(session_id), redis_scripts.READ_LOG, session_id, stream, after, limit)
        return [self.codec.open_entry(redis_records.unpack_entry(session_id, one)) for one in answer[1:]]

    def scan(self, after: int, limit: int) -> tuple[Sequence[SnapshotHeader], int | None]:
        """Give a page of headers: partition by partition, in each in the order in which sessions were first stored."""
        headers: list[SnapshotHeader] = []
        positions: list[int] = []
        partition, position = after >> _POSITION_BITS, after & ((1 << _POSITION_BITS) - 1)
        while partition < PARTITIONS and len(headers) <= limit:
            window = range(partition, min(partition + _SCAN_PARTITIONS, PARTITIONS))
            wanted = limit + 1 - len(headers)
            starts = [position if one == partition else 0 for one in window]
            calls = [
                self._call_partition(one, redis_scripts.SCAN, start, wanted)
                for one, start in zip(window, starts, strict=True)
            ]
            answers = self._answers(self.nodes.ask(calls))
            self._heed(answers, _NO_FENCE)
            for one, answer in zip(window, answers, strict=True):
                found, joined, last, *gone = self._list(answer)[1:]
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
        calls = [self._call_raw(one, "quarantine", "LRANGE", 0, -1) for one in range(PARTITIONS)]
        answers = self._answers(self.nodes.ask(calls))
        return [redis_records.unpack_quarantined(one) for answer in answers for one in self._list(answer)]

    def probe(self) -> StoreHealth:
        """Write and read, and look at the servers again."""
        began = time.perf_counter()
        generation = self._note(redis_scripts.PROBE, "probed_unix_s", int(time.time()))
        if generation < self._generation:
            raise StoreReplaced(
                f"{self._place.shown} holds an older copy of itself: what was acknowledged since is gone"
            )
        calls = [self._call_raw(one, "index", "ZCARD") for one in range(PARTITIONS)]
        sessions = sum(count for count in self._answers(self.nodes.ask(calls)) if isinstance(count, int))
        latency_seconds = time.perf_counter() - began
        return StoreHealth("redis", True, latency_seconds, sessions, "; ".join(self._look()))

    @property
    def _meta(self) -> str:
        return f"{self._prefix}meta"

    def _at(self, partition: int) -> str:
        return self._prefix + tag_of(partition)

    def _check_servers(self) -> None:
        [answer] = self._answers(self.nodes.ask([Call(self._meta, ("INFO", "cluster"))]), tolerant=True)
        if isinstance(answer, bytes) and read_info(answer.decode()).get("cluster_enabled") == "1":
            if self._place.database:
                raise StoreInvalid(f"{self._place.shown}: a cluster has no databases but 0")
            self.nodes.use_cluster()
        for warning in self._look():
            log.warning("redis", store=self._place.shown, warning=warning)

    def _look(self) -> list[str]:
        """Judge every server, and give what someone should know."""
        refusals: list[str] = []
        warnings: list[str] = []
        for answer in self._answers(self.nodes.ask_each("INFO"), tolerant=True):
            facts = read_info(answer.decode("utf-8", "replace")) if isinstance(answer, bytes) else {}
            found = judge(facts, self._place.unsafe)
            missing = replicas_missing(facts, self._place.replicas)
            refusals += found.refusals
            warnings += [*found.warnings, *([missing] if missing else [])]
        if refusals and not self._uuid:
            raise StoreInvalid(f"{self._place.shown}: {'; '.join(dict.fromkeys(refusals))}")
        # Changed while serving: ending would lose no less than going on, so it is told and left to people.
        return list(dict.fromkeys([*refusals, *warnings]))

    def _begin_partitions(self, generation: int) -> None:
        answers = self._ask_partitions(redis_scripts.BEGIN, generation)
        made = sum(answer[1] for answer in answers)
        if any(answer[2] != self._uuid.encode() for answer in answers):
            raise StoreInvalid(
                f"{self._place.shown} holds partitions of another store: was one of its servers exchanged?"
                " Name another prefix, or bring back what was there"
            )
        if generation and made:
            log.error("redis has lost sessions", store=self._place.shown, partitions_empty=made, of=PARTITIONS)

    def _numbers(self) -> list[int]:
        calls = [self._call_raw(one, "lease", "HMGET", "store", "number") for one in range(PARTITIONS)]
        numbers = []
        for one, answer in enumerate(self._answers(self.nodes.ask(calls))):
            store, number = self._list(answer)
            if store != self._uuid.encode():
                self._raise_foreign(self._at(one))
            numbers.append(int(number))
        return numbers

    def _note(self, script: str, field: str, value: int | bytes) -> int:
        call = self._call(script, self._meta, self._uuid, field, value)
        [answer] = self._answers(self.nodes.ask([call], replicas=self._place.replicas))
        if self._list(answer)[0] == b"foreign":
            self._raise_foreign(self._meta)
        return int(self._list(answer)[1])

    def _admit(self, shares: dict[int, Share], fence: Fence) -> None:
        """Ask every server that is concerned whether it has room, before any of them writes."""
        leases = {f"{self._at(one)}lease": one for one in shares}
        asked = [leases[key] for key in self.nodes.one_for_each(leases)]
        calls = [self._call_partition(one, redis_scripts.ADMIT, fence.nonce, fence.number) for one in asked]
        self._heed(self._answers(self.nodes.ask(calls)), fence)

    def _write(self, script: str, parts: Sequence[dict[int, Share]], fence: Fence) -> None:
        """Send parts of a batch, each to the one server that has its partitions."""
        calls = []
        for part in parts:
            first = next(iter(part))
            keys = [f"{self._at(first)}lease"]
            if self.nodes.is_cluster:
                # Named, so that a server that is handing the slot over declines the script before it begins.
                keys += redis_records.joined_keys(self._prefix, first, part[first])
            words = (self._prefix, self._uuid, fence.nonce, fence.number, MARGIN_SECONDS * 1000, self._tombstones_max)
            packed = redis_records.pack_shares(part)
            calls.append(Call(keys[0], ("EVALSHA", self._digest(script), len(keys), *keys, *words, packed)))
        answers = self._answers(self.nodes.ask(calls, replicas=self._place.replicas))
        self._heed(answers, fence)

    def _heed(self, answers: Sequence[object], fence: Fence) -> None:
        """Raise what a script has refused for."""
        for answer in answers:
            said = self._list(answer)
            if said[0] != b"done":
                self._refuse(said, fence)

    def _refuse(self, said: Sequence[bytes], fence: Fence) -> NoReturn:
        at = said[1].decode()
        if said[0] == b"foreign":
            self._raise_foreign(at)
        partition = int(at.rpartition("{p")[2][:3])
        if said[0] == b"expired":
            raise FenceLost(ran_out(partition, fence))
        raise FenceLost(lost(partition, fence, said[2].decode()))

    def _raise_foreign(self, at: str) -> NoReturn:
        raise StoreReplaced(
            f"{self._place.shown}: {at} is not what this process has opened: the server was emptied or exchanged"
        )

    def _set_aside(self, header: SnapshotHeader, record: bytes, error: SnapshotCorrupt) -> NoReturn:
        """Move a record to quarantine and say so; without room there, it stays, and is not served all the same."""
        session_id = header.session_id
        aside = redis_records.pack_quarantined(session_id, str(error), time.time(), record)
        corrupt = redis_records.pack_header(replace(header, failure="corrupt"))
        try:
            self._ask_one(partition_of(session_id), redis_scripts.SET_ASIDE, session_id, record, corrupt, aside)
        except StoreError as refusal:
            raise SnapshotCorrupt(f"{error}; it could not be set aside ({refusal})") from error
        raise error

    def _sweep(self, partition: int, gone: Sequence[bytes]) -> None:
        """Take sessions that have expired out of the index. It can wait for another scan: no failure is told."""
        if not gone:
            return
        with contextlib.suppress(StoreUnavailable):
            self.nodes.ask([self._call_partition(partition, redis_scripts.SWEEP, *gone)])
            log.info("the server has removed sessions that nobody did", store=self._place.shown, count=len(gone))

    def _ask_one(
        self, partition: int, script: str, *words: Word, fence: Fence | None = None, replicas: int = 0
    ) -> list[Any]:
        calls = [self._call_partition(partition, script, *words)]
        [answer] = self._answers(self.nodes.ask(calls, replicas=replicas))
        said = self._list(answer)
        if said[0] in (b"foreign", b"fenced", b"expired"):
            self._refuse(said, fence or _NO_FENCE)
        return said

    def _ask_partitions(self, script: str, *words: Word) -> list[list[Any]]:
        calls = [self._call_partition(one, script, *words) for one in range(PARTITIONS)]
        answers = [self._list(one) for one in self._answers(self.nodes.ask(calls, replicas=self._place.replicas))]
        for said in answers:
            if said[0] == b"foreign":
                self._refuse(said, _NO_FENCE)
        return answers

    def _answers(self, answers: Sequence[object], *, tolerant: bool = False) -> list[object]:
        """Give the answers, unless one of them says no.

        Args:
          tolerant: a command that this user may not use, or the server does not have, is answered with None.
        """
        given: list[object] = []
        for answer in answers:
            if not isinstance(answer, Declined):
                given.append(answer)
            elif tolerant and answer.code in ("NOPERM", "ERR"):
                given.append(None)
            else:
                raise self._translate(answer)
        return given

    def _translate(self, declined: Declined) -> StoreError:
        """Say what a server's refusal means. It refused before anything was done."""
        reason = f"{self._place.shown}: {declined.code} {declined.text}"
        if declined.code == "OOM" or (declined.code == "MISCONF" and "No space left" in declined.text):
            return StoreFull(reason)
        if declined.code in _AGAIN:
            self.nodes.close()  # to look anew for who is in charge, and to teach it the scripts
            return StoreUnavailable(reason)
        if declined.code == "MISCONF":
            return StoreUnavailable(reason)
        if declined.code in _DENIED:
            return StoreUnavailable(reason) if self._uuid else StoreInvalid(reason)
        # WRONGTYPE, or a script that stumbled: what lies there is not what this version wrote.
        return StoreReplaced(reason) if self._uuid else StoreInvalid(f"{reason}; name another prefix")

    def _list(self, answer: object) -> list[Any]:
        if not isinstance(answer, list):
            raise StoreReplaced(f"{self._place.shown} gives an answer of another kind: {type(answer).__name__}")
        return answer

    def _call(self, script: str, key: str, *words: Word) -> Call:
        return Call(key, ("EVALSHA", self._digest(script), 1, key, *words))

    def _call_partition(self, partition: int, script: str, *words: Word) -> Call:
        at = self._at(partition)
        return self._call(script, f"{at}lease", at, self._uuid, *words)

    def _call_raw(self, partition: int, kind: str, command: str, *words: Word) -> Call:
        key = f"{self._at(partition)}{kind}"
        return Call(key, (command, key, *words))


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
