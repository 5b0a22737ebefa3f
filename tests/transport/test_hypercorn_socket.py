"""WebSockets over real connections: handed over with their bytes, refused before they are accepted, bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import hypercorn.protocol.h11
import pytest
import trio
import wsproto
from hypercorn.protocol.ws_stream import WSStream
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from tests.transport.serving import echo, get, serving
from transport import hypercorn_road, hypercorn_socket
from transport.asgi import asgi_app
from transport.exchange import RequestHead
from transport.handler import HttpLimits
from transport.server import HttpServer
from transport.socket_exchange import SocketExchange, SocketGone, SocketHandler

LIMITS = HttpLimits(body_bytes_max=1000, linger_seconds=0.5, write_seconds=1.0)


@attrs.define
class Peer:
    """A client: wsproto on a trio stream."""

    stream: trio.SocketStream
    protocol: wsproto.WSConnection = attrs.Factory(lambda: wsproto.WSConnection(wsproto.ConnectionType.CLIENT))
    events: list[Any] = attrs.Factory(list)
    answers_pings: bool = True

    async def say(self, event: Any) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def wait(self, kind: type) -> Any:
        """Wait for the next event of this kind; the others are forgotten."""
        with trio.fail_after(10):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    if isinstance(event, Ping) and self.answers_pings:
                        await self.say(event.response())
                    if isinstance(event, kind):
                        return event
                data = bytes(await self.stream.receive_some())
                self.protocol.receive_data(data or None)
                self.events += self.protocol.events()

    async def wait_cut(self) -> None:
        """Wait until the connection is gone."""
        with trio.fail_after(10):
            try:
                while await self.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass


@asynccontextmanager
async def serving_sockets(
    handler: SocketHandler, limits: HttpLimits = LIMITS, **more: Any
) -> AsyncIterator[HttpServer]:
    options: dict[str, Any] = {
        "asgi_app": asgi_app(echo, websocket=handler, limits=limits, **more),
        "is_hot": lambda head: not head.path.endswith("/ws"),
        "limits": limits,
    }
    async with serving(**options) as server:
        yield server


@asynccontextmanager
async def connected(server: HttpServer, target: str = "/ws", **request: Any) -> AsyncIterator[Peer]:
    async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
        peer = Peer(stream)
        await peer.say(Request(host="localhost", target=target, subprotocols=["mcp"], **request))
        yield peer


async def shout(socket: SocketExchange) -> None:
    """Send back what comes, in capitals."""
    await socket.accept("mcp", ((b"mcp-session-id", b"minted"),))
    while True:
        await socket.send(str(await socket.receive()).upper())


async def test_messages_go_both_ways_and_headers_with_the_upgrade() -> None:
    async with serving_sockets(shout) as server, connected(server) as peer:
        accepted = await peer.wait(AcceptConnection)
        assert accepted.subprotocol == "mcp"
        assert (b"mcp-session-id", b"minted") in accepted.extra_headers
        await peer.say(TextMessage(data="hel", message_finished=False))
        await peer.say(TextMessage(data="lö"))
        assert (await peer.wait(TextMessage)).data == "HELLÖ"


async def test_close_code_reaches_a_client_that_is_still_sending() -> None:
    async def close(socket: SocketExchange) -> None:
        await socket.accept("mcp")
        await socket.close(4404, "é" * 100)

    async with serving_sockets(close) as server, connected(server) as peer:
        await peer.wait(AcceptConnection)
        for _ in range(100):
            await peer.say(TextMessage(data="x" * 500))
        closed = await peer.wait(CloseConnection)
        assert (closed.code, closed.reason) == (4404, "é" * 61)
        await peer.say(closed.response())
        await peer.wait_cut()


async def test_client_that_never_answers_a_close_is_cut_off() -> None:
    async def close(socket: SocketExchange) -> None:
        await socket.accept("mcp")
        await socket.close(1012, "")

    async with serving_sockets(close) as server, connected(server) as peer:
        await peer.wait(AcceptConnection)
        await peer.wait_cut()


async def test_refusal_is_an_ordinary_answer_and_the_last_one() -> None:
    async def refuse(socket: SocketExchange) -> None:
        await socket.refuse(403, ((b"content-type", b"application/json"),), b"{}")

    async with serving_sockets(refuse) as server, connected(server) as peer:
        assert (await peer.wait(RejectConnection)).status_code == 403
        assert (await peer.wait(RejectData)).data == b"{}"
        await peer.wait_cut()


async def test_message_over_the_limit_is_1009_and_the_handler_hears_of_the_end() -> None:
    ends: list[str] = []

    async def note(socket: SocketExchange) -> None:
        try:
            await shout(socket)
        except SocketGone as gone:
            ends.append(str(gone))
            with pytest.raises(SocketGone):
                await socket.send("nobody would get this")

    async with serving_sockets(note) as server, connected(server) as peer:
        await peer.wait(AcceptConnection)
        await peer.say(TextMessage(data="x" * 1000))
        await peer.wait(TextMessage)
        await peer.say(TextMessage(data="ü" * 501))  # bytes count, not letters
        assert (await peer.wait(CloseConnection)).code == 1009
        await peer.wait_cut()
    assert len(ends) == 1
    assert "1009" in ends[0]


async def flood(server: HttpServer, kept_bytes: Callable[[], int]) -> int:
    """Send one message without an end; give how much of it was kept when a megabyte was on its way."""
    async with connected(server) as peer:
        await peer.wait(AcceptConnection)
        for _ in range(64):
            await peer.say(TextMessage(data="x" * 16384, message_finished=False))
        await peer.wait(CloseConnection)
        await trio.testing.wait_all_tasks_blocked(0.01)
        return kept_bytes()


async def test_message_without_an_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _watch_sockets(monkeypatch)
    async with serving_sockets(shout) as server:
        assert await flood(server, lambda: sum(map(len, made[0]._parts))) == 0


async def test_without_the_guard_a_message_without_an_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what stands behind the guard keeps all of it."""
    made: list[Any] = []

    class Noted(WSStream):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(hypercorn.protocol.h11, "WSStream", Noted)
    monkeypatch.setattr(hypercorn_road, "asks_for_websocket", lambda method, headers: False)
    async with serving_sockets(shout) as server:
        assert await flood(server, lambda: int(made[0].buffer.length)) > 100_000


