"""Serves the page under test under any name, takes its report, and plays the part of a name that is bound anew.

DNS rebinding, as a browser sees it: a page of `rebound.example:PORT` is loaded, then that name leads to another server
at the same port, and what the page asks of its own origin goes there. Here the connection is handed on instead of the
name being changed: to the browser, and to whom it is handed, that is the same.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import trio

_PAGE = Path(__file__).parent / "page.html"
_HEAD_BYTES_MAX = 65536
_BODY_BYTES_MAX = 4 * 1024 * 1024


class PageServer:
    """Listens at 127.0.0.1 while its nursery runs."""

    def __init__(self) -> None:
        self.port = 0
        self.bound_anew_to: tuple[str, int] | None = None  # where all is handed on to but the page and its report
        self._send_report, self._reports = trio.open_memory_channel[Any](16)

    async def open(self, nursery: trio.Nursery) -> None:
        """Begin to listen."""
        listeners = await nursery.start(partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1"))
        self.port = listeners[0].socket.getsockname()[1]

    async def report(self, *, seconds: float) -> Any:
        """Wait for the page's report."""
        with trio.fail_after(seconds):
            return await self._reports.receive()

    async def _serve(self, stream: trio.SocketStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received and len(received) < _HEAD_BYTES_MAX:
            data = await stream.receive_some()
            if not data:
                return
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].partition(b"?")[0]
        if path == b"/page":
            await _answer(stream, _PAGE.read_bytes())
        elif path == b"/report":
            self._send_report.send_nowait(json.loads(await _whole_body(stream, head, body)))
            await _answer(stream, b"")
        elif self.bound_anew_to is not None:
            await _hand_on(stream, received, self.bound_anew_to)
        else:
            await _answer(stream, b"", status="404 Not Found")


async def _whole_body(stream: trio.SocketStream, head: bytes, body: bytes) -> bytes:
    [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    wanted = int(length.partition(b":")[2])
    assert wanted < _BODY_BYTES_MAX
    while len(body) < wanted:
        body += await stream.receive_some()
    return body


async def _answer(stream: trio.SocketStream, body: bytes, *, status: str = "200 OK") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    await stream.send_all(head.encode() + body)


async def _hand_on(stream: trio.SocketStream, received: bytes, to: tuple[str, int]) -> None:
    async with await trio.open_tcp_stream(*to) as other, trio.open_nursery() as nursery:
        await other.send_all(received)
        nursery.start_soon(_copy, stream, other, nursery.cancel_scope)
        nursery.start_soon(_copy, other, stream, nursery.cancel_scope)


async def _copy(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        async for data in source:
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()
