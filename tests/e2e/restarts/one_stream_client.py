"""A client of the matrix to which everything comes over one stream: answers, questions, news of all its calls.

That is HTTP+SSE of 2024-11-05 and WebSocket. When its stream breaks it asks for it again, as the documents tell clients
of that transport to, and goes on behind the last event it has. Every event id is noted for the judge; what is sent
again where it should not be shows there. How messages and the stream travel is a subclass' matter.

One that keeps no ids comes back with its session's alone, and is promised less: it gets what nobody was sent yet, and
where its connection broke, perhaps what it heard last once more. It tells the one from the other by a ping: what comes
before the ping's answer, and begins as what it had ends, it has had.

Such a client always listens: a server's loss may be noticed while a request of it is on its way.
"""

from __future__ import annotations

import abc
from collections import deque
from typing import ClassVar

import attrs
import trio

from actors.ids import EventId, InvalidEventId, SessionId
from actors.jsonrpc import UPSTREAM_UNAVAILABLE
from tests.e2e.raw_client import LATEST, Json
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.transcript import Asked, Ending, Kind, Transcript
from tests.e2e.waiting import wait_until

RETRY_SECONDS = 0.05


@attrs.frozen
class Event:
    """One event of the session's stream, as it was sent."""

    id: str
    message: Json


@attrs.frozen(eq=False)
class _Return:
    """A client without ids is coming back."""

    barrier: Asked
    has_broken: bool  # the connection before; it was not ended in order
    came: list[Json] = attrs.field(factory=list)


