"""Parting: what is to be said of a lost session, kept back until what is in flight has ended by itself.

That an upstream has forgotten a session is told by whichever answer comes first, to a GET or to one of several POSTs.
What it means for another POST only that one's own answer tells: 404, then it never ran, and may be sent again in the
next session; an answer, then it did; none, then nobody knows. A link that was left at the first sign would make all of
them unknown. So they are waited for, if not for long, and only then is the link left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import trio

from actors.link import Failure, Inbox
from transport.upstreams.http_jobs import CallJob, GetJob, PostJob

_LOOK_SECONDS = 0.01


@attrs.define
class Parting:
    """A link's last words, in the making."""

    forgotten: list[tuple[int, str]] = attrs.field(factory=list)  # tickets that were answered so, and with which words
    stream_refused: str = ""  # with these words, the upstream's own: the link is lost, whoever else was told

    def note(self, forgotten: tuple[int, str] | None, stream_refused: str) -> None:
        """Add what another answer has said."""
        if forgotten is not None:
            self.forgotten.append(forgotten)
        self.stream_refused = self.stream_refused or stream_refused

    async def wait(self, is_in_flight: Callable[[], bool], *, seconds: float) -> None:
        """Wait until nothing is in flight, for so long at most."""
        with trio.move_on_after(seconds):
            while is_in_flight():  # noqa: ASYNC110 - looked at, not told: an ordinary answer pays nothing for this
                await trio.sleep(_LOOK_SECONDS)

    def say(self, inbox: Inbox, unsent: Iterable[CallJob | PostJob]) -> None:
        """Tell the session, all of it in one instant.

        Args:
          unsent: what came for the upstream meanwhile, or found no connection; it never leaves now.
        """
        for job in unsent:
            if not job.abandoned:
                job.abandon()
                inbox.refused(job.ticket, Failure.NOT_SENT, "the upstream has forgotten the session")
        for ticket, detail in self.forgotten:
            inbox.refused(ticket, Failure.SESSION_LOST, detail)
        if self.stream_refused:
            inbox.lost(f"the upstream has forgotten the session: {self.stream_refused}")


def is_in_flight(job: CallJob | PostJob | GetJob) -> bool:
    """Whether it is a message of the client that has left, and whose fate is not known yet."""
    if isinstance(job, GetJob) or (isinstance(job, CallJob) and job.is_settled):
        return False
    return job.connection is not None
