"""The link to nothing: for runtimes whose sessions keep values and events, and talk to nobody."""

from __future__ import annotations

from actors.jsonrpc import Message, RequestId
from actors.link import Established, Failure, Inbox
from actors.state import SessionState


class NothingLink:
    """Refuses whatever is sent. Implements `actors.link.Link`."""

    resumable = True
    established = Established(resumed=True)

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def send(self, message: Message, ticket: int) -> None:
        self._inbox.refused(ticket, Failure.REFUSED, "this runtime connects sessions to nothing: give it a `connect`")

    def cancel(self, request_id: RequestId, reason: str) -> None:
        pass

    def listen(self) -> None:
        pass

    def close(self, *, end_session: bool) -> None:
        pass


async def connect_to_nothing(session: SessionState, inbox: Inbox) -> NothingLink:
    """Implements `actors.link.Connect`."""
    return NothingLink(inbox)
