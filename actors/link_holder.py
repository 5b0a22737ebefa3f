"""Holds a session's link: opens it, takes it when it is open, passes messages to it, lets it go.

At any time there is at most one effort to open a link, or one link. What an effort that was called off, or a link
that was left, still brings is turned away here, so the actor never hears of it.
"""

from __future__ import annotations

import attrs
import trio

from actors.connecting import Connecting, Owner
from actors.inbox import LinkInbox
from actors.jsonrpc import Message, RequestId
from actors.link import Established, Link, LinkLost
from actors.state import SessionState
from actors.surroundings import Surroundings
from actors.upstream_ending import Told, UpstreamEnd, UpstreamEnding

HOLDS_SECONDS = 10.0  # a link that is lost sooner counts as an attempt to open one that failed


@attrs.frozen(eq=False)
class Opened:
    """An effort to open a link has brought one."""

    by: Connecting
    link: Link
    inbox: LinkInbox

    def turn_away(self) -> None:
        """Nobody wants it any more."""
        self.inbox.close()
        self.link.close(end_session=False)


class LinkHolder:
    """The link of one session, or its absence."""

    __slots__ = ("_connecting", "_inbox", "_link", "_listening", "_losses", "_opened_seconds", "ending")

    def __init__(self) -> None:
        self._link: Link | None = None
        self._inbox: LinkInbox | None = None
        self._connecting: Connecting | None = None
        self._listening: trio.Event | None = None  # what the link gave for having been asked to listen
        self._opened_seconds = 0.0  # when it was opened, on trio's clock
        self._losses = 0  # of links in a row that did not hold
        self.ending: UpstreamEnding | None = None  # of the session on the other side, once that was asked for

    @property
    def resumable(self) -> bool:
        """Whether letting go costs nothing upstream."""
        return self._link is None or self._link.resumable

    def open(self, shared: Surroundings, owner: Owner) -> None:
        """Begin to open a link; an effort that is under way is called off."""
        if self._connecting is not None:
            self._connecting.cancel()
        self._connecting = Connecting(
            shared.connect,
            shared.link_nursery,
            owner,
            attempt_seconds_max=shared.connect_seconds_max,
            backoff=shared.backoff,
            losses=self._losses,
        )
        shared.link_nursery.start_soon(self._connecting.run)

    def hurry(self) -> None:
        """Somebody new waits for the link: an effort that pauses is to try again soon."""
        if self._connecting is not None:
            self._connecting.hurry()

    def expects(self, by: Connecting) -> bool:
        """Whether this effort is the one under way."""
        return by is self._connecting

    def take(self, opened: Opened) -> Established | None:
        """Take an opened link.

        Returns:
          what opening it found out; None if it is lost already.
        """
        self._connecting = None
        self._link, self._inbox = opened.link, opened.inbox
        self._opened_seconds = trio.current_time()
        if opened.inbox.is_closed:
            self._losses += 1
            self.close(end_session=False)
            return None
        return opened.link.established

    def lose(self, inbox: LinkInbox) -> bool:
        """Let go of the link behind this inbox, which is gone; False if it is not the one held."""
        if inbox is not self._inbox:
            return False
        held = trio.current_time() - self._opened_seconds >= HOLDS_SECONDS
        self._losses = 0 if held else self._losses + 1
        self.close(end_session=False)
        return True

    def send(self, message: Message, ticket: int) -> None:
        """Pass a message to the link.

        Raises:
          LinkLost: there is none, or it is gone; nothing was sent.
        """
        if self._link is None:
            raise LinkLost("the link was closed before this could be sent")
        self._link.send(message, ticket)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        """Tell the other side that an answer is not wanted any more, if it can be told."""
        if self._link is not None:
            self._link.cancel(request_id, reason)

    def listen(self) -> None:
        """Let the other side speak unasked, if there is one."""
        if self._link is not None:
            self._listening = self._link.listen()

    async def wait_listening(self, seconds: float) -> None:
        """Wait until the other side can be heard, as far as it was asked to speak; `seconds` at most."""
        if self._listening is not None and not self._listening.is_set():
            with trio.move_on_after(seconds):
                await self._listening.wait()

    def end(self, shared: Surroundings, state: SessionState) -> None:
        """Let go of everything, and have the other side told that the session is over; with a link, or without."""
        link = self._link
        if link is not None:
            has_a_name_there = link.resumable and bool(link.established.upstream_session_id)
            self.ending = UpstreamEnding(UpstreamEnd(Told.SENT if has_a_name_there else Told.NOTHING))
        elif state.handshake is not None:
            self.ending = UpstreamEnding()
            shared.link_nursery.start_soon(self.ending.tell, shared.connect, state)
        self.close(end_session=True)

    def close(self, *, end_session: bool) -> None:
        """Let go of everything. Closing twice is fine."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        self._listening = None
        link, self._link = self._link, None
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.close()
        if link is not None:
            link.close(end_session=end_session)
