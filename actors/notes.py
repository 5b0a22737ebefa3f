"""Notes: what an actor is told besides commands, by the writer, the link, the timekeeper and the runtime.

They come through the mailbox's system lane, as everything that changes a session comes through its mailbox.
"""

from __future__ import annotations

import attrs

from actors.inbox import LinkInbox
from actors.messages import Receive
from persistence.writer import Receipt


@attrs.frozen
class Settled:
    """What was submitted is durable, or will not be."""

    receipt: Receipt


@attrs.frozen
class Buried:
    """The session's end is durable, or will not be."""

    ticket: int
    receipt: Receipt


@attrs.frozen(eq=False)
class Lost:
    """The link behind this inbox is gone."""

    inbox: LinkInbox
    detail: str


@attrs.frozen
class Pinged:
    """The other side asks whether anybody is there."""

    receive: Receive


@attrs.frozen
class Stalled:
    """Something may have waited for the store for too long."""


@attrs.frozen
class Stop:
    """Leave memory."""

    detail: str
    only_if_idle: bool
