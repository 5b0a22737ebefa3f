"""The servers behind the gateway: which of them a session talks to and how its link is opened, and how each is asked
without a session (2026-07-28)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs
import structlog
import trio

from actors.link import Connect, ConnectFailed, Inbox, Link
from actors.state import SessionState
from actors.upstream_ending import EndsSessions
from outlast import targets
from outlast.server_oauth import ServerOAuth, authorization_of
from transport.subjects import LiveSubjects
from transport.upstreams.access_tokens import Authorization
from transport.upstreams.authorized_pool import AuthorizedPool
from transport.upstreams.breaker import Breaker, BreakerState
from transport.upstreams.carrier import Carrier
from transport.upstreams.credentials import CredentialsRefused
from transport.upstreams.http_fallback import HttpConnector
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.legacy_sse import LegacySseConnector
from transport.upstreams.stateless import StatelessUpstream
from transport.upstreams.stateless_http import StatelessHttp
from transport.upstreams.streamable_http import StreamableHttpConnector

log = structlog.get_logger("outlast.upstreams")

SET_THEM_RIGHT = (
    "set server_headers or server_oauth right and start again, or have the server let them in; its sessions are kept"
)


def upstream_transport(target: targets.Target) -> str:
    """Name the transport of a target, as sessions keep it."""
    match target:
        case targets.StdioTarget():
            return "stdio"
        case targets.SseTarget():
            return "sse"
        case targets.WebSocketTarget():
            return "websocket"
        case targets.HttpTarget():
            return "streamable-http"


@attrs.frozen
class UpstreamHealth:
    """One configured server, as the gateway finds it."""

    name: str
    transport: str
    state: BreakerState  # closed: in use; open: known to be away; half-open: being tried
    since_unix_s: float
    last_error: str  # "" if there was none since the start
    refuses_credentials: bool = False  # it is there, and does not let the gateway in


class Upstreams:
    """Implements `actors.link.Connect` for all configured servers."""

    def __init__(
        self,
        servers: Mapping[str, targets.Target],
        pool: HttpPool,
        headers: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        environment: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        *,
        oauth: Mapping[str, ServerOAuth] = MappingProxyType({}),
        subjects: LiveSubjects | None = None,
        websocket_ping_seconds: float = 25.0,
    ) -> None:
        """
        Args:
          servers: where each server is, by name.
          pool: carries HTTP; it must be running.
          headers: sent to a server with every request, by the server's name: our credentials, never a client's.
          environment: variables for the process of a server, by the server's name.
          oauth: how tokens for a server are got, by the server's name.
          subjects: who has presented which token; needed where these are exchanged.
          websocket_ping_seconds: between pings, to servers over WebSocket.
        """
        self._transports = {name: upstream_transport(target) for name, target in servers.items()}
        self.breakers: Mapping[str, Breaker] = {name: Breaker() for name in servers}
        authorizations = {
            name: authorization_of(name, oauth[name], target, pool, self.breakers[name], subjects)
            for name, target in servers.items()
            if name in oauth
        }
        # What carries a server's requests, by its name.
        self.carriers: Mapping[str, Carrier] = {
            name: AuthorizedPool(pool, authorizations[name]) if name in authorizations else pool for name in servers
        }
        self._connectors: dict[str, Connect] = {
            name: _connector(
                target,
                self.carriers[name],
                headers.get(name, {}),
                environment.get(name, {}),
                self.breakers[name],
                websocket_ping_seconds,
                authorizations.get(name),
            )
            for name, target in servers.items()
        }

    def health(self) -> Sequence[UpstreamHealth]:
        """Tell how each server fares, in the order of the configuration; from what was seen, nothing is asked."""
        found = []
        for name, breaker in self.breakers.items():
            seen = breaker.health
            transport = self._transports[name]
            found.append(
                UpstreamHealth(
                    name, transport, seen.state, seen.since_unix_s, seen.last_error, seen.refuses_credentials
                )
            )
        return found

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        """Open a link to the session's server.

        Raises:
          ConnectFailed: at once for a server that is known to be away. Also for one that is not configured any more:
            that may be our own mistake, so the session is kept, and goes on when the server is back.
          ConnectRejected
        """
        connector = self._connectors.get(session.server_id)
        if connector is None:
            raise ConnectFailed(
                f"no server named {session.server_id!r} is configured; add --server {session.server_id}=…"
            )
        breaker = self.breakers[session.server_id]
        if breaker.blocked_seconds():
            raise ConnectFailed(breaker.describe())
        try:
            return await connector(session, inbox)
        except CredentialsRefused as refused:
            self._note_refusal(session.server_id, breaker, str(refused))
            raise

    async def end_session(self, session: SessionState) -> bool:
        """Tell a session's server that it is over, if that keeps any. See `actors.upstream_ending.EndsSessions`.

        Raises:
          ConnectFailed: at once for a server that is known to be away, or is not configured any more.
          ConnectRejected
        """
        connector = self._connectors.get(session.server_id)
        if connector is None:
            raise ConnectFailed(f"no server named {session.server_id!r} is configured")
        if not isinstance(connector, EndsSessions):
            return False
        breaker = self.breakers[session.server_id]
        if breaker.blocked_seconds():
            raise ConnectFailed(breaker.describe())
        return await connector.end_session(session)

    def _note_refusal(self, name: str, breaker: Breaker, detail: str) -> None:
        if not breaker.health.refuses_credentials:  # said once, until it lets us in
            log.error("a server refuses the gateway's credentials", server=name, why=detail, what_to_do=SET_THEM_RIGHT)
        breaker.credentials_refused(detail)


@attrs.frozen
class _Observed:
    """A connector whose outcome tells by itself how the upstream fares: it starts a process."""

    connect: Connect
    breaker: Breaker

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        try:
            link = await self.connect(session, inbox)
        except CredentialsRefused:  # a sign of life; who asked for the link makes it known
            raise
        except ConnectFailed as failed:
            self.breaker.failed(str(failed))
            raise
        self.breaker.succeeded()
        return link


def _connector(
    target: targets.Target,
    pool: Carrier,
    headers: Mapping[str, str],
    environment: Mapping[str, str],
    breaker: Breaker,
    websocket_ping_seconds: float,
    authorization: Authorization | None,
) -> Connect:
    match target:
        case targets.HttpTarget(url=url):
            streamable = StreamableHttpConnector(pool, HttpTarget.parse(url), headers, breaker=breaker)
            return HttpConnector(streamable, LegacySseConnector(pool, url, headers))
        case targets.SseTarget(url=url):
            return _Observed(LegacySseConnector(pool, url, headers), breaker)
        case targets.WebSocketTarget(url=url):
            from transport.upstreams.websocket import WebSocketConnector, WebSocketLimits  # as below

            limits = WebSocketLimits(ping_seconds=websocket_ping_seconds)
            return _Observed(WebSocketConnector(url, headers, limits, authorization=authorization), breaker)
        case targets.StdioTarget(command=command):
            from transport.upstreams.stdio import StdioConnector  # who serves HTTP only need not load it

            return _Observed(StdioConnector(command, environment), breaker)


async def open_stateless(
    servers: Mapping[str, targets.Target],
    pool: HttpPool,
    nursery: trio.Nursery,
    *,
    headers: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    environment: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    breakers: Mapping[str, Breaker] = MappingProxyType({}),
    carriers: Mapping[str, Carrier] = MappingProxyType({}),
    idle_seconds: float,
) -> Mapping[str, StatelessUpstream]:
    """Make what asks each server without a session.

    Args:
      headers, environment: as for `Upstreams`.
      breakers: by name; told whether servers let the gateway in.
      carriers: by name; what carries the requests of a server, where the pool alone does not.
      nursery: runs what keeps processes; cancelling it ends them.
      idle_seconds: a process that nobody used for this long is ended.
    """
    opened: dict[str, StatelessUpstream] = {}
    for name, target in servers.items():
        match target:
            case targets.HttpTarget(url=url):
                carrier = carriers.get(name, pool)
                opened[name] = StatelessHttp(
                    carrier, HttpTarget.parse(url), headers.get(name), breaker=breakers.get(name)
                )
            case targets.StdioTarget(command=command):
                from transport.upstreams.stateless_stdio import SharedProcessLimits, StatelessStdio
                from transport.upstreams.stdio import StdioConnector

                limits = SharedProcessLimits(idle_seconds_max=idle_seconds)
                connector = StdioConnector(command, environment.get(name, {}))
                process = StatelessStdio(connector, limits=limits)
                await nursery.start(process.run)
                opened[name] = process
    return opened
