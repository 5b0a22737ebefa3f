"""A talk over Streamable HTTP, with a server or with the gateway in front of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator

import trio

from tests.e2e.peers.raw_json import RawMessage
from tests.e2e.peers.talk import Talk
from tests.e2e.raw_client import AnswerStream, ConnectionBroken, RawClient


class HttpTalk(Talk):
    """One session: a POST for each message, and one GET stream for what belongs to none."""

    def __init__(self, nursery: trio.Nursery, url: str) -> None:
        super().__init__(nursery)
        self.client = RawClient(url)
        self.event_ids: list[str] = []  # of the last request's stream, in order

    async def listen(self) -> None:
        await self._nursery.start(self._listen)

    async def send(self, message: bytes) -> None:
        answer = await self.client.whole("POST", message)
        assert (answer.status, answer.body) == (202, b""), answer

    async def _exchange(self, request: bytes, under_way: trio.Event) -> tuple[int | None, list[bytes]]:
        heard: list[bytes] = []
        self.event_ids = []
        async with self.client.exchange("POST", request) as stream:
            under_way.set()
            self.client.session_id = stream.headers.get("mcp-session-id", self.client.session_id)
            if stream.is_event_stream:
                await self.read(stream, heard, request)
            else:
                body = await stream.body()
                heard += [body] if body else []
            return stream.status, heard

    async def read(self, stream: AnswerStream, heard: list[bytes], request: bytes) -> None:
        """Read one stream until it ends, or until the answer to `request` has come.

        Raises:
          ConnectionBroken: it was cut.
        """
        while (frame := await stream.next_frame(seconds=math.inf)) is not None:
            if frame.id:
                self.event_ids.append(frame.id)
            if not frame.data:
                continue
            raw = frame.data.encode()
            heard.append(raw)
            message = RawMessage.of(raw)
            if message.method:
                self._take(raw, aside=False)
            else:
                assert message.part("id") == RawMessage.of(request).part("id")
                return

    async def _listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self.client.get() as stream:
            assert stream.status == 200, stream.status
            task_status.started()
            with contextlib.suppress(ConnectionBroken):  # at the end of the talk, or with a killed gateway
                while (frame := await stream.next_frame(seconds=math.inf)) is not None:
                    if frame.data:
                        self._take(frame.data.encode(), aside=True)


@contextlib.asynccontextmanager
async def http_talk(url: str) -> AsyncIterator[HttpTalk]:
    """Talk with an endpoint; its session is ended with the block."""
    async with trio.open_nursery() as nursery:
        talk = HttpTalk(nursery, url)
        yield talk
        await talk.client.delete()
        nursery.cancel_scope.cancel()
