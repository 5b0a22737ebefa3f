"""The bridge: for clients that only start programs and speak stdio, to an MCP server that is somewhere else.

It is a session of its own, in memory, between `transport/clients/stdio.py` and the connector that the gateway uses for
its upstreams; so it retries, resumes and re-opens as a gateway's session does. Rules:

- What surely was not taken is sent again, for `wait_seconds`; a stream that broke is resumed; what is in doubt is
  answered with an error, and never sent again.
- The server's session is ended when the client ends this process in order, and is left alone when it cannot go on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import trio

from actors.reaper import ReaperRules
from actors.runtime import RuntimeOptions, open_runtime
from actors.state import Limits
from transport.clients.stdio import StdioClient, StdioEnd, StdioOptions
from transport.sse import EVENT_BYTES_MAX
from transport.upstreams.credentials import Credentials
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.streamable_http import StreamableHttpConnector

SERVER_ID = "bridge"
LAST_REQUESTS_SECONDS = 2.0  # for the end of the session to reach the server; the SDKs' clients kill after two
_BACKOFF_SECONDS_MAX = 1.0  # one client waits at one server: nobody else is to be spared
_FOR_EVER_SECONDS = 10 * 365 * 86400.0  # the session lives as long as the process; nothing here is to end it before


@attrs.frozen
class BridgeOptions:
    """How the bridge behaves. The defaults are what clients over stdio expect."""

    wait_seconds: float = 60.0  # how long a server may be away before a request is refused; clients wait as long
    grace_seconds: float = 10.0  # for calls in flight when the client has closed our stdin
    calls_in_flight_max: int = 256  # an agent's parallel calls; more: -32013


async def bridge(
    url: str,
    headers: Mapping[str, str],
    source: trio.abc.ReceiveStream,
    sink: trio.abc.SendStream,
    *,
    options: BridgeOptions = BridgeOptions(),
    task_status: trio.TaskStatus[StdioClient] = trio.TASK_STATUS_IGNORED,
) -> StdioEnd:
    """Serve one client over two byte streams from a server over Streamable HTTP, until the client has ended.

    Args:
      url: the server's MCP endpoint.
      headers: sent with every request; never shown.
      source, sink: what the client writes and reads; they stay open.
      task_status: is given the client, which can be stopped.

    Raises:
      ValueError: the URL or a header cannot be used.

    Cancellation: the server's session is not ended.
    """
    target = HttpTarget.parse(url)
    async with trio.open_nursery() as upstreams:
        pool = HttpPool()
        connect = StreamableHttpConnector(pool, target, headers, _http_limits(options), credentials=Credentials.USERS)
        await upstreams.start(pool.run)
        async with open_runtime("memory:", connect=connect, options=_runtime_options(options)) as runtime:
            client = StdioClient(
                runtime,
                SERVER_ID,
                source,
                sink,
                upstream_transport="streamable-http",
                options=StdioOptions(
                    line_bytes_max=EVENT_BYTES_MAX,
                    grace_seconds=options.grace_seconds,
                    in_progress_max=2 * options.calls_in_flight_max,
                ),
            )
            task_status.started(client)
            end = await client.run()
            with trio.move_on_after(LAST_REQUESTS_SECONDS):
                await pool.wait_carried()
        upstreams.cancel_scope.cancel()
    return end


def _http_limits(options: BridgeOptions) -> HttpLimits:
    return HttpLimits(
        # A stream's server may be away as long as any other request may wait for it; pauses are a second and more.
        resume_tries_max=math.ceil(options.wait_seconds / _BACKOFF_SECONDS_MAX),
        backoff_seconds_max=_BACKOFF_SECONDS_MAX,
    )


def _runtime_options(options: BridgeOptions) -> RuntimeOptions:
    return RuntimeOptions(
        limits=Limits(
            calls_in_flight_max=options.calls_in_flight_max,
            streams_kept_max=max(Limits().streams_kept_max, options.calls_in_flight_max),
            event_bytes_max=EVENT_BYTES_MAX,  # whatever could be received can be passed on
            link_wait_seconds=options.wait_seconds,
            opening_seconds_max=max(60.0, options.wait_seconds),  # servers that install themselves first
        ),
        sessions_max=16,  # one, and attempts at it
        session_ttl_seconds=_FOR_EVER_SECONDS,
        reaper_rules=ReaperRules(passivate_after_seconds=_FOR_EVER_SECONDS),
        restore=False,
    )
