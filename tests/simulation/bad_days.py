"""Bad days: from time to time something goes wrong with the store or with an upstream, for a while or for good."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

import trio

from actors.ids import SessionId
from actors.runtime import Runtime
from tests.simulation.sim_store import Weather
from tests.simulation.sim_upstream import SimServer

SECONDS_BETWEEN_MEAN = 20.0


class BadDays:
    """What goes wrong in a world, while its clients are at work."""

    def __init__(
        self,
        weather: Weather,
        servers: dict[str, SimServer],
        chance: random.Random,
        counts: Counter[str],
        *,
        runtime: Callable[[], Runtime | None],
    ) -> None:
        """
        Args:
          runtime: the one that serves now.
          counts: of what happened, by name; added to.
        """
        self.over = False
        self.removed: set[str] = set()  # sessions that an operator has removed
        self._runtime = runtime
        self._weather = weather
        self._servers = servers
        self._chance = chance
        self._counts = counts

    async def run(self) -> None:
        """Let things go wrong, until it is over."""
        events: list[tuple[int, str, Callable[[float], None]]] = [
            (4, "times of no store", self._store_is_away),
            (3, "times of a full store", self._store_is_full),
            (4, "times of a slow store", self._store_is_slow),
            (4, "deaths of an upstream", self._server_dies),
            (8, "sessions forgotten upstream", self._server_forgets),
            (1, "sessions rejected upstream", self._server_rejects),
            (2, "sessions removed by an operator", self._operator_removes),
        ]
        weights = [weight for weight, _, _ in events]
        while True:
            await trio.sleep(self._chance.expovariate(1 / SECONDS_BETWEEN_MEAN))
            if self.over:
                return
            [(_, name, happen)] = self._chance.choices(events, weights)
            happen(trio.current_time())
            self._counts[name] += 1

    def _store_is_away(self, now: float) -> None:
        self._weather.unavailable_until = now + self._chance.uniform(1, 40)

    def _store_is_full(self, now: float) -> None:
        self._weather.full_until = now + self._chance.uniform(1, 20)

    def _store_is_slow(self, now: float) -> None:
        self._weather.slow_until = now + self._chance.uniform(5, 60)

    def _server_dies(self, now: float) -> None:
        self._server().die(self._chance.choice([0.0, 3.0, 30.0]))

    def _server_forgets(self, now: float) -> None:
        server = self._server()
        if server.sessions:
            session = self._chance.choice(list(server.sessions.values()))
            server.forget(session, "forgotten", tell=self._chance.random() < 0.3)

    def _server_rejects(self, now: float) -> None:
        server = self._server()
        if server.sessions:
            session = self._chance.choice(list(server.sessions.values()))
            server.rejected.add(session.ours)
            server.forget(session, "rejected")

    def _operator_removes(self, now: float) -> None:
        """Remove a session; one that is just being loaded, if there is one."""
        runtime = self._runtime()
        if runtime is None:
            return
        loading: Iterable[str] = [a.session_id for a in runtime.registry.residents() if not a.is_loaded]
        known = list(loading) or [header.session_id for header in runtime.registry.headers()]
        if known:
            session_id = self._chance.choice(known)
            self.removed.add(session_id)
            runtime.registry.remove(SessionId(session_id), "operator")

    def _server(self) -> SimServer:
        return self._chance.choice(list(self._servers.values()))
