"""Monitoring: what watches a running gateway, put together; and the operations that tell of it."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from actors.runtime import Runtime
from outlast.health_operation import health_operation
from outlast.health_tool import look_at
from outlast.metrics import Counts
from outlast.metrics_operation import metrics_operation
from outlast.pauses import Pauses
from outlast.probing import StoreProber
from outlast.upstreams import Upstreams
from outlast.vitals import Vitals
from outlast.watchdog import Watchdog
from transport.gateway import Gateway
from transport.operation import Operation
from transport.server import HttpServer


class Monitoring:
    """Watches one gateway while `run` runs."""

    def __init__(self, runtime: Runtime, upstreams: Upstreams, *, sessions_max: int) -> None:
        """
        Args:
          runtime: if it has a health tool, that tells of this gateway from now on.
        """
        self.vitals = Vitals(runtime, upstreams, StoreProber(runtime.store), Watchdog(), sessions_max)
        self.operations: Sequence[Operation] = (
            health_operation(self.vitals),
            metrics_operation(self.vitals, self.counts),
        )
        self._runtime = runtime
        if runtime.own_tools is not None:
            look_at(runtime.own_tools, self.vitals)
        self._pauses = Pauses()
        self._server: HttpServer | None = None

    def watch(self, gateway: Gateway, server: HttpServer) -> None:
        """Have the gateway and its server told of, too: they are made after their operations."""
        self.vitals.not_ready_reason = gateway.not_ready_reason
        self._server = server

    async def run(self) -> None:
        """Watch until cancelled."""
        with self._pauses.watching():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.vitals.watchdog.run)
                nursery.start_soon(self.vitals.prober.run)

    def counts(self) -> Counts:
        """Read off what is counted."""
        runtime, reaper, restorer = self._runtime, self._runtime.reaper, self._runtime.restorer
        departures = runtime.registry.departures.statistics()
        connections = None if self._server is None else self._server.statistics()
        return Counts(
            writer=runtime.writer.statistics(),
            commit_seconds=runtime.writer.commit_seconds,
            batch_rows=runtime.writer.batch_rows,
            pause_seconds=self._pauses.seconds,
            servers=runtime.usage(),
            events=runtime.log_counts,
            reaped=0 if reaper is None else reaper.reaped,
            passivated=0 if reaper is None else reaper.passivated,
            ends_told=departures.told,
            ends_not_told=departures.not_told,
            restore_permits_in_use=0 if restorer is None else restorer.permits_in_use,
            connections_open=0 if connections is None else connections.connections_open,
            connections_accepted=0 if connections is None else connections.connections_accepted,
            connections_refused=0 if connections is None else connections.connections_refused,
            connections_failed=0 if connections is None else connections.connections_failed,
        )
