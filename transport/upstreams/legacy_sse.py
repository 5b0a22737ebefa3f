"""A session's link to an MCP server over HTTP+SSE, the transport of revision 2024-11-05; and how it is opened.

A GET gives an event stream; its first event, `endpoint`, says where to post messages; every answer comes on the stream.
Such a server's session lives as long as its stream. So a stream that is lost is a session that is lost: what was in
flight has an unknown outcome, and a new stream is re-initialized with the kept handshake. The endpoint is the only
name that the upstream has for the session; it is kept as that, to tell which transport the session spoke.

The endpoint must be of the stream's own origin: else an upstream could have our credentials sent anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urljoin

import attrs
import structlog
import trio

from actors.ids import Principal
from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId, parse
from actors.link import ConnectFailed, ConnectRejected, Established, Failure, Inbox, LinkLost
from actors.state import SessionState
from transport.sse import Event, EventTooLarge, Parser
from transport.upstreams.carrier import Carrier
from transport.upstreams.credentials import REFUSALS, Credentials
from transport.upstreams.handshake import INITIALIZE, Rehearsal, cancelled, reinitialize, split_batch
from transport.upstreams.http_answers import describe, error_answer, failure_of, session_is_lost
from transport.upstreams.http_connection import Job, Lane
from transport.upstreams.http_jobs import QuietJob
from transport.upstreams.http_limits import HttpLimits, LinkStatistics
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_target import HttpTarget, check_headers, every_header, write_head
from transport.upstreams.in_flight import InFlight
from transport.upstreams.unreadable import describe_unreadable, log_unreadable

# In front of the endpoint, where sessions keep the upstream's name for them. A session id of Streamable HTTP has no
# spaces in it, so neither is taken for the other.
_NAME_PREFIX = "sse "
_ENDPOINT_BYTES_MAX = 4096  # it is part of every request's head, and kept with the session
_ENDING_SECONDS = 5.0  # an accepted message may take so long to be answered once nobody waits for it

_log = structlog.get_logger(__name__)


class NoEndpoint(ConnectFailed):
    """The upstream answers, and offers no HTTP+SSE here."""


def is_sse_name(upstream_session_id: str) -> bool:
    """Tell whether a session spoke this transport, by the upstream's name for it."""
    return upstream_session_id.startswith(_NAME_PREFIX)


def _checked(_: object, __: object, headers: Mapping[str, str]) -> None:
    check_headers(headers)


@attrs.frozen
class LegacySseConnector:
    """Implements `actors.link.Connect` for one upstream.

    Args:
      pool: carries the requests; it must be running.
      url: of the stream.
      headers: sent with every request, e.g. the gateway's own credentials; never shown.
      credentials: whose the headers are: what becomes of sessions when they are refused.
    """

    pool: Carrier
    url: str
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False, validator=_checked)
    limits: HttpLimits = HttpLimits()
    credentials: Credentials = Credentials.OPERATORS
    _target: HttpTarget = attrs.field(init=False, repr=False)  # made once, for all links

    @_target.default
    def _read_url(self) -> HttpTarget:
        return HttpTarget.parse(self.url).shown(self.headers, self.pool.tokens_shown)

    def link(self, inbox: Inbox, principal: Principal) -> LegacySseLink:
        """Make a link that has yet to be opened, and is closed by whoever opens it."""
        headers, pool = every_header(self.headers), self.pool.on_behalf_of(principal)
        target = self._target if pool is self.pool else self._target.shown(self.headers, pool.tokens_shown)
        return LegacySseLink(pool, self.url, target, headers, inbox, self.limits, self.credentials)

    async def __call__(self, session: SessionState, inbox: Inbox) -> LegacySseLink:
        """Open a stream, and re-initialize it if the session has a handshake. See `actors.link.Connect`.

        Raises:
          ConnectFailed, ConnectRejected
          NoEndpoint: also a ConnectFailed.

        Cancellation: the stream is closed, which ends what it had opened upstream.
        """
        handshake = session.handshake
        rehearsal = Rehearsal(inbox)
        link = self.link(inbox if handshake is None else rehearsal, session.principal)
        try:
            await link.open()
            if handshake is None:
                return link
            established = await reinitialize(
                session, handshake, link, rehearsal, answer_seconds_max=self.limits.reopen_seconds_max
            )
        except BaseException as error:  # cancelled, too
            link.close(end_session=True)
            if isinstance(error, ConnectFailed) and link.unauthorized:
                raise self.credentials.refused(link.unauthorized) from None
            raise
        link.hand_over(inbox, established)
        rehearsal.hand_over_soon()
        return link


