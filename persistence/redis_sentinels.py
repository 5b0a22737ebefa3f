"""Sentinels: servers that watch a Redis primary, appoint another when it has gone, and are asked which one it is.

- All are asked at once, and the newest appointment counts (the highest `config-epoch`, by which they settle it among
  themselves): one that was away for a while names the former primary until it has heard from the others.
- One that does not answer is passed over, and left alone for sixty times as long as it took to find that out: half a
  second where its machine has gone, next to nothing where its process has. When no other answers, all are asked.
- None that answers at all is an outage. Some that answer, and do not know the service, or are no sentinels, are a
  mistake in the URL; once a primary has been found, that too is an outage.

Knows nothing of the library: a `Channel` is what speaks to one sentinel. Lives in the store's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from persistence.redis_nodes import Channel, Declined
from persistence.redis_url import Endpoint, RedisPlace
from persistence.store import StoreInvalid, StoreUnavailable

PASSED_OVER_TIMES = 60

# What the sentinels say is relied upon for a quarter of a second (`redis_nodes.py`): whoever replaces a primary sooner
# than this may do so in between.
SILENCE_MS_MIN = 500

_NO_SENTINEL = "it is a Redis server, and no sentinel: name sentinels (port 26379, mostly), or say redis://"


@attrs.frozen
class _View:
    """What one sentinel says."""

    primary: Endpoint
    epoch: int  # of the appointment
    silence_ms: int  # after which it takes the primary for down


@attrs.define(eq=False)
class _Sentinel:
    """One of them, and how it was when it was asked last."""

    endpoint: Endpoint
    channel: Channel
    problem: str = ""  # why it named no primary, or is not set up well
    answered: bool = False
    passed_over_until: float = 0.0


class Sentinels:
    """The sentinels of a store.

    Args:
      place: names them, and the service.
      connect: makes the channel to one.
      now: a clock that only runs forward.
    """

    def __init__(
        self, place: RedisPlace, connect: Callable[[Endpoint], Channel], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._shown = place.shown
        self._service = place.service
        self._all = [_Sentinel(endpoint, connect(endpoint)) for endpoint in place.sentinels]
        self._now = now
        self._found = False  # whether a primary was ever named

    def primary(self) -> Endpoint:
        """Ask for the primary.

        Raises:
          StoreInvalid: they cannot name one, and have never done so.
          StoreUnavailable: they cannot just now, or none of them answers.
        """
        now = self._now()
        due = [one for one in self._all if one.passed_over_until <= now]
        rest = [one for one in self._all if one not in due]
        views = self._ask(due) or self._ask(rest)
        if not views:
            raise self._none()
        self._found = True
        return max(views, key=lambda view: view.epoch).primary

    def troubles(self) -> Sequence[str]:
        """Say which of them named no primary when asked last, or are not set up well, and why."""
        return [f"{one.endpoint}: {one.problem}" for one in self._all if one.problem]

    def close(self) -> None:
        """Let go of all connections; the next question opens them anew."""
        for one in self._all:
            one.channel.close()

    def _ask(self, some: Iterable[_Sentinel]) -> list[_View]:
        asked = [one for one in some if self._is_reached(one)]
        views = [self._view(one) for one in asked]
        return [view for view in views if view is not None]

    def _is_reached(self, one: _Sentinel) -> bool:
        began = self._now()
        try:
            # In this order: an appointment between the two gives an address that is newer than its epoch, never older.
            one.channel.send(
                [("SENTINEL", "MASTER", self._service), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)]
            )
        except StoreUnavailable as error:
            self._pass_over(one, error, began)
            return False
        return True

    def _view(self, one: _Sentinel) -> _View | None:
        began = self._now()
        try:
            facts, address = one.channel.receive(), one.channel.receive()
        except StoreUnavailable as error:
            self._pass_over(one, error, began)
            return None
        one.answered = True
        view = _read(facts, address)
        one.problem = self._why(facts) if view is None else _haste(view)
        return view

    def _pass_over(self, one: _Sentinel, error: StoreUnavailable, began: float) -> None:
        now = self._now()
        one.answered, one.problem = False, str(error).removeprefix(f"{one.endpoint}: ")
        one.passed_over_until = now + PASSED_OVER_TIMES * (now - began)

    def _why(self, facts: object) -> str:
        if not isinstance(facts, Declined):
            return f'it names no primary for the service "{self._service}"'
        if "No such master" in facts.text:
            return f'it watches no service "{self._service}": give its name in the URL, ?service=NAME'
        if "unknown command" in facts.text.lower():
            return _NO_SENTINEL
        return f"{facts.code} {facts.text}"

    def _none(self) -> StoreInvalid | StoreUnavailable:
        said = "; ".join(self.troubles())
        if not any(one.answered for one in self._all):
            return StoreUnavailable(f"{self._shown}: no sentinel can be asked: start one, or name others ({said})")
        reason = f"{self._shown}: no primary is known ({said})"
        return StoreUnavailable(reason) if self._found else StoreInvalid(reason)


def _read(facts: object, address: object) -> _View | None:
    """Understand two answers; None: they name no primary."""
    if not isinstance(facts, list) or not isinstance(address, list) or len(address) != 2:
        return None
    if not all(isinstance(word, bytes) for word in facts):
        return None
    by_name = dict(zip(facts[::2], facts[1::2], strict=False))
    said: list[Any] = [*address, by_name.get(b"config-epoch"), by_name.get(b"down-after-milliseconds")]
    if not said[0] or not all(isinstance(one, bytes) for one in said) or not all(one.isdigit() for one in said[1:]):
        return None
    host, port, epoch, silence_ms = said
    return _View(Endpoint(host.decode("utf-8", "replace"), int(port)), int(epoch), int(silence_ms))


def _haste(view: _View) -> str:
    if view.silence_ms >= SILENCE_MS_MIN:
        return ""
    return f"it replaces a primary after {view.silence_ms} ms: set down-after-milliseconds to {SILENCE_MS_MIN} or more"
