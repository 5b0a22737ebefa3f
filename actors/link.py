"""The Link protocol: what a session talks to.

A link is one live connection from a session to the other side: an MCP server behind the gateway, or whatever
an embedding application connects. It pushes: `send` accepts a message or refuses it and never waits, and what
comes back is put into the session's `Inbox`. (A pulling link, with an async `send` and an iterator, was weighed:
it needs two tasks for every idle session, 4 KB that a link over pooled HTTP connections does not use, and two
task switches more per call.)

A link that needs tasks of its own (a reader, say) asks its inbox for them: they live and end with the link.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from actors.jsonrpc import Message, RequestId

if TYPE_CHECKING:
    import trio

    from actors.state import SessionState


class About(enum.Enum):
    """Which stream of the session a message belongs to, when it names no request."""

    NOTHING = "nothing"  # it came on the other side's own stream: it belongs to no request
    UNKNOWN = "unknown"  # the transport does not tell (stdio): the session chooses


class Failure(enum.Enum):
    """Why a sent message will not be answered, by what may be done about it."""

    NOT_SENT = "not_sent"  # the other side never saw it: it may be sent again
    SESSION_LOST = "session_lost"  # the other side no longer knows this session: re-open it, then send again
    OUTCOME_UNKNOWN = "outcome_unknown"  # it may have been acted on: never send it again
    REFUSED = "refused"  # the other side saw it and said no
    UNREADABLE = "unreadable"  # what came in place of the answer is none: it may have been acted on, as above


class LinkLost(Exception):
    """`send` was called on a link that is gone; the session has been or will be told by `Inbox.lost`."""


class ConnectFailed(Exception):
    """A link could not be opened now, for a cause that may pass: down, slow, overloaded. Try again later."""


class ConnectRejected(Exception):
    """The other side refuses this session for good; `reason` becomes the reason it is uninitialized.

    Reasons: ``upstream_rejected`` (it refuses the handshake, or offers less than before), ``auth_gone``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@attrs.frozen
class Established:
    """What opening a link found out."""

    upstream_session_id: str = ""  # the other side's name for this session, kept for resuming it
    resumed: bool = False  # the other side still knew the session: nothing was re-initialized
    handshake_result: bytes | None = None  # raw result of a re-initialization, if one took place
    protocol_version: str = ""  # as negotiated by that re-initialization
    announcements: tuple[Message, ...] = ()  # what the client must be told now (lists changed, requests withdrawn)


class Link(Protocol):
    """One live connection from a session to the other side. All methods are sync: they never wait."""

    @property
    def established(self) -> Established:
        """What opening this link found out."""
        ...

    @property
    def resumable(self) -> bool:
        """Whether the other side keeps this session when the link is closed without ending it."""
        ...

    def send(self, message: Message, ticket: int) -> None:
        """Pass a message on. Its fate comes through the inbox under `ticket`.

        A request ends with `Inbox.received` (its answer) or `Inbox.refused`. A notification or a response ends with
        `Inbox.delivered` or `Inbox.refused`.

        Raises:
          LinkLost: the link is gone; nothing was sent.
        """
        ...

    def cancel(self, request_id: RequestId, reason: str) -> None:
        """Tell the other side, in its own protocol, that the answer to a sent request is not wanted any more."""
        ...

    def listen(self) -> trio.Event | None:
        """Start taking what the other side says unasked, where that needs asking (HTTP: its GET stream).

        Returns:
          what is set once the other side can be heard, or is known not to speak unasked, or the link is closed; None:
          there is nothing to wait for.
        """
        ...

    def close(self, *, end_session: bool) -> None:
        """Let go of the link, soon and without waiting; what is in flight is not reported any more.

        Args:
          end_session: tell the other side that the session is over (HTTP DELETE; a process is ended). Otherwise
            the other side is to keep it, for a later link that resumes it.
        """
        ...


class Inbox(Protocol):
    """Where a link puts what comes back. All methods are sync, and safe after the link is closed (then ignored)."""

    def received(self, message: Message, *, about: RequestId | About, cursor: str = "") -> None:
        """Take a message from the other side.

        Args:
          message: a request, a notification, or the answer to a request that was sent.
          about: the id of the sent request on whose stream it came, or what else is known. An answer is `about`
            the request that it answers.
          cursor: the other side's event id of this message, to resume its stream after it.
        """
        ...

    def cursor_moved(self, about: RequestId | About, cursor: str) -> None:
        """Note the other side's event id where it came without a message (a priming event).

        Args:
          cursor: "" where the stream is not to be resumed after it: then about a call only, as a sign of life.
        """
        ...

    def delivered(self, ticket: int) -> None:
        """Confirm that the other side has a notification or a response."""
        ...

    def refused(self, ticket: int, failure: Failure, detail: str) -> None:
        """Say that the message sent under `ticket` will get no answer, and why."""
        ...

    def lost(self, detail: str) -> None:
        """Say that this link is gone: whatever is unanswered has an unknown outcome unless refused before."""
        ...

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task that belongs to the link: cancelled when the link is closed; if it raises, the link is lost."""
        ...


class Connect(Protocol):
    """Opens a link for a session: for the first time, or again after a restart.

    A session that has a handshake is to be resumed if the other side still knows it, else re-initialized with
    the kept handshake and its set-up re-applied.

    Args:
      session: what is known of the session. `session.handshake` is None before the first opening.
      inbox: where the link puts what comes back.

    Raises:
      ConnectFailed: not now.
      ConnectRejected: not any more.

    Cancellation: whatever was opened is closed again.
    """

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link: ...
