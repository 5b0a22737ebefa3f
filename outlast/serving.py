"""serve: the whole gateway, wired from settings. Start order is reverse stop order, readable in one function.

Sockets are bound first, so that a port in use stops the start before anything is written, and probes are answered from
then on (`transport/front.py`). Where a tool of ours is to be offered, servers are asked whether they have one of its
name. Then the store, the writer, the index, and clients are served; sessions are restored behind that. To stop: not
ready any more, accept nothing, have listening clients reconnect elsewhere, give calls in flight their time, let the
actors leave memory, flush, close the store. Upstream sessions are not ended: they are to be resumed.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager

import attrs
import structlog
import trio

from actors.own_tools import OwnTools
from actors.reaper import ReaperRules
from actors.runtime import Runtime, RuntimeOptions, open_runtime
from actors.state import Limits
from outlast.access import authentication_of
from outlast.administering import administration_of
from outlast.at_rest import codec_of
from outlast.certificate import certificate_files, keep_fresh, tls_of
from outlast.health_tool import make_health_tool
from outlast.monitoring import Monitoring
from outlast.progress import restoring_progress
from outlast.server_oauth import exchanging_servers, subjects_of
from outlast.settings import Settings
from outlast.tool_census import ToolCensus, taking
from outlast.upstream_proxy import proxy_of
from outlast.upstreams import Upstreams, open_stateless, upstream_transport
from transport.access_log import AccessLog
from transport.asgi import asgi_app
from transport.clients.socket_conversation import WebSocketOptions
from transport.clients.sse_front import LegacySseOptions
from transport.clients.stateless import StatelessOptions
from transport.clients.streamable_http import StreamableHttpOptions
from transport.front import Front
from transport.gateway import Gateway
from transport.guard import make_policy
from transport.handler import HttpLimits
from transport.issuer_metadata import Fetch
from transport.operation import Operation
from transport.operators import Operators
from transport.quota import Quota
from transport.server import HttpServer, open_listeners, serve_http
from transport.subjects import LiveSubjects
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.stateless import StatelessUpstream

log = structlog.get_logger("outlast.serving")

LAST_ANSWERS_SECONDS = 1.0  # for connections to send what they have, once the actors are gone


@attrs.frozen
class Serving:
    """The gateway is ready."""

    url: str
    sessions_restored: int
    sessions_uninitialized: int
    seconds: float


async def serve(
    settings: Settings,
    *,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the gateway until `stop` is set; then drain and return.

    Args:
      settings: all that can be chosen.
      stop: set it to stop the gateway in order; None: cancel the task instead, which skips the grace for calls.
      task_status: is given a `Serving` when clients can connect.

    Raises:
      OSError: the address cannot be listened on. Nothing was written.
      StartRefused: a server has a tool of the name of ours, which is to be offered. Nothing was written.
      StoreInUse, StoreInvalid, StoreUnavailable: the store cannot be used, or not with these keys. Nothing was
        written. (Where the outage policy is `degrade`, one that does not answer is no reason to stop.)
      StoreBroken, FenceLost: while running; the process is to end.
    """
    begun = trio.current_time()
    host, port = settings.listen.host, settings.listen.port
    listeners = await open_listeners(host, port, write_seconds=settings.write_seconds_max)
    async with AsyncExitStack() as opened:
        opened.callback(_close_all, listeners)
        access_log, served = _access_log(settings), trio.Event()
        front = Front(wait_seconds=settings.restore_wait_seconds, access_log=access_log)
        server = await _open_front(opened, settings, front, listeners, served)
        upstreams = await opened.enter_async_context(trio.open_nursery())
        pool = HttpPool(proxy=proxy_of(settings))
        await _carry(opened, upstreams, pool)
        subjects = subjects_of(settings)
        connect = _upstreams(settings, pool, subjects)
        stateless = await _stateless(settings, pool, connect, upstreams)
        opened.callback(upstreams.cancel_scope.cancel)
        own_tools = await _own_tools(opened, settings, connect, stateless, pool)
        with _collector_off():
            runtime = await opened.enter_async_context(
                open_runtime(
                    settings.store,
                    codec=codec_of(settings),
                    connect=connect,
                    options=_runtime_options(settings, own_tools),
                    progress=restoring_progress(),
                )
            )
        monitoring = Monitoring(runtime, connect, sessions_max=settings.sessions_max)
        gateway = _gateway(settings, runtime, connect, stateless, monitoring.operations, access_log, subjects, pool)
        monitoring.watch(gateway, server)
        async with trio.open_nursery() as serving:
            serving.start_soon(monitoring.run)
            front.open(gateway)
            task_status.started(_ready(runtime, server, settings, trio.current_time() - begun))
            await (trio.Event() if stop is None else stop).wait()
            log.info("stopping", grace_seconds=settings.shutdown_grace_seconds)
            await _drain(runtime, gateway, server, served, settings.shutdown_grace_seconds)
            serving.cancel_scope.cancel()


