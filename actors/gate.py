"""The output gate: an effect that may tell of a fact waits until that fact is durable.

Effects leave in the order of their turns. A turn without hard events waits too if an earlier turn's are not yet
durable: what it says may rest on them. When nothing is outstanding effects pass at once, without a commit. (The
idea is Durable Objects': the actor never waits for the store, only its outputs do, so commits group by themselves.)

`open_always` is the negative control of the tests: with it, a reply outruns its commit, and a crash loses
acknowledged facts.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from actors.messages import Effect


@attrs.frozen
class Held:
    """One turn's outputs, and what must be durable first."""

    revision: int
    log_through: int  # log entries up to this sequence are durable with that revision
    effects: Sequence[Effect]


class Gate:
    """The outputs of one session that wait for a commit."""

    __slots__ = ("_durable_revision", "_hard_revision", "_held", "_moved_seconds", "_open_always")

    def __init__(self, durable_revision: int, *, open_always: bool = False) -> None:
        self._durable_revision = durable_revision
        self._hard_revision = durable_revision
        self._held: tuple[Held, ...] = ()  # in place of a list: empty nearly always, and few when not
        self._moved_seconds = 0.0  # when it was last shut or settled, on trio's clock
        self._open_always = open_always

    @property
    def held(self) -> Sequence[Held]:
        """What waits for a commit, oldest first."""
        return self._held

    def stalled_seconds(self, now_seconds: float) -> float:
        """How long something has waited without any word from the store; 0 when nothing waits."""
        return 0.0 if self.is_clear else now_seconds - self._moved_seconds

    @property
    def is_clear(self) -> bool:
        """Nothing waits for a commit."""
        return self._hard_revision <= self._durable_revision

    def require(self, revision: int, now_seconds: float) -> None:
        """From now on outputs wait until this revision is durable."""
        if self.is_clear:
            self._moved_seconds = now_seconds
        self._hard_revision = revision

    def passes(self) -> bool:
        """Whether outputs may leave at once."""
        return self._open_always or self.is_clear

    def hold(self, log_through: int, effects: Sequence[Effect]) -> None:
        """Keep a turn's outputs until the newest hard event is durable."""
        self._held = (*self._held, Held(self._hard_revision, log_through, effects))

    def settle(self, revision: int, now_seconds: float) -> Sequence[Held]:
        """Note that this revision is durable; give what may leave now, oldest first."""
        self._moved_seconds = now_seconds
        self._durable_revision = max(self._durable_revision, revision)
        held, durable_revision = self._held, self._durable_revision
        if not held or held[-1].revision <= durable_revision:  # nearly always: revisions only grow
            self._held = ()
            return held
        self._held = tuple([one for one in held if one.revision > durable_revision])
        return held[: len(held) - len(self._held)]

    def clear(self) -> Sequence[Held]:
        """Give up on everything that waits: it will not become durable."""
        held, self._held = self._held, ()
        self._hard_revision = self._durable_revision
        return held
