"""Supervision: a loop around one child that restarts it, as often as its restart intensity allows.

Words and arithmetic are Erlang/OTP's (`lib/stdlib/src/supervisor.erl`): permanent children are always restarted,
transient ones after a crash, temporary ones never; more than `restarts` within `period_seconds` and the supervisor
gives up on the child. Intensity is counted per child: one session's crash loop never takes its neighbours down.

This is the one place that catches every Exception: a crash is ordinary here, and is always reported.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable

import attrs
import structlog
import trio

log = structlog.get_logger("outlast.supervisor")


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
class ChildSpec:
    """A child: how it runs, and what its end means."""

    name: str
    run: Callable[[], Awaitable[object]]
    restart: Restart = Restart.TRANSIENT
    intensity: RestartIntensity = RestartIntensity()
    gave_up: Callable[[Exception], object] | None = None  # called in place of raising `SupervisorGaveUp`


class SupervisorGaveUp(Exception):
    """A child crashed more often than its intensity allows. You get it from `supervise` if the child's spec has no
    `gave_up`; you do not get it for a child that ended by itself."""


async def supervise(spec: ChildSpec) -> None:
    """Run a child until it ends for good.

    Raises:
      SupervisorGaveUp: it crashed too often, and `spec.gave_up` is None.

    Cancellation: passes to the child, which is not restarted.
    """
    history = RestartHistory()
    while True:
        try:
            await spec.run()
        except Exception as error:
            await trio.lowlevel.checkpoint_if_cancelled()
            if spec.restart is Restart.TEMPORARY:
                log.error("child crashed", child=spec.name, exc_info=error)
                return
            grown = history.add(trio.current_time(), spec.intensity)
            log.error("child crashed", child=spec.name, restarting=grown is not None, exc_info=error)
            if grown is None:
                if spec.gave_up is None:
                    raise SupervisorGaveUp(f"{spec.name} crashed {spec.intensity.restarts + 1} times") from error
                spec.gave_up(error)
                return
            history = grown
        else:
            if spec.restart is not Restart.PERMANENT:
                return
        await trio.lowlevel.checkpoint()
