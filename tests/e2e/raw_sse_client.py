"""A bare HTTP+SSE client (2024-11-05): it comes back to its session when it is told to, and tells what it saw."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urljoin

import attrs

from tests.e2e.raw_client import AnswerStream, Json, RawClient
from tests.e2e.server_sent_events import Frame

_LEAVE_OUT = {"mcp-protocol-version": None, "accept": None}
_PARAMS: Json = {
    "protocolVersion": "2024-11-05",
    "capabilities": {},
    "clientInfo": {"name": "raw-sse-client", "version": "1.0"},
}


@attrs.define
class RawSseClient:
    """One client. Its stream is open within `stream()`, which may be entered again and again."""

    url: str
    endpoint: str = ""  # where it posts, as it was told last
    last_event_id: str = ""
    frames: list[Frame] = attrs.field(factory=list)  # all that came, endpoints too
    extra_headers: Mapping[str, str] = attrs.field(factory=dict)  # sent with every request
    tls: ssl.SSLContext | None = attrs.field(default=None, repr=False)  # whom it trusts; None: in clear
    _stream: AnswerStream | None = None
    _maker: RawClient = attrs.field(factory=lambda: RawClient(""))

    @contextlib.asynccontextmanager
    async def stream(self, *, resume: bool = True) -> AsyncIterator[AnswerStream]:
        """Ask for the stream, as a browser's EventSource does; the connection is cut at the end of the block."""
        cursor = self.last_event_id if resume else ""
        headers = {**_LEAVE_OUT, "accept": "text/event-stream", "last-event-id": cursor or None}
        async with self._client(self.url).exchange("GET", headers=headers) as stream:
            self._stream = stream
            if stream.status == 200:
                first = await self.next_frame()
                assert first.event == "endpoint"
                self.endpoint = urljoin(self.url, first.data)
            yield stream

    async def next_frame(self) -> Frame:
        """Wait for the next event."""
        assert self._stream is not None
        frame = await self._stream.next_frame()
        assert frame is not None, "the stream ended where an event was expected"
        assert frame.id, "every event has an id"
        self.last_event_id = frame.id
        self.frames.append(frame)
        return frame

    async def answer_to(self, request: Json) -> Json:
        """Wait for the answer to a request; what comes before it is kept in `frames`."""
        while True:
            message = (await self.next_frame()).message
            if message is not None and message.get("id") == request["id"] and "method" not in message:
                return message

    async def open_session(self) -> None:
        """Do the handshake, over the open stream."""
        request = self._maker.request("initialize", _PARAMS)
        await self.post(request)
        assert (await self.answer_to(request))["result"]["protocolVersion"] == "2024-11-05"
        await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def tool_call(self, tool: str, **arguments: object) -> Json:
        """Make a tools/call request that asks for progress under its own id."""
        return self._maker.tool_call(tool, **arguments)

    async def post(self, message: Json) -> None:
        """Send a message; it is accepted."""
        answer = await self._client(self.endpoint).post_whole(message, headers=_LEAVE_OUT)
        assert (answer.status, answer.body) == (202, b"Accepted"), answer

    def _client(self, url: str) -> RawClient:
        return RawClient(url, extra_headers=self.extra_headers, tls=self.tls)
