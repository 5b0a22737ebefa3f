"""One caller: a session of the load, that calls `echo` again and again and checks every answer.

Calls are driven by callbacks: no future, no task switch, so that the generator costs less than what it measures.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from time import perf_counter
from urllib.parse import urlsplit

import httptools
import msgspec

from bench.latencies import Latencies
from bench.script import PROTOCOL_VERSION

ANSWER_SECONDS_MAX = 10.0  # how long a single answer may take while opening, closing and draining
LOSSES_MAX = 3  # a caller whose connection was lost this often gives up: it would only count losses

# Makes bodies the size the peers were measured with: about 190 B in, 170 B out.
_TEXT_PADDING = "the quick brown fox jumps over the lazy dog "


class SessionFailed(Exception):
    """A session could not be opened: nothing can be measured with it."""


class _Content(msgspec.Struct, gc=False):
    text: str


class _Result(msgspec.Struct, gc=False):
    content: list[_Content]


class _Answer(msgspec.Struct, gc=False):
    id: int
    result: _Result


_decode_answer = msgspec.json.Decoder(_Answer).decode


def is_echo(body: bytes, id: int, text: str) -> bool:
    """Tell whether this is the right answer: a JSON message, or the last event of an SSE stream."""
    if not body.startswith(b"{"):
        body = last_event(body)
    try:
        answer = _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return answer.id == id and len(answer.result.content) == 1 and answer.result.content[0].text == text


def last_event(stream: bytes) -> bytes:
    """Give the data of the last event that has any; priming events have none."""
    data = [line[5:].strip() for line in stream.splitlines() if line.startswith(b"data:")]
    return next((line for line in reversed(data) if line), b"")


class Window:
    """The measured time: what all sessions of a load share."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.errors: Counter[str] = Counter()
        self.measuring = False
        self.over = False
        self._busy = 0
        self._drained = asyncio.Event()

    def begin_call(self) -> None:
        self._busy += 1

    def end_call(self) -> None:
        self._busy -= 1
        if self.over and not self._busy:
            self._drained.set()

    async def drain(self) -> None:
        """Wait for the calls that are still in flight; those that stay unanswered are errors."""
        self.over = True
        if not self._busy:
            return
        try:
            await asyncio.wait_for(self._drained.wait(), ANSWER_SECONDS_MAX)
        except TimeoutError:
            self.errors["unanswered"] += self._busy