def _watch_sockets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note every guarded socket as it is made."""
    made: list[Any] = []
    init = hypercorn_socket.GuardedSocket.__init__

    def noted(self: Any, *arguments: Any, **options: Any) -> None:
        made.append(self)
        init(self, *arguments, **options)

    monkeypatch.setattr(hypercorn_socket.GuardedSocket, "__init__", noted)
    return made


async def test_compression_is_declined() -> None:
    async with serving_sockets(shout) as server, connected(server, extensions=[PerMessageDeflate()]) as peer:
        assert (await peer.wait(AcceptConnection)).extensions == []


async def test_silent_client_is_asked_and_one_that_answers_stays() -> None:
    limits = attrs.evolve(LIMITS, ping_seconds=0.05, pong_seconds=5.0)
    async with serving_sockets(shout, limits) as server, connected(server) as peer:
        await peer.wait(AcceptConnection)
        for _ in range(3):
            await peer.say((await peer.wait(Ping)).response())
        await peer.say(TextMessage(data="here"))
        assert (await peer.wait(TextMessage)).data == "HERE"


async def test_client_that_answers_no_ping_is_taken_for_gone() -> None:
    gone = trio.Event()

    async def note(socket: SocketExchange) -> None:
        try:
            await shout(socket)
        finally:
            gone.set()

    limits = attrs.evolve(LIMITS, ping_seconds=0.05, pong_seconds=0.05)
    async with serving_sockets(note, limits) as server, connected(server) as peer:
        peer.answers_pings = False
        await peer.wait(Ping)
        with trio.fail_after(10):
            await gone.wait()


async def test_client_that_does_not_read_is_dropped_within_the_write_deadline() -> None:
    ended = trio.Event()

    async def pour(socket: SocketExchange) -> None:
        await socket.accept("mcp")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, socket, nursery.cancel_scope)
            while True:
                await socket.send("x" * 100_000)

    async def _watch(socket: SocketExchange, scope: trio.CancelScope) -> None:
        try:
            await socket.receive()
        except SocketGone:
            ended.set()
            scope.cancel()

    async with serving_sockets(pour, attrs.evolve(LIMITS, write_seconds=0.2)) as server, connected(server):
        with trio.fail_after(10):
            await ended.wait()


async def test_client_that_sends_on_when_the_handler_is_over_holds_nothing() -> None:
    async def leave(socket: SocketExchange) -> None:
        await socket.accept("mcp")

    async with serving_sockets(leave) as server, connected(server) as peer:
        await peer.wait(AcceptConnection)
        with trio.move_on_after(5):
            try:
                while True:
                    await peer.say(TextMessage(data="x"))
            except (trio.BrokenResourceError, wsproto.utilities.LocalProtocolError):
                pass
        with trio.fail_after(5):
            while server.statistics().connections_open:  # noqa: ASYNC110 - counted by the server
                await trio.sleep(0.01)


async def test_failing_handler_is_reported_and_closed_with_1011() -> None:
    reports: list[RequestHead | None] = []

    async def fail(socket: SocketExchange) -> None:
        await socket.accept("mcp")
        raise ZeroDivisionError

    serving = serving_sockets(fail, report=lambda head, error: reports.append(head))
    async with serving as server, connected(server, "/a/ws") as peer:
        assert (await peer.wait(CloseConnection)).code == 1011
    assert [head.path for head in reports if head is not None] == ["/a/ws"]


async def test_handler_that_decides_nothing_is_a_failure() -> None:
    reports: list[BaseException] = []

    async def idle(socket: SocketExchange) -> None: ...

    serving = serving_sockets(idle, report=lambda head, error: reports.append(error))
    async with serving as server, connected(server) as peer:
        assert (await peer.wait(RejectConnection)).status_code == 500
    assert len(reports) == 1


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5",),
        ("Transfer-Encoding: chunked",),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",),
        ("Upgrade: websocket",),
    ],
)
async def test_upgrade_that_two_parsers_may_read_differently_is_refused(lines: tuple[str, ...]) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: mcp")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    async with serving_sockets(shout) as server, await trio.open_tcp_stream(*server.addresses[0]) as stream:
        await stream.send_all(get("/ws", *upgrade, key, *lines))
        with trio.fail_after(5):
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 400")


async def test_upgrade_at_a_hot_path_is_an_ordinary_request() -> None:
    async with serving_sockets(shout) as server, connected(server, "/mcp") as peer:
        assert (await peer.wait(RejectConnection)).status_code == 200
        assert server.statistics().connections_handed_over == 0