class LegacySseLink:
    """Implements `actors.link.Link`. Has a connection for as long as it lives, and no task."""

    def __init__(
        self,
        pool: Carrier,
        url: str,
        target: HttpTarget,
        headers: Sequence[tuple[str, str]],
        inbox: Inbox,
        limits: HttpLimits,
        credentials: Credentials,
    ) -> None:
        """Args:
        url, target: of the stream.
        headers: what every request carries besides the protocol's own headers.
        credentials: whose those are.
        """
        self.established = Established()
        self.resumable = False
        self.unauthorized = ""  # what the upstream said when it refused our credentials
        self._pool = pool
        self._url = url
        self._target = target
        self._headers = headers
        self._inbox = inbox
        self._limits = limits
        self._credentials = credentials
        self._parser = Parser()
        self._stream: _Stream | None = None
        self._settled = trio.Event()  # the endpoint is known, or will not be
        self._problem: ConnectFailed | ConnectRejected | None = None
        self._post_head = b""
        self._posts: set[_Post] = set()
        self._in_flight = InFlight()
        self._gone = ""  # why nothing can be sent any more
        self._malformed = 0
        self._stray = 0

    def __repr__(self) -> str:
        return f"<LegacySseLink to {self._target.origin}, {len(self._in_flight)} in flight>"

    def statistics(self) -> LinkStatistics:
        """Count what was not passed on."""
        return LinkStatistics(self._malformed, self._stray)

    # ---- for whoever opens the link ----

    async def open(self) -> None:
        """Ask for the stream, and wait for its endpoint.

        Raises:
          ConnectFailed, NoEndpoint, ConnectRejected

        Cancellation: close the link then, as after an error.
        """
        own = (("Accept", "text/event-stream"), ("Accept-Encoding", "identity"), ("Cache-Control", "no-store"))
        request = write_head("GET", self._target, (*self._headers, *own)) + b"\r\n"
        self._stream = _Stream(self, request, silence_seconds_max=self._limits.sse_silence_seconds_max)
        self._pool.submit(self._target.origin, self._stream)
        with trio.move_on_after(self._limits.probe_seconds_max):
            await self._settled.wait()
        if self._problem is not None:
            raise self._problem
        if not self._post_head:
            raise ConnectFailed(f"the upstream named no endpoint within {self._limits.probe_seconds_max:g} s")

    def hand_over(self, inbox: Inbox, established: Established) -> None:
        """Belong to the session from now on; answers to questions of the opening are not expected any more."""
        for post in self._posts:
            post.let_finish(_ENDING_SECONDS)
        self._posts.clear()
        self._in_flight.clear()
        self._inbox = inbox
        self.established = established

    # ---- Link ----

    def send(self, message: Message, ticket: int) -> None:
        if self._gone:
            raise LinkLost(self._gone)
        is_request = message.kind is Kind.REQUEST
        if is_request:
            self._in_flight.add(message, ticket)
        # Most servers accept at once; some answer the POST of a call when they have carried it out.
        silence = self._limits.call_silence_seconds_max if is_request else self._limits.post_seconds_max
        lane = Lane.CALL if is_request else Lane.URGENT
        post = _Post(self, self._written(message), message, ticket, lane=lane, silence_seconds_max=silence)
        self._posts.add(post)
        self._pool.submit(self._target.origin, post)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        if not self._gone:
            request = self._written(cancelled(request_id, reason))
            job = QuietJob(request, "cancel a request", silence_seconds_max=self._limits.post_seconds_max)
            self._pool.submit(self._target.origin, job)

    def listen(self) -> None:
        """Nothing to ask for: the upstream speaks whenever it wants to."""

    def close(self, *, end_session: bool) -> None:
        self._gone = self._gone or "the link is closed"
        if self._stream is not None:
            self._stream.abandon()  # which ends the session upstream
        for post in self._posts:
            post.let_finish(_ENDING_SECONDS)
        self._posts.clear()

    def _written(self, message: Message) -> bytes:
        return b"%b%d\r\n\r\n%b" % (self._post_head, len(message.raw), message.raw)

    # ---- the stream ----

    def stream_opened(self, head: ResponseHead) -> None:
        if head.is_encoded:
            self.stream_lost("the stream is compressed, which nobody asked for")

    def stream_declined(self, head: ResponseHead, body: bytes) -> None:
        """Something else than a stream came."""
        detail = describe(head, body, self._target.concealment)
        if head.status in REFUSALS:
            self._settle(self._credentials.refused(detail))
        elif head.status in (408, 425, 429) or head.status >= 500:
            self._settle(ConnectFailed(detail))
        else:
            self._settle(NoEndpoint(f"no event stream: {detail}"))

    def stream_data(self, data: bytes) -> None:
        try:
            for event in self._parser.feed(data):
                if self._gone:
                    return
                self._take_event(event)
        except EventTooLarge as error:
            self.stream_lost(str(error))

    def stream_lost(self, detail: str) -> None:
        """The stream is gone, and the upstream's session with it."""
        if self._gone:
            return
        self._gone = detail
        if self._stream is not None:
            self._stream.abandon()
        if not self._post_head:  # it never was open: that is for `open` to say
            self._settle(ConnectFailed(f"the upstream's stream ended: {detail}"))
            return
        for post in tuple(self._posts):
            if post.connection is None:  # it never left
                post.abandon()
                self._inbox.refused(post.ticket, Failure.NOT_SENT, detail)
            else:
                post.let_finish(_ENDING_SECONDS)
        self._posts.clear()
        self._inbox.lost(f"the upstream's stream, and its session with it, was lost: {detail}")

    def _settle(self, problem: ConnectFailed | ConnectRejected | None) -> None:
        if not self._settled.is_set():
            self._problem = problem
            self._settled.set()

    def _take_event(self, event: Event) -> None:
        if event.name == "endpoint":
            self._take_endpoint(event.data or b"")
        elif not self._post_head and event.data:
            self._settle(NoEndpoint(f"its stream begins with {event.name[:40]!r}, not with an endpoint"))
        elif event.name == "message" and event.data:
            for raw in split_batch(event.data):
                self._take_raw(raw)

    def _take_endpoint(self, data: bytes) -> None:
        if self._post_head:
            return  # said once; where the messages of a session go does not change
        try:
            if len(data) > _ENDPOINT_BYTES_MAX:
                raise ValueError("it is too long")
            target = HttpTarget.parse(urljoin(self._url, data.decode("ascii").strip()))
        except ValueError as error:
            self._settle(ConnectFailed(f"the upstream's endpoint cannot be used: {error}"))
            return
        if target.origin != self._target.origin:
            self._settle(ConnectFailed(f"the upstream's endpoint is of another origin, {target.origin}"))
            return
        own = (("Content-Type", "application/json"), ("Accept", "*/*"), ("Accept-Encoding", "identity"))
        self._post_head = write_head("POST", target, (*self._headers, *own)) + b"Content-Length: "
        self.established = Established(upstream_session_id=_NAME_PREFIX + target.path)
        self._settle(None)

    def _take_raw(self, raw: bytes) -> None:
        try:
            message = parse(raw)
        except InvalidMessage as invalid:
            self._malformed += 1
            log_unreadable(_log, raw, invalid, self._malformed, upstream=str(self._target.origin))
            ticket = self._in_flight.misanswered(raw)
            if ticket is not None:
                self._inbox.refused(ticket, Failure.UNREADABLE, describe_unreadable(invalid.reason))
            return
        if message.kind is not Kind.RESPONSE:
            self._inbox.received(message, about=self._in_flight.about(message))
        elif message.id is None or message.id not in self._in_flight:
            self._stray += 1
        else:
            self._in_flight.forget(message.id)
            self._inbox.received(message, about=message.id)

    # ---- what became of posts ----

    def post_answered(self, post: _Post, head: ResponseHead, body: bytes) -> None:
        self._posts.discard(post)
        if 200 <= head.status < 300:
            if post.message.kind is not Kind.REQUEST:
                self._inbox.delivered(post.ticket)
            return
        if head.status in REFUSALS:
            self.unauthorized = describe(head, body, self._target.concealment)
        opens = post.message.method == INITIALIZE
        failure = Failure.SESSION_LOST if not opens and session_is_lost(head.status, body) else failure_of(head.status)
        request_id = post.message.id
        if failure is Failure.REFUSED and post.message.kind is Kind.REQUEST and head.status not in REFUSALS:
            assert request_id is not None
            answer = error_answer(request_id, body)
            if answer is not None and request_id in self._in_flight:
                self._in_flight.forget(request_id)
                self._inbox.received(answer, about=request_id)
                return
        self._refuse(post, failure, describe(head, body, self._target.concealment))

    def post_failed(self, post: _Post, failure: Failure, detail: str) -> None:
        self._posts.discard(post)
        self._refuse(post, failure, detail)

    def _refuse(self, post: _Post, failure: Failure, detail: str) -> None:
        """Say that a message got no answer; one whose answer has come by the stream meanwhile has all it needs."""
        if post.message.kind is Kind.REQUEST:
            assert post.message.id is not None
            if post.message.id not in self._in_flight:
                return
            self._in_flight.forget(post.message.id)
        self._inbox.refused(post.ticket, failure, detail)


