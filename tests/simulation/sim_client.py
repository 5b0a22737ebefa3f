"""Simulated clients: each opens a session, lives in it (`sim_session.py`), and opens the next when it is over."""

from __future__ import annotations

import random
from functools import partial

import trio

from actors import jsonrpc
from actors import messages as say
from actors.handle import OutcomeUnknown, SessionHandle, SessionUnavailable
from actors.ids import Principal
from actors.registry import Draining, TooManySessions
from actors.runtime import Runtime
from tests.simulation.history import SessionHistory
from tests.simulation.sim_session import SimSession
from tests.simulation.surroundings import Habits, ProcessDied, Surroundings


class SimClient:
    """One client."""

    def __init__(
        self, name: str, servers: list[str], world: Surroundings, chance: random.Random, habits: Habits
    ) -> None:
        self._name = name
        self._servers = servers
        self._world = world
        self._chance = chance
        self._habits = habits
        self._principal = principal_of(name)

    async def run(self) -> None:
        """Live until the world ends."""
        number = 0
        while not self._world.finishing:
            number += 1
            await trio.sleep(self._chance.random() * 5)
            history = await self._open(f"{self._name}.{number}")
            if history is not None:
                self._world.register(history)
                await trio.sleep(self._habits.first_use_after_seconds)
                await SimSession(history, self._principal, self._world, self._chance, self._habits).live()

    async def _open(self, name: str) -> SessionHistory | None:
        server_id = self._chance.choice(self._servers)
        ttl_seconds = self._chance.choice([600.0, 86_400.0])
        opening = self._create if self._chance.random() < 0.5 else self._shake_hands
        try:
            handle = await self._world.attempt(partial(opening, server_id, ttl_seconds))
        except (ProcessDied, SessionUnavailable, OutcomeUnknown, Draining, TooManySessions):
            return None
        if handle is None:
            return None
        return SessionHistory(name, handle.id, server_id, ttl_seconds, last_active_seconds=trio.current_time())

    async def _create(self, server_id: str, ttl_seconds: float, runtime: Runtime) -> SessionHandle | None:
        return await runtime.create(server_id=server_id, principal=self._principal, ttl_seconds=ttl_seconds)

    async def _shake_hands(self, server_id: str, ttl_seconds: float, runtime: Runtime) -> SessionHandle | None:
        beginning = runtime.begin(server_id=server_id, principal=self._principal, ttl_seconds=ttl_seconds)
        message = jsonrpc.request(0, "initialize", {})
        outcome = await beginning.ask(lambda ticket: say.SendRequest(ticket, message, opens=True)).wait()
        if not isinstance(outcome, say.Answered) or outcome.message.is_error:
            return None
        return beginning.session


def principal_of(client: str) -> Principal:
    """Give the identity of a client; sessions are named after theirs (`client.number`)."""
    return Principal("issuer", "client", client.partition(".")[0])
