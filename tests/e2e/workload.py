"""Clients that work through crashes of the gateway, and write down all that they are told.

Each client does one thing after the other, as an agent does: a few calls in a session, then a new session. When
a connection breaks it does what MCP tells clients to do: it resumes with GET and Last-Event-ID if it was told an
event id, and knows nothing of the outcome otherwise.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import trio

from tests.e2e.history import OWN_STREAM, CallHistory, Ending, Evidence, History, SessionHistory
from tests.e2e.journal import Journal
from tests.e2e.raw_client import AnswerStream, ConnectionBroken, Json, RawClient
from tests.e2e.sdk_client import unique_key
from tests.e2e.server_sent_events import Frame
from tests.e2e.waiting import DEADLINE_SECONDS, wait_until_asked

OPEN_SECONDS = 60.0  # a stdio server takes longer to start than a gateway is left alive between two kills
_RETRY_SECONDS = 0.02  # between attempts at a gateway that is being restarted


class Worker:
    """One client of one server behind the gateway."""

    def __init__(self, url: str, history: History, *, seed: int, counts: bool, calls_per_session: int) -> None:
        """Make a worker.

        Args:
          counts: whether this server's sessions survive a crash of the gateway, so that counters only rise.
          calls_per_session: fewer than the streams that a session keeps for replay.
        """
        self._url = url
        self._history = history
        self._random = random.Random(seed)
        self._calls_per_session = calls_per_session
        self._tools = ["progress", "progress", "sleep", "change_tools", *["counter"] * (2 * counts)]
        self.results = 0  # calls that ended with a result
        self.resumed = 0  # calls that went on after their connection broke: what the scenario is there to see
        self._stopping = trio.Event()

    def stop(self) -> None:
        """Finish the call at hand, then no more."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until told to stop."""
        while not self._stopping.is_set():
            client = RawClient(self._url)
            # Of a session that was opened without our being told (the connection broke) we know nothing.
            await _until_done(client.initialize)
            session = self._history.sessions[client.session_id] = SessionHistory(self._url)
            session.denied = not await _until_done(client.confirm)
            if not session.denied:
                await self._use(client, session)

    async def _use(self, client: RawClient, session: SessionHistory) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, client, session)
            for _ in range(self._calls_per_session):
                await self._call(client, session)
                if self._stopping.is_set():
                    break
            nursery.cancel_scope.cancel()

    async def _call(self, client: RawClient, session: SessionHistory) -> None:
        key = unique_key()
        tool = self._random.choice(self._tools)
        message = client.tool_call(tool, key=key, count=4, interval_seconds=0.06, seconds=self._random.uniform(0, 0.5))
        call = session.calls[key] = CallHistory(tool)
        try:
            async with client.post(message) as stream:
                await self._take_answer(stream, call, message["id"])
        except ConnectionBroken:
            if call.ending is Ending.OPEN and not call.heard:
                call.ending = Ending.BROKEN
        if call.ending is Ending.OPEN:
            await self._resume(client, call, message["id"])
            self.resumed += 1
        self.results += call.ending is Ending.RESULT
        if call.ending is Ending.REFUSED:
            await trio.sleep(_RETRY_SECONDS)

    async def _take_answer(self, stream: AnswerStream, call: CallHistory, request_id: object) -> None:
        if stream.is_event_stream:
            await self._take_events(stream, call, request_id)
            return
        answer = await stream.json()
        if stream.status == 200:
            _take_message(answer, call, request_id)
            return
        assert "error" in answer, (stream.status, answer)
        call.ending = Ending.REFUSED if stream.status == 503 else Ending.DENIED
        assert stream.status != 503 or int(stream.headers["retry-after"]) >= 0

    async def _take_events(self, stream: AnswerStream, call: CallHistory, request_id: object) -> None:
        while (frame := await stream.next_frame()) is not None:
            call.heard.append(frame)
            if frame.message is not None:
                _take_message(frame.message, call, request_id)

    async def _resume(self, client: RawClient, call: CallHistory, request_id: object) -> None:
        """Ask for the rest until the answer is there."""
        with trio.move_on_after(2 * DEADLINE_SECONDS):
            while call.ending is Ending.OPEN:
                try:
                    async with client.get(call.heard[-1].id) as stream:
                        if stream.status == 200:
                            await self._take_events(stream, call, request_id)
                        elif stream.status != 503:
                            call.ending = Ending.DENIED
                except ConnectionBroken:
                    pass
                await trio.sleep(_RETRY_SECONDS)

    async def _listen(self, client: RawClient, session: SessionHistory) -> None:
        """Keep the session's own stream open, resuming it whenever it breaks."""
        while True:
            heard = session.own_stream
            try:
                async with client.get(heard[-1].id if heard else None) as stream:
                    if stream.status not in (200, 503):
                        session.denied = True
                        return
                    while stream.status == 200 and (frame := await stream.next_frame(seconds=math.inf)):
                        heard.append(frame)
            except ConnectionBroken:
                pass
            await trio.sleep(_RETRY_SECONDS)


async def _until_done(step: Callable[[], Awaitable[int]]) -> bool:
    """Try until it is done (True) or refused for good (False); a gateway that is being restarted is neither."""
    statuses = [503]

    async def is_final() -> bool:
        with contextlib.suppress(ConnectionBroken):
            statuses.append(await step())
        return statuses[-1] != 503

    await wait_until_asked("the gateway took it", is_final, seconds=OPEN_SECONDS)
    return statuses[-1] in (200, 202)


def _take_message(message: Json, call: CallHistory, request_id: object) -> None:
    if "method" in message:
        return
    assert message["id"] == request_id
    call.answers += 1
    call.ending = Ending.ERROR if "error" in message else Ending.RESULT
    if "result" in message:
        call.text = message["result"]["content"][0]["text"]


async def collect_evidence(history: History, journals: Iterable[Journal]) -> Evidence:
    """Ask the gateway again for all that clients were told, and the journals for what was done."""
    answering: set[str] = set()
    replays: dict[tuple[str, str], list[Frame]] = {}

    async def examine(session_id: str, session: SessionHistory) -> None:
        client = RawClient(session.url, session_id=session_id)
        if await _answers(client):
            answering.add(session_id)
        for key, heard in session.streams():
            expected = len(heard) - 1 if key == OWN_STREAM else None
            replays[session_id, key] = await _replay(client, heard[0].id, expected)

    async with trio.open_nursery() as nursery:
        for session_id, session in history.sessions.items():
            nursery.start_soon(examine, session_id, session)
    executions: Counter[str] = Counter()
    for journal in journals:
        executions += journal.executions()
    return Evidence(frozenset(answering), replays, executions)


async def _answers(client: RawClient) -> bool:
    """Whether the session answers; 503 means that it is being restored."""
    statuses: list[int] = []

    async def final() -> bool:
        statuses.append((await client.post_whole(client.request("ping"))).status)
        return statuses[-1] != 503

    try:
        await wait_until_asked("the session was restored", final)
    except AssertionError:
        return False
    return statuses[-1] == 200


async def _replay(client: RawClient, event_id: str, expected: int | None) -> list[Frame]:
    """What follows an event: all of a call's stream, or as much of an endless one as is expected."""
    frames: list[Frame] = []
    async with client.get(event_id) as stream:
        if stream.status != 200:
            return []
        while expected is None or len(frames) < expected:
            frame = await stream.next_frame()
            if frame is None:
                break
            frames.append(frame)
    return frames
