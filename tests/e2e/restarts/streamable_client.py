"""The matrix's client over Streamable HTTP: each request on a connection of its own, resumed by its last event id."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import attrs
import trio

from actors.ids import EventId, InvalidEventId, SessionId
from tests.e2e.raw_client import LATEST, AnswerStream, ConnectionBroken, Json, RawClient
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.transcript import Asked, Due, Ending, Kind, Transcript
from tests.e2e.server_sent_events import Frame
from tests.e2e.waiting import wait_until

_RETRY_SECONDS = 0.05


@attrs.define(eq=False)
class _Conversation:
    """What was asked together, and the events that came of it."""

    asked: Mapping[object, Asked]  # by request id; what is no request is under None
    frames: list[Frame] = attrs.field(factory=list)

    @property
    def open(self) -> list[Asked]:
        return [asked for asked in self.asked.values() if not asked.endings]


class StreamableClient(Client):
    """One client of one endpoint."""

    def __init__(
        self,
        nursery: trio.Nursery,
        stage: Stage,
        transcript: Transcript,
        *,
        url: str,
        revision: str = LATEST,
        direct: bool = False,
    ) -> None:
        """Make a client.

        Args:
          direct: there is no gateway: event ids are the server's, and batches go one by one.
        """
        super().__init__(nursery, stage, transcript, revision=revision)
        self._raw = RawClient(url, protocol_version=revision)
        self._direct = direct
        self._conversations: list[_Conversation] = []
        self._own_frames: list[Frame] = []
        self._is_connected = False

    def handshake(self, *, held: bool = False) -> Asked:
        self._raw.session_id = ""
        return self._start(Asked("initialize"), self.handshake_request(held=held))

    def delete(self) -> Asked:
        asked = Asked("delete", due=Due.END)
        self._begin(asked, {})
        self._nursery.start_soon(self._exchange, "DELETE", b"", _Conversation({None: asked}))
        return asked

    def batch(self, *calls: tuple[str, Json]) -> list[Asked]:
        """Call several tools in one message; one by one where there is no gateway that takes batches."""
        asked: dict[object, Asked] = {}
        messages: list[Json] = []
        for number, (tool, arguments) in enumerate(calls):
            held = bool(arguments.pop("held", False))
            each = Asked(f"{tool} in a batch, {number}", key=f"{self._stage.key}-{number}" if held else "")
            message = self.tool_call(tool, each, held=held, **arguments)
            if self._direct:
                self._start(each, message)
            else:
                self._begin(each, message)
            asked[message["id"]] = each
            messages.append(message)
        if not self._direct:
            body = json.dumps(messages).encode()
            self._nursery.start_soon(self._exchange, "POST", body, _Conversation(asked))
        return list(asked.values())

    def listen(self) -> None:
        if not self.listens:
            self.listens = True
            self.transcript.own_streams.append([])
            self._nursery.start_soon(self._listen)

    async def connected(self) -> None:
        await wait_until("the session's own stream is open", lambda: self._is_connected)

    async def replay(self, asked: Asked) -> None:
        [conversation] = [each for each in self._conversations if asked in each.asked.values()]
        if self._direct or not conversation.frames:
            return
        first, *heard = conversation.frames
        async with self._raw.get(first.id) as stream:
            again = await stream.rest()
            if again != heard:
                asked.unlike_replay = f"was replayed ({stream.status}) as {again}, heard {heard}"

    # ---- requests ----

    async def _converse(self, asked: Asked, message: Json) -> None:
        await self._exchange("POST", json.dumps(message).encode(), _Conversation({asked.request_id: asked}))

    async def _exchange(self, method: str, body: bytes, conversation: _Conversation) -> None:
        """Make a request and stay with it until all of it has ended; too slow is an end that never came."""
        self._conversations.append(conversation)
        headers = {"mcp-protocol-version": None} if not self._raw.session_id else {}
        try:
            while not await self._attempt(method, body, headers, conversation):  # noqa: ASYNC110
                await trio.sleep(_RETRY_SECONDS)  # it was said to be tried again: there is nothing else to wait for
            while conversation.open:
                await self._resume(conversation)
                await trio.sleep(_RETRY_SECONDS)
        except trio.TooSlowError:
            self.transcript.missing.append(f"nothing more of {[each.name for each in conversation.open]}")

    async def _attempt(
        self, method: str, body: bytes, headers: Mapping[str, str | None], conversation: _Conversation
    ) -> bool:
        """Try once. False: it was refused for now, after the fault, and a client would try again."""
        try:
            async with self._raw.exchange(method, body, headers=headers) as stream:
                if "mcp-session-id" in stream.headers and stream.status == 200:
                    self._raw.session_id = stream.headers["mcp-session-id"]
                if stream.status == 503 and all(asked.after for asked in conversation.open):
                    return False
                if stream.is_event_stream:
                    await self._take_events(stream, conversation)
                else:
                    self._take_whole(stream.status, await stream.body(), conversation)
        except ConnectionBroken as broken:
            if not conversation.frames:
                _end_all(conversation, Kind.BROKEN, str(broken))
        return True

    async def _resume(self, conversation: _Conversation) -> None:
        if not conversation.frames:
            _end_all(conversation, Kind.MALFORMED, "a stream without an event ended")
            return
        try:
            async with self._raw.get(conversation.frames[-1].id) as stream:
                if stream.status == 200:
                    await self._take_events(stream, conversation)
                elif stream.status != 503:
                    _end_all(conversation, Kind.DENIED, f"{stream.status} to its last event id")
        except ConnectionBroken:
            pass  # it is still being started

    async def _take_events(self, stream: AnswerStream, conversation: _Conversation) -> None:
        while (frame := await stream.next_frame()) is not None:
            conversation.frames.append(frame)
            for asked in conversation.asked.values():
                asked.events += self._event_ids(frame)
            message = frame.message
            if message is None:
                continue
            if "method" in message:
                self._note(message, conversation.asked.values())
            else:
                self._take_answer(message, conversation)
        for asked in conversation.open:
            if asked.cancelled:
                asked.endings.append(Ending(Kind.WITHDRAWN))

    def _take_answer(self, message: Json, conversation: _Conversation) -> None:
        asked = conversation.asked.get(message["id"])
        if asked is None:
            self.transcript.wrong.append(f"an answer to nothing that was asked there: {message}")
        else:
            self._end(asked, message)

    def _take_whole(self, status: int, body: bytes, conversation: _Conversation) -> None:
        message = message_in(body)
        for asked in conversation.open:
            if status == 200 and message is not None:
                self._take_answer(message, conversation)
            elif status == 202 and asked.cancelled:
                asked.endings.append(Ending(Kind.WITHDRAWN))
            elif status == 202 or (status == 200 and asked.name == "delete"):
                kind = Kind.ANSWER if None in conversation.asked else Kind.MALFORMED
                asked.endings.append(Ending(kind))
            else:
                asked.endings.append(refusal(status, body))

    # ---- the session's own stream ----

    async def _listen(self) -> None:
        while True:
            try:
                last = self._own_frames[-1].id if self._own_frames else None
                async with self._raw.get(last or None) as stream:
                    await self._take_own(stream)
            except ConnectionBroken:
                pass
            except trio.TooSlowError:
                self.transcript.missing.append("the head of the session's own stream")
            await trio.sleep(_RETRY_SECONDS)

    async def _take_own(self, stream: AnswerStream) -> None:
        if stream.status != 200:
            if stream.status not in (503, *(() if self._stage.over.is_set() else (502,))):
                self.transcript.wrong.append(f"its own stream was answered with {stream.status}")
            return
        self._is_connected = True
        try:
            while (frame := await stream.next_frame(seconds=math.inf)) is not None:
                self._own_frames.append(frame)
                self.transcript.own_streams[-1] += self._event_ids(frame)
                if frame.message is not None and "method" in frame.message:
                    self._note(frame.message)
                elif frame.message is not None:
                    self.transcript.wrong.append(f"an answer on the session's own stream: {frame.data}")
        finally:
            self._is_connected = False

    def _event_ids(self, frame: Frame) -> list[EventId]:
        """Give the event's id as the gateway reads it; the server's own ids are its own matter."""
        if self._direct:
            return []
        try:
            return [EventId.read(SessionId(self._raw.session_id), frame.id)]
        except InvalidEventId:
            self.transcript.wrong.append(f"{frame.id!r} is no event id of this session")
            return []


def _end_all(conversation: _Conversation, kind: Kind, text: str) -> None:
    for asked in conversation.open:
        asked.endings.append(Ending(kind, text))


def message_in(body: bytes) -> Json | None:
    """Read the JSON-RPC message that a body is; None: it is none."""
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def refusal(status: int, body: bytes) -> Ending:
    """Note an HTTP answer that is none to what was asked."""
    message = message_in(body)
    error = (message or {}).get("error")
    if not isinstance(error, dict) or not error.get("message") or not isinstance(error.get("code"), int):
        return Ending(Kind.MALFORMED, f"{status} {body!r}")
    kinds = {404: Kind.DENIED, 503: Kind.REFUSED}
    return Ending(kinds.get(status, Kind.HTTP_ERROR), f"{status} {error['message']}", error["code"])
