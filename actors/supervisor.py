"""Supervision: a loop around one child that restarts it, as often as its restart intensity allows.

Words and arithmetic are Erlang/OTP's (`lib/stdlib/src/supervisor.erl`): permanent children are always restarted,
transient ones after a crash, temporary ones never; more than `restarts` within `period_seconds` and the supervisor
gives up on the child. Intensity is counted per child: one session's crash loop never takes its neighbours down.

This is the one place that catches every Exception: a crash is ordinary here, and is always reported.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVarTuple

import attrs
import structlog
import trio

log = structlog.get_logger("outlast.supervisor")

Child = TypeVarTuple("Child")


@attrs.frozen
class RestartIntensity:
    """How many restarts within which period are still ordinary."""

    restarts: int = 3
    period_seconds: float = 60.0


@attrs.frozen
class RestartHistory:
    """When a child was restarted, newest last; forgets what is older than the period."""

    at_seconds: tuple[float, ...] = ()

    def add(self, now_seconds: float, intensity: RestartIntensity) -> RestartHistory | None:
        """Give the history with one restart more, or None if that is one too many (`add_restart/3`)."""
        recent = tuple(at for at in self.at_seconds if now_seconds - at <= intensity.period_seconds)
        if len(recent) >= intensity.restarts:
            return None
        return RestartHistory((*recent, now_seconds))


class Restart(enum.Enum):
    PERMANENT = "permanent"  # restarted always
    TRANSIENT = "transient"  # restarted after a crash
    TEMPORARY = "temporary"  # never restarted


@attrs.frozen
class ChildSpec(Generic[*Child]):
    """A child: how it runs, and what its end means. Of many children that are alike there is one spec.

    All of its functions are called with what `supervise` was given for this child.
    """

    name: str
    run: Callable[[*Child], Awaitable[object]]
    restart: Restart = Restart.TRANSIENT
    intensity: RestartIntensity = RestartIntensity()
    gave_up: Callable[[*Child, Exception], object] | None = None  # in place of raising `SupervisorGaveUp`
    ended: Callable[[*Child], object] | None = None  # called last, however it ended

    @property
    def restarts_after_crash(self) -> bool:
        return self.restart is not Restart.TEMPORARY


class SupervisorGaveUp(Exception):
    """A child crashed more often than its intensity allows. You get it from `supervise` if the child's spec has no
    `gave_up`; you do not get it for a child that ended by itself."""


_NO_RESTARTS = RestartHistory()  # one for all: most children never crash


async def supervise(spec: ChildSpec[*Child], *child: *Child) -> None:
    """Run a child until it ends for good.

    Args:
      spec: how.
      child: which one of those that have this spec.

    Raises:
      SupervisorGaveUp: it crashed too often, and `spec.gave_up` is None.

    Cancellation: passes to the child, which is not restarted.
    """
    history = _NO_RESTARTS
    try:
        while True:
            try:
                await spec.run(*child)
            except Exception as error:
                await trio.lowlevel.checkpoint_if_cancelled()
                grown = history.add(trio.current_time(), spec.intensity) if spec.restarts_after_crash else None
                log.error("child crashed", child=spec.name, restarting=grown is not None, exc_info=error)
                if grown is None:
                    _give_up(spec, child, error)
                    return
                history = grown
            else:
                if spec.restart is not Restart.PERMANENT:
                    return
            await trio.lowlevel.checkpoint()
    finally:
        if spec.ended is not None:
            spec.ended(*child)


def _give_up(spec: ChildSpec[*Child], child: tuple[*Child], error: Exception) -> None:
    if not spec.restarts_after_crash:
        return
    if spec.gave_up is None:
        raise SupervisorGaveUp(f"{spec.name} crashed {spec.intensity.restarts + 1} times") from error
    spec.gave_up(*child, error)
