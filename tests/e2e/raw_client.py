"""A bare Streamable HTTP client: every header, byte and broken connection under the test's control.

The SDK's client reconnects, retries and hides event ids; this one does what it is told and tells what it saw.
Every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
import h11
import trio

from tests.e2e.server_sent_events import Frame, FrameReader
from tests.e2e.waiting import DEADLINE_SECONDS

LATEST = "2025-11-25"  # the newest revision that has sessions

_RECEIVE_BYTES = 65536
_CLIENT_INFO = {"name": "raw-client", "version": "1.0"}
_CAPABILITIES = {"sampling": {}, "elicitation": {}, "roots": {"listChanged": True}}

Json = dict[str, Any]
Transport = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class ConnectionBroken(Exception):
    """The connection ended in the middle of an answer, or could not be made."""


@attrs.frozen
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        content: Json = json.loads(self.body)
        return content


class AnswerStream:
    """An answer whose body comes bit by bit."""

    def __init__(self, transport: Transport, wire: h11.Connection, head: h11.Response) -> None:
        self._transport = transport
        self._wire = wire
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._ended = False
        self.status = head.status_code
        self.headers = {name.decode(): value.decode() for name, value in head.headers}

    @property
    def is_event_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def hints(self) -> list[int]:
        """What the server has said of reconnecting, in milliseconds."""
        return self._reader.hints

    async def next_frame(self, *, seconds: float = DEADLINE_SECONDS) -> Frame | None:
        """Wait for the next event.

        Args:
          seconds: how long; `math.inf` where silence is right.

        Returns:
          None: the server has ended the stream properly.

        Raises:
          ConnectionBroken: it ended without an end.
        """
        with trio.fail_after(seconds):
            while not self._frames and not self._ended:
                self._frames += self._reader.feed(await self._read())
        return self._frames.pop(0) if self._frames else None

    async def next_message(self) -> Json:
        """Wait for the next event that has a message; priming events are passed over."""
        while True:
            frame = await self.next_frame()
            assert frame is not None, "the stream ended where a message was expected"
            if frame.message is not None:
                return frame.message

    async def rest(self) -> list[Frame]:
        """Read until the server ends the stream."""
        frames = []
        while (frame := await self.next_frame()) is not None:
            frames.append(frame)
        return frames

    async def body(self) -> bytes:
        """Read the whole body of an answer that is no event stream."""
        content = b""
        with trio.fail_after(DEADLINE_SECONDS):
            while not self._ended:
                content += await self._read()
        return content

    async def json(self) -> Json:
        """Read the whole body as JSON."""
        content: Json = json.loads(await self.body())
        return content

    async def _read(self) -> bytes:
        event = await _next_event(self._transport, self._wire)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self._ended = True
        return b""

    def shrink_buffer(self) -> None:
        """Let the system take almost nothing that is not read: who stops reading then stops the sender soon."""
        assert isinstance(self._transport, trio.SocketStream), "of a connection in clear"
        self._transport.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)

    async def wait_ended(self) -> None:
        """Wait until nothing more will come, be it by a proper end or by a cut connection."""
        with contextlib.suppress(ConnectionBroken):
            await self.rest()


@attrs.define
class RawClient:
    """One client of one endpoint. Each request has a connection of its own."""

    url: str
    session_id: str = ""
    protocol_version: str = LATEST
    handshake: Json = attrs.field(factory=dict)  # what `initialize` was answered with
    extra_headers: Mapping[str, str] = attrs.field(factory=dict)  # sent with every request
    token: str = attrs.field(default="", repr=False)  # presented with every request
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)  # whom it trusts; None: in clear
    _last_id: int = 0

    def new_id(self) -> int:
        """A request id that this client has not used."""
        self._last_id += 1
        return self._last_id

    # The protocol's steps

    async def open_session(self) -> None:
        """Do the handshake: `initialize`, then `notifications/initialized`."""
        assert await self.initialize() == 200
        assert await self.confirm() == 202

    async def initialize(self) -> int:
        """Ask for a session. Gives the status; 200: `session_id` and `handshake` are set."""
        request = self.request("initialize", self.initialize_params())
        async with self.post(request, headers={"mcp-protocol-version": None}) as stream:
            if stream.status == 200:
                self.handshake = (await _answer_to(request["id"], stream))["result"]
                self.session_id = stream.headers["mcp-session-id"]
            return stream.status

    def initialize_params(self) -> Json:
        """What this client says of itself."""
        return {
            "protocolVersion": self.protocol_version,
            "capabilities": _CAPABILITIES,
            "clientInfo": _CLIENT_INFO,
        }

    async def confirm(self) -> int:
        """Tell that the handshake is done. Gives the status."""
        return (await self.post_whole({"jsonrpc": "2.0", "method": "notifications/initialized"})).status

    def request(self, method: str, params: Json | None = None) -> Json:
        """Make a request with a new id."""
        message: Json = {"jsonrpc": "2.0", "id": self.new_id(), "method": method}
        return message if params is None else {**message, "params": params}

    def tool_call(self, tool: str, **arguments: object) -> Json:
        """Make a tools/call request that asks for progress under its own id."""
        params: Json = {"name": tool, "arguments": arguments}
        message = self.request("tools/call", params)
        params["_meta"] = {"progressToken": message["id"]}
        return message

    async def ask(self, message: Json) -> Json:
        """Send a request and wait for its answer, however it comes."""
        async with self.post(message) as stream:
            assert stream.status == 200, (stream.status, await stream.body())
            return await _answer_to(message["id"], stream)

    async def call(self, tool: str, **arguments: object) -> str:
        """Call a tool and give its text."""
        return text_of(await self.ask(self.tool_call(tool, **arguments)))

    # The transport's verbs

    def post(
        self, message: object, *, headers: Mapping[str, str | None] | None = None
    ) -> contextlib.AbstractAsyncContextManager[AnswerStream]:
        """Send a message; the answer is open within the block, and its connection is cut at its end."""
        return self.exchange("POST", json.dumps(message).encode(), headers=headers)

    async def post_whole(self, message: object, *, headers: Mapping[str, str | None] | None = None) -> Answer:
        """Send a message and read the whole answer."""
        return await self.whole("POST", json.dumps(message).encode(), headers=headers)

    def get(self, last_event_id: str | None = None) -> contextlib.AbstractAsyncContextManager[AnswerStream]:
        """Open the session's own stream, or resume a stream after an event."""
        return self.exchange("GET", headers={"last-event-id": last_event_id})

    async def delete(self) -> Answer:
        """End the session."""
        return await self.whole("DELETE")

    async def whole(self, method: str, body: bytes = b"", *, headers: Mapping[str, str | None] | None = None) -> Answer:
        """Make a request and read the whole answer."""
        async with self.exchange(method, body, headers=headers) as stream:
            return Answer(stream.status, stream.headers, await stream.body())

    @contextlib.asynccontextmanager
    async def exchange(
        self, method: str, body: bytes = b"", *, headers: Mapping[str, str | None] | None = None
    ) -> AsyncIterator[AnswerStream]:
        """Make any request on a connection of its own, which is cut at the end of the block.

        Args:
          headers: instead of the client's own; None leaves one out.

        Raises:
          ConnectionBroken: there is nobody, or the connection ended before the answer's head.
        """
        address = urlsplit(self.url)
        assert address.hostname is not None
        try:
            transport = await open_transport(address.hostname, address.port or 80, self.tls)
        except OSError as error:
            raise ConnectionBroken(str(error)) from error
        async with transport:
            wire = h11.Connection(h11.CLIENT)
            head = h11.Request(
                method=method,
                target=f"{address.path}?{address.query}" if address.query else address.path,
                headers=self._headers(address.netloc, body, headers or {}),
            )
            chunks = [wire.send(head), wire.send(h11.Data(data=body)), wire.send(h11.EndOfMessage())]
            with contextlib.suppress(trio.BrokenResourceError):  # it may have answered before it read all
                await transport.send_all(b"".join(chunk or b"" for chunk in chunks))
            with trio.fail_after(DEADLINE_SECONDS):
                event = await _next_event(transport, wire)
            assert isinstance(event, h11.Response), event
            yield AnswerStream(transport, wire, event)

    def _headers(self, host: str, body: bytes, changes: Mapping[str, str | None]) -> list[tuple[bytes, bytes]]:
        usual = {
            "host": host,
            "accept": "application/json, text/event-stream",
            "content-type": "application/json" if body else None,
            "content-length": str(len(body)) if body else None,
            "mcp-session-id": self.session_id or None,
            "mcp-protocol-version": self.protocol_version,
            "authorization": f"Bearer {self.token}" if self.token else None,
        }
        headers = {**usual, **self.extra_headers, **changes}
        return [(name.encode(), value.encode("latin-1")) for name, value in headers.items() if value is not None]


async def open_transport(host: str, port: int, tls: ssl.SSLContext | None) -> Transport:
    """Connect; over TLS if it is told whom to trust."""
    stream = await trio.open_tcp_stream(host, port)
    if tls is None:
        return stream
    return trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)


def text_of(answer: Json) -> str:
    """The text that a tool answered with."""
    assert "result" in answer, answer
    text: str = answer["result"]["content"][0]["text"]
    return text


async def _answer_to(request_id: object, stream: AnswerStream) -> Json:
    if not stream.is_event_stream:
        return await stream.json()
    while True:
        message = await stream.next_message()
        if message.get("id") == request_id and "method" not in message:
            return message


async def _next_event(transport: Transport, wire: h11.Connection) -> h11.Event:
    while True:
        try:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                wire.receive_data(bytes(await transport.receive_some(_RECEIVE_BYTES)))
                continue
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionBroken(str(error)) from error
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionBroken("the server closed the connection without an answer")
        if not isinstance(event, h11.InformationalResponse):
            assert isinstance(event, h11.Event), event
            return event
