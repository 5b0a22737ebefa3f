"""Servers and clients for the transport tests: raw bytes in, raw bytes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing

from transport.asgi import asgi_app
from transport.connections import Connections
from transport.exchange import Exchange, RequestHead
from transport.handler import Handler, HttpLimits
from transport.http1 import Connection
from transport.server import HttpServer, open_listeners, serve_http
from transport.wire import StreamWire

JSON = ((b"content-type", b"application/json"),)


async def echo(exchange: Exchange) -> None:
    """Answer with the body that came."""
    await exchange.respond(200, JSON, await exchange.body())


def post(body: bytes = b"{}", path: str = "/mcp", *lines: str) -> bytes:
    """Write a POST request with a Content-Length, and further header lines."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def get(path: str = "/mcp", *lines: str) -> bytes:
    """Write a GET request with further header lines."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


@attrs.frozen
class Answer:
    """One answer, as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True  # False: the connection ended within the body


class Client:
    """Reads answers off a stream, one after the other."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.buffer = b""

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read the answer to it."""
        await self.stream.send_all(request)
        return await self.answer()

    async def answer(self) -> Answer:
        """Read the next answer."""
        while b"\r\n\r\n" not in self.buffer:
            if not await self.more():
                raise EOFError(f"no answer, but {self.buffer!r}")
        raw, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines[1:]}
        if status in (100, 101, 204):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return await self._chunked(status, headers)
        length = int(headers.get("content-length", "0"))
        whole = await self.fill(length)
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(status, headers, body, whole)

    async def _chunked(self, status: int, headers: dict[str, str]) -> Answer:
        body = b""
        while True:
            size = await self.chunk_size()
            if size is None or not await self.fill(size + 2):
                return Answer(status, headers, body, whole=False)
            body, self.buffer = body + self.buffer[:size], self.buffer[size + 2 :]
            if size == 0:
                return Answer(status, headers, body)

    async def chunk_size(self) -> int | None:
        """Read the line in front of a chunk."""
        while b"\r\n" not in self.buffer:
            if not await self.more():
                return None
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return int(line, 16)

    async def fill(self, size: int) -> bool:
        """Read until the buffer has so much."""
        while len(self.buffer) < size:
            if not await self.more():
                return False
        return True

    async def more(self) -> bool:
        """Read something; False at the end."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        self.buffer += bytes(data)
        return bool(data)

    async def ended(self) -> bytes:
        """Read to the end; give what was still there."""
        while await self.more():
            pass
        return self.buffer


@attrs.define
class Memory:
    """A connection over memory streams, and what belongs to it."""

    client: Client
    connections: Connections
    handed_over: list[bytes | None] = attrs.Factory(list)
    failures: list[BaseException] = attrs.Factory(list)


@asynccontextmanager
async def memory_connection(
    handler: Handler,
    *,
    limits: HttpLimits | None = None,
    is_hot: Callable[[RequestHead], bool] = lambda head: True,
    pair: Callable[[], tuple[Any, Any]] = trio.testing.memory_stream_pair,
    sweeping: bool = True,
) -> AsyncIterator[Memory]:
    """Serve one connection on the hot road, without sockets."""
    near, far = pair()
    failures: list[BaseException] = []
    connections = Connections(
        handler, limits or HttpLimits(), is_hot=is_hot, report=lambda head, error: failures.append(error)
    )
    memory = Memory(Client(near), connections, failures=failures)

    async def serve() -> None:
        wire = StreamWire(far)
        try:
            memory.handed_over.append(await Connection(wire, connections, peer="memory").run())
        finally:
            await wire.aclose()

    async with trio.open_nursery() as nursery:
        if sweeping:
            nursery.start_soon(connections.sweep_forever)
        nursery.start_soon(serve)
        try:
            yield memory
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(handler: Handler = echo, *, hot: bool = True, **options: Any) -> AsyncIterator[HttpServer]:
    """Run a whole server on a free port of the loopback; cold requests go to the same handler under hypercorn."""
    limits = options.get("limits")
    report = options.get("report")
    if "asgi_app" not in options:
        more = {"report": report} if report is not None else {}
        options["asgi_app"] = asgi_app(handler, limits=limits, **more)
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        server: HttpServer = await nursery.start(_serve, listeners, handler, hot, options)
        try:
            yield server
        finally:
            server.abort()


async def _serve(
    listeners: Any, handler: Handler, hot: bool, options: dict[str, Any], *, task_status: trio.TaskStatus[HttpServer]
) -> None:
    await serve_http(listeners, handler, hot=hot, task_status=task_status, **options)


@asynccontextmanager
async def connected(server: HttpServer) -> AsyncIterator[Client]:
    """Connect to a server."""
    async with await trio.open_tcp_stream(*server.addresses[0]) as stream:
        yield Client(stream)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something that another task or the kernel does has come true."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is not ours to set an event
            await trio.sleep(0.001)
