"""Opening a session's link, and going on trying while somebody waits for it.

Waits between attempts grow and carry full jitter, so that a thousand sessions whose upstream comes back do not all
knock at the same instant. One attempt has a deadline; a session that nobody waits for is left alone until somebody
does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import attrs
import structlog
import trio

from actors import messages as say
from actors.inbox import LinkInbox
from actors.link import Connect, ConnectFailed, ConnectRejected, Link
from actors.state import SessionState

log = structlog.get_logger("outlast.connecting")


HURRIED_SECONDS = 0.5  # however many wait, an upstream that does not answer is not asked more often by one session


@attrs.frozen
class Backoff:
    """Waits between attempts: at first at most `first_seconds`, doubling up to `most_seconds`, drawn at random."""

    first_seconds: float = 0.1
    most_seconds: float = 30.0

    def draw(self, attempt: int, chance: float) -> float:
        """Give the wait before attempt number `attempt` (from 1); `chance` is uniform in [0, 1)."""
        ceiling = min(self.most_seconds, self.first_seconds * 2.0 ** min(attempt - 1, 32))
        return ceiling * (0.5 + 0.5 * chance)


class Owner(Protocol):
    """The session actor, as the effort to connect sees it."""

    @property
    def state(self) -> SessionState: ...

    @property
    def wants_link(self) -> bool:
        """Whether anybody waits for the link."""
        ...

    def tell(self, command: say.Command) -> None: ...

    def pinged(self, receive: say.Receive) -> None: ...

    def link_lost(self, inbox: LinkInbox, detail: str) -> None: ...

    def linked(self, by: Connecting, link: Link, inbox: LinkInbox) -> None:
        """Take the opened link, and responsibility for closing it."""
        ...


class Connecting:
    """One effort to open a link: made when a session needs one, over when it has one or is told it cannot."""

    def __init__(
        self,
        connect: Connect,
        nursery: trio.Nursery,
        owner: Owner,
        *,
        attempt_seconds_max: float,
        backoff: Backoff,
        losses: int = 0,
        draw_chance: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
          losses: how many links in a row were lost soon after they had been opened; they count as failed attempts, so
            that an upstream that drops each connection is not asked in a loop.
        """
        self._connect = connect
        self._nursery = nursery
        self._owner = owner
        self._attempt_seconds_max = attempt_seconds_max
        self._backoff = backoff
        self._draw_chance = draw_chance
        self._losses = losses
        self._scope = trio.CancelScope()
        self._hurried = trio.Event()

    def hurry(self) -> None:
        """Try again soon: somebody new waits, who is not to wait out a pause that others' failures made long."""
        self._hurried.set()

    def cancel(self) -> None:
        """Stop trying; whatever was half open is closed again."""
        self._scope.cancel()

    async def run(self) -> None:
        """Try until there is an answer either way, or nobody waits."""

        with self._scope:
            await self._try_on()

    async def _try_on(self) -> None:
        attempt = self._losses
        if attempt:
            await self._pause(attempt)
        while True:
            attempt += 1
            await trio.lowlevel.checkpoint_if_cancelled()  # whoever called it off may have left memory already
            inbox = LinkInbox(self._owner, self._nursery)
            try:
                with trio.fail_after(self._attempt_seconds_max):
                    link = await self._connect(self._owner.state, inbox)
            except trio.TooSlowError:
                detail = f"no connection within {self._attempt_seconds_max:g} s"
            except ConnectFailed as error:
                detail = str(error)
            except ConnectRejected as error:
                inbox.close()
                self._owner.tell(say.ConnectRefused(error.reason, error.detail))
                return
            except Exception as error:
                log.error("connecting crashed", exc_info=error)
                detail = f"connecting crashed: {error!r}"
            except BaseException:
                inbox.close()
                raise
            else:
                self._owner.linked(self, link, inbox)
                return
            inbox.close()
            self._owner.tell(say.ConnectRetried(detail))
            await self._pause(attempt)
            if not self._owner.wants_link:
                self._owner.tell(say.ConnectGivenUp())
                return

    async def _pause(self, attempt: int) -> None:
        seconds = self._backoff.draw(attempt, self._draw_chance())
        least = min(seconds, HURRIED_SECONDS)
        await trio.sleep(least)
        with trio.move_on_after(seconds - least):
            await self._hurried.wait()
        self._hurried = trio.Event()