class Caller(asyncio.Protocol):
    """One session on one kept-alive connection, with one call in flight: opens, calls, closes."""

    def __init__(self, url: str, number: int, window: Window, token: str = "") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._number = number
        self._window = window
        self._line = f"{{}} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        if token:
            self._line += f"Authorization: Bearer {token}\r\n"
        self._session_id = ""
        self._head = ""
        self._transport: asyncio.Transport | None = None
        self._gone = asyncio.Event()  # the connection is
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._sequence = 0
        self._text = ""
        self._calling = False  # one call is in flight
        self._begun_at = 0.0
        self._losses = 0
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None  # for the answer to `_exchange`
        self._reconnecting: asyncio.Task[None] | None = None

    # ---- opening and closing: one awaited exchange at a time

    async def open(self) -> None:
        """Connect, and go through the handshake.

        Raises:
          SessionFailed
        """
        await self._connect()
        initialize = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "bench-load", "version": "1"},
        }
        status, body = await self._exchange(
            "POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize}
        )
        if status != 200 or not self._session_id:
            raise SessionFailed(f"initialize was answered with {status}: {body[:200]!r}")
        self._head = self._write_head("POST")
        status, body = await self._exchange("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"})
        if status != 202:
            raise SessionFailed(f"notifications/initialized was answered with {status}: {body[:200]!r}")

    async def call_once(self) -> None:
        """Call, and wait for the right answer.

        Raises:
          SessionFailed
        """
        call = {"name": "echo", "arguments": {"text": _TEXT_PADDING}}
        status, body = await self._exchange("POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
        if status != 200 or not is_echo(body, 1, _TEXT_PADDING):
            raise SessionFailed(f"tools/call was answered with {status}: {body[:200]!r}")

    async def close(self) -> None:
        """End the session, and leave."""
        if self._reconnecting is not None:
            await self._reconnecting
        if not self._calling:
            await self._end()
        await self.leave()

    async def leave(self) -> None:
        """Close the connection, whatever is in flight, and see it gone."""
        if self._transport is None:
            return
        self._transport.abort()
        self._transport = None
        await self._gone.wait()

    async def _end(self) -> None:
        try:
            if self._transport is None:
                await self._connect()
            status, _ = await self._exchange("DELETE", None)
        except (SessionFailed, OSError):
            self._window.errors["DELETE unanswered"] += 1
            return
        if status not in (200, 202, 204):
            self._window.errors[f"DELETE status {status}"] += 1

    async def _connect(self) -> None:
        connecting = asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
        await asyncio.wait_for(connecting, ANSWER_SECONDS_MAX)

    async def _exchange(self, method: str, message: object) -> tuple[int, bytes]:
        assert self._transport is not None
        body = b"" if message is None else msgspec.json.encode(message)
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(self._write_head(method).encode() + b"%d\r\n\r\n%b" % (len(body), body))
        try:
            return await asyncio.wait_for(self._waiting, ANSWER_SECONDS_MAX)
        except (ConnectionError, TimeoutError) as error:
            raise SessionFailed(f"no answer to {method}: {error or 'timed out'}") from None
        finally:
            self._waiting = None

    def _write_head(self, method: str) -> str:
        head = self._line.format(method)
        head += "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        if self._session_id:
            head += f"Mcp-Session-Id: {self._session_id}\r\nMCP-Protocol-Version: {PROTOCOL_VERSION}\r\n"
        return head + "Content-Length: "

    # ---- calling: callbacks only

    def call_until_over(self) -> None:
        """Begin to call; go on until the window is over."""
        if self._window.over:
            return
        self._sequence += 1
        self._text = f"call {self._sequence} of session {self._number}: {_TEXT_PADDING}"
        self._window.begin_call()
        self._calling = True
        self._send_call()

    def _send_call(self) -> None:
        assert self._transport is not None
        body = (
            f'{{"jsonrpc":"2.0","id":{self._sequence},"method":"tools/call",'
            f'"params":{{"name":"echo","arguments":{{"text":"{self._text}"}}}}}}'
        )
        self._begun_at = perf_counter()
        self._transport.write(f"{self._head}{len(body)}\r\n\r\n{body}".encode())

    def _answered(self, status: int) -> None:
        now = perf_counter()
        window = self._window
        if status != 200:
            window.errors[f"status {status}"] += 1
        elif not is_echo(self._body, self._sequence, self._text):
            window.errors["wrong answer"] += 1
        elif window.measuring:
            window.latencies.add(now - self._begun_at)
        self._calling = False
        window.end_call()

    def _lost(self) -> None:
        if self._calling:
            self._window.errors["connection lost"] += 1
            self._losses += 1
            self._calling = False
            self._window.end_call()
        if self._losses < LOSSES_MAX and not self._window.over:
            self._reconnecting = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        try:
            await self._connect()
        except OSError:
            self._window.errors["connection refused"] += 1
        else:
            self.call_until_over()

    # ---- what asyncio and httptools call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._gone.clear()
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._gone.set()
        left_by_us = self._transport is None
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionResetError("the connection was closed"))
        elif not left_by_us:
            self._lost()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._window.errors["not HTTP"] += 1
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._session_id and name.lower() == b"mcp-session-id":
            self._session_id = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._waiting is not None:
            if not self._waiting.done():
                self._waiting.set_result((status, self._body))
            return
        if not self._calling:
            return
        self._answered(status)
        if self._parser.should_keep_alive():
            self.call_until_over()
        elif self._transport is not None:
            self._transport.close()  # as the server asked: not an error; `connection_lost` goes on
