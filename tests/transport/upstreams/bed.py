"""A pool, a scripted upstream and a recording inbox, wired together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from actors import jsonrpc
from actors.ids import SessionId
from actors.jsonrpc import Message
from actors.state import Handshake, LogState, SessionState
from tests.transport.upstreams.recording_inbox import Received, RecordingInbox
from tests.transport.upstreams.scripted_upstream import Script, ScriptedUpstream
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_link import StreamableHttpLink
from transport.upstreams.http_pool import HttpPool, PoolLimits
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.streamable_http import StreamableHttpConnector

VERSION = "2025-11-25"
INITIALIZE = jsonrpc.request(
    0,
    "initialize",
    {"protocolVersion": VERSION, "capabilities": {"sampling": {}}, "clientInfo": {"name": "c", "version": "1"}},
)
TICKET = 7
CALL = jsonrpc.request(1, "tools/call", {"name": "echo", "arguments": {}})
ANSWER = jsonrpc.result(1, {"content": []})


def initialize_result(
    capabilities: Mapping[str, Any] | None = None, version: str = VERSION, id: int | str = 0
) -> Message:
    return jsonrpc.result(
        id,
        {"protocolVersion": version, "capabilities": capabilities or {}, "serverInfo": {"name": "u", "version": "1"}},
    )


def new_session(**changes: Any) -> SessionState:
    facts: dict[str, Any] = {
        "session_id": SessionId("s"),
        "server_id": "test",
        "created_unix_s": 0.0,
        "last_active_unix_s": 0.0,
        "ttl_seconds": 3600.0,
        "log": LogState(epoch=1),
    }
    return SessionState(**(facts | changes))


def handshake(
    *, upstream_session_id: str = "up-1", ready: bool = True, capabilities: Mapping[str, Any] | None = None
) -> Handshake:
    result = initialize_result(capabilities)
    return Handshake(INITIALIZE.raw, result.raw, upstream_session_id, ready)


@attrs.frozen
class Bed:
    upstream: ScriptedUpstream
    pool: HttpPool
    inbox: RecordingInbox
    connector: StreamableHttpConnector
    nursery: trio.Nursery

    async def open_link(self, **session_facts: Any) -> StreamableHttpLink:
        return await self.connector(new_session(**session_facts), self.inbox)

    async def open_session(self) -> StreamableHttpLink:
        """A link whose client has initialized; the script must answer that."""
        link = await self.open_link()
        link.send(INITIALIZE, 1)
        opened = await self.inbox.wait()
        assert isinstance(opened, Received)
        return link


@asynccontextmanager
async def bed(
    script: Script,
    *,
    limits: HttpLimits | None = None,
    pool_limits: PoolLimits | None = None,
    headers: Mapping[str, str] | None = None,
    patience_seconds: float = 30.0,
) -> AsyncIterator[Bed]:
    async with trio.open_nursery() as nursery:
        upstream = ScriptedUpstream(script)
        await nursery.start(upstream.run)
        pool = HttpPool(limits=pool_limits)
        await nursery.start(pool.run)
        inbox = RecordingInbox(nursery, patience_seconds=patience_seconds)
        connector = StreamableHttpConnector(pool, HttpTarget.parse(upstream.url), headers or {}, limits or HttpLimits())
        yield Bed(upstream, pool, inbox, connector, nursery)
        nursery.cancel_scope.cancel()
