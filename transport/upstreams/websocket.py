"""A session's link to an MCP server over WebSocket, subprotocol `mcp`; and how it is opened.

Each text message is one JSON-RPC message, either way; a connection is a session, and the upstream has no other name for
it. So a connection that is lost is a session that is lost: what was in flight has an unknown outcome, and a new
connection is re-initialized with the kept handshake. (An upstream that is a gateway of our own could be resumed by what
docs/protocol.md offers to clients; Streamable HTTP is the way to speak to one.)

trio-websocket speaks the protocol. It has no pings of its own, no write deadline and a minute for each handshake:
the deadlines are here. What an upstream does not read waits in a bounded outbox.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import TypeAlias

import attrs
import structlog
import trio
import trio_websocket

from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId, parse
from actors.link import ConnectFailed, ConnectRejected, Established, Failure, Inbox, LinkLost
from actors.state import SessionState
from transport.upstreams.access_tokens import Authorization, TokenRefused, TokenSource, TokenUnavailable
from transport.upstreams.credentials import REFUSALS, Credentials
from transport.upstreams.forward_proxy import ForwardProxy
from transport.upstreams.handshake import Rehearsal, cancelled, reinitialize, split_batch
from transport.upstreams.http_connection import UNAUTHORIZED
from transport.upstreams.http_target import HttpTarget, check_headers, default_user_agent
from transport.upstreams.in_flight import InFlight
from transport.upstreams.thinning import is_power_of_two
from transport.upstreams.tls_stream import TlsStream
from transport.upstreams.tunnel import open_stream
from transport.upstreams.unreadable import describe_unreadable, log_unreadable

SUBPROTOCOL = "mcp"
_ADOPTION_SECONDS_MAX = 1.0  # a task that was asked for starts at the loop's next turn
_SCHEMES = {"ws": "http", "wss": "https"}

_log = structlog.get_logger(__name__)

_Stream: TypeAlias = "trio.SocketStream | TlsStream | trio.SSLStream[trio.SocketStream | TlsStream]"


@attrs.frozen
class WebSocketLimits:
    """Bounds of one connection."""

    connect_seconds_max: float = 10.0  # address, TLS and upgrade together
    message_bytes_max: int = 16 * 1024 * 1024  # of the upstream's; a larger one ends the connection (1009)
    write_seconds_max: float = 30.0  # for the upstream to take one message
    ping_seconds: float = 25.0  # between pings; proxies drop what is silent for a minute
    pong_seconds: float = 30.0  # for the answer to one; as much as one write may hold it up
    outbox_messages_max: int = 1024  # that the upstream does not read; more: NOT_SENT
    outbox_bytes_max: int = 32 * 1024 * 1024
    close_seconds: float = 0.5  # for the last frame to go out
    reopen_seconds_max: float = 30.0  # each answer of a re-initialization


@attrs.frozen
class WebSocketStatistics:
    """What a link did not pass on."""

    malformed: int
    stray: int  # answers to nothing that was asked


def _checked(_: object, __: object, headers: Mapping[str, str]) -> None:
    check_headers(headers)


@cache
def _shared_tls() -> ssl.SSLContext:
    """One for all: each costs 27 ms and 834 KiB (measured)."""
    return ssl.create_default_context()


def parse_url(url: str) -> HttpTarget:
    """Read an absolute ws or wss URL; its origin is that of the HTTP request that is upgraded.

    Raises:
      ValueError: as `HttpTarget.parse`.
    """
    scheme, separator, rest = url.partition("://")
    if scheme.lower() not in _SCHEMES:
        raise ValueError("a WebSocket upstream's URL looks like wss://host/path")
    return HttpTarget.parse(_SCHEMES[scheme.lower()] + separator + rest)


@attrs.frozen
class WebSocketConnector:
    """Implements `actors.link.Connect` for one upstream.

    Args:
      url: ws or wss; not shown, since its query may be a secret.
      headers: sent with the upgrade, e.g. the gateway's own credentials; never shown.
      tls: what to trust, for wss; None: what the system does.
      credentials: whose the headers are: what becomes of sessions when they are refused.
      authorization: gives the token that is sent with the upgrade; None: there is none.
      proxy: makes a tunnel if the host is its to carry; None: there is none.
    """

    url: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False, validator=_checked)
    limits: WebSocketLimits = WebSocketLimits()
    tls: ssl.SSLContext | None = None
    credentials: Credentials = Credentials.OPERATORS
    authorization: Authorization | None = None
    proxy: ForwardProxy | None = None

    async def __call__(self, session: SessionState, inbox: Inbox) -> WebSocketLink:
        """Open a connection, and re-initialize it if the session has a handshake. See `actors.link.Connect`.

        Raises:
          ConnectFailed, ConnectRejected

        Cancellation: the connection is closed, which ends what it had opened upstream.
        """
        handshake = session.handshake
        rehearsal = Rehearsal(inbox)
        heard_by = inbox if handshake is None else rehearsal
        tokens = None if self.authorization is None else self.authorization.of(session.principal)
        link = await self._open(inbox, heard_by, tokens)
        try:
            if handshake is None:
                return link
            established = await reinitialize(
                session, handshake, link, rehearsal, answer_seconds_max=self.limits.reopen_seconds_max
            )
        except BaseException:  # cancelled, too
            link.close(end_session=True)
            raise
        link.hand_over(inbox, established)
        rehearsal.hand_over_soon()
        return link

    async def _open(self, inbox: Inbox, heard_by: Inbox, tokens: TokenSource | None) -> WebSocketLink:
        """Open a connection; once more with another token, where the upgrade is refused for the sake of the first."""
        token = await _obtain(tokens)
        link = WebSocketLink(self, heard_by, token)
        try:
            await self._run(link, inbox)
        except ConnectFailed:
            if tokens is None or not link.unauthorized or not tokens.replace(token):
                raise
            link = WebSocketLink(self, heard_by, await _obtain(tokens))
            await self._run(link, inbox)
        return link

    async def _run(self, link: WebSocketLink, inbox: Inbox) -> None:
        inbox.start_soon(link.run)
        try:
            await link.wait_open()
        except BaseException:  # cancelled, too
            link.close(end_session=True)
            raise


async def _obtain(tokens: TokenSource | None) -> str:
    try:
        return "" if tokens is None else await tokens.obtain()
    except (TokenRefused, TokenUnavailable) as error:
        raise ConnectFailed(str(error)) from None


class _Lost(Exception):
    """The connection is of no more use; the message says why."""


@attrs.define(eq=False)
class _Outgoing:
    """A message on its way to the upstream."""

    text: str
    size_bytes: int
    ticket: int | None  # None: nobody waits to hear of it
    wants_receipt: bool
    started: bool = False


class WebSocketLink:
    """Implements `actors.link.Link`. `run` closes the connection whatever happens."""

    def __init__(self, connector: WebSocketConnector, inbox: Inbox, token: str = "") -> None:
        """Args:
        token: sent with the upgrade; "": none.
        """
        self.unauthorized = False  # the upgrade was answered with 401
        self._token = token
        self.established = Established()
        self.resumable = False
        self._connector = connector
        headers = {**connector.headers, "Authorization": token} if token else connector.headers
        self._target = parse_url(connector.url).shown(headers)
        self._limits = connector.limits
        self._inbox = inbox
        self._log = _log.bind(upstream=str(self._target.origin))
        self._scope = trio.CancelScope()
        self._connection: trio_websocket.WebSocketConnection | None = None
        self._settled = trio.Event()  # it is open, or will not be
        self._problem: ConnectFailed | ConnectRejected = ConnectFailed("the connection was not opened in time")
        self._gone = ""  # why nothing can be sent any more
        self._closed = False
        self._in_flight = InFlight()
        self._outbox: deque[_Outgoing] = deque()
        self._outbox_bytes = 0
        self._outbox_filled = trio.Event()
        self._malformed = 0
        self._stray = 0

    def __repr__(self) -> str:
        return f"<WebSocketLink to {self._target.origin}, {len(self._in_flight)} in flight>"

    def statistics(self) -> WebSocketStatistics:
        """Count what was not passed on."""
        return WebSocketStatistics(self._malformed, self._stray)

    # ---- for whoever opens the link ----

    async def wait_open(self) -> None:
        """Wait until messages can be sent.

        Raises:
          ConnectFailed, ConnectRejected
        """
        with trio.move_on_after(self._limits.connect_seconds_max + _ADOPTION_SECONDS_MAX):
            await self._settled.wait()
        if self._connection is None:
            raise self._problem

    def hand_over(self, inbox: Inbox, established: Established) -> None:
        """Belong to the session from now on; answers to questions of the opening are not expected any more."""
        self._inbox = inbox
        self.established = established
        self._in_flight.clear()

    # ---- Link ----

    def send(self, message: Message, ticket: int) -> None:
        if self._gone:
            raise LinkLost(self._gone)
        is_request = message.kind is Kind.REQUEST
        problem = self._put(message, ticket, wants_receipt=not is_request)
        if problem:
            self._inbox.refused(ticket, Failure.NOT_SENT, problem)
        elif is_request:
            self._in_flight.add(message, ticket)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        if not self._gone:
            self._put(cancelled(request_id, reason), None, wants_receipt=False)

    def listen(self) -> None:
        """Nothing to ask for: the upstream speaks whenever it wants to."""

    def close(self, *, end_session: bool) -> None:
        self._closed = True
        self._gone = self._gone or "the link is closed"
        self._scope.cancel()

    def _put(self, message: Message, ticket: int | None, *, wants_receipt: bool) -> str:
        """Queue a message. Returns why that was not possible."""
        size = len(message.raw)
        if (
            len(self._outbox) >= self._limits.outbox_messages_max
            or self._outbox_bytes + size > self._limits.outbox_bytes_max
        ):
            return f"the upstream does not read: {len(self._outbox)} messages wait already"
        self._outbox.append(_Outgoing(message.raw.decode(errors="replace"), size, ticket, wants_receipt))
        self._outbox_bytes += size
        self._outbox_filled.set()
        return ""

    # ---- the task ----

    async def run(self) -> None:
        """Open the connection, and carry messages until it is lost or the link is closed.

        Cancellation: the connection is closed, within `close_seconds`.
        """
        detail = "the connection was closed"
        try:
            with self._scope:
                await self._converse()
        except* trio_websocket.ConnectionRejected as rejections:
            rejection = _first(rejections)
            self.unauthorized = getattr(rejection, "status_code", 0) == UNAUTHORIZED
            self._problem = _refusal(rejection, self._connector.credentials)
        except* trio_websocket.ConnectionClosed as closings:
            detail = self._target.concealment.hide(_describe_end(_first(closings)))
            self._problem = ConnectFailed(detail)
        except* (_Lost, OSError, trio.BrokenResourceError, ssl.SSLError) as failures:
            detail = _describe_failure(_first(failures))
            self._problem = ConnectFailed(detail)
        finally:
            self._gone = self._gone or detail
            self._settled.set()
        if self._connection is not None:
            self._report_lost(detail)

    async def _converse(self) -> None:
        stream: _Stream | None = None
        try:
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(self._limits.connect_seconds_max) as connecting:
                    stream = await self._open_stream()
                    self._connection = await self._upgrade(stream, nursery)
                    self._settled.set()
                if connecting.cancelled_caught or self._connection is None:
                    raise _Lost(f"no connection within {self._limits.connect_seconds_max:g} s")
                await self._carry(self._connection, nursery)
        finally:
            if stream is not None:  # trio-websocket leaves it open when the other side has ended the connection
                await trio.aclose_forcefully(stream)

    async def _carry(self, connection: trio_websocket.WebSocketConnection, nursery: trio.Nursery) -> None:
        try:
            nursery.start_soon(self._write_outbox, connection)
            nursery.start_soon(self._ping, connection)
            while True:
                self._take(await connection.get_message())
        finally:
            with trio.move_on_after(self._limits.close_seconds, shield=True):
                await connection.aclose()  # sends the last frame, if there has been none

    async def _open_stream(self) -> _Stream:
        origin = self._target.origin
        plain = await open_stream(origin.host, origin.port, self._connector.proxy)
        if origin.scheme != "https":
            return plain
        trusted = self._connector.tls if self._connector.tls is not None else _shared_tls()
        try:
            stream = trio.SSLStream(plain, trusted, server_hostname=origin.host, https_compatible=True)
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return stream

    async def _upgrade(self, stream: _Stream, nursery: trio.Nursery) -> trio_websocket.WebSocketConnection:
        headers = {"User-Agent": default_user_agent(), **self._connector.headers}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return await trio_websocket.wrap_client_stream(
            nursery,
            stream,  # type: ignore[arg-type]  # any trio stream will do
            self._target.authority,
            self._target.path,
            subprotocols=[SUBPROTOCOL],
            extra_headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            max_message_size=self._limits.message_bytes_max,
        )

    async def _ping(self, connection: trio_websocket.WebSocketConnection) -> None:
        """Notice an upstream that has vanished without a word."""
        while True:
            await trio.sleep(self._limits.ping_seconds)
            with trio.move_on_after(self._limits.pong_seconds) as waiting:
                await connection.ping()
            if waiting.cancelled_caught:
                raise _Lost(f"it answered no ping within {self._limits.pong_seconds:g} s")

    def _report_lost(self, detail: str) -> None:
        """Refuse what never reached the upstream; the session knows what to think of the rest."""
        if self._closed:
            return
        self._closed = True
        self._log.info("upstream_connection_lost", detail=detail, **attrs.asdict(self.statistics()))
        for item in self._outbox:
            if item.ticket is not None:
                failure = Failure.OUTCOME_UNKNOWN if item.started else Failure.NOT_SENT
                self._inbox.refused(item.ticket, failure, f"the upstream was lost: {detail}")
        self._outbox.clear()
        self._inbox.lost(detail)

    # ---- writing ----

    async def _write_outbox(self, connection: trio_websocket.WebSocketConnection) -> None:
        while True:
            while not self._outbox:
                self._outbox_filled = trio.Event()
                await self._outbox_filled.wait()
            item = self._outbox[0]
            item.started = True
            with trio.move_on_after(self._limits.write_seconds_max) as writing:
                await connection.send_message(item.text)
            if writing.cancelled_caught:
                raise _Lost(f"it took no message within {self._limits.write_seconds_max:g} s")
            self._outbox.popleft()
            self._outbox_bytes -= item.size_bytes
            if item.wants_receipt and item.ticket is not None:
                self._inbox.delivered(item.ticket)

    # ---- reading ----

    def _take(self, text: str | bytes) -> None:
        raw = text.encode() if isinstance(text, str) else text
        for each in split_batch(raw):
            try:
                self._take_message(parse(each))
            except InvalidMessage as invalid:
                self._malformed += 1
                log_unreadable(self._log, each, invalid, self._malformed, "upstream_noise")
                ticket = self._in_flight.misanswered(each)
                if ticket is not None:
                    self._inbox.refused(ticket, Failure.UNREADABLE, describe_unreadable(invalid.reason))

    def _take_message(self, message: Message) -> None:
        if message.kind is not Kind.RESPONSE:
            self._inbox.received(message, about=self._in_flight.about(message))
        elif message.id is None or message.id not in self._in_flight:
            self._stray += 1
            if is_power_of_two(self._stray):
                self._log.warning("upstream_answer_stray", count=self._stray, id=str(message.id)[:100])
        else:
            self._in_flight.forget(message.id)
            self._inbox.received(message, about=message.id)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Give the first single error of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _refusal(rejected: BaseException, credentials: Credentials) -> ConnectFailed | ConnectRejected:
    assert isinstance(rejected, trio_websocket.ConnectionRejected)
    detail = f"the upgrade to WebSocket was answered with {rejected.status_code}"
    if rejected.status_code in REFUSALS:
        return credentials.refused(detail)
    return ConnectFailed(detail)


def _describe_end(closed: BaseException) -> str:
    assert isinstance(closed, trio_websocket.ConnectionClosed)
    if closed.reason is None or closed.reason.code == 1006:
        return "the connection broke"
    return f"the upstream closed the connection ({closed.reason.code} {closed.reason.reason or ''})".replace(" )", ")")


def _describe_failure(error: BaseException) -> str:
    if isinstance(error, _Lost):
        return str(error)
    return f"the connection failed: {getattr(error, 'strerror', None) or error.__cause__ or error}"
