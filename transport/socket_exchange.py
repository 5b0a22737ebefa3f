"""SocketExchange: one WebSocket connection of a client, apart from who serves it.

What `exchange.py` is for a request, this is for a connection that was upgraded (RFC 6455): handlers are written
against it and know no ASGI. A handler refuses the upgrade or accepts it, once; then both sides speak until one closes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from transport.exchange import Headers, RequestHead

# Of RFC 6455, 7.4.1, and of the registry that it sets up. Codes of our own are with whom they are said by.
NORMAL = 1000
UNSUPPORTED_DATA = 1003
TOO_LARGE = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

REASON_BYTES_MAX = 123  # a control frame has room for 125 bytes, two of which are the code (RFC 6455, 5.5)


NO_STATUS = 1005  # never sent, as the next: the client closed it and said no code
ABNORMAL = 1006  # the connection ended without a word


class SocketGone(Exception):
    """The connection is over: nothing can be sent on it, and nothing comes any more."""

    def __init__(self, detail: str = "the client has gone", code: int = ABNORMAL) -> None:
        """
        Args:
          code: with which it was closed.
        """
        super().__init__(detail)
        self.code = code


class SocketExchange(Protocol):
    """One connection: `refuse`, or `accept` and then `receive`, `send` and `close`.

    One task receives. Any number may send: a message goes out whole, and those of one task in order.
    """

    @property
    def head(self) -> RequestHead:
        """What was asked."""
        ...

    @property
    def subprotocols(self) -> Sequence[str]:
        """What the client would speak, what it likes best first."""
        ...

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the upgrade with an ordinary response. Servers that cannot do that answer 403."""
        ...

    async def accept(self, subprotocol: str, headers: Headers = ()) -> None:
        """Accept the upgrade.

        Args:
          subprotocol: one of those that the client offers.
          headers: of the 101 response; browsers do not show them to pages.
        """
        ...

    async def receive(self) -> str | bytes:
        """Wait for the client's next message; text or binary, as it was sent.

        Raises:
          SocketGone: also for a message over the limit: the connection is closed then.

        Cancellation: safe.
        """
        ...

    async def send(self, text: str) -> None:
        """Send a text message; returns when the system has taken it, which is not when the client has it.

        Raises:
          SocketGone: also when the client has not read for longer than the write deadline.

        Cancellation: what is being sent is sent to its end, within the write deadline.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """End the connection and say why. Closing twice is fine; nothing can be received afterwards.

        Args:
          code: RFC 6455, 7.4.
          reason: for people; cut after 123 bytes.
        """
        ...


SocketHandler = Callable[[SocketExchange], Awaitable[None]]
