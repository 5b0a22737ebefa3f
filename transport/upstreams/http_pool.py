"""Keep-alive connections to HTTP upstreams, shared by all sessions that talk to the same origin.

A call costs no task, no cancel scope and one task switch: its request is written at once to the connection that was
idle for the shortest time, whose task then hands the answer on. (A task and a scope per call cost twice the CPU:
0.052 against 0.023 ms, measured.) Deadlines are kept by one sweeper for all.

Bounds, per origin: connections for calls; a reserve that only urgent jobs may use; standing streams; waiting jobs.
Without the reserve, as many long calls as there are connections could each wait for an answer of its client that no
connection is left to carry.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

import attrs
import structlog
import trio

from actors.ids import Principal
from actors.link import Failure
from actors.log_context import start_apart
from transport.upstreams.forward_proxy import ForwardProxy
from transport.upstreams.http_connection import BODY_BYTES_MAX, Connection, Job, Lane
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_target import Origin
from transport.upstreams.http_wire import open_wire
from transport.upstreams.thinning import is_power_of_two
from transport.upstreams.tunnel import describe

_SWEEP_SECONDS = 1.0  # deadlines here are many seconds; a sweep over 256 connections takes some 50 us
_CARRIED_POLL_SECONDS = 0.01
# Servers close idle connections after 5 s (uvicorn, Node) to 75 s (nginx). One that was seen to close after t is asked
# again only within 0.8 t, so that a request does not cross the close on its way; a restart teaches no less than this:
_IDLE_SECONDS_LEARNED_MIN = 2.0

_log = structlog.get_logger(__name__)


class RequestFailed(Exception):
    """A request made with `HttpPool.fetch` got no answer."""

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail


@attrs.frozen
class PoolLimits:
    """Bounds of a pool; counts are per origin."""

    connections_max: int = 256
    urgent_connections_max: int = 32  # on top of the former
    standing_max: int = 8192  # listening streams: one for each session with a client that listens
    waiting_max: int = 1024  # jobs without a connection; more: NOT_SENT
    waiting_seconds_max: float = 30.0
    connect_seconds_max: float = 10.0
    idle_seconds_max: float = 30.0


@attrs.frozen
class PoolStatistics:
    """Counts over all origins."""

    connections: int
    idle: int
    opening: int
    standing: int
    waiting: int


class HttpPool:
    """Implements `transport.upstreams.carrier.Carrier`. `run` must be running."""

    def __init__(
        self,
        *,
        limits: PoolLimits | None = None,
        tls_context: ssl.SSLContext | None = None,
        proxy: ForwardProxy | None = None,
    ) -> None:
        """Args:
        tls_context: for https origins; by default one that trusts the system's authorities, made on first use
          (it costs 24 ms and 830 KiB: there is one, and none while all upstreams are http).
        proxy: makes a tunnel for each connection to an origin that is its to carry; None: all are reached straight.
        """
        self._proxy = proxy
        self._limits = limits or PoolLimits()
        self._tls_context = tls_context
        self._lanes: dict[Origin, _Lanes] = {}  # bounded by the configured upstreams, as the next
        self._observers: dict[Origin, list[Callable[[str], None]]] = {}
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<HttpPool {self.statistics()}>"

    def statistics(self) -> PoolStatistics:
        """Count what is open and what waits."""
        lanes = self._lanes.values()
        return PoolStatistics(
            connections=sum(len(each.open) for each in lanes),
            idle=sum(len(each.idle) for each in lanes),
            opening=sum(each.opening for each in lanes),
            standing=sum(each.standing for each in lanes),
            waiting=sum(len(each.waiting) + len(each.urgent) for each in lanes),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections and deadlines until cancelled.

        Cancellation: all connections are closed; what was sent is `OUTCOME_UNKNOWN`, the rest `NOT_SENT`.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                while True:
                    await trio.sleep(_SWEEP_SECONDS)
                    now = trio.current_time()
                    for lanes in self._lanes.values():
                        lanes.sweep(now)
        finally:
            self._nursery = None
            for lanes in self._lanes.values():
                lanes.refuse_waiting("the gateway is stopping")

    def observe(self, origin: Origin, failed: Callable[[str], None]) -> None:
        """Have each failed attempt to connect to an origin told, with the reason."""
        self._observers.setdefault(origin, []).append(failed)

    def submit(self, origin: Origin, job: Job) -> None:
        """Send a job's request now, or as soon as there is a connection. May call `job.failed` before it returns."""
        nursery = self._nursery
        if nursery is None:
            job.failed(Failure.NOT_SENT, "the gateway is not running")
            return
        lanes = self._lanes.get(origin)
        if lanes is None:
            observers = self._observers.setdefault(origin, [])
            lanes = self._lanes[origin] = _Lanes(origin, self._limits, self._tls_for, observers, self._proxy)
        lanes.submit(job, nursery)

    async def wait_carried(self) -> None:
        """Wait until no connection carries anything but standing streams: before the process ends.

        Cancellation: safe; nothing is changed by waiting.
        """
        # An event would have to be kept up by every call, for the sake of the process's last moment.
        while any(lanes.is_busy for lanes in self._lanes.values()):  # noqa: ASYNC110
            await trio.sleep(_CARRIED_POLL_SECONDS)

    async def fetch(
        self, origin: Origin, request: bytes, *, seconds: float, body_bytes_max: int = BODY_BYTES_MAX
    ) -> tuple[ResponseHead, bytes]:
        """Make a request and wait for its answer; of an event stream, for its head alone.

        Raises:
          RequestFailed

        Cancellation: the request may have been sent.
        """
        fetch = _Fetch(request, silence_seconds_max=seconds, lane=Lane.URGENT, body_bytes_max=body_bytes_max)
        self.submit(origin, fetch)
        try:
            with trio.move_on_after(seconds):
                await fetch.settled.wait()
        finally:
            fetch.abandon()
        return fetch.outcome()

    async def prepare(self) -> None:
        """Requests need nothing besides a connection."""

    def on_behalf_of(self, principal: Principal) -> HttpPool:
        """Everybody's requests are carried alike."""
        return self

    def for_request(self) -> HttpPool:
        """As `on_behalf_of`."""
        return self

    def tokens_shown(self) -> Iterable[str]:
        """No token is put into any request here."""
        return ()

    def start_soon(self, run: Callable[[], Awaitable[object]]) -> bool:
        """Run a task that works for many, beside the connections. False: it is not running any more."""
        if self._nursery is None:
            return False
        start_apart(self._nursery, run)
        return True

    def _tls_for(self, origin: Origin) -> ssl.SSLContext | None:
        if origin.scheme == "http":
            return None
        if self._tls_context is None:
            self._tls_context = ssl.create_default_context()
            self._tls_context.set_alpn_protocols(["http/1.1"])
        return self._tls_context


