"""An inbox that writes down what a link puts into it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from actors.jsonrpc import Message, RequestId
from actors.link import About, Failure


@attrs.frozen
class Received:
    message: Message
    about: RequestId | About
    cursor: str = ""


@attrs.frozen
class CursorMoved:
    about: RequestId | About
    cursor: str


@attrs.frozen
class Delivered:
    ticket: int


@attrs.frozen
class Refused:
    ticket: int
    failure: Failure
    detail: str


@attrs.frozen
class Lost:
    detail: str


Entry = Received | CursorMoved | Delivered | Refused | Lost


class RecordingInbox:
    """Keeps entries in order; `wait` gives them one after the other. Tasks run in a nursery of the test."""

    def __init__(self, nursery: trio.Nursery, *, patience_seconds: float = 30.0) -> None:
        """Args:
        patience_seconds: `wait` fails after this.
        """
        self._patience_seconds = patience_seconds
        self.entries: list[Entry] = []
        self.hook: Callable[[Entry], None] | None = None  # called with each entry as it comes
        self.tasks_started = 0
        self._nursery = nursery
        self._next = 0
        self._more = trio.Event()

    async def wait(self) -> Entry:
        """Give the next entry, waiting for it if need be."""
        with trio.fail_after(self._patience_seconds):
            while self._next >= len(self.entries):
                self._more = trio.Event()
                await self._more.wait()
        self._next += 1
        return self.entries[self._next - 1]

    def received(self, message: Message, *, about: RequestId | About, cursor: str = "") -> None:
        self._put(Received(message, about, cursor))

    def cursor_moved(self, about: RequestId | About, cursor: str) -> None:
        self._put(CursorMoved(about, cursor))

    def delivered(self, ticket: int) -> None:
        self._put(Delivered(ticket))

    def refused(self, ticket: int, failure: Failure, detail: str) -> None:
        self._put(Refused(ticket, failure, detail))

    def lost(self, detail: str) -> None:
        self._put(Lost(detail))

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        self.tasks_started += 1
        self._nursery.start_soon(run, *args)

    def _put(self, entry: Entry) -> None:
        self.entries.append(entry)
        if self.hook is not None:
            self.hook(entry)
        self._more.set()
