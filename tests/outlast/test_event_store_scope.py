"""The app around a server: which session is meant, what its client is told, what happens when an event is not kept.

Method: in place of the SDK a small app that does what the SDK does where it matters here: it hands out session ids of
its own, forgets them all when it is made anew, and asks the event store. Nothing is sent over a network.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import pytest

from outlast.event_scope import ScopedApp
from outlast.event_store import DurableEventStore
from persistence.memory import MemoryStore
from persistence.store import StoreFull
from tests.outlast.event_store_bed import LIBRARIES, progress, run
from tests.persistence.faulty import FaultyStore

pytestmark = pytest.mark.parametrize("library", LIBRARIES)

HANDSHAKE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"from": "client"}}


class FakeServer:
    """What the SDK is to the app around it."""

    def __init__(self, events: DurableEventStore, name: str) -> None:
        self.events = events
        self.name = name
        self.sessions: set[str] = set()
        self.handshakes: list[dict[str, Any]] = []
        self.on_begin = anyio.Event()  # set when a stream has begun
        self.status = 200  # of handshakes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        session_id = dict(scope["headers"]).get(b"mcp-session-id", b"").decode()
        if session_id and session_id not in self.sessions:
            await self.say(send, 404)
        elif scope["method"] == "DELETE":
            self.sessions.discard(session_id)
            await self.say(send, 200)
        elif scope["method"] == "GET":
            await self.say(send, 200, session_id, more=True)
            self.on_begin.set()
            await anyio.sleep_forever()
        else:
            await self.post(json.loads((await receive())["body"]), session_id, send)

    async def post(self, message: dict[str, Any], session_id: str, send: Any) -> None:
        if message["method"] == "initialize":
            self.handshakes.append(message)
            session_id = f"{self.name}-{len(self.handshakes)}"
            if self.status == 200:
                self.sessions.add(session_id)
            await self.events.store_event(str(message["id"]), None)
            await self.say(send, self.status, session_id)
        elif message["method"] == "store":
            try:
                event_id = await self.events.store_event("1", progress(1))
            except StoreFull:
                await anyio.sleep_forever()  # as with the SDK: what delivers a session's messages has ended
            await self.say(send, 200, session_id, event_id)
        else:
            await self.say(send, 202, session_id)

    async def say(self, send: Any, status: int, session_id: str = "", text: str = "", *, more: bool = False) -> None:
        headers = [(b"mcp-session-id", session_id.encode())] if session_id else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


@attrs.define
class Told:
    """What a client was told."""

    status: int = 0
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = b""
    complete: bool = False

    @property
    def session_id(self) -> str:
        return self.headers["mcp-session-id"]


async def nothing() -> None:
    """Do nothing."""


async def ask(
    app: ScopedApp,
    method: str,
    message: object = None,
    *,
    session_id: str = "",
    cursor: str = "",
    who: str = "",
    on_told: Callable[[], Awaitable[None]] = nothing,
) -> Told:
    """Make one request; give what was said to it. `on_told` runs when the status has been told."""
    told = Told()
    named = {"mcp-session-id": session_id, "last-event-id": cursor, "authorization": who}
    headers = [(name.encode(), value.encode()) for name, value in named.items() if value]

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(message).encode(), "more_body": False}

    async def send(message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            told.status = message["status"]
            told.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            await on_told()
        else:
            told.body += message["body"]
            told.complete = not message.get("more_body", False)

    await app({"type": "http", "method": method, "path": "/mcp", "headers": headers}, receive, send)
    return told


@asynccontextmanager
async def serving(store: FaultyStore | None = None) -> AsyncIterator[tuple[ScopedApp, FakeServer]]:
    async def open_store() -> FaultyStore:
        return store or FaultyStore(MemoryStore())

    async with DurableEventStore(open_store) as events:
        server = FakeServer(events, "inner")
        yield events.scoped(server), server


def restarted(app: ScopedApp, server: FakeServer) -> tuple[ScopedApp, FakeServer]:
    """The same store behind a server that has forgotten everything."""
    anew = FakeServer(server.events, "anew")
    return server.events.scoped(anew), anew


def test_client_has_an_id_of_ours_and_the_server_its_own(library: str) -> None:
    async def main() -> None:
        async with serving() as (app, server):
            opened = await ask(app, "POST", HANDSHAKE)
            assert opened.session_id not in server.sessions
            stored = await ask(app, "POST", {"method": "store"}, session_id=opened.session_id)
            assert (stored.status, stored.session_id) == (200, opened.session_id)
            inner = await ask(app, "POST", {"method": "store"}, session_id="inner-1")
            assert inner.status == 404, "the server's own ids are nobody's"

    run(library, main)


def test_session_is_opened_again_with_its_handshake(library: str) -> None:
    async def main() -> None:
        async with serving() as (app, server):
            session_id = (await ask(app, "POST", HANDSHAKE)).session_id
            app, anew = restarted(app, server)
            again = await ask(app, "POST", {"method": "store"}, session_id=session_id)
            assert (again.status, again.session_id) == (200, session_id)
            [handshake] = anew.handshakes
            assert handshake["params"] == {"from": "client"}

    run(library, main)


def test_control_without_the_scope_a_restart_forgets_the_session(library: str) -> None:
    """The server alone: what its client held as a session id is unknown after the restart."""

    async def main() -> None:
        async with serving() as (_, server):
            anew = FakeServer(server.events, "anew")
            bare: Any = anew
            assert (await ask(bare, "POST", {"method": "store"}, session_id="inner-1")).status == 404

    run(library, main)


def test_session_is_opened_again_for_its_owner_only(library: str) -> None:
    async def main() -> None:
        async with serving() as (app, server):
            session_id = (await ask(app, "POST", HANDSHAKE, who="her token")).session_id
            app, anew = restarted(app, server)
            assert (await ask(app, "POST", {"method": "store"}, session_id=session_id, who="his token")).status == 404
            assert (await ask(app, "POST", {"method": "store"}, session_id=session_id)).status == 404
            assert anew.handshakes == []
            assert (await ask(app, "POST", {"method": "store"}, session_id=session_id, who="her token")).status == 200

    run(library, main)


def test_session_that_the_server_refuses_leaves_nothing(library: str) -> None:
    async def main() -> None:
        store = FaultyStore(MemoryStore())
        async with serving(store) as (app, server):
            server.status = 400
            assert (await ask(app, "POST", HANDSHAKE)).status == 400
            assert store.commits[-1].tombstones

    run(library, main)


def test_deleted_session_is_not_opened_again(library: str) -> None:
    async def main() -> None:
        async with serving() as (app, server):
            session_id = (await ask(app, "POST", HANDSHAKE)).session_id
            assert (await ask(app, "DELETE", session_id=session_id)).status == 200
            app, _ = restarted(app, server)
            assert (await ask(app, "POST", {"method": "store"}, session_id=session_id)).status == 404

    run(library, main)


def test_end_is_not_told_before_it_is_durable(library: str) -> None:
    """Whatever the client asks once it has heard of the end, it is not given the session again."""

    async def main() -> None:
        store = FaultyStore(MemoryStore())
        async with serving(store) as (app, _):
            session_id = (await ask(app, "POST", HANDSHAKE)).session_id
            asked: list[int] = []

            async def ask_on() -> None:
                assert store.commits[-1].tombstones, "the end is durable when it is told"
                asked.append((await ask(app, "POST", {"method": "store"}, session_id=session_id)).status)

            assert (await ask(app, "DELETE", session_id=session_id, on_told=ask_on)).status == 200
            assert asked == [404]

    run(library, main)


def test_end_that_cannot_be_kept_is_refused_and_can_be_asked_for_again(library: str) -> None:
    async def main() -> None:
        store = FaultyStore(MemoryStore())
        async with serving(store) as (app, _):
            session_id = (await ask(app, "POST", HANDSHAKE)).session_id
            store.fail(1, StoreFull("no room"))
            refused = await ask(app, "DELETE", session_id=session_id)
            assert (refused.status, bool(refused.headers["retry-after"])) == (503, True)
            assert (await ask(app, "DELETE", session_id=session_id)).status == 200
            assert (await ask(app, "POST", {"method": "store"}, session_id=session_id)).status == 404

    run(library, main)


def test_cursor_that_cannot_be_replayed_is_told_before_the_stream(library: str) -> None:
    async def main() -> None:
        async with serving() as (app, _):
            hers = (await ask(app, "POST", HANDSHAKE)).session_id
            his = (await ask(app, "POST", HANDSHAKE)).session_id
            event_id = (await ask(app, "POST", {"method": "store"}, session_id=hers)).body.decode()
            assert (await ask(app, "GET", session_id=his, cursor=event_id)).status == 400
            assert (await ask(app, "GET", session_id=hers, cursor="made-up")).status == 400

    run(library, main)


def test_session_id_is_not_told_before_it_is_durable(library: str) -> None:
    async def main() -> None:
        store = FaultyStore(MemoryStore())
        async with serving(store) as (app, _):
            # The priming event's commit passes, that of the session's opening fails.
            store.fail(2, StoreFull("no room"))
            told = await ask(app, "POST", HANDSHAKE)
            assert told.status == 503
            assert "mcp-session-id" not in told.headers
            assert told.headers["retry-after"]

    run(library, main)


def test_session_whose_event_was_not_kept_ends_its_streams_and_is_opened_anew(library: str) -> None:
    """The SDK delivers nothing more in such a session, and would leave its clients waiting."""

    async def main() -> None:
        store = FaultyStore(MemoryStore())
        async with serving(store) as (app, server), anyio.create_task_group() as group:
            session_id = (await ask(app, "POST", HANDSHAKE)).session_id
            listened: list[Told] = []

            async def listen() -> None:
                listened.append(await ask(app, "GET", session_id=session_id))

            group.start_soon(listen)
            await server.on_begin.wait()
            store.fail(1, StoreFull("no room"))
            refused = await ask(app, "POST", {"method": "store"}, session_id=session_id)
            assert refused.status == 503
            assert (await ask(app, "POST", {"method": "store"}, session_id=session_id)).status == 200
            assert len(server.handshakes) == 2
        assert [told.complete for told in listened] == [True]

    run(library, main)


def test_longest_idle_session_beyond_the_bound_is_opened_anew_at_its_next_use(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlast.event_scope.LIVE_SESSIONS_MAX", 2)

    async def main() -> None:
        async with serving() as (app, server):
            first, second, _ = [(await ask(app, "POST", HANDSHAKE)).session_id for _ in range(3)]
            assert (await ask(app, "POST", {"method": "store"}, session_id=second)).status == 200
            assert len(server.handshakes) == 3
            assert (await ask(app, "POST", {"method": "store"}, session_id=first)).status == 200
            assert len(server.handshakes) == 4

    run(library, main)
