"""The servers of a Redis store: which one has a partition, and how all of them are asked at once.

One server, the primary that sentinels name, or the primaries of a cluster: whoever asks gives each call the key that it
is about, and learns nothing of where it went. All calls of a question are written before the first answer is read, so a
question over three nodes takes as long as the slowest. Nothing is ever sent twice but what a server has declined unread
(MOVED).

With sentinels, who is in charge is asked anew after every failure and every refusal for the moment (READONLY), and the
answers of a server count only if it is still in charge after it has given them. A server that was stopped, replaced,
and goes on, says of itself for some ten seconds that it is the primary, and takes what it is given. It was silent for
as long as sentinels wait before they replace it (`down-after-milliseconds`); so they are asked once more whenever the
last time is a quarter of a second ago, and a store that is used all the time pays four such questions a second. When
none of them answers there is nobody who could appoint another: a primary that is in use stays in use.

Knows nothing of the library: a `Channel` is what speaks to one server. Lives in one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs
import structlog

from persistence.redis_records import slot_of
from persistence.redis_url import Endpoint
from persistence.store import StoreUnavailable

log = structlog.get_logger("persistence.redis")

# After a server did not answer, nobody is made to wait for it again so soon: of a hundred loads that queue for the
# thread, one finds out that the server hangs, and the others are told.
_PAUSE_SECONDS = 0.25

# How long replicas are waited for. Shorter than the second that a socket may be silent: the answer is to be heard.
WAIT_MS = 700

# How long what the sentinels say is relied upon: shorter than any sensible down-after-milliseconds (theirs is 30,000).
CONFIRMED_SECONDS = 0.25
# After none of them answered, which may have taken half a second for each: a tenth of the time is spent on it.
UNCONFIRMED_TIMES = 10

# Declined before anything was done, by a node that the slots have left.
_ELSEWHERE = ("MOVED", "CLUSTERDOWN")


@attrs.frozen
class Declined:
    """An answer that says no."""

    code: str  # as OOM, READONLY, NOSCRIPT; "ERR" where there is none
    text: str


@attrs.frozen
class Call:
    """A command, and the key that decides which server gets it."""

    key: str
    words: tuple[bytes | str | int | float, ...]


class Channel(Protocol):
    """A connection to one server, opened when it is first needed, and again after it broke."""

    def send(self, commands: Sequence[tuple[bytes | str | int | float, ...]]) -> None:
        """Write commands. Raises StoreUnavailable."""
        ...

    def receive(self) -> object:
        """Read one answer; Declined is one, too. Raises StoreUnavailable."""
        ...

    def close(self) -> None: ...

    @property
    def opened(self) -> int:
        """How often it was opened so far: each time, another server may have answered."""
        ...


class Seeker(Protocol):
    """Who knows which server is in charge."""

    def primary(self) -> Endpoint:
        """Ask for it. Raises StoreUnavailable, StoreInvalid."""
        ...

    def troubles(self) -> Sequence[str]:
        """Say what was wrong with that, for people."""
        ...

    def close(self) -> None: ...


class Nodes:
    """All servers of a store.

    Args:
      connect: makes the channel to an endpoint; None: to where the URL says.
      now: a clock that only runs forward.
      seeker: is asked where the primary is, instead.
    """

    def __init__(
        self,
        connect: Callable[[Endpoint | None], Channel],
        now: Callable[[], float] = time.monotonic,
        seeker: Seeker | None = None,
    ) -> None:
        self._connect = connect
        self._now = now
        self.seeker = seeker
        self.primary: Endpoint | None = None  # that the seeker has named; of a cluster, and of one server, none
        self._nodes: dict[Endpoint | None, Channel] = {} if seeker is not None else {None: connect(None)}
        self._slots: list[tuple[int, int, Endpoint | None]] = []  # of a cluster: first slot, last slot, whose
        self.is_cluster = False
        self._stale = seeker is not None
        self._failed: tuple[float, StoreUnavailable] | None = None
        self._opened_before = 0  # connections to servers that are not known any more
        self._confirmed_until = 0.0
        self._confirmed_opened = 0  # connections, when the primary was seen to be one

    @property
    def opened(self) -> int:
        """How many connections were opened so far."""
        return self._opened_before + sum([channel.opened for channel in self._nodes.values()])

    def use_cluster(self) -> None:
        """Go by slots from now on."""
        self.is_cluster = self._stale = True

    def ask(self, calls: Sequence[Call], *, replicas: int = 0) -> list[object]:
        """Put calls to their servers and give their answers, in the order of the calls.

        Args:
          replicas: how many replicas of each server must have what was written before this returns.

        Raises:
          StoreUnavailable: nothing is known of the outcome.
        """
        if self._failed is not None and self._now() < self._failed[0]:
            raise StoreUnavailable(str(self._failed[1]))
        try:
            self._learn()
            answers = self._ask(calls, range(len(calls)), replicas)
            moved = [place for place, answer in answers.items() if _is_elsewhere(answer)]
            if moved and self.is_cluster:
                self._learn_slots()
                answers |= self._ask(calls, moved, replicas)
            self._confirm()
        except StoreUnavailable as error:
            self._failed = self._now() + _PAUSE_SECONDS, error
            self.close()
            raise
        self._failed = None
        return [answers[place] for place in range(len(calls))]

    def one_for_each(self, keys: Iterable[str]) -> list[str]:
        """Choose one key for each server that has some of these.

        Raises:
          StoreUnavailable
        """
        self._learn()
        return list({self._owner(key): key for key in keys}.values())

    def ask_each(self, *words: str) -> list[object]:
        """Put one command to every server.

        Raises:
          StoreUnavailable
        """
        try:
            self._learn()
            owners = [owner for _, _, owner in self._slots] or [self.primary]
            channels = list(dict.fromkeys(self._channel(owner) for owner in owners))
            return [self._ask_one(channel, words) for channel in channels]
        except StoreUnavailable:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all connections; the next question opens them anew, and asks who is in charge of what."""
        for channel in self._nodes.values():
            channel.close()
        if self.seeker is not None:
            self.seeker.close()
        self._stale = self.is_cluster or self.seeker is not None

    def _ask(self, calls: Sequence[Call], places: Iterable[int], replicas: int) -> dict[int, object]:
        by_channel: dict[Channel, list[int]] = {}
        for place in places:
            by_channel.setdefault(self._channel(self._owner(calls[place].key)), []).append(place)
        waiting: list[tuple[bytes | str | int | float, ...]] = []
        if replicas:
            waiting.append(("WAIT", replicas, WAIT_MS))
        for channel, mine in by_channel.items():
            channel.send([*(calls[place].words for place in mine), *waiting])
        answers: dict[int, object] = {}
        short: StoreUnavailable | None = None
        for channel, mine in by_channel.items():
            for place in mine:
                answers[place] = channel.receive()
            if replicas:
                counted = channel.receive()
                if not isinstance(counted, int) or counted < replicas:
                    short = StoreUnavailable(f"{counted} of {replicas} replicas have it so far")
        # What was refused is told first: nothing was written then, and nothing is to be counted.
        if short is not None and not any(_is_refused(answer) for answer in answers.values()):
            raise short
        return answers

    def _owner(self, key: str) -> Endpoint | None:
        if not self.is_cluster:
            return self.primary
        slot = slot_of(key)
        for first, last, owner in self._slots:
            if first <= slot <= last:
                return owner
        raise StoreUnavailable(f"no server of the cluster has slot {slot}")

    def _channel(self, owner: Endpoint | None) -> Channel:
        channel = self._nodes.get(owner)
        if channel is None:
            channel = self._nodes[owner] = self._connect(owner)
        return channel

    def _ask_one(self, channel: Channel, words: tuple[str, ...]) -> object:
        channel.send([words])
        return channel.receive()

    def _learn(self) -> None:
        """Ask who is in charge of what, if that is not known."""
        if self._stale and self.seeker is not None:
            self._learn_primary(self.seeker)
        elif self._stale:
            self._learn_slots()

    def _learn_primary(self, seeker: Seeker) -> None:
        """Go to the server that is in charge now, if it says so, too."""
        asked, before = self._now(), self.primary
        found = seeker.primary()
        if found != before:
            self._forget(self._nodes.keys() - {found})
            self.primary = found
            if before is not None:
                log.warning("another redis is the primary now", primary=str(found), before=str(before))
        self._check_role(found)
        self._stale = False
        self._confirmed_until, self._confirmed_opened = asked + CONFIRMED_SECONDS, self.opened

    def _confirm(self) -> None:
        """See that who has answered is still in charge: see the head of this file.

        Raises:
          StoreUnavailable: it is not, so nothing counts that it has said.
        """
        if self.seeker is None or self.primary is None:
            return
        asked = self._now()
        if asked < self._confirmed_until and self._confirmed_opened == self.opened:
            return
        try:
            found = self.seeker.primary()
        except StoreUnavailable:
            now = self._now()
            until = now + max(CONFIRMED_SECONDS, UNCONFIRMED_TIMES * (now - asked))
        else:
            if found != self.primary:
                raise StoreUnavailable(f"{self.primary} is the primary no more: that is {found}")
            until = asked + CONFIRMED_SECONDS
        if self._confirmed_opened != self.opened:
            self._check_role(self.primary)
        self._confirmed_until, self._confirmed_opened = until, self.opened

    def _check_role(self, primary: Endpoint) -> None:
        try:
            answer = self._ask_one(self._channel(primary), ("ROLE",))
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error} (the primary, as the sentinels say)") from error
        # One whose user may not ask is believed: if it is a replica, it refuses what is to be written.
        if isinstance(answer, list) and answer[:1] != [b"master"]:
            raise StoreUnavailable(f"{primary}: the sentinels name it as the primary, and it is none (yet)")

    def _forget(self, gone: Iterable[Endpoint | None]) -> None:
        for endpoint in gone:
            channel = self._nodes.pop(endpoint)
            channel.close()
            self._opened_before += channel.opened

    def _learn_slots(self) -> None:
        """Ask any server that answers who has what."""
        failure = StoreUnavailable("no server of the cluster answers")
        for endpoint, channel in list(self._nodes.items()):
            try:
                answer = self._ask_one(channel, ("CLUSTER", "SLOTS"))
            except StoreUnavailable as error:
                channel.close()
                failure = error
                continue
            if isinstance(answer, list) and answer:
                self._adopt(answer, endpoint)
                return
        raise failure

    def _adopt(self, answer: list[object], asked: Endpoint | None) -> None:
        slots: list[tuple[int, int, Endpoint | None]] = []
        for row in answer:
            assert isinstance(row, list), row
            first, last, primary = row[:3]
            host = (primary[0] or b"").decode()
            # A node that was told no name of its own is reached as it was reached.
            slots.append((first, last, Endpoint(host, primary[1]) if host else asked))
        self._forget(self._nodes.keys() - {None} - {owner for _, _, owner in slots})
        self._slots, self._stale = slots, False


def _is_elsewhere(answer: object) -> bool:
    return isinstance(answer, Declined) and answer.code in _ELSEWHERE


def _is_refused(answer: object) -> bool:
    return isinstance(answer, Declined) or (isinstance(answer, list) and bool(answer) and answer[0] != b"done")
