"""The upstream: a scripted MCP server over Streamable HTTP, fast enough to be no bottleneck.

Run as a process of its own: `python -m bench.upstream`. When it can be reached it prints one line on stdout,
`upstream: listening on http://127.0.0.1:PORT/mcp`. It ends with SIGTERM.

An asyncio protocol on httptools: callbacks only, no task per connection or request (0.02 ms of CPU per call). asyncio
rather than trio, so that the gateway is not measured against its own scheduler's habits.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Self

import click
import httptools

from bench.script import Answer, Script

_REASONS = {
    200: b"OK",
    202: b"Accepted",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    503: b"Service Unavailable",
}
BODY_BYTES_MAX = 1024 * 1024  # more: the connection is closed; no caller of ours sends that much


class UpstreamConnection(asyncio.Protocol):
    """One client's connection. Requests are answered in the order in which they come."""

    def __init__(self, script: Script, connections: set[UpstreamConnection], *, sse: bool) -> None:
        self._script = script
        self._connections = connections  # of the whole server
        self._write_answer = _as_sse if sse else _as_json
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()  # the connection is
        self._session_id = ""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self._gone.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_message_begin(self) -> None:
        self._session_id = ""
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 14 and name.lower() == b"mcp-session-id":  # its length first: lower() makes an object
            self._session_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > BODY_BYTES_MAX:
            self.close()

    def on_message_complete(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        method = self._parser.get_method().decode()
        answer = self._script.answer(method, self._session_id, self._body)
        self._transport.write(self._write_answer(answer))
        if not self._parser.should_keep_alive():
            self.close()

    async def leave(self) -> None:
        """Close the connection, whatever is unsaid, and see it gone."""
        if self._transport is not None:
            self._transport.abort()
            await self._gone.wait()

    def close(self) -> None:
        """Close the connection once everything is said."""
        if self._transport is not None:
            self._transport.close()


def _head(answer: Answer) -> bytes:
    head = b"HTTP/1.1 %d %b\r\n" % (answer.status, _REASONS[answer.status])
    if answer.session_id:
        head += b"mcp-session-id: %b\r\n" % answer.session_id.encode()
    return head


def _as_json(answer: Answer) -> bytes:
    if not answer.body:
        return b"%bcontent-length: 0\r\n\r\n" % _head(answer)
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        _head(answer),
        len(answer.body),
        answer.body,
    )


def _as_sse(answer: Answer) -> bytes:
    """Write what succeeded as a stream of one event; refusals stay JSON, as servers have it."""
    if answer.status != 200 or not answer.body:
        return _as_json(answer)
    event = b"event: message\r\ndata: %b\r\n\r\n" % answer.body
    return b"%bcontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        _head(answer),
        len(event),
        event,
    )


class UpstreamServer:
    """Serves a script on localhost, for the length of an `async with` block."""

    def __init__(self, script: Script, *, port: int = 0, sse: bool = False) -> None:
        self._script = script
        self._port = port
        self._sse = sse
        self._connections: set[UpstreamConnection] = set()
        self.url = ""  # once it listens

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", self._port, backlog=4096)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/mcp"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            await connection.leave()

    def _connect(self) -> UpstreamConnection:
        return UpstreamConnection(self._script, self._connections, sse=self._sse)


async def _serve(port: int, sse: bool) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with UpstreamServer(Script(), port=port, sse=sse) as server:
        print(f"upstream: listening on {server.url}", flush=True)
        await stopped.wait()


@click.command()
@click.option("--port", default=0, show_default="any free one", help="Port on 127.0.0.1.")
@click.option("--sse", is_flag=True, help="Answer by SSE instead of plain JSON.")
def main(port: int, sse: bool) -> None:
    """Serve the scripted upstream."""
    asyncio.run(_serve(port, sse))


if __name__ == "__main__":
    main()