async def _own_tools(
    opened: AsyncExitStack,
    settings: Settings,
    connect: Upstreams,
    stateless: Mapping[str, StatelessUpstream],
    pool: HttpPool,
) -> OwnTools | None:
    """Make what we add to the servers' tools, if it is wanted; servers are asked for a tool of that name meanwhile."""
    if not settings.expose_health_tool:
        return None
    own_tools = make_health_tool()
    # A server that wants a token of each user has nothing to say to us.
    asked = [name for name in settings.servers if name not in exchanging_servers(settings)]
    census = ToolCensus(own_tools, asked, connect, stateless)
    await opened.enter_async_context(taking(census, pool.wait_carried))
    return own_tools


async def _open_front(
    opened: AsyncExitStack, settings: Settings, front: Front, listeners: Sequence[socket.socket], served: trio.Event
) -> HttpServer:
    """Let clients come, until `opened` is closed: probes are answered, and requests wait for the gateway."""
    clients = await opened.enter_async_context(trio.open_nursery())
    certificate = certificate_files(settings)
    # Before it is loaded: afterwards, this could be the state of newer files.
    seen = None if certificate is None else certificate.state()
    server: HttpServer = await clients.start(_serve, settings, front, listeners, served)
    opened.callback(clients.cancel_scope.cancel)
    if certificate is not None:
        clients.start_soon(keep_fresh, certificate, seen, server.renew_tls)
    return server


async def _carry(opened: AsyncExitStack, nursery: trio.Nursery, pool: HttpPool) -> None:
    """Run the pool until `opened` is closed, and not until the start is given up: who was asked is told the end first.

    Cancellation: the pool ends with `opened`.
    """
    scope = trio.CancelScope(shield=True)
    opened.callback(scope.cancel)

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await pool.run(task_status=task_status)

    await nursery.start(run)


def _upstreams(settings: Settings, pool: HttpPool, subjects: LiveSubjects | None) -> Upstreams:
    return Upstreams(
        settings.servers,
        pool,
        settings.server_headers,
        settings.server_environment,
        oauth=settings.server_oauth,
        subjects=subjects,
        websocket_ping_seconds=settings.websocket_ping_seconds,
        proxy=proxy_of(settings),
    )


async def _stateless(
    settings: Settings, pool: HttpPool, connect: Upstreams, upstreams: trio.Nursery
) -> Mapping[str, StatelessUpstream]:
    return await open_stateless(
        settings.servers,
        pool,
        upstreams,
        headers=settings.server_headers,
        environment=settings.server_environment,
        breakers=connect.breakers,
        carriers=connect.carriers,
        idle_seconds=settings.stdio_idle_seconds,
    )


async def _serve(
    settings: Settings,
    front: Front,
    listeners: Sequence[socket.socket],
    served: trio.Event,
    *,
    task_status: trio.TaskStatus[HttpServer],
) -> None:
    limits = HttpLimits(
        body_bytes_max=settings.body_bytes_max,
        message_bytes_max=settings.websocket_message_bytes_max,
        write_seconds=settings.write_seconds_max,
        ping_seconds=settings.websocket_ping_seconds,
        pong_seconds=settings.websocket_pong_seconds,
    )
    await serve_http(
        listeners,
        front,
        asgi_app=asgi_app(front, limits=limits, websocket=front.serve_socket),
        is_hot=front.is_hot,
        hot=settings.hot_road,
        limits=limits,
        connections_max=settings.connections_max,
        tls=tls_of(settings),
        task_status=task_status,
    )
    served.set()


async def _drain(
    runtime: Runtime, gateway: Gateway, server: HttpServer, served: trio.Event, grace_seconds: float
) -> None:
    """Stop in order; what does not end in its time is cut off, since nothing durable depends on a clean stop."""
    gateway.drain()
    server.stop()
    with trio.move_on_after(grace_seconds):
        await runtime.registry.wait_quiet()
        await gateway.wait_quiet()
    gateway.cut()
    with trio.move_on_after(LAST_ANSWERS_SECONDS):
        await runtime.registry.stop_actors()
    with trio.move_on_after(LAST_ANSWERS_SECONDS):
        await served.wait()
    server.abort()


def _ready(runtime: Runtime, server: HttpServer, settings: Settings, seconds: float) -> Serving:
    host, port = server.addresses[0]
    shown = f"[{host}]" if ":" in host else host
    statistics = runtime.registry.statistics()
    restored = statistics.sessions - statistics.uninitialized
    scheme = "http" if settings.certfile is None else "https"
    return Serving(f"{scheme}://{shown}:{port}", restored, statistics.uninitialized, seconds)


