"""Who owns the partitions of a Redis store: claims, leases, and who is there.

A claim, too, is counted on the replicas at level `replicated`: whatever a new owner reads is on them as well.
"""

from __future__ import annotations

import attrs

from persistence import redis_scripts
from persistence.canary import CANARY
from persistence.codec import Codec
from persistence.lease_margin import WHOLE_STORE, LeaseMargin
from persistence.leases import Lease, check_partition, check_ttl, draw_nonce
from persistence.presence import PRESENT_SECONDS, Holder
from persistence.records import Fence
from persistence.redis_asking import RedisAsker
from persistence.redis_history import History
from persistence.redis_nodes import Call
from persistence.store import FenceLost, LeaseHeld, StoreUnavailable

_CLAIM_ROUNDS_MAX = 5  # two claimers who meet part in the second round, three in the third


class RedisLeases:
    """Takes, prolongs and gives back.

    Args:
      asker: asks the servers.
      history: what was acknowledged under leases; forgotten with them.
    """

    def __init__(self, asker: RedisAsker, history: History) -> None:
        self._asker = asker
        self._history = history
        self._nonce = draw_nonce()
        self._present = False
        self.generation = 0  # number of our newest claim
        self.margin = LeaseMargin()

    def claim(self, owner: str, codec: Codec) -> Fence:
        """Take all partitions under one number."""
        self._history.clear()
        number = 1 + max(int(number) for [number] in self._asker.facts_of_leases("number"))
        for _ in range(_CLAIM_ROUNDS_MAX):
            answers = self._asker.ask_partitions(redis_scripts.CLAIM, self._nonce, number, owner)
            behind = [int(answer[1]) for answer in answers if answer[0] == b"behind"]
            if not behind:
                canary = codec.canary()
                if canary is not None:
                    self._asker.note(redis_scripts.KEEP, CANARY, canary)
                self._asker.note(redis_scripts.NOTE, "generation", number)
                self.generation = number
                return Fence(owner, number, self._nonce)
            number = 1 + max(behind)
        raise StoreUnavailable(f"{self._asker.place.shown}: others claim it at the same time")

    def acquire(self, partition: int, owner: str, ttl_seconds: float) -> Lease:
        """Take a partition that nobody holds."""
        check_partition(partition)
        check_ttl(ttl_seconds)
        ttl_ms, asked = _ms(ttl_seconds), self.margin.now()
        self._history.forget(partition)
        answer = self._asker.ask_one(
            partition, redis_scripts.ACQUIRE, self._nonce, owner, ttl_ms, replicas=self._asker.place.replicas
        )
        if answer[0] == b"held":
            raise LeaseHeld(partition, answer[1].decode(), int(answer[2]) / 1000)
        self.margin.granted(partition, asked, ttl_seconds)
        return Lease(partition, Fence(owner, answer[1], self._nonce), int(answer[2]) / 1000)

    def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        """Prolong a lease."""
        check_ttl(ttl_seconds)
        fence, asked = lease.fence, self.margin.now()
        try:
            answer = self._asker.ask_one(
                lease.partition, redis_scripts.RENEW, fence.nonce, fence.number, _ms(ttl_seconds), fence=fence
            )
        except FenceLost:
            self.margin.over(lease.partition)
            raise
        self.margin.granted(lease.partition, asked, ttl_seconds)
        return attrs.evolve(lease, until_unix_s=int(answer[1]) / 1000)

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        self._history.forget(lease.partition)
        self.margin.over(lease.partition)
        try:
            self._asker.ask_one(
                lease.partition, redis_scripts.RELEASE, lease.fence.nonce, lease.fence.number, fence=lease.fence
            )
        except FenceLost:
            return

    def tend(self, fence: Fence) -> None:
        """Say that the owner is there."""
        asker, asked = self._asker, self.margin.now()
        asker.ask_one(0, redis_scripts.ADMIT, fence.nonce, fence.number, fence=fence)
        self._be_present(fence.owner, PRESENT_SECONDS)
        self._present = True
        self.margin.granted(WHOLE_STORE, asked, PRESENT_SECONDS)

    def leave(self) -> None:
        """Say that the owner is not there any more, if it ever said that it is."""
        self.margin.over(WHOLE_STORE)
        if self._present:
            self._present = False
            self._be_present("", 0.0)

    def holder(self) -> Holder | None:
        """Give another owner that is there: it said so lately, or has a lease that has not run out."""
        asker = self._asker
        said = Call(asker.meta, ("HMGET", asker.meta, "present_owner", "present_nonce", "present_until"))
        facts, time = map(asker.listed, asker.answers(asker.nodes.ask([said, Call(asker.meta, ("TIME",))])))
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        for owner, nonce, until in [facts, *asker.facts_of_leases("owner", "nonce", "until")]:
            if int(until or 0) > now_ms and (nonce or b"").decode() != self._nonce:
                return Holder((owner or b"").decode(), (int(until) - now_ms) / 1000)
        return None

    def _be_present(self, owner: str, seconds: float) -> None:
        asker = self._asker
        call = asker.call(redis_scripts.PRESENT, asker.meta, asker.uuid, owner, self._nonce, round(seconds * 1000))
        [answer] = asker.answers(asker.nodes.ask([call]))
        if asker.listed(answer)[0] == b"foreign":
            asker.raise_foreign(asker.meta)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
