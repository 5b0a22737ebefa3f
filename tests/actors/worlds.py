"""Worlds for tests: a runtime over a store that can have a bad day, in front of a scripted upstream.

The disk and the upstream outlive the world: opening another one over them is the process started anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from actors import jsonrpc
from actors import messages as say
from actors.event_log import ReaderEnded
from actors.handle import Reading, SessionHandle
from actors.ids import ANONYMOUS, EventId, Principal
from actors.jsonrpc import RequestId
from actors.mailbox import OneShot
from actors.runtime import Runtime, RuntimeOptions, open_runtime
from actors.state import SessionState, SetupChange
from persistence.memory import MemoryStore
from tests.actors.fake_link import HANDSHAKE, FakeLink, FakeUpstream
from tests.persistence.faulty import FaultyStore


@attrs.frozen(eq=False)
class World:
    """One process, as far as sessions can tell."""

    runtime: Runtime
    upstream: FakeUpstream
    store: FaultyStore

    @property
    def link(self) -> FakeLink:
        return self.upstream.link

    def kill(self) -> None:
        """End the process at this instant: what is not on the disk will not be."""
        self.store.crash()


@asynccontextmanager
async def open_world(
    upstream: FakeUpstream | None = None,
    disk: MemoryStore | None = None,
    *,
    commit_seconds: float = 0.0,
    restore: bool = False,
    **options: Any,
) -> AsyncIterator[World]:
    """Run a runtime.

    Args:
      upstream: what its sessions talk to.
      disk: where facts are kept; outlives the world.
      commit_seconds: how long a commit takes.
      restore: bring stored sessions back by itself; most tests want to see each activation.
      options: as of `RuntimeOptions`.
    """
    upstream = upstream or FakeUpstream()
    store = FaultyStore(disk or MemoryStore(), commit_seconds=commit_seconds)
    settings = RuntimeOptions(restore=restore, **options)
    async with open_runtime(store, connect=upstream.connect, options=settings) as runtime:
        yield World(runtime, upstream, store)


async def open_session(world: World, *, principal: Principal = ANONYMOUS, server_id: str = "linear") -> SessionHandle:
    """Open a session by a handshake, as a gateway's client does."""
    beginning = world.runtime.begin(server_id=server_id, principal=principal)
    handshake = jsonrpc.request("open", HANDSHAKE, {"name": "test"})
    outcome = await beginning.ask(lambda ticket: say.SendRequest(ticket, handshake, opens=True)).wait()
    assert isinstance(outcome, say.Answered), outcome
    return beginning.session


def send(
    session: SessionHandle,
    id: RequestId,
    method: str = "echo",
    params: object = None,
    *,
    label: str = "",
    setup: SetupChange | None = None,
    on_standalone: bool = False,
) -> OneShot[say.Outcome]:
    """Queue a request; its outcome comes later."""
    message = jsonrpc.request(id, method, params)

    def make(ticket: int) -> say.Command:
        return say.SendRequest(ticket, message, label, setup, on_standalone=on_standalone)

    return session.actor().ask(make)


def notify(
    session: SessionHandle, method: str, params: object = None, *, cancels: RequestId | None = None
) -> OneShot[say.Outcome]:
    """Queue a notification; its outcome comes later."""
    message = jsonrpc.notification(method, params)
    return session.actor().ask(lambda ticket: say.SendNotification(ticket, message, cancels))


async def read_stream(session: SessionHandle, stream_id: int) -> list[jsonrpc.Message]:
    """Read a call's stream to its end."""
    return await read_rest(await session.read(None, stream=stream_id))


async def read_rest(reading: Reading) -> list[jsonrpc.Message]:
    """Read on until the stream ends, or its reader."""
    messages: list[jsonrpc.Message] = []
    try:
        while page := await reading.next_page():
            messages += [jsonrpc.parse(entry.body) for entry in page]
    except ReaderEnded:
        pass
    finally:
        reading.close()
    return messages


async def kept_state(session: SessionHandle) -> SessionState:
    """Give the session as it is, loading it if need be."""
    return await session.state()


def event_id(session: SessionHandle, state: SessionState, stream: int, offset: int) -> EventId:
    """Name one event of a session."""
    return EventId(stream, state.log.epoch, offset)


def problem(outcome: say.Outcome) -> say.Problem:
    """Give what was wrong."""
    assert isinstance(outcome, say.NotDone), outcome
    return outcome.problem
