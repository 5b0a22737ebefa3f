"""The servers behind the gateway: which of them a session talks to and how its link is opened, and how each is asked
without a session (2026-07-28)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import trio

from actors.link import Connect, ConnectFailed, Inbox, Link
from actors.state import SessionState
from outlast import targets
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.stateless import StatelessUpstream
from transport.upstreams.stateless_http import StatelessHttp
from transport.upstreams.streamable_http import StreamableHttpConnector


def upstream_transport(target: targets.Target) -> str:
    """Name the transport of a target, as sessions keep it."""
    match target:
        case targets.StdioTarget():
            return "stdio"
        case targets.WebSocketTarget():
            return "websocket"
        case targets.HttpTarget():
            return "streamable-http"


class Upstreams:
    """Implements `actors.link.Connect` for all configured servers."""

    def __init__(
        self,
        servers: Mapping[str, targets.Target],
        pool: HttpPool,
        headers: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        """
        Args:
          servers: where each server is, by name.
          pool: carries HTTP; it must be running.
          headers: sent to a server with every request, by the server's name: our credentials, never a client's.
        """
        self._connectors: dict[str, Connect] = {
            name: _connector(target, pool, headers.get(name, {})) for name, target in servers.items()
        }

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        """Open a link to the session's server.

        Raises:
          ConnectFailed: also for a server that is not configured any more. That may be our own mistake, so the
            session is kept: it goes on when the server is back in the configuration.
          ConnectRejected
        """
        connector = self._connectors.get(session.server_id)
        if connector is None:
            raise ConnectFailed(
                f"no server named {session.server_id!r} is configured; add --server {session.server_id}=…"
            )
        return await connector(session, inbox)


def _connector(target: targets.Target, pool: HttpPool, headers: Mapping[str, str]) -> Connect:
    match target:
        case targets.HttpTarget(url=url):
            return StreamableHttpConnector(pool, HttpTarget.parse(url), headers)
        case targets.WebSocketTarget(url=url):
            from transport.upstreams.websocket import WebSocketConnector  # as below

            return WebSocketConnector(url, headers)
        case targets.StdioTarget(command=command):
            from transport.upstreams.stdio import StdioConnector  # who serves HTTP only need not load it

            return StdioConnector(command)


async def open_stateless(
    servers: Mapping[str, targets.Target],
    pool: HttpPool,
    nursery: trio.Nursery,
    *,
    headers: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    idle_seconds: float,
) -> Mapping[str, StatelessUpstream]:
    """Make what asks each server without a session.

    Args:
      headers: as for `Upstreams`.
      nursery: runs what keeps processes; cancelling it ends them.
      idle_seconds: a process that nobody used for this long is ended.
    """
    opened: dict[str, StatelessUpstream] = {}
    for name, target in servers.items():
        match target:
            case targets.HttpTarget(url=url):
                opened[name] = StatelessHttp(pool, HttpTarget.parse(url), headers.get(name))
            case targets.StdioTarget(command=command):
                from transport.upstreams.stateless_stdio import SharedProcessLimits, StatelessStdio
                from transport.upstreams.stdio import StdioConnector

                limits = SharedProcessLimits(idle_seconds_max=idle_seconds)
                process = StatelessStdio(StdioConnector(command), limits=limits)
                await nursery.start(process.run)
                opened[name] = process
    return opened
