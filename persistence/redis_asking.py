"""Asking: questions to the servers of a Redis store, put as scripts, and what their answers mean.

Each script compares the store's uuid, so contents that have gone are noticed by the first call after, and the process
is told to end (`StoreReplaced`), not to answer that no session exists. A refusal becomes the error of whoever has
to act. Everything here runs in the store's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from persistence.leases import lost, ran_out
from persistence.partitions import PARTITIONS
from persistence.records import Fence
from persistence.redis_nodes import Call, Declined, Nodes
from persistence.redis_records import tag_of
from persistence.redis_url import RedisPlace
from persistence.store import FenceLost, StoreError, StoreFull, StoreInvalid, StoreReplaced, StoreUnavailable

Word = bytes | str | int | float
Digest = Callable[[str], str]

NO_FENCE = Fence("", 0)  # for what needs none

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
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")


class RedisAsker:
    """Puts a store's questions to its servers.

    Args:
      place: which store that is.
      nodes: its servers.
      digest: the name under which the servers know a script.
    """

    def __init__(self, place: RedisPlace, nodes: Nodes, digest: Digest) -> None:
        self.place = place
        self.nodes = nodes
        self.digest = digest
        self.prefix = f"{place.prefix}:"
        self.uuid = ""  # of the store, once it is known

    @property
    def meta(self) -> str:
        """Name the key of what concerns the store as a whole."""
        return f"{self.prefix}meta"

    def at(self, partition: int) -> str:
        """Give what the names of a partition's keys begin with."""
        return self.prefix + tag_of(partition)

    def heed(self, answers: Sequence[object], fence: Fence) -> None:
        """Raise what a script has refused for."""
        for answer in answers:
            said = self.listed(answer)
            if said[0] != b"done":
                self.refuse(said, fence)

    def refuse(self, said: Sequence[bytes], fence: Fence) -> NoReturn:
        """Raise what a script has refused for."""
        at = said[1].decode()
        if said[0] == b"foreign":
            self.raise_foreign(at)
        partition = int(at.rpartition("{p")[2][:3])
        if said[0] == b"expired":
            raise FenceLost(ran_out(partition, fence))
        raise FenceLost(lost(partition, fence, said[2].decode()))

    def raise_foreign(self, at: str) -> NoReturn:
        """Say that the store's contents have gone."""
        raise StoreReplaced(
            f"{self.place.shown}: {at} is not what this process has opened: the server was emptied or exchanged"
        )

    def ask_one(
        self, partition: int, script: str, *words: Word, fence: Fence | None = None, replicas: int = 0
    ) -> list[Any]:
        """Have a script run over a partition, and give its answer.

        Args:
          fence: for the words of a refusal.
          replicas: how many must have what it wrote.
        """
        calls = [self.call_partition(partition, script, *words)]
        [answer] = self.answers(self.nodes.ask(calls, replicas=replicas))
        said = self.listed(answer)
        if said[0] in (b"foreign", b"fenced", b"expired"):
            self.refuse(said, fence or NO_FENCE)
        return said

    def ask_partitions(self, script: str, *words: Word) -> list[list[Any]]:
        """Have a script run over all partitions."""
        calls = [self.call_partition(one, script, *words) for one in range(PARTITIONS)]
        answers = [self.listed(one) for one in self.answers(self.nodes.ask(calls, replicas=self.place.replicas))]
        for said in answers:
            if said[0] == b"foreign":
                self.refuse(said, NO_FENCE)
        return answers

    def answers(self, answers: Sequence[object], *, tolerant: bool = False) -> list[object]:
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
        reason = f"{self.place.shown}: {declined.code} {declined.text}"
        if declined.code == "OOM" or (declined.code == "MISCONF" and "No space left" in declined.text):
            return StoreFull(reason)
        if declined.code in _AGAIN:
            self.nodes.close()  # to look anew for who is in charge, and to teach it the scripts
            return StoreUnavailable(reason)
        if declined.code == "MISCONF":
            return StoreUnavailable(reason)
        if declined.code in _DENIED:
            return StoreUnavailable(reason) if self.uuid else StoreInvalid(reason)
        # WRONGTYPE, or a script that stumbled: what lies there is not what this version wrote.
        return StoreReplaced(reason) if self.uuid else StoreInvalid(f"{reason}; name another prefix")

    def listed(self, answer: object) -> list[Any]:
        """Give an answer that must be a list."""
        if not isinstance(answer, list):
            raise StoreReplaced(f"{self.place.shown} gives an answer of another kind: {type(answer).__name__}")
        return answer

    def call(self, script: str, key: str, *words: Word) -> Call:
        """Have a script run on the server that has a key."""
        return Call(key, ("EVALSHA", self.digest(script), 1, key, *words))

    def call_partition(self, partition: int, script: str, *words: Word) -> Call:
        """Have a script run over a partition."""
        at = self.at(partition)
        return self.call(script, f"{at}lease", at, self.uuid, *words)

    def call_raw(self, partition: int, kind: str, command: str, *words: Word) -> Call:
        """Have a command run on a key of a partition."""
        key = f"{self.at(partition)}{kind}"
        return Call(key, (command, key, *words))

    def note(self, script: str, field: str, value: int | bytes) -> int:
        """Keep a fact about the store as a whole, and give the number of its newest claim."""
        [answer] = self.answers(
            self.nodes.ask([self.call(script, self.meta, self.uuid, field, value)], replicas=self.place.replicas)
        )
        if self.listed(answer)[0] == b"foreign":
            self.raise_foreign(self.meta)
        return int(self.listed(answer)[1])

    def facts_of_leases(self, *fields: str) -> list[list[Any]]:
        """Give fields of all partitions' leases."""
        calls = [self.call_raw(one, "lease", "HMGET", "store", *fields) for one in range(PARTITIONS)]
        facts = []
        for one, answer in enumerate(self.answers(self.nodes.ask(calls))):
            store, *values = self.listed(answer)
            if store != self.uuid.encode():
                self.raise_foreign(self.at(one))
            facts.append(values)
        return facts
