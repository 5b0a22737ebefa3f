"""The inbox of one link: turns what a link says into commands for its session, and owns the link's tasks.

A session has a new inbox for each attempt to open a link. Once that attempt is over, whatever its link still says
is ignored, so a late answer of a former incarnation can never be taken for one of the present.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from actors import messages as say
from actors.jsonrpc import Kind, Message, RequestId
from actors.link import About, Failure, Link
from actors.supervisor import ChildSpec, RestartIntensity, supervise


class Owner(Protocol):
    """The session actor, as its link's inbox sees it."""

    def tell(self, command: say.Command) -> None: ...

    def pinged(self, receive: say.Receive) -> None:
        """Take a ping: who is there to answer it is for the session to say."""
        ...

    def link_lost(self, inbox: LinkInbox, detail: str) -> None: ...


class LinkInbox:
    """Implements `actors.link.Inbox` for one attempt."""

    __slots__ = ("_closed", "_nursery", "_owner", "_scopes", "link")

    def __init__(self, owner: Owner, nursery: trio.Nursery) -> None:
        self._owner = owner
        self._nursery = nursery
        self._scopes: tuple[trio.CancelScope, ...] = ()  # of its tasks; most links at rest have none
        self._closed = False
        self.link: Link | None = None

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Hear no more, and end the link's tasks."""
        self._closed = True
        scopes, self._scopes = self._scopes, ()
        for scope in scopes:
            scope.cancel()

    def received(self, message: Message, *, about: RequestId | About, cursor: str = "") -> None:
        if self._closed:
            return
        upstream_session_id = self.link.established.upstream_session_id if self.link is not None else ""
        receive = say.Receive(message, about, cursor, upstream_session_id)
        if message.method == "ping" and message.kind is Kind.REQUEST:
            self._owner.pinged(receive)
        else:
            self._owner.tell(receive)

    def cursor_moved(self, about: RequestId | About, cursor: str) -> None:
        if not self._closed:
            self._owner.tell(say.MoveCursor(about, cursor))

    def delivered(self, ticket: int) -> None:
        if not self._closed:
            self._owner.tell(say.Delivered(ticket))

    def refused(self, ticket: int, failure: Failure, detail: str) -> None:
        if not self._closed:
            self._owner.tell(say.Refused(ticket, failure, detail))

    def lost(self, detail: str) -> None:
        if not self._closed:
            self.close()
            self._owner.link_lost(self, detail)

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        if not self._closed:
            self._nursery.start_soon(self._run, run, args)

    async def _run(self, run: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        if self._closed:
            return

        async def task() -> None:
            await run(*args)

        def crashed(error: Exception) -> None:
            self.lost(f"a task of the link crashed: {error!r}")

        with trio.CancelScope() as scope:
            self._scopes = (*self._scopes, scope)
            await supervise(
                ChildSpec("link task", task, intensity=RestartIntensity(restarts=0), gave_up=crashed),
            )
        self._scopes = tuple([one for one in self._scopes if one is not scope])
