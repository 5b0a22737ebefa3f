"""A session that only notes what its link, and the effort to open one, have to say."""

from __future__ import annotations

from actors import messages as say
from actors.connecting import Connecting
from actors.inbox import LinkInbox
from actors.link import Link
from tests.actors.making import fresh_state


class Owner:
    """Implements `actors.connecting.Owner` and `actors.inbox.Owner`."""

    def __init__(self) -> None:
        self.state = fresh_state()
        self.wants_link = True
        self.told: list[say.Command] = []
        self.links: list[Link] = []
        self.lost: list[str] = []

    def tell(self, command: say.Command) -> None:
        self.told.append(command)

    def pinged(self, receive: say.Receive) -> None:
        self.told.append(receive)

    def link_lost(self, inbox: LinkInbox, detail: str) -> None:
        self.lost.append(detail)

    def linked(self, by: Connecting, link: Link, inbox: LinkInbox) -> None:
        self.links.append(link)