def _gateway(
    settings: Settings,
    runtime: Runtime,
    upstreams: Upstreams,
    stateless: Mapping[str, StatelessUpstream],
    operations: Sequence[Operation],
    access_log: AccessLog | None,
    subjects: LiveSubjects | None,
    pool: HttpPool,
) -> Gateway:
    return Gateway(
        runtime,
        {name: upstream_transport(target) for name, target in settings.servers.items()},
        make_policy(settings.listen.host, hosts=settings.allowed_hosts, origins=settings.allowed_origins),
        options=StreamableHttpOptions(keepalive_comment_seconds=settings.keepalive_comment_seconds),
        sse_options=LegacySseOptions(
            keepalive_comment_seconds=settings.keepalive_comment_seconds,
            away_seconds_max=settings.sse_session_ttl_seconds,
            public_path_prefix=settings.public_path_prefix,
        ),
        socket_options=WebSocketOptions(
            initialize_seconds_max=settings.websocket_initialize_seconds_max,
            messages_in_hand_max=settings.websocket_messages_in_hand_max,
            return_seconds_max=settings.websocket_return_seconds_max,
        ),
        stateless=stateless,
        stateless_options=StatelessOptions(
            calls_max=settings.stateless_calls_in_flight_max,
            call_seconds_max=settings.call_seconds_max,
            keepalive_comment_seconds=settings.keepalive_comment_seconds,
        ),
        operations=(administration_of(runtime, upstreams), *operations),
        breakers=upstreams.breakers,
        operators=Operators(settings.operators_token),
        authentication=authentication_of(settings, _fetch_for_issuers(settings, pool)),
        access_log=access_log,
        subjects=subjects,
        quota=Quota(settings.exchanges_per_principal_max),
    )


def _fetch_for_issuers(settings: Settings, pool: HttpPool) -> Fetch | None:
    """Give what fetches the issuer's keys where all goes through a forward proxy; elsewhere that needs no pool."""
    if not settings.upstream_proxy:
        return None
    from transport.signing_keys import KEYS_BYTES_MAX
    from transport.upstreams.side_requests import PooledSideRequests

    return PooledSideRequests(pool, KEYS_BYTES_MAX).fetch


def _access_log(settings: Settings) -> AccessLog | None:
    match settings.access_log:
        case "all":
            return AccessLog("all")
        case "errors":
            return AccessLog("errors")
    return None


def _runtime_options(settings: Settings, own_tools: OwnTools | None) -> RuntimeOptions:
    return RuntimeOptions(
        limits=Limits(
            calls_in_flight_max=settings.calls_in_flight_max,
            streams_kept_max=max(Limits().streams_kept_max, settings.calls_in_flight_max),
            events_per_session_max=settings.events_per_session_max,
            events_bytes_max=settings.events_bytes_max,
            event_bytes_max=settings.event_bytes_max,
            call_history_max=settings.call_history_max,
            call_history_bytes_max=settings.call_history_bytes_max,
            call_history_contents=settings.call_history_contents,
            call_history_content_bytes_max=settings.call_history_content_bytes_max,
            answer_json_within_seconds=settings.answer_json_within_seconds,
            link_wait_seconds=settings.restore_wait_seconds,
            call_seconds_max=settings.call_seconds_max,
            call_total_seconds_max=settings.call_total_seconds_max,
        ),
        sessions_max=settings.sessions_max,
        sessions_per_principal_max=settings.sessions_per_principal_max,
        resident_sessions_max=settings.resident_sessions_max,
        session_ttl_seconds=settings.session_ttl_seconds,
        reaper_rules=ReaperRules(
            passivate_after_seconds=settings.passivate_after_seconds,
            passivate_unresumable_after_seconds=settings.stdio_idle_seconds,
            brief_ttl_seconds_max=settings.sse_session_ttl_seconds,
        ),
        restored_on_use=exchanging_servers(settings),
        restore_permits=settings.restore_permits,
        restore_permits_per_server=settings.restore_permits_per_server,
        connect_seconds_max=settings.connect_seconds_max,
        store_outage="degrade" if settings.store_outage == "degrade" else "refuse",
        store_outage_patience_seconds=settings.store_outage_patience_seconds,
        own_tools=own_tools,
    )


@contextmanager
def _collector_off() -> Iterator[None]:
    """Load the index with the cyclic garbage collector off, and leave what was loaded out of its rounds.

    Collections over a growing heap that holds no garbage made restoring 100,000 sessions take 10 to 16 s in place
    of 2; later, each full one would stop all sessions for seconds. (Measured; it is the process's own, so only
    `serve` does it.)
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 1000)
        gc.enable()


def _close_all(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
