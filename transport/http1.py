"""The hot road: HTTP/1.1 on httptools straight on a wire, as an Exchange.

One task per connection, which reads a head, runs the handler inline, and reads the next; no task, cancel scope or
nursery per request (they cost as much again as all the rest; measured in bench/). Deadlines are numbers that
connections show, and one sweeper per server interrupts the waits that are over (`connections.py`): they are kept to
a second or so, which is enough for what they are there for.

Requests of one connection are answered one after the other. What a client sends ahead waits in the kernel, or up
to a bound in the connection's buffer while somebody watches for the client's end (`wait_gone`).
"""

from __future__ import annotations

from math import inf

import trio

from transport.answer import answer_head, chunk_frame
from transport.chunked import ChunkedDecoder
from transport.connections import Connections
from transport.exchange import BodyTooLarge, BodyTooSlow, ClientGone, Headers
from transport.handler import (
    JSON_HEADERS,
    BadRequest,
    failure_answer,
    is_expected,
)
from transport.head import CHUNKED, ParsedHead, parse_head, refuse_endless_head
from transport.wire import PROGRESS_BYTES, RECEIVE_BYTES, RECEIVE_LARGE_BYTES, Interrupted, Wire, WireBroken

_OPEN, _STREAMING, _ANSWERED = range(3)  # how far an exchange's answer is
_LINGER_BYTES_MAX = 1024 * 1024  # read and thrown away behind a refusal, so that the client gets to read it
# Sends that need no waiting do not yield by themselves. After so many bytes, each send counted with a kilobyte on top
# for its own cost, others get their turn: that is 256 small events, about a millisecond.
_TURN_BYTES = 256 * 1024
_SEND_COST_BYTES = 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection:
    """One connection; `run` serves it. Whoever made the wire closes it afterwards."""

    __slots__ = (
        "_buffer",
        "_connections",
        "_last_head",
        "_limits",
        "_peer",
        "_scheme",
        "_served",
        "_turn_bytes",
        "_wire",
        "_writing",
        "broken",
        "deadline",
        "idle",
    )

    def __init__(self, wire: Wire, connections: Connections, *, peer: str, scheme: str = "http") -> None:
        self.deadline = inf  # of the current wait, on trio's clock
        self.idle = False  # waits for a request of which nothing has come
        self.broken = False  # nothing can be sent any more, or only half of something was
        self._wire = wire
        self._connections = connections
        self._limits = connections.limits
        self._peer = peer
        self._scheme = scheme
        self._buffer = b""  # received, not yet used
        self._last_head: tuple[bytes, ParsedHead] | None = None
        self._served = False
        self._turn_bytes = 0  # sent since others last had their turn
        self._writing = False

    async def run(self, received: bytes = b"") -> bytes | None:
        """Serve requests until the connection is over, or a request comes that is not hot.

        Args:
          received: bytes that have been read from the wire already.

        Returns:
          None at the end; otherwise the bytes from the first byte of that request on: whoever goes on serving the
          connection reads them first.
        """
        self._buffer = received
        live = self._connections.live
        live.add(self)
        try:
            return await self._serve_requests()
        except BadRequest as refusal:
            await self._refuse(refusal.status, refusal.body)
        except ClientGone:
            pass
        finally:
            live.discard(self)
        return None

    def interrupt(self) -> None:
        """End the wait under way: its deadline is over, or the server stops."""
        self._wire.interrupt()

    def rest(self) -> None:
        """Let go of what only saves time: called while no request is there."""
        self._last_head = None

    def _parse(self, raw: bytes) -> ParsedHead:
        # A client's requests mostly repeat their head byte for byte, and parsing is a pure function of it: the last
        # result is worth keeping (a fifth of a small request's cost).
        last = self._last_head
        if last is not None and last[0] == raw:
            return last[1]
        parsed = parse_head(raw, self._limits, self._peer, self._scheme)
        self._last_head = (raw, parsed)
        return parsed

    async def _serve_requests(self) -> bytes | None:
        connections = self._connections
        while True:
            end = await self._wait_head()
            if end < 0:
                return None
            parsed = self._parse(self._buffer[:end])
            if not connections.is_hot(parsed.head):
                return self._buffer
            if parsed.body_length > self._limits.body_bytes_max:
                raise BadRequest(413, f"the body is larger than {self._limits.body_bytes_max} bytes")
            self._buffer = self._buffer[end:]
            exchange = Http1Exchange(self, parsed)
            try:
                await connections.handler(exchange)
            except Exception as error:  # noqa: BLE001 - isolation: ends this connection, nothing else
                await self._fail(exchange, error)
                return None
            if not await self._settle(exchange):
                return None
            self._served = True

    # Reading

    async def _wait_head(self) -> int:
        """Wait for a whole head at the start of the buffer; give its length, or -1 if there will be none."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):
            buffer = self._buffer = buffer[2:]
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            end = await self._receive_head(buffer)
        else:  # sent ahead: let others have their turn, since no wait does
            await trio.lowlevel.checkpoint()
        if end > self._limits.head_bytes_max:
            raise BadRequest(431, f"the head is larger than {self._limits.head_bytes_max} bytes")
        return end + 4 if end >= 0 else -1

    async def _receive_head(self, buffer: bytes) -> int:
        limits = self._limits
        wait_seconds = limits.idle_seconds if self._served and not buffer else limits.head_seconds
        self.deadline = trio.current_time() + wait_seconds
        try:
            while True:
                self.idle = not buffer
                if self.idle and self._connections.stopping:
                    return -1
                data = await self._wire.receive()
                if not data:
                    return -1
                if self.idle and self._served:
                    self.deadline = trio.current_time() + limits.head_seconds
                searched = max(0, len(buffer) - 3)
                buffer += data
                if buffer.startswith(b"\r\n"):  # some clients end their bodies with an empty line (RFC 9112, 2.2)
                    buffer = buffer[2:]
                end = buffer.find(b"\r\n\r\n", searched)
                if end >= 0:
                    self._buffer = buffer
                    return end
                refuse_endless_head(buffer, limits)
        except Interrupted:
            if buffer:
                raise BadRequest(408, "the request's head did not arrive in time") from None
            return -1
        except WireBroken:
            return -1
        finally:
            self.idle = False
            self.deadline = inf

    async def read_body(self, parsed: ParsedHead) -> bytes:
        """Read a request's body; on failure the connection is not used for another request."""
        length = parsed.body_length
        buffer = self._buffer
        if 0 <= length <= len(buffer):
            self._buffer = buffer[length:]
            return buffer[:length]
        if parsed.expects_continue and not buffer:
            await self.write(_CONTINUE)
        self.deadline = trio.current_time() + self._limits.body_seconds
        try:
            return await (self._read_chunked() if length == CHUNKED else self._read_counted(length))
        except Interrupted:
            raise BodyTooSlow("the request body did not arrive in time") from None
        except WireBroken as error:
            raise ClientGone(str(error)) from None
        finally:
            self.deadline = inf

    async def _read_counted(self, length: int) -> bytes:
        pieces = [self._buffer]
        missing = length - len(self._buffer)
        self._buffer = b""
        while missing > 0:
            piece = await self._receive_more(RECEIVE_LARGE_BYTES)
            pieces.append(piece)
            missing -= len(piece)
        if missing < 0:
            pieces[-1], self._buffer = pieces[-1][:missing], pieces[-1][missing:]
        return b"".join(pieces)

    async def _read_chunked(self) -> bytes:
        decoder = ChunkedDecoder()
        pieces = [decoder.feed(self._buffer)]
        size = len(pieces[0])
        self._buffer = b""
        while not decoder.done and size <= self._limits.body_bytes_max:
            # Small reads: decoding 16 KiB of the smallest chunks that are let through takes 3 ms, in which nothing
            # else runs.
            pieces.append(decoder.feed(await self._receive_more(RECEIVE_BYTES)))
            size += len(pieces[-1])
        if size > self._limits.body_bytes_max:
            raise BodyTooLarge(f"the body is larger than {self._limits.body_bytes_max} bytes")
        self._buffer = decoder.rest
        return b"".join(pieces)

    async def _receive_more(self, bytes_max: int) -> bytes:
        data = await self._wire.receive(bytes_max)
        if not data:
            raise ClientGone("the client closed the connection in the middle of a request")
        return data

    async def watch(self, ahead_bytes_max: int) -> None:
        """Wait until the client closes its side; keep what it sends ahead until then.

        A client that sends more ahead than the bound is taken for gone.
        """
        while not self.broken:
            try:
                data = await self._wire.receive()
            except (Interrupted, WireBroken):
                data = b""
            self._buffer += data
            if not data or len(self._buffer) > ahead_bytes_max:
                self.broken = True

    # Writing

    async def write(self, data: bytes) -> None:
        """Send all of it.

        Raises:
          ClientGone

        Cancellation: when only a part is out, the connection is broken.
        """
        if self.broken:
            raise ClientGone("the client has closed the connection")
        if self._writing:
            raise trio.BusyResourceError("another task is sending on this exchange")
        try:
            sent = self._wire.send_nowait(data)
        except WireBroken as error:
            self.broken = True
            raise ClientGone(str(error)) from None
        if sent < len(data):
            await self._write_rest(memoryview(data)[sent:])
            self._turn_bytes = 0
            return
        self._turn_bytes += sent + _SEND_COST_BYTES
        if self._turn_bytes > _TURN_BYTES:
            self._turn_bytes = 0
            await trio.lowlevel.checkpoint()

    async def _write_rest(self, rest: memoryview) -> None:
        self._writing = True
        progress_bytes = PROGRESS_BYTES
        try:
            while rest:
                if progress_bytes >= PROGRESS_BYTES:
                    self.deadline = trio.current_time() + self._limits.write_seconds
                    progress_bytes = 0
                taken = await self._wire.send_some(rest)
                progress_bytes += taken
                rest = rest[taken:]
        except Interrupted:
            raise ClientGone(f"the client did not read for {self._limits.write_seconds:g} s") from None
        except WireBroken as error:
            raise ClientGone(str(error)) from None
        finally:
            self.broken = self.broken or bool(rest)
            self._writing = False
            self.deadline = inf

    # Ending

    def must_close(self, exchange: Http1Exchange) -> bool:
        """Tell whether the answer to this exchange has to be the connection's last."""
        parsed = exchange.parsed
        if self._connections.stopping or parsed.wants_close or exchange.spoiled:
            return True
        if exchange.body_known:
            return False
        if parsed.body_length == CHUNKED or parsed.expects_continue:
            return True
        return parsed.body_length - len(self._buffer) > self._limits.drain_bytes_max

    async def _settle(self, exchange: Http1Exchange) -> bool:
        """Bring the connection to the start of the next request; tell whether there can be one."""
        if exchange.state == _OPEN:
            await self._fail(exchange, RuntimeError("the handler returned without an answer"))
            return False
        if exchange.state == _STREAMING or self.broken:
            return False  # a body without its end: only closing tells the client that it was cut off
        if exchange.closes:
            if not exchange.body_known:
                await self._linger()
            return False
        if not exchange.body_known:
            await exchange.body()  # at most drain_bytes_max, see must_close
        return True

    async def _fail(self, exchange: Http1Exchange, error: BaseException) -> None:
        if not is_expected(error):
            self._connections.report(exchange.head, error)
        answer = failure_answer(error)
        if answer is not None and exchange.state == _OPEN:
            await self._refuse(*answer, with_body=exchange.head.method != "HEAD")

    async def _refuse(self, status: int, body: bytes, *, with_body: bool = True) -> None:
        head = answer_head(status, JSON_HEADERS, closes=True, body_length=len(body))
        try:
            await self.write(head + body if with_body else head)
            await self._linger()
        except ClientGone:
            pass  # nobody to tell

    async def _linger(self) -> None:
        """Read on for a moment after the last answer.

        Closing a socket that has unread bytes resets the connection, and the reset may overtake the answer.
        """
        self.deadline = trio.current_time() + self._limits.linger_seconds
        received_bytes = 0
        try:
            await self._wire.send_end()
            while received_bytes < _LINGER_BYTES_MAX:
                data = await self._wire.receive(RECEIVE_LARGE_BYTES)
                if not data:
                    break
                received_bytes += len(data)
        except (Interrupted, WireBroken):
            pass
        finally:
            self.deadline = inf


