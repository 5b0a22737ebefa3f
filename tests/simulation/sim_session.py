"""A client's life in one session: what it asks, from several places at once, and what it is told.

A client knows what it asked and what it was told, and nothing else: that is its history, which the checkers
judge. What it can see for itself (an error without a name, a session that is gone and should not be) it notes
as a complaint.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
import trio

from actors import jsonrpc
from actors import messages as say
from actors.event_log import CursorLost
from actors.handle import CommandRejected, OutcomeUnknown, SessionHandle, SessionUnavailable
from actors.ids import Principal
from actors.jsonrpc import Kind, Message
from actors.registry import Draining, SessionNotFound
from actors.runtime import Runtime
from persistence.store import StoreUnavailable
from tests.simulation.history import Absence, CallHistory, Ending, Fate, Heard, SessionHistory, Shown
from tests.simulation.sim_reader import SimReader
from tests.simulation.surroundings import Habits, ProcessDied, Surroundings

Result = TypeVar("Result")

# Longer than any limit of the runtime and any outage of the world: what takes longer than this is stuck.
PATIENCE_SECONDS = 400.0
THINKING_SECONDS_MEAN = 8.0
FIRST_REQUEST_ID = 1_000_000  # below it are the runtime's own, for requests without an id of the client's
NAP_SECONDS = 150.0  # long enough to be passivated

# What a client can be told in so many words; everything else is an error that leaked.
_NAMED = (
    ProcessDied,
    SessionNotFound,
    SessionUnavailable,
    OutcomeUnknown,
    CommandRejected,
    Draining,
    StoreUnavailable,
    CursorLost,
    jsonrpc.RequestFailed,
)


class SimSession:
    """One client in one session."""

    def __init__(
        self,
        history: SessionHistory,
        principal: Principal,
        world: Surroundings,
        chance: random.Random,
        habits: Habits,
    ) -> None:
        self.history = history
        self._principal = principal
        self._world = world
        self._chance = chance
        self._reader = SimReader(
            history, world, chance, habits, attempt=self._connect, hear=self._hear, gone=self._note_gone
        )
        self._requests = FIRST_REQUEST_ID
        self._over = False
        self._nursery: trio.Nursery | None = None

    async def live(self) -> None:
        """Use the session from two places, and read its streams, until it is over or nothing new is to be begun."""
        async with trio.open_nursery() as self._nursery, trio.open_nursery() as working:
            self._nursery.start_soon(self._read_own)
            working.start_soon(self._act)
            working.start_soon(self._act)

    @property
    def _stops(self) -> bool:
        return self._over or self._world.finishing

    async def _act(self) -> None:
        deeds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (30, partial(self._call, seconds=0.0)),
            (12, self._call_long),
            (3, self._call_silent),
            (2, self._call_twice),
            (6, self._request),
            (10, self._update),
            (12, self._emit),
            (4, self._look),
            (4, self._notify),
            (2, self._trespass),
            (2, self._nap),
            (1, self._delete),
        ]
        weights = [weight for weight, _ in deeds]
        while not self._stops:
            if self._chance.random() < 0.7:  # otherwise at once: what comes in bursts meets in the mailbox
                await trio.sleep(self._chance.expovariate(1 / THINKING_SECONDS_MEAN))
            [(_, deed)] = self._chance.choices(deeds, weights)
            if not self._stops:
                await deed()

    # ---- asking ----

    def _handle(self, runtime: Runtime) -> SessionHandle:
        return runtime.session(self.history.session_id, principal=self._principal)

    async def _attempt(self, ask: Callable[[SessionHandle], Awaitable[Result]]) -> Result:
        """Ask, for as long as patience lasts; SessionNotFound is noted and passed on."""
        with trio.move_on_after(PATIENCE_SECONDS):
            try:
                result = await self._connect(ask)
            except SessionNotFound:
                self._note_gone("no such session")
                raise
            self.history.last_active_seconds = trio.current_time()
            return result
        self.history.complaints.append(f"had no answer of any kind for {PATIENCE_SECONDS:g} s")
        raise ProcessDied

    async def _connect(self, use: Callable[[SessionHandle], Awaitable[Result]]) -> Result:
        """Use the session at the process that serves, for as long as that takes."""
        try:
            return await self._world.attempt(lambda runtime: use(self._handle(runtime)))
        except _NAMED:
            raise
        except Exception as error:  # no client should ever see it, whatever it is: that is what is noted
            self._note_error(error)
            raise ProcessDied from error

    async def _ask(self, make: Callable[[int], say.Command]) -> say.Outcome | None:
        """Ask for an outcome; None: there was none."""
        try:
            outcome = await self._attempt(lambda handle: handle.ask(make))
        except ProcessDied:
            return None
        except SessionNotFound as error:
            return say.NotDone(say.Problem.UNINITIALIZED, str(error))
        except Draining as error:
            return say.NotDone(say.Problem.UNAVAILABLE, str(error))
        if isinstance(outcome, say.NotDone) and outcome.problem is say.Problem.UNINITIALIZED:
            self._note_gone(outcome.detail)
        return outcome

    def _note_error(self, error: Exception) -> None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = "" if trace is None else f", {trace.tb_frame.f_code.co_qualname} line {trace.tb_lineno}"
        self.history.complaints.append(f"was given an error that has no name for it: {error!r}{place}")

    def _note_acknowledged(self, what: str) -> None:
        if self._world.has_ended(self.history.session_id):
            self.history.complaints.append(f"was told that {what} is kept, after its end was")

    def _note_gone(self, detail: str) -> None:
        self._over = True
        self.history.denied = detail
        if not self._world.may_be_gone(self.history):
            self.history.complaints.append(f"is gone, and should not be: {detail}")

    # ---- calls ----

    async def _call_long(self) -> None:
        seconds = self._chance.choice([0.3, 1.0, 5.0, 30.0])
        await self._call(seconds=seconds, progress=self._chance.randrange(4), ask=self._chance.random() < 0.3)

    async def _call_silent(self) -> None:
        await self._call(seconds=1.0, progress=1, silent=True)

    async def _call_twice(self) -> None:
        """Use an id that is in use: the second is refused, and never run."""
        assert self._nursery is not None
        self._requests += 1
        self._nursery.start_soon(partial(self._call, seconds=1.0, request_id=self._requests))
        await self._call(seconds=1.0, request_id=self._requests)

    async def _call(
        self, *, seconds: float, progress: int = 0, ask: bool = False, silent: bool = False, request_id: int = 0
    ) -> None:
        if not request_id:
            self._requests += 1
            request_id = self._requests
        key = f"{self.history.name}/{len(self.history.calls)}"
        call = self.history.calls[key] = CallHistory(key, request_id, progress)
        params = {"key": key, "seconds": seconds, "progress": progress, "ask": ask, "silent": silent}
        message = jsonrpc.request(request_id, "tools/call", params)
        if seconds and self._chance.random() < 0.2:
            assert self._nursery is not None
            self._nursery.start_soon(self._cancel, call)
        outcome = await self._ask(lambda ticket: say.SendRequest(ticket, message, label="simulated"))
        if isinstance(outcome, say.Streaming):
            call.heard = Heard(outcome.stream)
            assert self._nursery is not None
            self._nursery.start_soon(self._follow_call, call, call.heard)
        else:
            _conclude(call, outcome)

    async def _cancel(self, call: CallHistory) -> None:
        await trio.sleep(self._chance.random() * 2)
        if self._over or call.ending is not Ending.OPEN:
            return
        call.cancelled = True
        message = jsonrpc.notification("notifications/cancelled", {"requestId": call.request_id})
        await self._ask(lambda ticket: say.SendNotification(ticket, message, cancels=call.request_id))

    async def _read_own(self) -> None:
        while not self._over:
            await self._reader.read_on(self.history.own)
            await trio.sleep(self._chance.random() * 3)

    async def _follow_call(self, call: CallHistory, heard: Heard) -> None:
        while not heard.ended and not self._over:
            await self._reader.read_on(heard)
            if heard.denied:
                break
        last = jsonrpc.parse(heard.events[-1].body) if heard.events else None
        if last is not None and last.kind is Kind.RESPONSE:
            _take_answer(call, last)
        elif heard.ended and call.cancelled:
            call.ending = Ending.WITHDRAWN
        elif self._over or heard.denied or self.history.absence is not Absence.NONE:
            call.ending, call.detail = Ending.GONE, heard.denied or self.history.denied

    def _hear(self, shown: Shown) -> None:
        message = jsonrpc.parse(shown.body)
        if message.kind is Kind.REQUEST and self._chance.random() < 0.8:
            assert self._nursery is not None
            self._nursery.start_soon(self._answer, message)

    async def _answer(self, question: Message) -> None:
        await trio.sleep(self._chance.random() * 2)
        assert question.id is not None
        key = msgspec.json.decode(question.raw)["params"]["key"]
        answer = jsonrpc.result(question.id, {"key": key})
        if not self._over:
            await self._ask(lambda ticket: say.SendAnswer(ticket, answer))

    # ---- what applications do ----

    async def _update(self) -> None:
        key = f"u{len(self.history.updates)}"
        self.history.updates[key] = Fate.UNKNOWN
        pause_seconds = self._chance.choice([0.0, 0.0, 0.1, 3.0, 45.0])

        async def change(handle: SessionHandle) -> None:
            async with handle.update() as values:
                await trio.sleep(pause_seconds)
                values["count"] = values.get("count", 0) + 1
                values[key] = True

        try:
            await self._attempt(change)
        except (ProcessDied, SessionNotFound, SessionUnavailable, OutcomeUnknown, Draining):
            return
        except CommandRejected as error:
            self._note_gone(str(error))
        else:
            self.history.updates[key] = Fate.KEPT
            self._note_acknowledged(f"update {key}")

    async def _emit(self) -> None:
        key = f"e{len(self.history.emits)}"
        self.history.emits[key] = Fate.UNKNOWN
        message = jsonrpc.notification("notifications/emitted", {"key": key})
        outcome = await self._ask(lambda ticket: say.Emit(ticket, message))
        if isinstance(outcome, say.Accepted):
            self.history.emits[key] = Fate.KEPT
            self._note_acknowledged(f"event {key}")
        elif isinstance(outcome, say.NotDone) and outcome.problem is not say.Problem.LOST:
            self.history.emits[key] = Fate.NOT_DONE

    async def _look(self) -> None:
        try:
            values = await self._attempt(lambda handle: handle.values())
        except (ProcessDied, SessionNotFound, SessionUnavailable, Draining):
            return
        except CommandRejected as error:
            self._note_gone(str(error))
            return
        for key, fate in self.history.updates.items():
            if fate is Fate.KEPT and key not in values:
                self.history.complaints.append(f"looked, and its update {key} is not there")

    async def _request(self) -> None:
        """Ask as an application does, which leaves ids and streams to the runtime."""
        key = f"{self.history.name}/{len(self.history.calls)}"
        call = self.history.calls[key] = CallHistory(key, 0)
        params = {"key": key, "seconds": self._chance.choice([0.0, 0.0, 1.0, 10.0])}
        try:
            result = await self._attempt(lambda handle: handle.request("tools/call", params))
        except ProcessDied:
            call.ending = Ending.BROKEN
        except jsonrpc.RequestFailed as failed:
            call.ending, call.detail = CODES.get(failed.code, Ending.ERROR), str(failed)
        except (SessionUnavailable, Draining) as error:
            call.ending, call.detail = Ending.NOT_RUN, str(error)
        except (SessionNotFound, CommandRejected) as error:
            call.ending = Ending.GONE
            self._note_gone(str(error))
        else:
            call.ending, call.detail = Ending.RESULT, jsonrpc.result(0, result).raw.decode()

    async def _notify(self) -> None:
        message = jsonrpc.notification("notifications/roots/list_changed")
        await self._ask(lambda ticket: say.SendNotification(ticket, message))

    async def _trespass(self) -> None:
        """Another principal uses this session's id: for it there is no such session."""
        session_id, stranger = self.history.session_id, Principal("issuer", "client", "stranger")

        async def look(runtime: Runtime) -> None:
            await runtime.session(session_id, principal=stranger).values()

        try:
            await self._world.attempt(look)
        except (ProcessDied, SessionNotFound):
            return
        except Exception as error:  # noqa: BLE001 - whatever else it is told gives the session away
            self.history.complaints.append(f"was given away to a stranger by {error!r}")
        else:
            self.history.complaints.append("was given away to a stranger")

    async def _nap(self) -> None:
        await trio.sleep(NAP_SECONDS * self._chance.random())

    async def _delete(self) -> None:
        self.history.absence = Absence.MAYBE_ENDED
        outcome = await self._ask(lambda ticket: say.Close(ticket, "client"))
        if isinstance(outcome, say.Accepted):
            self.history.absence = Absence.ENDED
            self._over = True


