"""Commits to a Redis store: sent, acknowledged, and written again where a server has lost them.

- One call writes a batch whole where all partitions are on one server. In a cluster there is one call for each
  partition, so a batch is admitted first, by every server that is concerned (`ADMIT`), and then written by scripts
  that are not refused for want of room any more. So `StoreFull` leaves nothing behind there either; what a server that
  dies in the midst leaves undone, the same batch again completes.
- At level `replicated` each answer is counted (WAIT) on the connection that wrote, as many replicas as were promised,
  or it is no acknowledgement.
- A server that has gone back (`redis_history.py`) refuses a commit before it writes anything, and is first given what
  it has lost. Reading notices it, too: nothing older than what was acknowledged is ever read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgpack
import structlog

from persistence import redis_records, redis_scripts
from persistence.codec import Codec
from persistence.records import Batch, Fence
from persistence.redis_asking import RedisAsker
from persistence.redis_history import BeyondRecall, History, Written
from persistence.redis_nodes import Call
from persistence.redis_records import MARGIN_SECONDS, Share
from persistence.store import StoreReplaced, StoreUnavailable

log = structlog.get_logger("persistence.redis")


class GoneBack(StoreUnavailable):
    """A server holds less than it has acknowledged; nothing was written, and nothing that was read counts."""


class RedisCommits:
    """Writes batches.

    Args:
      asker: asks the servers.
      tombstones_max: how many ended sessions a partition remembers.
      history: what was acknowledged lately.
    """

    def __init__(self, asker: RedisAsker, tombstones_max: int, history: History | None = None) -> None:
        self.history = history or History()
        self._asker = asker
        self._tombstones_max = tombstones_max
        self._opened = 0  # connections, when all was found to be there

    def commit(self, batch: Batch, codec: Codec) -> None:
        """Write a batch; on return all of it is written."""
        shares = redis_records.shares_of(batch, codec, time.time())
        if not shares:
            return
        try:
            self._commit(batch, shares)
        except GoneBack:
            self.reassert()
            self._commit(batch, shares)
        self.check_anew()

    def check(self, partition: int, count: bytes | int | None) -> None:
        """See whether a partition has all that was acknowledged, by the count that its server gave with an answer.

        Raises:
          GoneBack
        """
        if int(count or 0) < self.history.expected(partition):
            raise GoneBack(f"{self._asker.place.shown} has lost commits of partition {partition}")

    def check_anew(self) -> bool:
        """See whether all is there that was acknowledged, if a connection was opened since that was last looked at.

        Each partition is looked at when it is used; this is for the others, which may be used a week later.

        Returns:
          Whether it was looked at.
        """
        opened = self._asker.nodes.opened
        looks = opened != self._opened and not self.history.is_empty
        if looks:
            self.reassert()
        self._opened = opened
        return looks

    def reassert(self) -> None:
        """Look which commits the servers have, and write again what they have lost.

        Raises:
          StoreReplaced: they have lost more than is remembered here.
          FenceLost: they have another owner by now.
        """
        history = self.history
        counts = {one: int(count or 0) for one, [count] in enumerate(self._asker.facts_of_leases("commits"))}
        if not history.is_beyond(counts):
            return
        try:
            missing = history.missing(counts)
        except BeyondRecall as error:
            shown = self._asker.place.shown
            reason = f"{shown} holds an older copy of itself: what was acknowledged since is gone ({error})"
            raise StoreReplaced(reason) from error
        what = "redis has lost what it had acknowledged: it is written again"
        log.error(what, store=self._asker.place.shown, commits=len(missing))
        for written in missing:
            # Without asking for room: it was admitted before.
            calls = [self._call(redis_scripts.COMMIT_ANYWAY, written, [0] * len(written.numbers))]
            [written.numbers] = self._send(calls, [list(written.numbers)], written.fence)
        history.settle()

    def _commit(self, batch: Batch, shares: Mapping[int, Share]) -> None:
        frees = not batch.snapshots and not batch.entries
        script = redis_scripts.COMMIT_ANYWAY if frees else redis_scripts.COMMIT
        if not self._asker.nodes.is_cluster:
            self._write(script, [shares], batch.fence)
            return
        if len(shares) > 1 and not frees:
            self._admit(shares, batch.fence)
            script = redis_scripts.COMMIT_ANYWAY
        self._write(script, [{partition: share} for partition, share in shares.items()], batch.fence)

    def _admit(self, shares: Mapping[int, Share], fence: Fence) -> None:
        """Ask every server that is concerned whether it has room, before any of them writes."""
        asker = self._asker
        leases = {f"{asker.at(one)}lease": one for one in shares}
        asked = [leases[key] for key in asker.nodes.one_for_each(leases)]
        calls = [asker.call_partition(one, redis_scripts.ADMIT, fence.nonce, fence.number) for one in asked]
        asker.heed(asker.answers(asker.nodes.ask(calls)), fence)

    def _write(self, script: str, parts: Sequence[Mapping[int, Share]], fence: Fence) -> None:
        """Send parts of a batch, each to the one server that has its partitions; remember what is acknowledged."""
        sent = [
            Written(redis_records.pack_shares(part), self._keys(part), fence, dict.fromkeys(part, 0)) for part in parts
        ]
        expected = self.history.expected
        calls = [self._call(script, one, [expected(partition) for partition in one.numbers]) for one in sent]
        for written, numbers in zip(sent, self._send(calls, parts, fence), strict=True):
            written.numbers = numbers
            self.history.add(written)

    def _keys(self, part: Mapping[int, Share]) -> tuple[str, ...]:
        first = next(iter(part))
        lease = f"{self._asker.at(first)}lease"
        if not self._asker.nodes.is_cluster:
            return (lease,)
        # Named, so that a server that is handing the slot over declines the script before it begins.
        return (lease, *redis_records.joined_keys(self._asker.prefix, first, part[first]))

    def _call(self, script: str, written: Written, expected: Sequence[int]) -> Call:
        asker, keys, fence = self._asker, written.keys, written.fence
        words = (asker.prefix, asker.uuid, fence.nonce, fence.number, MARGIN_SECONDS * 1000, self._tombstones_max)
        counts: bytes = msgpack.packb(expected)
        return Call(keys[0], ("EVALSHA", asker.digest(script), len(keys), *keys, *words, written.packed, counts))

    def _send(
        self, calls: Sequence[Call], partitions: Sequence[Sequence[int] | Mapping[int, Share]], fence: Fence
    ) -> list[dict[int, int]]:
        """Make the calls, and give the numbers that their commits have in their partitions."""
        asker = self._asker
        answers = asker.answers(asker.nodes.ask(calls, replicas=asker.place.replicas))
        said = [asker.listed(answer) for answer in answers]
        behind = [one[1].decode() for one in said if one[0] == b"behind"]
        asker.heed([one for one in said if one[0] != b"behind"], fence)
        if behind:
            raise GoneBack(f"{asker.place.shown} has lost commits of {behind[0]}")
        return [
            dict(zip(concerned, map(int, one[1].split()), strict=True))
            for concerned, one in zip(partitions, said, strict=True)
        ]