class OneStreamClient(Client):
    """One client, and the stream of its session."""

    # The flows that cannot be had over this transport; each subclass says why.
    WITHOUT: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        nursery: trio.Nursery,
        stage: Stage,
        transcript: Transcript,
        *,
        revision: str = LATEST,
        keeps_ids: bool = True,
    ) -> None:
        super().__init__(nursery, stage, transcript, revision=revision)
        self.listens = True
        self.keeps_ids = keeps_ids
        self.is_connected = False
        self.session_id = ""
        self.events: list[Event] = []  # of the present session, as they came for the first time
        self._requests: dict[object, tuple[Asked, Json]] = {}
        self._staying = trio.CancelScope()  # with the present session
        self._connection = trio.CancelScope()  # the present connection of it
        self._to_come_again: deque[Event] = deque()
        self._replayed: Asked | None = None
        self._had: list[Json] = []  # without ids: all that came
        self._returning: _Return | None = None

    # ---- what can be asked ----

    def handshake(self, *, held: bool = False) -> Asked:
        self._staying.cancel()
        self._staying = trio.CancelScope()
        self.is_connected = False
        self.session_id = ""
        self.events = []
        self._had = []
        self._returning = None
        self._forget_place()
        self.transcript.own_streams.append([])
        asked = Asked("initialize")
        self._nursery.start_soon(self._stay, self._staying, asked)
        return self._start(asked, self.handshake_request(held=held))

    def listen(self) -> None:
        """Nothing is to be done: it always listens."""

    async def connected(self) -> None:
        await wait_until("the session's stream is open", lambda: self.is_connected)

    async def cancel(self, asked: Asked) -> None:
        """Withdraw a call. No answer is its end then, and nothing says so: there is no other stream to end."""
        await super().cancel(asked)
        if not asked.endings:
            asked.endings.append(Ending(Kind.WITHDRAWN))

    def batch(self, *calls: tuple[str, Json]) -> list[Asked]:
        raise NotImplementedError("batches belong to Streamable HTTP of 2025-03-26")

    def delete(self) -> Asked:
        raise NotImplementedError("this transport cannot end a session")

    async def replay(self, asked: Asked) -> None:
        """Come back with the id of the session's first event: all that followed is to be sent again, as it was."""
        if not self.keeps_ids:
            return
        self._replayed = asked
        self._to_come_again = deque(self.events[1:])
        self._go_back_to(self.events[0].id)
        self._connection.cancel()
        await wait_until("the session was replayed", lambda: not self._to_come_again)

    # ---- for subclasses ----

    @abc.abstractmethod
    async def _stay(self, scope: trio.CancelScope, opening: Asked) -> None:
        """Keep the session's stream open, for as long as there is the session and `scope` is not cancelled."""

    @abc.abstractmethod
    async def _try(self, asked: Asked, message: Json) -> bool:
        """Send a message. False: it was said to be tried again, and a client would now that the fault is over."""

    @abc.abstractmethod
    def _forget_place(self) -> None:
        """Have the next connection begin a session."""

    @abc.abstractmethod
    def _go_back_to(self, event_id: str) -> None:
        """Have the next connection go on behind this event."""

    async def _converse(self, asked: Asked, message: Json) -> None:
        if asked.request_id is not None:
            self._requests[asked.request_id] = (asked, message)
        try:
            while not await self._try(asked, message):  # noqa: ASYNC110
                await trio.sleep(RETRY_SECONDS)  # nothing else tells when it is time to
        except trio.TooSlowError:
            self.transcript.missing.append(f"nothing was said of {asked.name}")

    def _take_event(self, event: Event, cursor: str) -> None:
        """Take an event of the session's stream.

        Args:
          cursor: the event id proper in its id.
        """
        if self._to_come_again:
            self._compare(event)
            return
        self.events.append(event)
        try:
            self.transcript.own_streams[-1].append(EventId.read(SessionId(self.session_id), cursor))
        except InvalidEventId:
            self.transcript.wrong.append(f"{event.id!r} is no event id of this session")
        self._take_message(event.message)

    def _begin_return(self, *, has_broken: bool) -> None:
        """Without ids: find out what of the things to come is new."""
        message = self.request("ping", {})
        barrier = Asked("barrier", after=True, request_id=message["id"])
        self._returning = _Return(barrier, has_broken)
        self._nursery.start_soon(self._converse, barrier, message)

    def _take_nameless(self, message: Json) -> None:
        """Take a message whose event has no id, or one that is not kept."""
        returning = self._returning
        if returning is None:
            self._had.append(message)
            self._take_message(message)
            return
        is_barrier = "method" not in message and message.get("id") == returning.barrier.request_id
        if is_barrier and self._may_be_tried_again(returning.barrier, message):
            self._take_message(message)
            return
        returning.came.append(message)
        if is_barrier:
            self._end_return(returning)

    def _end_return(self, returning: _Return) -> None:
        self._returning = None
        came, again = returning.came, 0
        if returning.has_broken:
            longest = min(len(came), len(self._had))
            again = next((count for count in range(longest, 0, -1) if came[:count] == self._had[-count:]), 0)
        for message in came[again:]:
            self._take_nameless(message)
        self.is_connected = True

    def _compare(self, event: Event) -> None:
        expected = self._to_come_again.popleft()
        if event != expected:
            assert self._replayed is not None
            self._replayed.unlike_replay = f"was replayed as {event}, heard {expected}"
            self._to_come_again.clear()

    def _take_message(self, message: Json) -> None:
        if "method" in message:
            self._note(message, [asked for asked, _ in self._requests.values()])
            return
        asked, request = self._requests.get(message.get("id"), (None, {}))
        if asked is None:
            self.transcript.wrong.append(f"an answer to nothing that was asked: {message}")
        elif self._may_be_tried_again(asked, message):
            self._nursery.start_soon(self._converse_again, asked, request)
        else:
            self._take_answer(asked, message)

    def _may_be_tried_again(self, asked: Asked, answer: Json) -> bool:
        """Whether a client tries again: nothing was run, and by now what was away is back."""
        return asked.after and not asked.endings and answer.get("error", {}).get("code") == UPSTREAM_UNAVAILABLE

    async def _converse_again(self, asked: Asked, request: Json) -> None:
        await trio.sleep(RETRY_SECONDS)
        await self._converse(asked, request)

    def _take_answer(self, asked: Asked, message: Json) -> None:
        kinds = [ending.kind for ending in asked.endings]
        if kinds == [Kind.WITHDRAWN]:
            return  # it crossed the cancellation
        if kinds == [Kind.BROKEN]:
            asked.endings.clear()  # it was not known to have arrived, and had
        self._end(asked, message)

    def _lose_session(self, text: str) -> None:
        """The session is gone: so is all that waits for it."""
        for asked, _ in self._requests.values():
            if not asked.endings:
                asked.endings.append(Ending(Kind.DENIED, text))