def _conclude(call: CallHistory, outcome: say.Outcome | None) -> None:
    if outcome is None:
        call.ending = Ending.BROKEN
    elif isinstance(outcome, say.Answered):
        _take_answer(call, outcome.message)
    elif isinstance(outcome, say.Withdrawn):
        call.ending = Ending.WITHDRAWN
    elif isinstance(outcome, say.NotDone):
        call.ending, call.detail = _ENDINGS[outcome.problem], outcome.detail


def _take_answer(call: CallHistory, answer: Message) -> None:
    """Note how a call was answered; an answer that is not its own is noted as such by its detail."""
    call.answers += 1
    call.detail = answer.raw.decode()
    if not answer.is_error:
        call.ending = Ending.RESULT
        return
    try:
        jsonrpc.result_of(answer)
    except jsonrpc.RequestFailed as failed:
        call.ending = CODES.get(failed.code, Ending.ERROR)


_ENDINGS = {
    say.Problem.UNAVAILABLE: Ending.NOT_RUN,
    say.Problem.OVERLOADED: Ending.NOT_RUN,
    say.Problem.DUPLICATE: Ending.NOT_RUN,
    say.Problem.UNINITIALIZED: Ending.GONE,
    say.Problem.REFUSED: Ending.REFUSED,
    say.Problem.LOST: Ending.UNKNOWN,
}
CODES = {
    jsonrpc.UPSTREAM_UNAVAILABLE: Ending.NOT_RUN,
    jsonrpc.OUTCOME_UNKNOWN: Ending.UNKNOWN,
    jsonrpc.REQUEST_TIMED_OUT: Ending.UNKNOWN,
    jsonrpc.INTERNAL_ERROR: Ending.REFUSED,
}