class Http1Exchange:
    """One request on an HTTP/1.1 connection: see `transport.exchange.Exchange`."""

    __slots__ = ("_body", "_connection", "closes", "head", "parsed", "spoiled", "state", "status")

    def __init__(self, connection: Connection, parsed: ParsedHead) -> None:
        self.head = parsed.head
        self.parsed = parsed
        self.state = _OPEN
        self.status = 0
        self.closes = False  # the answer said `Connection: close`
        self.spoiled = False  # the body could not be read to its end
        self._connection = connection
        self._body: bytes | None = b"" if parsed.body_length == 0 else None

    @property
    def body_known(self) -> bool:
        """Whether the body has been read, or there is none."""
        return self._body is not None

    async def body(self) -> bytes:
        """Read the whole body; BadRequest is raised too, when its framing is broken."""
        if self._body is None:
            self.spoiled = True
            self._body = await self._connection.read_body(self.parsed)
            self.spoiled = False
        return self._body

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        head = self._begin(status, headers, len(body))
        self.state = _ANSWERED
        if self.head.method == "HEAD" or status in (204, 304):
            body = b""
        await self._connection.write(head + body)

    async def start_stream(self, status: int, headers: Headers) -> None:
        """Send the head of a streamed answer."""
        head = self._begin(status, headers, None)
        self.state = _STREAMING
        await self._connection.write(head)

    async def send(self, chunk: bytes) -> None:
        """Send a bit of the body, now."""
        self._check_streaming()
        if chunk and self.head.method != "HEAD":
            await self._connection.write(chunk_frame(chunk))

    async def finish(self) -> None:
        """End the streamed body."""
        self._check_streaming()
        if self.head.method != "HEAD":
            await self._connection.write(b"0\r\n\r\n")
        self.state = _ANSWERED

    async def wait_gone(self) -> None:
        """Wait until the client has closed its side; one task at a time may do so."""
        limits = self._connection._limits
        body_ahead = 0 if self.body_known else 2 * limits.body_bytes_max
        await self._connection.watch(limits.pipelined_bytes_max + body_ahead)

    def _begin(self, status: int, headers: Headers, body_length: int | None) -> bytes:
        if self.state != _OPEN:
            raise RuntimeError("this exchange has its answer already")
        self.status = status
        self.closes = self._connection.must_close(self)
        return answer_head(status, headers, closes=self.closes, body_length=body_length)

    def _check_streaming(self) -> None:
        if self.state != _STREAMING:
            raise RuntimeError("no streamed answer is open")
