"""The references: two bare servers that a gateway's cost is compared with, measured in the same run.

`hypercorn` is a trivial ASGI app under hypercorn on trio: what a request costs there before anything is done with it.
`relay` is a bare relay on trio: httptools in, msgspec reads the envelope, a pooled connection out, the answer read and
passed back. It keeps no session, bounds nothing and survives nothing: the floor that a gateway in this language and on
this scheduler stands on.

Each runs as a process of its own: `python -m bench.references hypercorn|relay`, and prints
`NAME: listening on http://127.0.0.1:PORT/mcp` when it can be reached.
"""

from __future__ import annotations

import logging
import signal
import socket
from typing import Any
from urllib.parse import urlsplit

import click
import httptools
import hypercorn.config
import hypercorn.trio
import msgspec
import trio

from bench.script import Script

# ---- hypercorn -----------------------------------------------------------------------------------


class ScriptedApp:
    """The upstream's script as an ASGI app."""

    def __init__(self) -> None:
        self._script = Script()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        session_id = next((value.decode() for name, value in scope["headers"] if name == b"mcp-session-id"), "")
        answer = self._script.answer(scope["method"], session_id, body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body))]
        if answer.session_id:
            headers.append((b"mcp-session-id", answer.session_id.encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


async def _live(receive: Any, send: Any) -> None:
    """Go along with the server's start and end; there is nothing to do at either."""
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


async def serve_hypercorn() -> None:
    """Serve the app until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn closes it
    config.keep_alive_max_requests = 10**9  # reconnecting is not what is measured here
    config.errorlog = logging.getLogger("bench.references.hypercorn")
    print(f"hypercorn: listening on http://127.0.0.1:{port}/mcp", flush=True)
    await hypercorn.trio.serve(ScriptedApp(), config, shutdown_trigger=_wait_terminated)


async def _wait_terminated() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


# ---- the bare relay ------------------------------------------------------------------------------

_READ_BYTES = 65536
_POOLED_MAX = 1024  # idle connections kept; more are closed when given back


class _Envelope(msgspec.Struct, gc=False):
    jsonrpc: str
    id: int | str | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class _HttpMessage:
    """One message at a time, as httptools tells it; of its headers only the session id is kept."""

    def __init__(self) -> None:
        self.session_id = b""
        self.body = b""
        self.complete = False

    def on_message_begin(self) -> None:
        self.session_id = b""
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 14 and name.lower() == b"mcp-session-id":
            self.session_id = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


class PooledConnection:
    """A connection to the upstream, with one exchange at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        self._message = _HttpMessage()
        self._parser = httptools.HttpResponseParser(self._message)

    async def exchange(self, request: bytes) -> tuple[int, _HttpMessage]:
        """Send a request and read the whole answer; the answer is good until the next exchange.

        Raises:
          OSError: the connection broke.
        """
        await _send_all(self._socket, request)
        message = self._message
        message.complete = False
        while not message.complete:
            data = await self._socket.recv(_READ_BYTES)
            if not data:
                raise OSError("the upstream closed the connection")
            self._parser.feed_data(data)
        return self._parser.get_status_code(), message

    def close(self) -> None:
        self._socket.close()


class Pool:
    """Idle connections to the upstream; the one used last is taken first."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.target = f"{parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n".encode()
        self._idle: list[PooledConnection] = []

    async def take(self) -> PooledConnection:
        if self._idle:
            return self._idle.pop()
        return PooledConnection(await trio.open_tcp_stream(self._host, self._port))

    def give_back(self, connection: PooledConnection) -> None:
        if len(self._idle) < _POOLED_MAX:
            self._idle.append(connection)
        else:
            connection.close()


class BareRelay:
    """Serves one client connection after the other, as many at once as there are."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """Relay request after request, until either side leaves."""
        message = _HttpMessage()
        parser = httptools.HttpRequestParser(message)
        client = stream.socket
        try:
            while data := await client.recv(_READ_BYTES):
                parser.feed_data(data)
                if message.complete:
                    message.complete = False
                    await _send_all(client, await self._relay(parser.get_method(), message))
        except (OSError, httptools.HttpParserError, msgspec.DecodeError):
            pass  # a reference: whoever breaks the connection has lost it
        finally:
            client.close()

    async def _relay(self, method: bytes, message: _HttpMessage) -> bytes:
        if message.body:
            _decode_envelope(message.body)
        head = b"%b %bcontent-type: application/json\r\naccept: application/json, text/event-stream\r\n" % (
            method,
            self._pool.target,
        )
        connection = await self._pool.take()
        status, answer = await connection.exchange(_write_message(head, message))
        if answer.body:
            _decode_envelope(answer.body)
        head = b"HTTP/1.1 %d Relayed\r\ncontent-type: application/json\r\n" % status
        written = _write_message(head, answer)
        self._pool.give_back(connection)
        return written


def _write_message(head: bytes, message: _HttpMessage) -> bytes:
    if message.session_id:
        head += b"mcp-session-id: %b\r\n" % message.session_id
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(message.body), message.body)


async def _send_all(sock: trio.socket.SocketType, data: bytes) -> None:
    sent = await sock.send(data)
    while sent < len(data):
        sent += await sock.send(data[sent:])


async def serve_relay(upstream_url: str) -> None:
    """Relay until SIGTERM."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
    relay = BareRelay(Pool(upstream_url))
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay.serve_connection, listeners)
        print(f"relay: listening on http://127.0.0.1:{port}/mcp", flush=True)
        await _wait_terminated()
        nursery.cancel_scope.cancel()


# ---- the command line ----------------------------------------------------------------------------


@click.group()
def main() -> None:
    """Serve a reference."""


@main.command("hypercorn")
def hypercorn_command() -> None:
    """Serve the upstream's script under hypercorn on trio."""
    trio.run(serve_hypercorn)


@main.command("relay")
@click.option("--upstream", required=True, help="URL of the MCP endpoint to relay to.")
def relay_command(upstream: str) -> None:
    """Serve a bare relay on trio."""
    trio.run(serve_relay, upstream)


if __name__ == "__main__":
    main()
