"""An upstream at an http(s) URL, whichever of the two HTTP transports it speaks.

Follows MCP 2025-11-25, transports, "Backwards Compatibility": `initialize` is posted first; where that is answered with
400, 404 or 405, and a GET offers an `endpoint`, the upstream speaks HTTP+SSE. That is remembered for the upstream as
long as it stays so, and with each session (`legacy_sse.py: is_sse_name`), whose handshake is then repeated over the
transport that it was made over, after a restart of ours as well.
"""

from __future__ import annotations

import structlog
import trio

from actors.ids import Principal
from actors.jsonrpc import Message, RequestId
from actors.link import ConnectFailed, ConnectRejected, Established, Inbox, Link
from actors.state import SessionState
from transport.upstreams.http_jobs import CallJob
from transport.upstreams.http_link import StreamableHttpLink
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.legacy_sse import LegacySseConnector, NoEndpoint, is_sse_name
from transport.upstreams.streamable_http import StreamableHttpConnector

_MAY_SPEAK_SSE = frozenset((400, 404, 405))

_log = structlog.get_logger(__name__)


class HttpConnector:
    """Implements `actors.link.Connect` for one upstream."""

    def __init__(self, streamable: StreamableHttpConnector, sse: LegacySseConnector) -> None:
        """Args:
        streamable, sse: for the same URL.
        """
        self._streamable = streamable
        self.sse = sse
        self._speaks_sse = False  # as far as is known

    def __repr__(self) -> str:
        return f"<HttpConnector, {'HTTP+SSE' if self._speaks_sse else 'Streamable HTTP'}>"

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        """Open a link. See `actors.link.Connect`.

        Raises:
          ConnectFailed, ConnectRejected

        Cancellation: as of the transports' own connectors.
        """
        handshake = session.handshake
        spoke_sse = handshake is not None and is_sse_name(handshake.upstream_session_id)
        if self._speaks_sse or spoke_sse:
            try:
                link = await self.sse(session, inbox)
            except NoEndpoint as error:
                self._speaks_sse = False
                _log.info("upstream_speaks_http_sse_no_more", upstream=self._origin, why=str(error))
            else:
                self._streamable.breaker.succeeded()
                return link
        if handshake is None:
            return _Undecided(self, await self._streamable(session, inbox), inbox, session.principal)
        if spoke_sse:
            return await self._streamable.reopen(session, handshake, inbox)
        return await self._streamable(session, inbox)

    async def end_session(self, session: SessionState) -> bool:
        """End a session over Streamable HTTP; one of HTTP+SSE has ended with its stream.

        Raises:
          ConnectFailed, ConnectRejected
        """
        handshake = session.handshake
        if handshake is None or is_sse_name(handshake.upstream_session_id):
            return False
        return await self._streamable.end_session(session)

    def note_sse(self) -> None:
        """Remember that the upstream speaks HTTP+SSE."""
        if not self._speaks_sse:
            self._speaks_sse = True
            _log.info("upstream_speaks_http_sse", upstream=self._origin)

    @property
    def _origin(self) -> str:
        return str(self._streamable.target.origin)


class _Undecided:
    """Implements `actors.link.Link` for a session that is being opened: one transport, then perhaps the other."""

    __slots__ = ("_connector", "_inbox", "_link", "_principal", "_streamable")

    def __init__(
        self, connector: HttpConnector, streamable: StreamableHttpLink, inbox: Inbox, principal: Principal
    ) -> None:
        self._connector = connector
        self._principal = principal
        self._streamable = streamable
        self._inbox = inbox
        self._link: Link = streamable
        streamable.opening_declined = self._declined

    def __repr__(self) -> str:
        return repr(self._link)

    @property
    def established(self) -> Established:
        return self._link.established

    @property
    def resumable(self) -> bool:
        return self._link.resumable

    def send(self, message: Message, ticket: int) -> None:
        self._link.send(message, ticket)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        self._link.cancel(request_id, reason)

    def listen(self) -> trio.Event | None:
        return self._link.listen()

    def close(self, *, end_session: bool) -> None:
        self._link.close(end_session=end_session)

    def _declined(self, call: CallJob, head: ResponseHead, body: bytes) -> bool:
        if head.status not in _MAY_SPEAK_SSE:
            return False
        self._inbox.start_soon(self._try_sse, call, head, body)
        return True

    async def _try_sse(self, call: CallJob, head: ResponseHead, body: bytes) -> None:
        """Send the handshake over HTTP+SSE, if the upstream offers that; else its first answer counts.

        Cancellation: the link is being closed; nobody waits for an answer.
        """
        link = self._connector.sse.link(self._inbox, self._principal)
        try:
            await link.open()
        except (ConnectFailed, ConnectRejected):
            link.close(end_session=True)
            self._streamable.decline(call, head, body)
            return
        except BaseException:
            link.close(end_session=True)
            raise
        assert call.opening is not None
        self._connector.note_sse()
        self._link = link
        link.send(call.opening, call.ticket)