class _Lanes:
    """The connections to one origin, and what waits for one."""

    def __init__(
        self,
        origin: Origin,
        limits: PoolLimits,
        tls_for: Callable[[Origin], ssl.SSLContext | None],
        observers: Sequence[Callable[[str], None]],
        proxy: ForwardProxy | None,
    ) -> None:
        self._origin = origin
        self._proxy = proxy if proxy is not None and proxy.carries(origin.host) else None
        self._limits = limits
        self._tls_for = tls_for
        self._observers = observers  # of failures to connect
        self._nursery: trio.Nursery | None = None
        self._idle_seconds_max = limits.idle_seconds_max
        self.idle: list[Connection] = []  # the last is the one used last
        self.open: set[Connection] = set()  # all but the standing ones
        self.opening = 0
        self.standing = 0
        self._connects_failed = 0
        self._standing_open: set[Connection] = set()
        self.waiting: deque[Job] = deque()
        self.urgent: deque[Job] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether anything waits for a connection, or is on one that is not standing."""
        return bool(self.opening or self.waiting or self.urgent or len(self.open) > len(self.idle))

    def submit(self, job: Job, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        if job.lane is Lane.STANDING:
            self._submit_standing(job, nursery)
            return
        idle = self.idle
        if job.lane is Lane.URGENT or len(self.open) - len(idle) < self._limits.connections_max:
            while idle:
                if idle.pop().begin(job):
                    return
        queue = self.urgent if job.lane is Lane.URGENT else self.waiting
        if len(queue) >= self._limits.waiting_max:
            job.failed(Failure.NOT_SENT, f"{len(queue)} requests already wait for the upstream")
            return
        job.since = trio.current_time()
        queue.append(job)
        self._grow()

    def free(self, connection: Connection) -> None:
        """Give a connection its next job, or put it aside."""
        job = self._next_job(len(self.open) - len(self.idle) - 1)
        if job is None:
            self.idle.append(connection)
        elif not connection.begin(job):  # its task ends now, and opens another for what waits
            (self.urgent if job.lane is Lane.URGENT else self.waiting).appendleft(job)

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(run, *args)

    def sweep(self, now: float) -> None:
        """Close what was silent or idle for too long; refuse what waited for too long."""
        for connection in (*self.open, *self._standing_open):
            job = connection.job
            if job is not None and connection.silent_seconds(now) > job.silence_seconds_max:
                connection.close(f"nothing came for {job.silence_seconds_max:g} s")
        for connection in self.idle.copy():
            limit = self._idle_seconds_max
            if connection.idle_limit_seconds is not None:
                limit = min(limit, connection.idle_limit_seconds - 1.0)
            if connection.silent_seconds(now) > limit:
                self.idle.remove(connection)
                connection.close("idle")
        for queue in (self.urgent, self.waiting):
            while queue and now - queue[0].since > self._limits.waiting_seconds_max:
                self._refuse(queue.popleft(), "no connection to the upstream became free in time")

    def refuse_waiting(self, detail: str) -> None:
        for queue in (self.urgent, self.waiting):
            while queue:
                self._refuse(queue.popleft(), detail)

    def _submit_standing(self, job: Job, nursery: trio.Nursery) -> None:
        if self.standing >= self._limits.standing_max:
            job.failed(Failure.NOT_SENT, f"{self.standing} streams of the upstream are open already")
            return
        self.standing += 1
        nursery.start_soon(self._stand, job)

    def _next_job(self, busy: int) -> Job | None:
        """Take what waits longest, the urgent first; the abandoned are forgotten."""
        while self.urgent:
            job = self.urgent.popleft()
            if not job.abandoned:
                return job
        while self.waiting and busy < self._limits.connections_max:
            job = self.waiting.popleft()
            if not job.abandoned:
                return job
        return None

    def _grow(self) -> None:
        """Open as many connections as jobs wait for, within the bounds."""
        if self._nursery is None:
            return
        bound = self._limits.connections_max + (self._limits.urgent_connections_max if self.urgent else 0)
        wanted = len(self.urgent) + len(self.waiting)
        while self.opening < wanted and len(self.open) + self.opening < bound:
            self.opening += 1
            start_apart(self._nursery, self._work)

    async def _work(self) -> None:
        """Open a connection and serve whatever waits, until it ends."""
        try:
            connection = await self._connect()
        finally:
            self.opening -= 1
        if isinstance(connection, str):
            self._connect_failed(connection)
            return
        self.open.add(connection)
        try:
            self.free(connection)
            if connection.closed:  # at once: trying again and again would keep what waits waiting
                self._connect_failed(self._note_failure("it accepts connections and closes them"))
            await connection.serve()
        finally:
            self.open.discard(connection)
            if connection in self.idle:
                self.idle.remove(connection)
                self._learn(connection)
            self._grow()

    async def _stand(self, job: Job) -> None:
        """Serve one stream on a connection of its own."""
        try:
            connection = await self._connect()
            if isinstance(connection, str):
                self._refuse(job, connection)
                return
            self._standing_open.add(connection)
            try:
                if job.abandoned or not connection.begin(job):
                    connection.close("not needed")
                    self._refuse(job, "the other side closed the connection at once")
                await connection.serve()
            finally:
                self._standing_open.discard(connection)
        finally:
            self.standing -= 1

    async def _connect(self) -> Connection | str:
        try:
            with trio.fail_after(self._limits.connect_seconds_max):
                tls = self._tls_for(self._origin)
                wire = await open_wire(self._origin.host, self._origin.port, tls, self._proxy)
        except trio.TooSlowError:
            return self._note_failure(f"nothing came for {self._limits.connect_seconds_max:g} s")
        except OSError as error:
            return self._note_failure(describe(error))
        return Connection(wire, self)

    def _note_failure(self, why: str) -> str:
        """Log a failed attempt. What is returned may reach clients, whom the upstream's address does not concern."""
        self._connects_failed += 1
        if is_power_of_two(self._connects_failed):  # a host that is down fails thousands of them
            by = {} if self._proxy is None else {"proxy": str(self._proxy)}
            _log.warning(
                "upstream_not_connected", upstream=str(self._origin), why=why, count=self._connects_failed, **by
            )
        detail = f"no connection to the upstream: {why}"
        for failed in self._observers:
            failed(detail)
        return detail

    def _connect_failed(self, detail: str) -> None:
        """Each failed attempt was made for one job: refuse one, so that nobody waits for a host that is down."""
        job = self._next_job(0)
        if job is not None:
            self._refuse(job, detail)
        self._grow()

    def _refuse(self, job: Job, detail: str) -> None:
        if job.abandoned:
            return
        try:
            job.failed(Failure.NOT_SENT, detail)
        except Exception:  # noqa: BLE001 - supervision: as for answers, one listener's fault is its own
            _log.exception("upstream_refusal_not_handled")

    def _learn(self, connection: Connection) -> None:
        """The other side closed an idle connection: from now on be earlier."""
        seconds = connection.silent_seconds(trio.current_time()) * 0.8
        self._idle_seconds_max = max(_IDLE_SECONDS_LEARNED_MIN, min(self._idle_seconds_max, seconds))


class _Fetch(Job):
    """A request somebody waits for."""

    __slots__ = ("_failure", "_response", "settled")

    def __init__(self, request: bytes, *, silence_seconds_max: float, lane: Lane, body_bytes_max: int) -> None:
        super().__init__(request, silence_seconds_max=silence_seconds_max, lane=lane, body_bytes_max=body_bytes_max)
        self.settled = trio.Event()
        self._response: tuple[ResponseHead, bytes] | None = None
        self._failure = RequestFailed(Failure.OUTCOME_UNKNOWN, f"no answer within {silence_seconds_max:g} s")

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self._response = (head, body)
        self.settled.set()

    def stream_opened(self, head: ResponseHead) -> None:
        self.answered(head, b"")
        self.abandon()

    def failed(self, failure: Failure, detail: str) -> None:
        self._failure = RequestFailed(failure, detail)
        self.settled.set()

    def outcome(self) -> tuple[ResponseHead, bytes]:
        if self._response is None:
            raise self._failure
        return self._response
