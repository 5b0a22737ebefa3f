"""The ASGI app: the exchange over ASGI messages, and the same answers as the hot road gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.transport.serving import JSON, connected, echo, get, post, serving
from transport.asgi import asgi_app
from transport.exchange import ClientGone, Exchange
from transport.handler import Handler, HttpLimits


class FakeServer:
    """An ASGI server that is a script: gives what it was told to, and keeps what is sent."""

    def __init__(self, *messages: dict[str, Any], **scope: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.give, self._take = trio.open_memory_channel[dict[str, Any]](100)
        for message in messages:
            self.give.send_nowait(message)
        self.on_send: Callable[[dict[str, Any]], None] = lambda message: None
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "https",
            "path": "/a b",
            "raw_path": b"/a%20b",
            "query_string": b"x=1",
            "headers": [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")],
            "client": ("10.0.0.1", 4711),
        } | scope

    async def receive(self) -> dict[str, Any]:
        return await self._take.receive()

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.on_send(message)
        self.sent.append(message)

    async def run(self, handler: Handler, **options: Any) -> list[BaseException]:
        failures: list[BaseException] = []
        app = asgi_app(handler, report=lambda head, error: failures.append(error), **options)
        await app(self.scope, self.receive, self.send)
        return failures

    @property
    def status(self) -> int:
        (start,) = (message for message in self.sent if message["type"] == "http.response.start")
        return int(start["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def request(body: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}


async def test_request_is_told_and_answered() -> None:
    heads = []

    async def handler(exchange: Exchange) -> None:
        heads.append(exchange.head)
        await echo(exchange)

    server = FakeServer(request(b"hel", more=True), request(b"lo"))
    assert await server.run(handler) == []
    (head,) = heads
    assert (head.method, head.path, head.query, head.peer, head.scheme) == (
        *("POST", "/a b", "x=1"),
        *("10.0.0.1", "https"),
    )
    assert (server.status, server.body) == (200, b"hello")
    assert (b"content-length", b"5") in server.sent[0]["headers"]


async def test_body_is_counted() -> None:
    server = FakeServer(request(b"x" * 6, more=True), request(b"x" * 5, more=True))
    assert await server.run(echo, limits=HttpLimits(body_bytes_max=10)) == []
    assert server.status == 413
    assert (b"connection", b"close") in server.sent[0]["headers"]


async def test_announced_body_over_the_limit_is_not_waited_for() -> None:
    server = FakeServer(headers=[(b"host", b"x"), (b"content-length", b"11")])
    await server.run(echo, limits=HttpLimits(body_bytes_max=10))
    assert server.status == 413


async def test_slow_body_is_answered_408(autojump_clock: trio.testing.MockClock) -> None:
    server = FakeServer(request(b"x", more=True))
    assert await server.run(echo) == []
    assert server.status == 408
    assert trio.current_time() == HttpLimits().body_seconds


@pytest.mark.parametrize(
    ("headers", "raw_path", "status"),
    [
        ([(b"host", b"x"), (b"host", b"x")], b"/", 400),
        ([(b"host", b"x"), (b"mcp-session-id", b"a"), (b"mcp-session-id", b"a")], b"/", 400),
        ([(b"host", b"x"), (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], b"/", 400),
        ([], b"/", 400),
        ([(b"host", b"x")], b"http://x/", 400),
        ([(b"host", b"x")], b"/" + b"x" * 9000, 414),
        ([(b"host", b"x")] * 101, b"/", 400),
        ([(b"x-%d" % index, b"x") for index in range(101)], b"/", 431),
    ],
)
async def test_ambiguous_request_is_refused_whoever_parsed_it(headers: Any, raw_path: bytes, status: int) -> None:
    called = []

    async def handler(exchange: Exchange) -> None:
        called.append(exchange)

    server = FakeServer(request(), headers=headers, raw_path=raw_path)
    await server.run(handler)
    assert (server.status, called) == (status, [])
    assert b'"jsonrpc"' in server.body


async def test_send_after_the_disconnect_raises_although_the_server_swallows_it() -> None:
    """hypercorn's send() succeeds in silence then; without the watcher, a stream would never end."""
    sends = 0
    server = FakeServer(request())

    async def handler(exchange: Exchange) -> None:
        nonlocal sends
        await exchange.start_stream(200, JSON)
        while True:
            await exchange.send(b"x")
            sends += 1
            if sends == 3:
                server.give.send_nowait(DISCONNECT)
            await trio.testing.wait_all_tasks_blocked()

    assert await server.run(handler) == []
    assert sends == 3


