"""Vitals: reads the facts off a running gateway, for its health report and its metrics.

Nothing here looks at all sessions, and nothing waits but the probe of the store, which is rationed (`probing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs
import trio

from actors.restorer import RestoreProgress
from actors.runtime import Runtime
from outlast import __version__
from outlast.health_facts import (
    HealthFacts,
    LoopFacts,
    RestoreFacts,
    ServerFacts,
    SessionFacts,
    StoreFacts,
    WriterFacts,
)
from outlast.probing import Probe, StoreProber
from outlast.upstreams import Upstreams
from outlast.watchdog import Watchdog
from persistence.lease_margin import Leasing


def _always_ready() -> str:
    return ""


@attrs.define(eq=False)
class Vitals:
    """Where the facts of one gateway are found."""

    runtime: Runtime
    upstreams: Upstreams
    prober: StoreProber
    watchdog: Watchdog
    sessions_max: int
    with_tool_of_ours: Collection[str] = ()  # servers whose own tool has the name of the gateway's; it may grow
    not_ready_reason: Callable[[], str] = _always_ready
    _began_seconds: float = attrs.field(factory=trio.current_time)

    async def probed(self) -> HealthFacts:
        """Give the facts, with a fresh look at the store; within seconds. Cancellation: safe."""
        return self.facts(await self.prober.probe())

    def facts(self, probe: Probe | None = None) -> HealthFacts:
        """Give the facts at once.

        Args:
          probe: of the store; None: the last one.
        """
        writer = self.runtime.writer.statistics()
        return HealthFacts(
            version=__version__,
            up_seconds=trio.current_time() - self._began_seconds,
            not_ready_reason=self.not_ready_reason(),
            store=self._store(probe or self.prober.last),
            writer=WriterFacts(
                lag_seconds=writer.oldest_seconds,
                outage_seconds=writer.outage_seconds,
                sessions_waiting=writer.sessions_waiting,
                full=writer.full,
            ),
            sessions=self._sessions(),
            servers=tuple(self._servers()),
            loop=self._loop(),
            restore=self._restore(),
        )

    def _store(self, probe: Probe | None) -> StoreFacts:
        store, degraded = self.runtime.store, self.runtime.degraded
        facts = StoreFacts(
            url=store.url,
            survives=store.survives,
            reachable=degraded is None and (probe is None or not probe.problem),
            probe_seconds=None if probe is None else probe.seconds,
            probed_seconds_ago=None if probe is None else trio.current_time() - probe.at_seconds,
            degraded_since_unix_s=None if degraded is None else degraded.since_unix_s,
            degraded_facts=0 if degraded is None else degraded.facts,
            lease_margin_seconds=store.lease_margin_seconds() if isinstance(store, Leasing) else None,
        )
        if probe is None:
            return facts
        return attrs.evolve(
            facts,
            problem=probe.problem,
            notes=probe.notes,
            quarantined=probe.quarantined,
            bytes_free=probe.bytes_free,
            has_ballast=probe.has_ballast,
            troubles=probe.troubles,
            primary=probe.primary,
        )

    def _sessions(self) -> SessionFacts:
        statistics, reaper = self.runtime.registry.statistics(), self.runtime.reaper
        return SessionFacts(
            total=statistics.sessions,
            total_max=self.sessions_max,
            resident=statistics.resident,
            uninitialized=statistics.by_reason,
            turned_away=statistics.turned_away,
            reaping_stopped=reaper is not None and reaper.braked,
        )

    def _servers(self) -> list[ServerFacts]:
        return [
            ServerFacts(
                name=server.name,
                transport=server.transport,
                state=server.state.value,
                since_unix_s=server.since_unix_s,
                last_error=server.last_error,
                refuses_credentials=server.refuses_credentials,
                has_our_tool=server.name in self.with_tool_of_ours,
            )
            for server in self.upstreams.health()
        ]

    def _loop(self) -> LoopFacts:
        watchdog = self.watchdog
        return LoopFacts(
            lag_seconds=watchdog.late_seconds,
            lag_seconds_max=watchdog.late_seconds_max(),
            standstills=watchdog.standstills,
        )

    def _restore(self) -> RestoreFacts:
        restorer = self.runtime.restorer
        progress = RestoreProgress() if restorer is None else restorer.progress
        return RestoreFacts(
            total=progress.total,
            restored=progress.restored,
            uninitialized=progress.uninitialized,
            waiting=progress.waiting,
            on_use=progress.on_use,
        )
