"""One path, two eras: requests of sessions go to one face, those that stand for themselves to another.

Each request's header tells, so a client may use both, one after the other or at once: it can try the newer revision
first and open a session where that is not spoken.
"""

from __future__ import annotations

from actors.ids import Principal
from transport import mcp
from transport.exchange import Exchange, Headers
from transport.face import Face
from transport.revisions import is_modern


class BothEras:
    """Implements `transport.face.Face` by passing on to one of two."""

    __slots__ = ("_modern", "_sessions")

    def __init__(self, sessions: Face, modern: Face) -> None:
        self._sessions = sessions
        self._modern = modern

    async def handle(
        self,
        exchange: Exchange,
        principal: Principal,
        extra_headers: Headers = (),
        deadline: float = float("inf"),
    ) -> None:
        """Answer one request, as `Face` says."""
        head = exchange.head
        face = self._sessions
        if is_modern(head.method, head.headers) and not (
            head.method == "POST" and mcp.opens_session(await exchange.body())
        ):
            face = self._modern
        await face.handle(exchange, principal, extra_headers, deadline)

    def end_standalone_streams(self) -> None:
        """Have clients that only listen reconnect elsewhere, or later."""
        self._sessions.end_standalone_streams()
        self._modern.end_standalone_streams()
