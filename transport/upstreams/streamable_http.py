"""Opens links to an MCP server over Streamable HTTP: for the first time, resumed, or re-initialized.

The first opening opens nothing: the client's own `initialize` is the first thing that goes out. Later, a ping with the
kept session id shows whether the upstream still knows the session. If so, streams of calls in flight are
resumed; if not, the kept handshake is repeated, once.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from actors import jsonrpc
from actors.jsonrpc import InvalidMessage
from actors.link import ConnectFailed, Established, Failure, Inbox
from actors.state import Call, Handshake, SessionState
from transport.upstreams.breaker import Breaker
from transport.upstreams.carrier import Carrier
from transport.upstreams.credentials import REFUSALS, Credentials
from transport.upstreams.handshake import InvalidTerms, Rehearsal, own_id, read_terms, reinitialize
from transport.upstreams.http_answers import describe, note_life, session_is_lost
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_link import StreamableHttpLink
from transport.upstreams.http_pool import RequestFailed
from transport.upstreams.http_requests import SessionRequests, name_headers
from transport.upstreams.http_streams import EventStream
from transport.upstreams.http_target import HttpTarget, check_headers, every_header


def _checked(_: object, __: object, headers: Mapping[str, str]) -> None:
    check_headers(headers)


@attrs.frozen
class StreamableHttpConnector:
    """Implements `actors.link.Connect` for one upstream.

    Args:
      pool: carries the requests; it must be running. One pool may serve any number of upstreams.
      target: where the upstream is.
      headers: sent with every request, e.g. the gateway's own credentials; never shown.
      breaker: is told how the upstream fares, and keeps what is sent from one that is away.
      credentials: whose the headers are: what becomes of sessions when they are refused.
    """

    pool: Carrier
    target: HttpTarget
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False, validator=_checked)
    limits: HttpLimits = HttpLimits()
    breaker: Breaker = attrs.field(factory=Breaker)
    credentials: Credentials = Credentials.OPERATORS
    _requests: SessionRequests = attrs.field(init=False, repr=False)  # made once, for all links
    _shown: HttpTarget = attrs.field(init=False, repr=False)  # the target, which knows what it is shown

    @_shown.default
    def _show_headers(self) -> HttpTarget:
        return self.target.shown(self.headers, self.pool.tokens_shown)

    @_requests.default
    def _write_requests(self) -> SessionRequests:
        return SessionRequests(self.target, every_header(self.headers))

    def __attrs_post_init__(self) -> None:
        self.pool.observe(self.target.origin, self.breaker.failed)

    async def __call__(self, session: SessionState, inbox: Inbox) -> StreamableHttpLink:
        """Open a link. See `actors.link.Connect`.

        Raises:
          ConnectFailed, ConnectRejected

        Cancellation: what a re-initialization had opened upstream is ended again.
        """
        handshake = session.handshake
        pool = self.pool.on_behalf_of(session.principal)
        if handshake is None:
            return self._link(inbox, pool)
        link = self._link(inbox, pool, handshake=handshake, standalone_cursor=session.standalone_cursor)
        if session.begin_anew or (handshake.upstream_session_id and not await self._still_known(link, pool)):
            return await self.reopen(session, handshake, inbox)
        link.established = Established(upstream_session_id=handshake.upstream_session_id, resumed=True)
        if session.listening:
            link.hold_until_listening()
        self._resume_calls(session, link, inbox)
        return link

    def _link(
        self, inbox: Inbox, pool: Carrier, *, handshake: Handshake | None = None, standalone_cursor: str = ""
    ) -> StreamableHttpLink:
        return StreamableHttpLink(
            pool,
            self._shown_over(pool),
            self._requests,
            inbox,
            self.limits,
            self.breaker,
            upstream_session_id=handshake.upstream_session_id if handshake is not None else "",
            protocol_version=_version_of(handshake) if handshake is not None else "",
            standalone_cursor=standalone_cursor,
        )

    def _shown_over(self, pool: Carrier) -> HttpTarget:
        """Give the target, which knows what it is shown by what carries the requests."""
        return self._shown if pool is self.pool else self.target.shown(self.headers, pool.tokens_shown)

    async def _still_known(self, link: StreamableHttpLink, pool: Carrier) -> bool:
        """Ask whether the upstream knows the session, by a ping: every server answers it, and it changes nothing."""
        request = link.request_with_session(jsonrpc.request(own_id("ping"), "ping"))
        try:
            head, body = await pool.fetch(self.target.origin, request, seconds=self.limits.probe_seconds_max)
        except RequestFailed as error:
            if error.failure is not Failure.NOT_SENT:  # of which the pool tells; to be silent is to be away, too
                self.breaker.failed(error.detail)
            raise ConnectFailed(error.detail) from None
        concealment = self._shown_over(pool).concealment
        note_life(self.breaker, head, body, concealment)
        if 200 <= head.status < 300:
            return True
        if head.status in REFUSALS:
            raise self.credentials.refused(describe(head, body, concealment))
        if session_is_lost(head.status, body):
            return False
        if head.status >= 500 or head.status in (408, 425, 429):
            raise ConnectFailed(describe(head, body, concealment))
        return _is_message(
            body
        )  # an error in answer to the ping is an answer; with anything else, the handshake decides

    async def reopen(self, session: SessionState, handshake: Handshake, inbox: Inbox) -> StreamableHttpLink:
        """Repeat the kept handshake, whatever the upstream may know. Raises and cancellation: as `__call__`."""
        rehearsal = Rehearsal(inbox)
        link = self._link(rehearsal, self.pool.on_behalf_of(session.principal))
        try:
            established = await reinitialize(
                session, handshake, link, rehearsal, answer_seconds_max=self.limits.reopen_seconds_max
            )
        except BaseException as error:  # cancelled, too: the half-opened session must not stay upstream
            link.close(end_session=True)
            if isinstance(error, ConnectFailed) and link.unauthorized:
                raise self.credentials.refused(link.unauthorized) from None
            raise
        link.hand_over(inbox, established)
        if session.listening:
            link.hold_until_listening()
        rehearsal.hand_over_soon()
        return link

    async def end_session(self, session: SessionState) -> bool:
        """Tell the upstream that a session is over of which no link is open. See `actors.upstream_ending`.

        Follows MCP 2025-11-25, transports, "Session Management": DELETE with the session's id; 405 where the server
        does not let clients end sessions.

        Raises:
          ConnectFailed, ConnectRejected
        """
        handshake = session.handshake
        if handshake is None or not handshake.upstream_session_id:
            return False
        request = self._requests.delete(name_headers(handshake.upstream_session_id, _version_of(handshake)))
        pool = self.pool.on_behalf_of(session.principal)
        concealment = self._shown_over(pool).concealment
        try:
            head, body = await pool.fetch(self.target.origin, request, seconds=self.limits.probe_seconds_max)
        except RequestFailed as error:
            raise ConnectFailed(error.detail) from None
        note_life(self.breaker, head, body, concealment)
        if 200 <= head.status < 300 or session_is_lost(head.status, body):
            return True
        if head.status in REFUSALS:
            raise self.credentials.refused(describe(head, body, concealment))
        raise ConnectFailed(describe(head, body, concealment))

    def _resume_calls(self, session: SessionState, link: StreamableHttpLink, inbox: Inbox) -> None:
        lost = []
        for call in session.calls.values():
            if call.sent and call.upstream_cursor:
                stream = EventStream(call.request_id, ticket=call.ticket, cursor=call.upstream_cursor)
                inbox.start_soon(link.resume_call, stream)
            elif call.sent:
                lost.append(call)
        if lost:
            inbox.start_soon(_refuse, inbox, lost)


async def _refuse(inbox: Inbox, calls: list[Call]) -> None:
    """A task, so that it runs after the session has its link."""
    for call in calls:
        inbox.refused(call.ticket, Failure.OUTCOME_UNKNOWN, "the connection was lost before the answer came")


def _version_of(handshake: Handshake) -> str:
    try:
        return read_terms(handshake.result).protocol_version
    except InvalidTerms:
        return ""


def _is_message(body: bytes) -> bool:
    try:
        jsonrpc.parse(body)
    except InvalidMessage:
        return False
    return True
