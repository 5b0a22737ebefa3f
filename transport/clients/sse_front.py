"""SseFront: what the stream and the messages of HTTP+SSE have in common: where sessions are, and how to say no.

Besides, the openings: sessions that their clients have yet to open. The `endpoint` event names a session before there
is one; it comes to exist with the answer to `initialize`. Until then it is an entry here that lives as long as its
stream, or its handshake; connections are bounded, and so are these.
"""

from __future__ import annotations

from collections import deque
from urllib.parse import parse_qs

import attrs
import trio

from actors import jsonrpc
from actors import messages as say
from actors.handle import Reading, SessionHandle
from actors.ids import Principal, SessionId
from actors.jsonrpc import Message
from actors.runtime import Runtime
from transport import mcp
from transport.clients.streamable_http import RETRY_AFTER_SECONDS, STATUSES
from transport.exchange import Exchange, Headers
from transport.handler import JSON_HEADERS
from transport.upstreams.breaker import Breaker

RESTARTING = say.NotDone(say.Problem.UNAVAILABLE, "the gateway is restarting; try again in a moment")


@attrs.frozen
class LegacySseOptions:
    keepalive_comment_seconds: float = 15.0
    reconnect_milliseconds: int = 2000  # what clients are told to wait before they ask for the stream again
    # A session whose stream was away for so long ends. Clients that do not know that they could come back, nearly all
    # of this revision, never do: their sessions are not worth a day.
    away_seconds_max: float = 300.0
    # The client's stream goes on when the server's own can be heard, or after this: what comes of what the client sends
    # then is not lost. Its calls wait for their answers on this stream, so it is not long.
    heard_seconds_max: float = 1.0
    opening_seconds_max: float = 60.0  # a stream on which no handshake begins is ended
    public_path_prefix: str = ""  # what a proxy in front of us takes off the paths, e.g. "/tools"


@attrs.define(eq=False)
class Opening:
    """A stream whose client has yet to open its session."""

    session_id: SessionId
    principal: Principal
    metadata: dict[str, str]
    streams: int = 0  # how many are attached
    asking: bool = False  # a handshake is under way
    opened: bool = False
    refusals: deque[Message] = attrs.field(factory=deque)  # answers to handshakes that failed, for the stream
    news: trio.Event = attrs.field(factory=trio.Event)

    def tell(self) -> None:
        """Have the streams look again."""
        self.news.set()
        self.news = trio.Event()


@attrs.frozen(eq=False)
class SseFront:
    """One server, as the clients of this transport see it."""

    runtime: Runtime
    server_id: str
    upstream_transport: str
    options: LegacySseOptions
    breaker: Breaker  # of that server
    openings: dict[str, Opening] = attrs.field(factory=dict, init=False)
    readings: set[Reading] = attrs.field(factory=set, init=False)  # what is sent now
    waiting: set[trio.CancelScope] = attrs.field(factory=set, init=False)  # streams without a session yet

    def opening(self, session_id: str, principal: Principal) -> Opening | None:
        """Give the opening of this name, if there is one and it is this principal's."""
        opening = self.openings.get(session_id)
        return None if opening is None or opening.principal != principal else opening

    def session(self, session_id: str, principal: Principal) -> SessionHandle:
        """Give a session by its id; whether it exists, here and for this principal, shows at the first use."""
        return self.runtime.session(session_id, principal=principal, server_id=self.server_id)

    def forget(self, opening: Opening) -> None:
        """Let go of an opening that neither a stream nor a handshake needs."""
        if not opening.streams and not opening.asking:
            self.openings.pop(opening.session_id, None)


@attrs.frozen(eq=False)
class SseAnswering:
    """One exchange, being answered."""

    front: SseFront
    exchange: Exchange
    principal: Principal
    extra: Headers  # on every answer (CORS)
    deadline: float  # when the credential expires, by trio's clock: streams end then

    async def reject_request(self, reason: str, message: Message | None = None) -> None:
        request_id = None if message is None else message.id
        await self.reject(mcp.Rejection(400, jsonrpc.INVALID_REQUEST, reason, request_id))

    async def reject(self, rejection: mcp.Rejection) -> None:
        """Refuse the request, with a JSON-RPC error as the body."""
        await self.exchange.respond(rejection.status, (*JSON_HEADERS, *rejection.headers, *self.extra), rejection.body)

    async def not_done(
        self, outcome: say.Outcome, message: Message | None, *, retry_after_seconds: int = RETRY_AFTER_SECONDS
    ) -> None:
        """Say that something was not done, or that nobody knows."""
        if isinstance(outcome, say.Answered):  # it was interrupted; the stream may have the same, if it was kept
            await self.exchange.respond(502, (*JSON_HEADERS, *self.extra), outcome.message.raw)
            return
        assert isinstance(outcome, say.NotDone)
        status, code = STATUSES[outcome.problem], mcp.PROBLEM_CODES[outcome.problem]
        headers = ((b"retry-after", b"%d" % retry_after_seconds),) if status == 503 else ()
        await self.reject(mcp.Rejection(status, code, outcome.detail, None if message is None else message.id, headers))


def session_of_query(query: str) -> str:
    """Read the session id of a URL; "" if there is none."""
    return parse_qs(query).get("session_id", [""])[-1] if query else ""
