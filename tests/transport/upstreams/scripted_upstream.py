"""An HTTP upstream on a real loopback socket that does exactly what a test's script says, down to the bytes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Mapping

import attrs
import trio

CRLF = b"\r\n"


@attrs.frozen
class SeenRequest:
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    connection: int  # which connection it came on, from 1
    raw_head: bytes

    @property
    def session_id(self) -> str | None:
        return self.headers.get("mcp-session-id")


class Caller:
    """The connection a request came on: what the script answers with."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.closed = False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer; JSON unless the headers say something else."""
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        head = f"HTTP/1.1 {status} Whatever\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        await self.send(head.encode() + CRLF + body)

    async def open_stream(self, headers: Mapping[str, str] | None = None) -> None:
        fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **(headers or {})}
        head = "HTTP/1.1 200 OK\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        await self.send(head.encode() + CRLF)

    async def event(self, data: bytes | None = None, *, id: str = "", retry: int | None = None) -> None:
        lines = []
        if id:
            lines.append(b"id: " + id.encode())
        if retry is not None:
            lines.append(b"retry: %d" % retry)
        if data is not None:
            lines.append(b"data: " + data)
        await self.chunk(b"\n".join(lines) + b"\n\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def close(self) -> None:
        self.closed = True
        await self.stream.aclose()

    async def reset(self) -> None:
        """Close with RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.close()

    async def wait_closed_by_peer(self) -> None:
        try:
            while await self.stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass


Script = Callable[[SeenRequest, Caller], Awaitable[None]]


class ScriptedUpstream:
    """Runs the script for each request it reads."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[SeenRequest] = []
        self.connections = 0
        self.url = ""
        self.stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/mcp"
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        number = self.connections
        caller = Caller(stream)
        buffer = b""
        try:
            while not caller.closed:
                request, buffer = await self._read(stream, buffer, number)
                if request is None:
                    return
                self.requests.append(request)
                await self.script(request, caller)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async def _read(self, stream: trio.SocketStream, buffer: bytes, number: int) -> tuple[SeenRequest | None, bytes]:
        while b"\r\n\r\n" not in buffer:
            data = await stream.receive_some()
            if not data:
                return None, b""
            buffer += data
        raw_head, _, buffer = buffer.partition(b"\r\n\r\n")
        first, *lines = raw_head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(buffer) < length:
            data = await stream.receive_some()
            if not data:
                return None, b""
            buffer += data
        return SeenRequest(method, path, headers, buffer[:length], number, raw_head), buffer[length:]
