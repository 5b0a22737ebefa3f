"""Face: one transport of clients, in front of one server.

The gateway knows paths, guards and who asks; a face knows its transport. What a face is given has passed the guard, and
is asked on behalf of a principal: a face never looks at credentials.
"""

from __future__ import annotations

from typing import Protocol

from actors.ids import Principal
from transport.exchange import Exchange, Headers


class Face(Protocol):
    """Answers the requests of one transport's paths."""

    async def handle(
        self,
        exchange: Exchange,
        principal: Principal,
        extra_headers: Headers = (),
        deadline: float = float("inf"),
    ) -> None:
        """Answer one request.

        Args:
          exchange: the request; answered when this returns.
          principal: on whose behalf. Sessions of others do not exist for it.
          extra_headers: added to every answer (CORS).
          deadline: when the credential expires, by trio's clock. Streams end then, and the client comes back with a
            fresh one; the session goes on.

        Raises:
          ClientGone, BodyTooLarge, BodyTooSlow: as the exchange.
        """
        ...

    def end_standalone_streams(self) -> None:
        """Have clients that only listen reconnect elsewhere, or later: the gateway is about to stop."""
        ...
