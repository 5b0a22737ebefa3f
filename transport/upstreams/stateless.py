"""One request of 2026-07-28 on its way to a server, and what comes back: apart from how it travels.

A transport puts in what it hears (sync, never waiting); whoever asked takes it out. Nothing is kept: when the call is
over, by its answer or because nobody wants it any more, there is nothing left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from actors.jsonrpc import Message
from actors.link import Failure
from transport.modern import ModernRequest
from transport.upstreams.era import EraKnowledge

# What comes faster than it is taken: room for one of the largest messages and some small ones. HTTP upstreams are
# slowed down long before this; a process that many callers share can not be.
WAITING_BYTES_MAX = 32 * 1024 * 1024


class ServerUnavailable(Exception):
    """The server can not be asked now, for a cause that may pass. Nothing was sent."""


@attrs.frozen
class Answer:
    """The end of a call: a JSON-RPC response, as it came."""

    message: Message
    status: int  # the HTTP status that goes with it


@attrs.frozen
class NoAnswer:
    """The end of a call that will get no answer, and why."""

    failure: Failure
    detail: str
    status: int = 0  # the server's HTTP status, where it gave one


class StatelessCall:
    """What comes back for one request: messages, then an end. One task waits and takes; anybody may put."""

    __slots__ = ("_messages", "_more", "_on_cancel", "_on_taken", "end", "waiting_bytes")

    def __init__(self) -> None:
        self.end: Answer | NoAnswer | None = None
        self.waiting_bytes = 0
        self._messages: list[bytes] = []
        self._more = trio.Event()
        self._on_cancel: Callable[[], None] | None = None
        self._on_taken: Callable[[], None] | None = None

    # ---- for the transport ----

    def bind(self, on_cancel: Callable[[], None], on_taken: Callable[[], None] | None = None) -> None:
        """Say what gives the request up, and who hears that there is room again."""
        self._on_cancel = on_cancel
        self._on_taken = on_taken

    def put(self, raw: bytes) -> None:
        """Add a message that came before the answer."""
        if self.end is not None:
            return
        self._messages.append(raw)
        self.waiting_bytes += len(raw)
        if self.waiting_bytes > WAITING_BYTES_MAX:
            self.finish(NoAnswer(Failure.OUTCOME_UNKNOWN, "more came than was taken"))
        self._more.set()

    def finish(self, end: Answer | NoAnswer) -> None:
        """Say how it ended. The first end counts."""
        if self.end is None:
            self.end = end
            self._more.set()

    # ---- for who asked ----

    @property
    def has_messages(self) -> bool:
        return bool(self._messages)

    async def wait(self) -> None:
        """Wait until there is something to take, or the end. Cancellation: safe."""
        await self._more.wait()

    def take(self) -> list[bytes]:
        """Give the messages that came since the last time."""
        messages, self._messages = self._messages, []
        self.waiting_bytes = 0
        if self.end is None:
            self._more = trio.Event()
        if messages and self._on_taken is not None:
            self._on_taken()
        return messages

    def cancel(self) -> None:
        """Let go of the call: if the server has not answered yet, it is told that nobody waits any more."""
        self.finish(NoAnswer(Failure.OUTCOME_UNKNOWN, "cancelled"))
        on_cancel, self._on_cancel = self._on_cancel, None
        if on_cancel is not None:
            on_cancel()


class StatelessUpstream(Protocol):
    """A server that is asked without sessions."""

    @property
    def era(self) -> EraKnowledge:
        """What is known of the revisions that it speaks."""
        ...

    async def send(self, request: ModernRequest) -> StatelessCall:
        """Send a request, byte for byte as far as the transport allows; whoever asked must `cancel` the call at last.

        Raises:
          ServerUnavailable: nothing was sent.

        Cancellation: nothing was sent.
        """
        ...


async def answer_within(call: StatelessCall, seconds: float) -> Answer | NoAnswer | None:
    """Wait for the end of a call whose messages do not matter, and let go of it.

    Returns:
      None if it did not come in time.
    """
    try:
        with trio.move_on_after(seconds):
            while call.end is None:
                await call.wait()
                call.take()
        return call.end
    finally:
        call.cancel()
