"""open_runtime: the session runtime as a nursery API. Start order and stop order are readable here, in one function."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Literal

import attrs
import structlog
import trio

from actors import messages as say
from actors.analytics import AnalyticsReport, ServerUsage
from actors.clock import SteadyClock
from actors.connecting import Backoff
from actors.event_log import LogCounts
from actors.handle import SessionHandle, require
from actors.ids import ANONYMOUS, SESSION_ID_RANDOM_BYTES, Principal, SessionId, mint_session_id
from actors.keeping import keep
from actors.link import Connect
from actors.nothing import connect_to_nothing
from actors.overdue import Timekeeper
from actors.own_tools import OwnTools
from actors.reaper import Reaper, ReaperRules
from actors.registry import Registry
from actors.restorer import RestoreProgress, Restorer
from actors.state import NOTHING, Limits, LogState, SessionState
from actors.store_use import EVENT_STORE_SERVER_ID, check_sessions
from actors.supervisor import ChildSpec, Restart, supervise
from actors.surroundings import Surroundings
from persistence.codec import Codec
from persistence.degrading import PATIENCE_SECONDS, Degraded, DegradingStore
from persistence.opening import open_store, shown_url
from persistence.presence import Tended, keep_tending
from persistence.resealing import Resealable, marked
from persistence.store import Store, StoreFull
from persistence.writer import Writer

log = structlog.get_logger("outlast.runtime")


@attrs.frozen(kw_only=True)
class RuntimeOptions:
    """How a runtime behaves. All have good defaults."""

    limits: Limits = Limits()  # of one session
    sessions_max: int = 100_000
    sessions_per_principal_max: int | None = None  # None: no bound but `sessions_max`; the anonymous one has none
    resident_sessions_max: int = 10_000  # the restorer brings no more to life; with more, the longest idle leave
    session_ttl_seconds: float = 24 * 3600.0  # from the last activity
    reaper_rules: ReaperRules = ReaperRules()
    restore: bool = True  # bring stored sessions to life in the background
    restored_on_use: Collection[str] = ()  # servers whose sessions are not brought to life in the background
    restore_permits: int = 64
    restore_permits_per_server: int = 8
    connect_seconds_max: float = 10.0  # for one attempt to open a link
    backoff: Backoff = Backoff()  # between attempts
    store_wait_seconds: float = 5.0  # who waits longer for the store is told that the outcome is in doubt
    store_outage: Literal["refuse", "degrade"] = "refuse"  # acknowledge nothing meanwhile, or go on from memory
    store_outage_patience_seconds: float = PATIENCE_SECONDS  # with `degrade`: how long to insist before
    stop_seconds_max: float = 5.0  # for the actors to leave, and again for the last flush
    own_tools: OwnTools | None = None  # a tool that is added to those of every server, and answered here
    gate_open_always: bool = False  # a negative control for tests: replies outrun their commits, a crash loses facts


class Runtime:
    """A running session runtime."""

    def __init__(self, shared: Surroundings, registry: Registry, options: RuntimeOptions) -> None:
        self._shared = shared
        self._options = options
        self.registry = registry
        self.restorer: Restorer | None = None
        self.reaper: Reaper | None = None

    @property
    def store(self) -> Store:
        return self._shared.store

    @property
    def writer(self) -> Writer:
        return self._shared.writer

    @property
    def degraded(self) -> Degraded | None:
        """What would be lost now, while the store is away and the runtime goes on from memory; None: nothing."""
        return self.store.degraded if isinstance(self.store, DegradingStore) else None

    def session(
        self, session_id: str, *, principal: Principal = ANONYMOUS, server_id: str | None = None
    ) -> SessionHandle:
        """Give a session by its id; whether it exists, and talks to that server, shows at the first use."""
        return SessionHandle(self.registry, SessionId(session_id), principal, server_id)

    def draw_session_id(self) -> SessionId:
        """Draw an id that nobody can guess, for a session that is begun under it later."""
        return mint_session_id(secrets.token_bytes(SESSION_ID_RANDOM_BYTES))

    def begin(
        self,
        *,
        session_id: SessionId | None = None,
        server_id: str = "",
        principal: Principal = ANONYMOUS,
        ttl_seconds: float | None = None,
        client_transport: str = "embedded",
        upstream_transport: str = "embedded",
        context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Beginning:
        """Make a session that nobody can find yet: it comes to exist with its handshake, or not at all.

        Args:
          session_id: as `draw_session_id` gave it, and used for no other session; None: it is drawn now. A begun
            session that was refused its handshake leaves no trace, so that its id may be used for another try.

        Raises:
          ValueError: the server id is that of SDK servers' sessions; a store with it is refused at the next start.
          Unkeepable: context or metadata hold what no store can keep.
          TooManySessions, Draining
        """
        if server_id == EVENT_STORE_SERVER_ID:
            raise ValueError(f"server_id {server_id!r} is taken by DurableEventStore: choose another")
        now_unix_s = self._shared.clock.now_unix_s()
        state = SessionState(
            session_id=self.draw_session_id() if session_id is None else session_id,
            server_id=server_id,
            principal=principal,
            created_unix_s=now_unix_s,
            last_active_unix_s=now_unix_s,
            ttl_seconds=self._options.session_ttl_seconds if ttl_seconds is None else ttl_seconds,
            client_transport=client_transport,
            upstream_transport=upstream_transport,
            log=LogState(epoch=_draw_epoch() if self._shared.log_epoch is None else self._shared.log_epoch),
            context=keep(context)[0] if context else NOTHING,
            metadata=keep(metadata)[0] if metadata else NOTHING,
        )
        handle = SessionHandle(self.registry, state.session_id, principal)
        return Beginning(handle, self.registry.create(state).ask)

    async def create(
        self,
        *,
        server_id: str = "",
        principal: Principal = ANONYMOUS,
        ttl_seconds: float | None = None,
        context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SessionHandle:
        """Make a session; it is durable on return.

        Args:
          server_id: which kind of upstream it talks to; for `connect`, and for permits per upstream.
          principal: who owns it; to anyone else it does not exist.
          ttl_seconds: how long it is kept after its last activity; None: the runtime's default.
          context, metadata: builtins to keep with it.

        Raises:
          Unkeepable: context or metadata hold what no store can keep.
          OutcomeUnknown: it may come to exist, and then ends unused when its time is over; create another one.
          TooManySessions, Draining, SessionUnavailable
        """
        beginning = self.begin(
            server_id=server_id, principal=principal, ttl_seconds=ttl_seconds, context=context, metadata=metadata
        )
        require(await beginning.ask(say.Create).wait())
        return beginning.session

    @property
    def own_tools(self) -> OwnTools | None:
        """What is answered here and not by the servers; None: nothing."""
        return self._shared.own_tools

    def usage(self) -> Mapping[str, ServerUsage]:
        """Give the counts of each server, as they stand; they go on being counted."""
        return self._shared.analytics.servers()

    @property
    def log_counts(self) -> LogCounts:
        """What event logs have let go of, as it stands; it goes on being counted."""
        return self._shared.log_counts

    def usage_of(self, server_id: str) -> ServerUsage:
        """Give the counts of one server, for whoever asks it past the sessions."""
        return self._shared.analytics.server(server_id)

    def analytics(self) -> AnalyticsReport:
        """Say what the sessions were used for: of calls, since this process started."""
        residents = [actor.state for actor in self.registry.residents() if actor.is_loaded]
        now_unix_s = self._shared.clock.now_unix_s()
        return self._shared.analytics.report(self.registry.headers(), residents, now_unix_s=now_unix_s)

    async def settled(self) -> None:
        """Wait until everything said so far, soft facts too, is durable."""
        await self._shared.writer.flush()


@attrs.frozen(eq=False)
class Beginning:
    """A session that is being made: `ask` reaches its actor before it can be found by others."""

    session: SessionHandle
    ask: Callable[[Callable[[int], say.Command]], Any]


@asynccontextmanager
async def open_runtime(
    store: str | Store = "sqlite:./data/outlast.db",
    *,
    codec: Codec | None = None,
    connect: Connect | None = None,
    options: RuntimeOptions = RuntimeOptions(),
    progress: Callable[[RestoreProgress], None] = lambda _: None,
) -> AsyncIterator[Runtime]:
    """Run a session runtime for the length of a block.

    Args:
      store: a store URL (`memory:`, `sqlite:PATH`), or an open store, which this then closes. With the option
        `store_outage="degrade"` a store that does not answer begins in memory; what it holds is known when it does.
      codec: how records are sealed in the store that a URL names; None: as they are. An open store has its own.
      connect: opens a session's link; None: sessions talk to nothing (they still have values and events).
      options: how it behaves.
      progress: told how far restoring has come.

    Raises:
      StoreUrlInvalid, StoreInvalid, StoreInUse, StoreUnavailable: before the block, as they are.
      StoreBroken, FenceLost: out of the block, which is cancelled: the process must stop acknowledging, and end.
        Any StoreError of a store that was away and is back, but cannot be used.

    Cancellation: actors leave memory and what was said is flushed, within `stop_seconds_max` each, before it passes on.
    """
    kept = await _open(store, codec, options)
    try:
        with _as_it_was_raised() as body:
            async with _keeping(kept, options) as keeper, _living(keeper, connect, options) as registry:
                with body:
                    await _know_sessions(keeper, registry)
                    runtime = Runtime(registry.shared, registry, options)
                    restore = options.restore and connect is not None
                    _start_keepers(runtime, options, keeper.nursery, progress, restore=restore)
                    yield runtime
    finally:
        with trio.move_on_after(options.stop_seconds_max, shield=True):
            await kept.aclose()


@attrs.frozen(eq=False)
class _Keeper:
    """What keeps facts, and runs for longer than any session."""

    store: Store
    writer: Writer
    timekeeper: Timekeeper
    nursery: trio.Nursery


@asynccontextmanager
async def _keeping(store: Store, options: RuntimeOptions) -> AsyncIterator[_Keeper]:
    """Run what keeps facts: claim the store, write for the length of the block, flush what is left."""
    if not isinstance(store, DegradingStore):  # which looks when it reaches the store behind
        await check_sessions(store)
    fence = await store.claim(f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(4)}")
    writer, timekeeper = Writer(store, fence), Timekeeper()
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        if isinstance(store, Tended):
            nursery.start_soon(keep_tending, store, fence)
        nursery.start_soon(supervise, ChildSpec("timekeeper", timekeeper.run, Restart.PERMANENT))
        yield _Keeper(store, writer, timekeeper, nursery)
        with trio.move_on_after(options.stop_seconds_max, shield=True) as last_flush:
            try:
                await writer.flush()
            except StoreFull as full:  # nobody was told of what is lost: an orderly end all the same
                log.error("the last flush found no room", why=str(full))
        if last_flush.cancelled_caught:
            log.error("the last flush did not end in time", seconds=options.stop_seconds_max)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _living(keeper: _Keeper, connect: Connect | None, options: RuntimeOptions) -> AsyncIterator[Registry]:
    """Run sessions and their links for the length of the block; at its end they leave memory."""
    async with trio.open_nursery() as links, trio.open_nursery() as living:
        shared = Surroundings(
            keeper.store,
            keeper.writer,
            SteadyClock(),
            keeper.timekeeper,
            links,
            connect if connect is not None else connect_to_nothing,
            options.limits,
            connect_seconds_max=options.connect_seconds_max,
            store_wait_seconds=options.store_wait_seconds,
            backoff=options.backoff,
            log_epoch=_draw_epoch() if _may_lose_what_was_told(keeper.store) else None,
            own_tools=options.own_tools,
            gate_open_always=options.gate_open_always,
        )
        registry = Registry(
            shared,
            living,
            sessions_max=options.sessions_max,
            sessions_per_principal_max=options.sessions_per_principal_max,
        )
        try:
            yield registry
        finally:
            with trio.move_on_after(options.stop_seconds_max, shield=True):
                await registry.stop_actors()
            living.cancel_scope.cancel()
            links.cancel_scope.cancel()


async def _know_sessions(keeper: _Keeper, registry: Registry) -> None:
    """Read the index; of a store that is away, have it told when it is back."""
    store = keeper.store
    await _index(store, registry)
    if isinstance(store, DegradingStore):
        store.on_adopted, registry.knows_all = registry.adopt, lambda: store.knows_all
        await keeper.nursery.start(store.run)


class _Body:
    """Remembers what was raised inside, to tell it from what its surroundings raise."""

    def __init__(self) -> None:
        self.raised: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.raised = error


@contextmanager
def _as_it_was_raised() -> Iterator[_Body]:
    """Let what the body raises out as it was raised: nurseries wrap what leaves them.

    The body is the caller's block, and what comes before it. What ends a running runtime from below stays in its group.
    """
    body = _Body()
    try:
        yield body
    except BaseExceptionGroup as group:
        raised = body.raised
        if raised is not None and all(cause is raised for cause in leaves(group)):
            raise raised from raised.__cause__
        raise


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Give the single errors of a group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


async def _open(store: str | Store, codec: Codec | None, options: RuntimeOptions) -> Store:
    """Open the store, with what its outage policy puts in front of it."""
    if options.store_outage == "refuse":
        return await open_store(store, codec=codec) if isinstance(store, str) else store

    async def open_primary() -> Store:
        primary = await open_store(store, codec=codec) if isinstance(store, str) else store
        try:
            await check_sessions(primary)
        except BaseException:
            if isinstance(store, str):  # nobody else knows of it
                with trio.move_on_after(options.stop_seconds_max, shield=True):
                    await primary.aclose()
            raise
        return primary

    name = shown_url(store) if isinstance(store, str) else store.url
    return await DegradingStore.open(open_primary, name=name, patience_seconds=options.store_outage_patience_seconds)


def _draw_epoch() -> int:
    return int.from_bytes(secrets.token_bytes(4), "big")


def _may_lose_what_was_told(store: Store) -> bool:
    """Say whether a process that ends may have told of events that the next one does not find."""
    return isinstance(store, DegradingStore) or store.survives == "redis"


async def _index(store: Store, registry: Registry) -> None:
    obstacles = await store.obstacles() if isinstance(store, Resealable) else {}
    if obstacles:
        reasons = dict(Counter(obstacles.values()))
        log.error("sessions cannot be opened here; their records stay as they are", reasons=reasons)
    after: int | None = 0
    while after is not None:
        headers, after = await store.scan(after=after)
        registry.learn([marked(header, obstacles) for header in headers] if obstacles else headers)


def _start_keepers(
    runtime: Runtime,
    options: RuntimeOptions,
    nursery: trio.Nursery,
    progress: Callable[[RestoreProgress], None],
    *,
    restore: bool,
) -> None:
    """Start what looks after the sessions; each supervised, so that none can die unnoticed."""
    runtime.reaper = Reaper(runtime.registry, options.reaper_rules, resident_sessions_max=options.resident_sessions_max)
    nursery.start_soon(supervise, ChildSpec("reaper", runtime.reaper.run, Restart.PERMANENT))
    if restore:
        runtime.restorer = Restorer(
            runtime.registry,
            permits=options.restore_permits,
            permits_per_server=options.restore_permits_per_server,
            sessions_max=options.resident_sessions_max,
            on_use=options.restored_on_use,
            progress=progress,
        )
        nursery.start_soon(supervise, ChildSpec("restorer", partial(_restore, runtime.restorer, runtime.store)))


async def _restore(restorer: Restorer, store: Store) -> None:
    """Restore the stored sessions, once it is known which those are."""
    if isinstance(store, DegradingStore):
        await store.wait_known()
    await restorer.run()


async def run_runtime(
    store: str | Store = "sqlite:./data/outlast.db",
    *,
    codec: Codec | None = None,
    connect: Connect | None = None,
    options: RuntimeOptions = RuntimeOptions(),
    task_status: trio.TaskStatus[Runtime] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a session runtime inside a nursery of yours: ``runtime = await nursery.start(run_runtime, store)``.

    Arguments and errors as `open_runtime`. Cancellation: stops it in order.
    """
    async with open_runtime(store, codec=codec, connect=connect, options=options) as runtime:
        task_status.started(runtime)
        await trio.sleep_forever()
