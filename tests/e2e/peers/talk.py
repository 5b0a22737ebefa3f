"""One talk with a server, raw: what is sent is chosen to the byte, what is heard is written down.

The same scenario talks to a server itself and to the gateway in front of it; then the two transcripts have to be
equal. So a talk decides nothing by itself: it numbers its requests from 1, and answers the server's questions always
alike, from a table.
"""

from __future__ import annotations

import abc
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from tests.e2e.peers.raw_json import RawMessage
from tests.e2e.waiting import DEADLINE_SECONDS, wait_until

Json = dict[str, Any]

CAPABILITIES: Json = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": True}}

# What the client answers, byte for byte: one field that no schema knows, a number that no double can hold.
ANSWERS: Mapping[str, str] = {
    "roots/list": '{"roots":[{"uri":"file:///projects/outlast","name":"outlast","_meta":{"n":1.50}}]}',
    "sampling/createMessage": '{"role":"assistant","model":"capitals","content":{"type":"text","text":"GR\\u00dcSSE"}}',
    "elicitation/create": '{"action":"accept","content":{"name":"Ada","check":true,"integer":7,'
    '"interpretation":"snake"}}',
    "ping": "{}",
}


@attrs.frozen
class Heard:
    """What came for one request: an HTTP status (None on stdio), and all messages in order, the answer last."""

    status: int | None
    messages: tuple[str, ...]


@attrs.define
class Transcript:
    """All that was heard in one talk, masked.

    `asides` is what belongs to no request, by method: those of one method come in order, of two methods they may
    overtake each other on two streams.
    """

    replies: dict[str, Heard] = attrs.field(factory=dict)
    asides: dict[str, list[str]] = attrs.field(factory=lambda: defaultdict(list))

    def as_one_stream(self) -> Transcript:
        """The same as if there were no streams: every message but the answers is an aside, no answer has a status."""
        whole = Transcript(asides=defaultdict(list, {name: list(said) for name, said in self.asides.items()}))
        for label, heard in self.replies.items():
            answers = [text for text in heard.messages if not RawMessage.of(_parsable(text)).method]
            for text in heard.messages:
                if text not in answers:
                    whole.asides[RawMessage.of(_parsable(text)).method].append(text)
            whole.replies[label] = Heard(None, tuple(answers))
        return whole


def _parsable(masked: str) -> bytes:
    return masked.replace("<id>", '"<id>"', 1).encode()


class Talk(abc.ABC):
    """What all talks share."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.transcript = Transcript()
        self._nursery = nursery
        self._last_id = 0
        self._counts: dict[str, int] = defaultdict(int)

    # What scenarios use

    async def open(self, protocol_version: str = "2025-11-25", capabilities: Json = CAPABILITIES) -> None:
        """Do the handshake."""
        client = {"name": "peer", "version": "1.0", "vendor": {"big": 2**70}}
        params = {"protocolVersion": protocol_version, "capabilities": capabilities, "clientInfo": client}
        await self.ask("initialize", "initialize", params)
        await self.listen()
        await self.tell("notifications/initialized")

    async def ask(self, label: str, method: str, params: Json | None = None) -> Json:
        """Send a request and wait for its answer, which the transcript gets under `label`."""
        return await self.ask_raw(label, self._request(method, params))

    async def ask_raw(self, label: str, request: bytes) -> Json:
        """As `ask`, for a request whose bytes are the scenario's."""
        with trio.fail_after(DEADLINE_SECONDS):
            heard = await self._exchange(request, trio.Event())
        masked = tuple(RawMessage.of(raw).masked() for raw in heard[1])
        assert label not in self.transcript.replies, f"{label!r} was used before"
        self.transcript.replies[label] = Heard(heard[0], masked)
        answer: Json = json.loads(heard[1][-1]) if heard[1] else {}
        return answer

    async def call(self, label: str, tool: str, **arguments: object) -> Json:
        """Call a tool that is to report progress under a token of its own."""
        meta = {"progressToken": f"token of {label}"}
        return await self.ask(label, "tools/call", {"name": tool, "arguments": arguments, "_meta": meta})

    async def begin(self, method: str, params: Json) -> int:
        """Send a request that is never to be answered, and wait until it is under way; gives its id."""
        request = self._request(method, params)
        under_way = trio.Event()

        async def exchange() -> None:
            _, heard = await self._exchange(request, under_way)
            assert not heard, f"a cancelled request was answered: {heard}"

        self._nursery.start_soon(exchange)
        with trio.fail_after(DEADLINE_SECONDS):
            await under_way.wait()
        return self._last_id

    async def tell(self, method: str, params: Json | None = None) -> None:
        """Send a notification."""
        message = {"jsonrpc": "2.0", "method": method} | ({} if params is None else {"params": params})
        await self.send(json.dumps(message).encode())

    async def wait(self, method: str, count: int = 1) -> None:
        """Wait until the server has said or asked something that often."""
        await wait_until(f"{count} times {method} was heard", lambda: self._counts[method] >= count)

    # What the carriers do

    @abc.abstractmethod
    async def send(self, message: bytes) -> None:
        """Send what has no answer."""

    @abc.abstractmethod
    async def listen(self) -> None:
        """Hear from now on what belongs to no request."""

    @abc.abstractmethod
    async def _exchange(self, request: bytes, under_way: trio.Event) -> tuple[int | None, list[bytes]]:
        """Send a request and wait for all that belongs to it; `under_way` is set when the server has it."""

    def _request(self, method: str, params: Json | None) -> bytes:
        self._last_id += 1
        message: Json = {"jsonrpc": "2.0", "id": self._last_id, "method": method}
        return json.dumps(message if params is None else {**message, "params": params}).encode()

    def _take(self, raw: bytes, *, aside: bool) -> None:
        """Take note of a message that is no answer; answer it if it is a question."""
        message = RawMessage.of(raw)
        if aside:
            self.transcript.asides[message.method].append(message.masked())
        if message.is_question:
            # The answer's bytes are the client's own: its id is the question's, as it was written.
            answer = f'{{"result": {ANSWERS[message.method]}, "id": {message.part("id")},"jsonrpc":"2.0"}}'
            self._nursery.start_soon(self.send, answer.encode())
        self._counts[message.method] += 1


Scenario = Callable[[Talk], Awaitable[None]]
