"""Telling the other side that a session is over, where no link is open that could.

A session that is ended while it is at rest, or while its server is away for a moment, has a name there all the same. So
its server is asked, past any link, to forget it: once, for a few seconds at most, and whatever comes of it the session
has ended here.
"""

from __future__ import annotations

import enum
import functools
from typing import Protocol, runtime_checkable

import attrs
import trio

from actors.link import Connect, ConnectFailed, ConnectRejected
from actors.state import SessionState
from actors.supervisor import ChildSpec, Restart, supervise

TELL_SECONDS_MAX = 5.0  # for one request and its answer; the other side's own expiry does the rest


@runtime_checkable
class EndsSessions(Protocol):
    """A `Connect` that can end a session on the other side without a link."""

    async def end_session(self, session: SessionState) -> bool:
        """End a session of which no link is open.

        Returns:
          False: the other side keeps nothing of it; there was nobody to tell.

        Raises:
          ConnectFailed, ConnectRejected: it was not told, or did not agree.

        Cancellation: it may have been told.
        """
        ...


class Told(enum.Enum):
    """Whether the other side knows that a session is over."""

    TOLD = "told"  # it has said so, or had forgotten it
    SENT = "sent"  # a link was open: it went out on that, and nobody waits for the answer
    NOTHING = "nothing"  # it keeps nothing of the session
    NOT_TOLD = "not_told"


@attrs.frozen
class UpstreamEnd:
    """What became of it."""

    told: Told
    detail: str = ""  # why it was not told


class UpstreamEnding:
    """One session's end on the other side, on its way or known."""

    def __init__(self, end: UpstreamEnd | None = None) -> None:
        """
        Args:
          end: where it is known; None: `tell` will find out.
        """
        self._end = end
        self._known = trio.Event()
        if end is not None:
            self._known.set()

    async def tell(self, connect: Connect, session: SessionState) -> None:
        """Tell the other side; never raises, as nobody could do anything about it.

        Cancellation: it may have been told.
        """
        # Supervised: a connector may be an application's.
        child = ChildSpec("end upstream", functools.partial(self._tell, connect, session), Restart.TEMPORARY)
        try:
            await supervise(child)
        finally:
            self._known.set()

    async def _tell(self, connect: Connect, session: SessionState) -> None:
        if not isinstance(connect, EndsSessions):
            self._end = UpstreamEnd(Told.NOTHING)
            return
        self._end = UpstreamEnd(Told.NOT_TOLD, f"no answer within {TELL_SECONDS_MAX:g} s")
        with trio.move_on_after(TELL_SECONDS_MAX):
            try:
                self._end = UpstreamEnd(Told.TOLD if await connect.end_session(session) else Told.NOTHING)
            except (ConnectFailed, ConnectRejected) as error:
                self._end = UpstreamEnd(Told.NOT_TOLD, str(error))

    async def wait(self) -> UpstreamEnd:
        """Wait until it is known what became of it, within `TELL_SECONDS_MAX`. Cancellation: safe."""
        with trio.move_on_after(TELL_SECONDS_MAX):
            await self._known.wait()
        return self._end or UpstreamEnd(Told.NOT_TOLD, "it is not known whether it was told")
