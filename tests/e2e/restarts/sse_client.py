"""The matrix's client over HTTP+SSE of 2024-11-05: it posts, and hears on the stream that it comes back to.

It comes back as browsers' EventSource does, with the id of the last event as `Last-Event-ID`, or, where it keeps none,
with the name of its session as it was told where to post (docs/protocol.md, "HTTP+SSE"). A POST that was accepted
is answered on the stream, whatever happens in between: only one whose connection broke may stay without an answer.
"""

from __future__ import annotations

import math
from typing import ClassVar
from urllib.parse import urljoin

import trio

from tests.e2e.raw_client import LATEST, AnswerStream, ConnectionBroken, Json, RawClient
from tests.e2e.restarts.one_stream_client import RETRY_SECONDS, Event, OneStreamClient
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.streamable_client import refusal
from tests.e2e.restarts.transcript import Asked, Ending, Kind, Transcript
from tests.e2e.server_sent_events import Frame
from tests.e2e.waiting import wait_until

_LEAVE_OUT = {"mcp-protocol-version": None, "accept": None}


class SseClient(OneStreamClient):
    """One client of one pair of paths."""

    WITHOUT: ClassVar[frozenset[str]] = frozenset({"deletion", "batch"})  # the revision has neither

    def __init__(
        self,
        nursery: trio.Nursery,
        stage: Stage,
        transcript: Transcript,
        *,
        url: str,
        revision: str = LATEST,
        keeps_ids: bool = True,
    ) -> None:
        super().__init__(nursery, stage, transcript, revision=revision, keeps_ids=keeps_ids)
        self._url = url
        self._endpoint = ""
        self._cursor = ""
        self._has_broken = False  # the stream before

    def _forget_place(self) -> None:
        self._endpoint = self._cursor = ""

    def _go_back_to(self, event_id: str) -> None:
        self._cursor = event_id

    # ---- what is posted ----

    async def _try(self, asked: Asked, message: Json) -> bool:
        await wait_until("it was told where to post", lambda: bool(self._endpoint))
        try:
            answer = await RawClient(self._endpoint).post_whole(message, headers=_LEAVE_OUT)
        except ConnectionBroken as broken:
            if not asked.endings:
                asked.endings.append(Ending(Kind.BROKEN, str(broken)))
            return True
        if answer.status == 503 and asked.after:
            return False
        if answer.status != 202:
            asked.endings.append(refusal(answer.status, answer.body))
        elif asked.request_id is None:
            asked.endings.append(Ending(Kind.ANSWER))
        return True

    # ---- the stream ----

    async def _stay(self, scope: trio.CancelScope, opening: Asked) -> None:
        with scope:
            while not await self._connect():  # noqa: ASYNC110
                await trio.sleep(RETRY_SECONDS)  # as a client does before it comes back

    async def _connect(self) -> bool:
        """Follow the stream until it ends. True: there is no session any more."""
        cursor = self._cursor if self.keeps_ids else ""
        place = f"?session_id={self.session_id}" if self.session_id and not self.keeps_ids else ""
        headers = {**_LEAVE_OUT, "accept": "text/event-stream", "last-event-id": cursor or None}
        self._connection = trio.CancelScope()
        try:
            with self._connection:
                async with RawClient(self._url + place).exchange("GET", headers=headers) as stream:
                    return await self._take_stream(stream)
        except ConnectionBroken:
            pass
        except trio.TooSlowError:
            self.transcript.missing.append("the head of the session's stream")
        finally:
            self.is_connected = False
        return False

    async def _take_stream(self, stream: AnswerStream) -> bool:
        await trio.lowlevel.checkpoint_if_cancelled()  # it may be of a session that was given up meanwhile
        if stream.status == 404:
            self._lose_session("404 to its last event id")
            return True
        if stream.status != 200:
            if stream.status != 503:
                self.transcript.wrong.append(f"its stream was answered with {stream.status}")
            return False
        has_broken, self._has_broken = self._has_broken, True
        while (frame := await stream.next_frame(seconds=math.inf)) is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            if frame.event == "endpoint":
                self._take_endpoint(frame, has_broken=has_broken)
            elif frame.message is None or (self.events and not frame.id):
                self.transcript.wrong.append(f"{frame} is no event of a session")
            elif not frame.id:  # of a handshake that opened none
                self._take_message(frame.message)
            elif not self.keeps_ids:
                self._take_nameless(frame.message)
            else:
                self._cursor = frame.id
                self._take_event(Event(frame.id, frame.message), frame.id.partition(".")[2])
        self._has_broken = False
        return False

    def _take_endpoint(self, frame: Frame, *, has_broken: bool) -> None:
        session_id, _, _ = frame.id.partition(".")
        if self.session_id not in ("", session_id):
            self.transcript.wrong.append("it came back to another session")
        if self.keeps_ids and frame.id != self._cursor and self._cursor not in ("", session_id):
            self.transcript.wrong.append(f"it came back with {self._cursor}, and is sent what is behind {frame.id}")
        self._endpoint = urljoin(self._url, frame.data)
        if self.session_id and not self.keeps_ids:
            self._begin_return(has_broken=has_broken)
        else:
            self.is_connected = True
        self.session_id, self._cursor = session_id, frame.id