async def test_wait_gone_waits_for_the_disconnect() -> None:
    order: list[str] = []
    server = FakeServer(request())

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                await trio.testing.wait_all_tasks_blocked()
                order.append("disconnects")
                server.give.send_nowait(DISCONNECT)

            await exchange.wait_gone()
            order.append("gone")
        with pytest.raises(ClientGone):
            await exchange.send(b"x")

    await server.run(handler)
    assert order == ["disconnects", "gone"]


async def test_send_that_raises_is_a_client_gone() -> None:
    """ASGI 2.4 asks servers to raise OSError then."""

    def fail(message: dict[str, Any]) -> None:
        raise OSError("gone")

    server = FakeServer(request())
    server.on_send = fail
    assert await server.run(echo) == []
    assert server.sent == []


async def test_unread_body_is_taken_away_while_the_answer_is_sent() -> None:
    """hypercorn stops reading, and even closing, while its queue of body messages is full."""
    server = FakeServer(*[request(b"x", more=True)] * 50)

    def check(message: dict[str, Any]) -> None:
        server.give.send_nowait(request(b"x", more=True))

    server.on_send = check

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(403, JSON, b"no")
        await trio.testing.wait_all_tasks_blocked()
        assert server.give.statistics().current_buffer_used == 0

    assert await server.run(handler) == []
    assert server.status == 403


async def test_failing_handler_is_answered_500_and_reported() -> None:
    async def handler(exchange: Exchange) -> None:
        raise ZeroDivisionError("secret")

    server = FakeServer(request())
    assert [type(error) for error in await server.run(handler)] == [ZeroDivisionError]
    assert server.status == 500
    assert b"secret" not in server.body


async def test_lifespan_is_tolerated() -> None:
    server = FakeServer({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, type="lifespan")
    await server.run(echo)
    assert [message["type"] for message in server.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_connection_header_is_not_sent_where_the_protocol_has_none() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(403, JSON, b"no")

    server = FakeServer(request(b"x"), http_version="2", headers=[(b"host", b"x")])
    await server.run(handler)
    assert not any(name == b"connection" for name, _ in server.sent[0]["headers"])


# The same on both roads


async def _misbehave(exchange: Exchange) -> None:
    match exchange.head.path:
        case "/echo":
            await echo(exchange)
        case "/raise":
            raise ZeroDivisionError
        case "/nothing":
            pass
        case "/unread":
            await exchange.respond(403, JSON, b"no")
        case "/empty":
            await exchange.respond(202, (), b"")
        case "/none":
            await exchange.respond(204, ((b"mcp-session-id", b"7"),), b"")
        case "/stream":
            await exchange.start_stream(200, JSON)
            for bit in (b"a", b"", b"b"):
                await exchange.send(bit)
            await exchange.finish()
        case "/cut":
            await exchange.start_stream(200, JSON)
            await exchange.send(b"half")
            raise ZeroDivisionError
        case "/unfinished":
            await exchange.start_stream(200, JSON)
            await exchange.send(b"half")
        case "/injected":
            await exchange.respond(200, ((b"x-a", b"1\r\nx-b: 2"),), b"")


@pytest.mark.parametrize(
    "raw",
    [
        post(b"hello", "/echo"),
        get("/echo"),
        post(b"x" * 11, "/echo"),
        post(b"hello", "/raise"),
        post(b"hello", "/nothing"),
        post(b"hello", "/unread"),
        post(b"", "/empty"),
        get("/none"),
        get("/stream"),
        get("/cut"),
        get("/unfinished"),
        get("/injected"),
        post(b"hello", "/echo", "Expect: 100-continue"),
        post(b"hello", "/echo", "Connection: close"),
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n!!!!!!!\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=lambda raw: raw[:40].decode("latin-1"),
)
async def test_both_roads_give_the_same_answer(raw: bytes) -> None:
    answers = []
    for hot in (True, False):
        failures: list[str] = []
        options: dict[str, Any] = {
            "limits": HttpLimits(body_bytes_max=10, linger_seconds=0.05),
            "report": lambda head, error, failures=failures: failures.append(type(error).__name__),
        }
        async with serving(_misbehave, hot=hot, **options) as server, connected(server) as client:
            answer = await client.ask(raw)
            while answer.status == 100:
                answer = await client.answer()
            kept = {name: text for name, text in answer.headers.items() if name not in ("date", "connection")}
            answers.append((answer.status, kept, answer.body, answer.whole, failures))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("hot", [True, False], ids=["hot", "hypercorn"])
async def test_client_that_leaves_a_stream_is_noticed_on_both_roads(hot: bool) -> None:
    gone = trio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        await exchange.send(b"first")
        await exchange.wait_gone()
        gone.set()

    async with serving(handler, hot=hot) as server:
        async with connected(server) as client:
            await client.stream.send_all(get())
            while b"first" not in client.buffer:
                await client.more()
        with trio.fail_after(10):
            await gone.wait()
