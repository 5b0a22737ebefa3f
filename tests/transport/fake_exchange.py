"""An exchange without a connection: what is asked is given, what is answered is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from transport.exchange import ClientGone, Headers, RequestHead
from transport.sse import Parser

ACCEPT = "application/json, text/event-stream"


@attrs.frozen
class Frame:
    """One server-sent event: its id, and the message; None for a priming event."""

    id: str
    message: Any
    name: str = "message"
    data: bytes = b""


class FakeExchange:
    """Implements `transport.exchange.Exchange`."""

    def __init__(
        self, method: str, path: str = "/mcp", body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        known = {"host": "localhost"}
        if method == "POST":
            known |= {"content-type": "application/json", "accept": ACCEPT}
        elif method == "GET":
            known |= {"accept": "text/event-stream"}
        path, _, query = path.partition("?")
        self.head = RequestHead(method, path, query, {**known, **(headers or {})}, "peer")
        self.status = 0
        self.headers: dict[str, str] = {}
        self.answer = b""
        self.is_stream = False
        self.finished = False
        self.gone = trio.Event()
        self._body = body

    async def body(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._body

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        await self._begin(status, headers)
        self.answer, self.finished = body, True

    async def start_stream(self, status: int, headers: Headers) -> None:
        await self._begin(status, headers)
        self.is_stream = True

    async def _begin(self, status: int, headers: Headers) -> None:
        assert not self.status, "an exchange has one answer"
        await self._write()
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}

    async def send(self, chunk: bytes) -> None:
        assert self.is_stream
        assert chunk, "an empty chunk would be the end"
        await self._write()
        self.answer += chunk

    async def finish(self) -> None:
        await self._write()
        self.finished = True

    async def _write(self) -> None:
        assert not self.finished
        await trio.lowlevel.checkpoint()
        if self.gone.is_set():
            raise ClientGone

    async def wait_gone(self) -> None:
        await self.gone.wait()

    @property
    def json(self) -> Any:
        return json.loads(self.answer)

    @property
    def frames(self) -> list[Frame]:
        """The events that were sent so far."""
        events = Parser().feed(self.answer)
        return [
            Frame(
                event.id or "",
                json.loads(event.data) if event.data and event.name == "message" else None,
                event.name,
                event.data,
            )
            for event in events
            if event.data is not None
        ]


def post(message: object, *, path: str = "/mcp", **headers: str) -> FakeExchange:
    """Make the POST of a message; header names with underscores for hyphens."""
    return FakeExchange("POST", path, json.dumps(message).encode(), _named(headers))


def get(*, path: str = "/mcp", **headers: str) -> FakeExchange:
    return FakeExchange("GET", path, headers=_named(headers))


def delete(*, path: str = "/mcp", **headers: str) -> FakeExchange:
    return FakeExchange("DELETE", path, headers=_named(headers))


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
