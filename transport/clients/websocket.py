"""WebSocket for clients: one connection is one conversation in one session.

The first `initialize` of a connection opens a session; a connection that names one goes on with it, and takes over from
an older connection that it may still have. Every answer is logged on the session's own stream before it is sent
(`SendRequest.on_standalone`), so a client that comes back finds all that it has missed, across restarts. The stream
is pulled by cursor: nothing is queued for a client, and one that does not read holds up nobody but itself.

What a connection ends with is told by its close code, since a page sees no status:

    1012  the gateway stops: come back in a moment         1013  not now (the store or the upstream is away)
    1000  the session was not opened                       1003  a binary message: MCP is text
    1009  a message over the limit (said by the server)    4400  the event id is none of this session's
    4401  the credential has expired: come back with a fresh one
    4404  there is no such session, or it has ended        4408  no `initialize` came
    4409  a newer connection has taken over                4410  events behind this event id are no longer kept
"""

from __future__ import annotations

from math import ceil, inf

from actors import jsonrpc
from actors.ids import Principal
from actors.runtime import Runtime
from transport.clients import socket_frames as frames
from transport.clients.socket_conversation import RESTARTING, Conversation, Conversations, WebSocketOptions
from transport.handler import JSON_HEADERS, error_body
from transport.socket_exchange import SocketExchange
from transport.upstreams.breaker import Breaker


class WebSocketFace:
    """Serves the WebSocket endpoint of one server."""

    def __init__(
        self,
        runtime: Runtime,
        server_id: str,
        *,
        upstream_transport: str,
        options: WebSocketOptions = WebSocketOptions(),
        breaker: Breaker | None = None,
    ) -> None:
        """
        Args:
          breaker: of that server; while it is open, no session is opened, and those that are there can be gone on with.
            None: it never is.
        """
        self._breaker = breaker or Breaker()
        self._conversations = Conversations(runtime, server_id, upstream_transport, options, self._breaker)

    async def serve(self, socket: SocketExchange, principal: Principal, deadline: float = inf) -> None:
        """Serve one connection to its end.

        Args:
          socket: has passed the guard; refused or closed when this returns.
          principal: on whose behalf. Sessions of others do not exist for it.
          deadline: when the credential expires, by trio's clock. The connection is closed then, and the client comes
            back with a fresh one; the session goes on.

        Raises:
          SocketGone: the client went away before it was accepted.
        """
        if self._conversations.draining:
            await _not_now(socket, RESTARTING, 1)
            return
        subprotocol = frames.choose_subprotocol(socket.subprotocols)
        if subprotocol is None:
            reason = f"offer the subprotocol {frames.PLAIN} (Sec-WebSocket-Protocol), or {frames.WITH_IDS}"
            await socket.refuse(400, JSON_HEADERS, error_body(reason))
            return
        try:
            resume = frames.read_resume(socket.head)
        except frames.InvalidResume as invalid:
            await socket.refuse(400, JSON_HEADERS, error_body(str(invalid)))
            return
        if resume is None and not self._breaker.is_closed:
            seconds = self._breaker.admit()
            if seconds:
                await _not_now(socket, self._breaker.describe(), ceil(seconds))
                return
        with_ids = subprotocol == frames.WITH_IDS
        conversation = Conversation(self._conversations, socket, principal, deadline, with_ids=with_ids)
        await conversation.run(subprotocol, resume)

    def drain(self) -> None:
        """Let no new conversation begin, and have all others end as soon as nobody waits for an answer there."""
        self._conversations.drain()


async def _not_now(socket: SocketExchange, reason: str, retry_after_seconds: int) -> None:
    """Refuse the upgrade for a cause that passes: a page sees no status, but programs and proxies do."""
    headers = (*JSON_HEADERS, (b"retry-after", b"%d" % retry_after_seconds))
    await socket.refuse(503, headers, error_body(reason, jsonrpc.UPSTREAM_UNAVAILABLE))