class _Stream(Job):
    """The GET of the event stream."""

    __slots__ = ("_link",)

    def __init__(self, link: LegacySseLink, request: bytes, *, silence_seconds_max: float) -> None:
        super().__init__(request, silence_seconds_max=silence_seconds_max, lane=Lane.STANDING)
        self._link = link

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self._link.stream_declined(head, body)

    def failed(self, failure: Failure, detail: str) -> None:
        self._link.stream_lost(detail)

    def stream_opened(self, head: ResponseHead) -> None:
        self._link.stream_opened(head)

    def stream_data(self, data: bytes) -> None:
        self._link.stream_data(data)

    def stream_closed(self, detail: str) -> None:
        self._link.stream_lost(detail)


class _Post(Job):
    """The POST of one message."""

    __slots__ = ("_link", "message", "ticket")

    def __init__(
        self,
        link: LegacySseLink,
        request: bytes,
        message: Message,
        ticket: int,
        *,
        lane: Lane,
        silence_seconds_max: float,
    ) -> None:
        super().__init__(request, silence_seconds_max=silence_seconds_max, lane=lane)
        self._link = link
        self.message = message
        self.ticket = ticket

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self._link.post_answered(self, head, body)

    def stream_opened(self, head: ResponseHead) -> None:
        """Taken as accepted: the answer belongs on the session's stream."""
        self._link.post_answered(self, head, b"")
        self.abandon()

    def failed(self, failure: Failure, detail: str) -> None:
        self._link.post_failed(self, failure, detail)
