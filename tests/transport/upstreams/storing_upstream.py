"""An upstream with an event store, which has the window of the SDKs: what is said between the replay of a stream and
its live tail is stored, and sent to nobody.

One stream: that of the call `CALL`, or its own. How it treats a second GET beside an open one is chosen by `second`.
"""

from __future__ import annotations

import enum
import math

import trio

from actors.jsonrpc import Message
from tests.transport.upstreams.bed import CALL, initialize_result
from tests.transport.upstreams.scripted_upstream import Caller, SeenRequest


class Second(enum.Enum):
    """What becomes of a second GET."""

    REPLAYS_AND_ENDS = "the Python SDK"
    CONFLICTS = "the TypeScript SDK"
    TAKES_OVER = "the newest is sent what is new, and the older stays open"
    HEARS_AS_WELL = "both are sent what is new"
    HAS_NO_HEAD = "an overloaded one"


class StoringUpstream:
    """`script` is what it does with requests."""

    def __init__(self, second: Second = Second.REPLAYS_AND_ENDS, *, refusal: int = 0) -> None:
        """Args:
        refusal: the status of every GET after the first; 0: as `second` says.
        """
        self._second = second
        self._refusal = refusal
        self.forgets_before = 0  # of events with a lower number it knows nothing: whoever asks has an empty stream
        self.closes_after_seconds = math.inf  # it ends its streams, as polling servers do
        self.retry_ms: int | None = None  # for so long it wants to be left alone by whoever asks for its streams
        self.cuts_next_event = False  # the connection breaks in the middle of it
        self._stored: list[bytes] = []  # an event's id is its number, from 1
        self._live: list[Caller] = []
        self.said_at: dict[int, list[bytes]] = {}  # in the window of that GET, from 1
        self.gets: list[tuple[float, str]] = []  # when, and behind which event
        self.calls = 0
        self.conflicts = 0

    async def script(self, request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await self._get(request, caller)
        elif request.body == CALL.raw:
            self.calls += 1
            await caller.open_stream()
            await caller.event(b"", id=self._store(b""), retry=100)
            await caller.end_stream()
        elif b'"initialize"' in request.body:
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-1"})
        else:
            await caller.answer(202)

    async def say(self, message: Message) -> None:
        """Say something on the stream: stored, and sent to whoever hears it live."""
        id = self._store(message.raw)
        cuts, self.cuts_next_event = self.cuts_next_event, False
        for caller in self._live.copy():
            if cuts:
                await caller.chunk(b"id: %s\ndata: %s\n" % (id.encode(), message.raw[: len(message.raw) // 2]))
                await caller.stream.send_eof()
            else:
                await caller.event(message.raw, id=id)

    def _store(self, data: bytes) -> str:
        self._stored.append(data)
        return str(len(self._stored))

    @property
    def open_streams(self) -> int:
        return len(self._live)

    async def _get(self, request: SeenRequest, caller: Caller) -> None:
        cursor = request.headers.get("last-event-id", "")
        self.gets.append((trio.current_time(), cursor))
        number = len(self.gets)
        if self._refusal and number > 1:
            await caller.answer(self._refusal)
        elif self._live and self._second is Second.CONFLICTS:
            self.conflicts += 1
            await caller.answer(409)
        elif self._live and self._second is Second.HAS_NO_HEAD:
            await caller.wait_closed_by_peer()
        elif cursor and int(cursor) < self.forgets_before:
            await caller.open_stream()
            await caller.end_stream()
        else:
            await self._stream(caller, int(cursor or len(self._stored)), number)

    async def _stream(self, caller: Caller, after: int, number: int) -> None:
        await caller.open_stream()
        for position, data in enumerate(self._stored.copy(), start=1):
            if position > after and data:
                await caller.event(data, id=str(position))
        for data in self.said_at.get(number, ()):
            self._store(data)
        if self._live and self._second is Second.REPLAYS_AND_ENDS:
            await caller.end_stream()
            return
        if self._second is Second.TAKES_OVER:
            self._live.clear()
        self._live.append(caller)
        await caller.event(
            b"", id=self._store(b""), retry=self.retry_ms
        )  # its id is behind what fell into the window, as the Python SDK's
        with trio.move_on_after(self.closes_after_seconds) as waited:
            await caller.wait_closed_by_peer()
        if caller in self._live:
            self._live.remove(caller)
        if waited.cancelled_caught:
            await caller.end_stream()
