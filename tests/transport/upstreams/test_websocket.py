"""Links over WebSocket to a scripted server on a real loopback socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
import trio_websocket
from trio_websocket import WebSocketConnection, WebSocketRequest

from actors import jsonrpc
from actors.jsonrpc import Message
from actors.link import About, ConnectFailed, ConnectRejected, Failure, LinkLost
from tests.transport.serving import until
from tests.transport.upstreams.bed import (
    ANSWER,
    CALL,
    INITIALIZE,
    TICKET,
    VERSION,
    handshake,
    initialize_result,
    new_session,
)
from tests.transport.upstreams.recording_inbox import Delivered, Entry, Lost, Received, RecordingInbox, Refused
from transport.upstreams.websocket import WebSocketConnector, WebSocketLimits, WebSocketLink, parse_url

Script = Callable[["Server", WebSocketConnection], Awaitable[None]]
NOTE = jsonrpc.notification("notifications/initialized")
QUICK = WebSocketLimits(connect_seconds_max=2.0, close_seconds=0.05)


@attrs.define
class Server:
    """Runs a script for each connection, and keeps what it saw."""

    script: Script
    url: str = ""
    offered: list[str] = attrs.Factory(list)
    heads: list[dict[str, str]] = attrs.Factory(list)
    seen: list[Any] = attrs.Factory(list)
    reject: int = 0

    async def answer_request(self, request: WebSocketRequest) -> None:
        self.heads.append({name.decode().lower(): value.decode() for name, value in request.headers})
        self.offered += request.proposed_subprotocols
        if self.reject:
            await request.reject(self.reject)
            return
        connection = await request.accept(subprotocol="mcp" if "mcp" in request.proposed_subprotocols else None)
        with suppress(trio_websocket.ConnectionClosed):
            await self.script(self, connection)

    async def hear(self, connection: WebSocketConnection) -> Any:
        """Wait for the next message."""
        self.seen.append(json.loads(await connection.get_message()))
        return self.seen[-1]


async def say(connection: WebSocketConnection, message: Message) -> None:
    await connection.send_message(message.raw.decode())


async def echo(server: Server, connection: WebSocketConnection) -> None:
    """Answer every request with its parameters; `initialize` as servers do."""
    while True:
        message = await server.hear(connection)
        if message.get("method") == "initialize":
            await say(connection, initialize_result(id=message["id"]))
        elif "id" in message:
            await say(connection, jsonrpc.result(message["id"], message.get("params", {})))


@asynccontextmanager
async def serving(script: Script, **options: Any) -> AsyncIterator[Server]:
    server = Server(script, **options)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/ws?key=secret"
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            async with trio.open_nursery() as connection:
                request = await trio_websocket.wrap_server_stream(connection, stream)
                await server.answer_request(request)
                await trio.aclose_forcefully(stream)
                connection.cancel_scope.cancel()

        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


@attrs.frozen
class Running:
    link: WebSocketLink
    inbox: RecordingInbox
    server: Server

    async def ask(self, message: Message = CALL) -> Entry:
        self.link.send(message, TICKET)
        return await self.inbox.wait()


@asynccontextmanager
async def running(
    script: Script = echo, limits: WebSocketLimits = QUICK, *, known: bool = False, **options: Any
) -> AsyncIterator[Running]:
    """Open a link; `known`: of a session that has a handshake."""
    async with serving(script) as server, trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery, patience_seconds=10)
        session = new_session(handshake=handshake(upstream_session_id="")) if known else new_session()
        link = await WebSocketConnector(server.url, limits=limits, **options)(session, inbox)
        yield Running(link, inbox, server)
        link.close(end_session=True)
        nursery.cancel_scope.cancel()


async def connect_to(url: str, limits: WebSocketLimits = QUICK) -> None:
    async with trio.open_nursery() as nursery:
        await WebSocketConnector(url, limits=limits)(new_session(), RecordingInbox(nursery))


async def test_call_is_answered_and_the_upgrade_is_ours() -> None:
    async with running(headers={"Authorization": "Bearer token"}) as bench:
        entry = await bench.ask()
        assert isinstance(entry, Received)
        assert (entry.about, entry.message.id) == (1, 1)
        (head,) = bench.server.heads
        assert bench.server.offered == ["mcp"]
        assert head["authorization"] == "Bearer token"
        assert head["user-agent"].startswith("outlast/")
        assert "sec-websocket-extensions" not in head


async def test_notification_is_delivered() -> None:
    async with running() as bench:
        assert await bench.ask(NOTE) == Delivered(TICKET)


async def test_progress_belongs_to_its_request_and_questions_to_none() -> None:
    call = jsonrpc.request(5, "tools/call", {"name": "x", "_meta": {"progressToken": "t"}})

    async def script(server: Server, connection: WebSocketConnection) -> None:
        await server.hear(connection)
        await say(connection, jsonrpc.notification("notifications/progress", {"progressToken": "t", "progress": 1}))
        await say(connection, jsonrpc.request("q", "sampling/createMessage"))
        await server.hear(connection)

    async with running(script) as bench:
        progress = await bench.ask(call)
        question = await bench.inbox.wait()
        assert isinstance(progress, Received)
        assert isinstance(question, Received)
        assert (progress.about, question.about) == (5, About.UNKNOWN)


async def test_cancelled_call_is_told_to_the_upstream() -> None:
    async with running() as bench:
        bench.link.cancel(1, "no need")
        await bench.ask()  # and its answer, so both have been seen
        assert bench.server.seen[0]["params"] == {"requestId": 1, "reason": "no need"}


async def test_what_is_no_message_and_what_nobody_asked_for_is_counted_and_left() -> None:
    async def script(server: Server, connection: WebSocketConnection) -> None:
        await server.hear(connection)
        await connection.send_message("{")
        await connection.send_message(b"\xff\x00")
        await say(connection, jsonrpc.result(99, {}))
        await say(connection, ANSWER)
        await server.hear(connection)

    async with running(script) as bench:
        assert isinstance(await bench.ask(), Received)
        assert (bench.link.statistics().malformed, bench.link.statistics().stray) == (2, 1)


async def test_new_connection_of_a_known_session_repeats_its_handshake() -> None:
    async with running(known=True) as bench:
        await until(lambda: len(bench.server.seen) == 2)
        assert [message.get("method") for message in bench.server.seen] == ["initialize", "notifications/initialized"]
        assert bench.server.seen[0] == json.loads(INITIALIZE.raw)
        assert not bench.link.established.resumed
        assert bench.link.established.protocol_version == VERSION


async def test_upstream_that_offers_less_than_before_is_left() -> None:
    async def script(server: Server, connection: WebSocketConnection) -> None:
        message = await server.hear(connection)
        await say(connection, initialize_result(version="2024-11-05", id=message["id"]))
        await server.hear(connection)

    with pytest.RaisesGroup(pytest.RaisesExc(ConnectRejected, match="upstream_rejected"), flatten_subgroups=True):
        async with running(script, known=True):
            pass


async def test_connection_that_is_closed_loses_what_is_in_flight() -> None:
    async def script(server: Server, connection: WebSocketConnection) -> None:
        await server.hear(connection)
        await connection.aclose(1012, "restarting")

    async with running(script) as bench:
        assert await bench.ask() == Lost("the upstream closed the connection (1012 restarting)")
        with pytest.raises(LinkLost):
            bench.link.send(CALL, TICKET)


async def test_connection_that_breaks_loses_what_is_in_flight() -> None:
    async def script(server: Server, connection: WebSocketConnection) -> None:
        await server.hear(connection)

    async with running(script) as bench:
        assert await bench.ask() == Lost("the connection broke")


async def test_upstream_that_answers_no_ping_is_lost() -> None:
    async def deaf(server: Server, connection: WebSocketConnection) -> None:
        connection._wsproto.send = lambda event: b""  # type: ignore[method-assign]
        await trio.sleep_forever()

    limits = attrs.evolve(QUICK, ping_seconds=0.02, pong_seconds=0.05)
    async with running(deaf, limits) as bench:
        assert await bench.inbox.wait() == Lost("it answered no ping within 0.05 s")


async def test_upstream_that_answers_pings_may_be_silent() -> None:
    limits = attrs.evolve(QUICK, ping_seconds=0.01, pong_seconds=5.0)
    async with running(limits=limits) as bench:
        await trio.sleep(0.1)
        assert isinstance(await bench.ask(), Received)


async def test_message_over_the_limit_ends_the_connection() -> None:
    async def script(server: Server, connection: WebSocketConnection) -> None:
        await server.hear(connection)
        await connection.send_message("x" * 2000)
        await server.hear(connection)

    async with running(script, attrs.evolve(QUICK, message_bytes_max=1000)) as bench:
        entry = await bench.ask()
        assert isinstance(entry, Lost)
        assert "1009" in entry.detail


async def asleep(server: Server, connection: WebSocketConnection) -> None:
    """Read nothing: trio-websocket holds two messages, and stops reading."""
    await trio.sleep_forever()


async def test_upstream_that_does_not_read_is_lost_and_what_it_never_saw_can_be_sent_again() -> None:
    large = jsonrpc.notification("x", {"x": "x" * 8_000_000})
    async with running(asleep, attrs.evolve(QUICK, write_seconds_max=0.3)) as bench:
        for ticket in range(4):
            bench.link.send(large, ticket)
        entries = [await bench.inbox.wait() for _ in range(5)]
        failures = [entry.failure for entry in entries if isinstance(entry, Refused)]
        assert failures[0] is Failure.OUTCOME_UNKNOWN, "the one on its way when time was over"
        assert set(failures[1:]) == {Failure.NOT_SENT}
        assert isinstance(entries[-1], Lost)


async def test_outbox_is_bounded() -> None:
    async with running(asleep, attrs.evolve(QUICK, outbox_messages_max=3)) as bench:
        for ticket in range(5):
            bench.link.send(CALL, ticket)
        refused = [entry for entry in bench.inbox.entries if isinstance(entry, Refused)]
        assert [(entry.ticket, entry.failure) for entry in refused] == [(3, Failure.NOT_SENT), (4, Failure.NOT_SENT)]


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_refused_upgrade_costs_no_session(status: int) -> None:
    async with serving(echo, reject=status) as server:
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectFailed, match=str(status)), flatten_subgroups=True):
            await connect_to(server.url)


async def test_nobody_there_is_a_failure_that_names_no_secret() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectFailed), flatten_subgroups=True) as raised:
        await connect_to(f"ws://127.0.0.1:{port}/ws?key=secret")
    assert "secret" not in str(raised.value.exceptions)


async def test_upgrade_that_is_not_answered_in_time_is_a_failure() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, silent, [listener])
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
        limits = attrs.evolve(QUICK, connect_seconds_max=0.1)
        with pytest.RaisesGroup(pytest.RaisesExc(ConnectFailed, match=r"within 0\.1 s"), flatten_subgroups=True):
            await connect_to(url, limits)
        nursery.cancel_scope.cancel()


async def test_closing_tells_the_upstream() -> None:
    ended = trio.Event()

    async def script(server: Server, connection: WebSocketConnection) -> None:
        with pytest.raises(trio_websocket.ConnectionClosed, match="1000"):
            await connection.get_message()
        ended.set()

    async with running(script) as bench:
        bench.link.close(end_session=True)
        with trio.fail_after(5):
            await ended.wait()
        assert bench.inbox.entries == [], "a link that was left says nothing more"


@pytest.mark.parametrize("url", ["http://h/ws", "ws:///x", "ws://user@h/", "h/ws"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"WebSocket|https://host|credentials"):
        parse_url(url)


def test_connector_shows_no_secret() -> None:
    assert "secret" not in repr(WebSocketConnector("wss://h/?key=secret", headers={"X-Key": "secret"}))
