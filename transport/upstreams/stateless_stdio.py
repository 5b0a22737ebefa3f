"""Requests of 2026-07-28 to an MCP server that is a child process: one process for all callers of a server.

Requests stand for themselves, so they can share a process. It is started on first use, started again when it ended,
with pauses that grow if it keeps ending, and ended when nobody has used it for a while. On its one wire every request
has a number of ours (`renaming.py`). Giving a request up tells the process by `notifications/cancelled`
(2026-07-28, basic/transports/stdio, Cancellation).

A message that names no request (a log message, say) goes to the one call in progress. If there are several, or one
was just cancelled whose last words these may be, it goes to nobody: it could be another caller's business.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable

import attrs
import structlog
import trio

from actors import jsonrpc
from actors.jsonrpc import Kind, Message, RequestId
from actors.link import About, ConnectFailed, Failure, LinkLost
from actors.supervisor import ChildSpec, RestartIntensity, supervise
from transport import modern
from transport.modern import ModernRequest
from transport.upstreams import renaming
from transport.upstreams.era import Era, EraKnowledge, EraLimits, EraUnknown, Verdict, judge
from transport.upstreams.http_target import default_user_agent
from transport.upstreams.stateless import Answer, NoAnswer, ServerUnavailable, StatelessCall, answer_within
from transport.upstreams.stdio import StdioConnector, StdioLink
from transport.upstreams.thinning import is_power_of_two
from transport.upstreams.tool_headers import CHANGED, ToolHeaders, ToolsUnknown

_log = structlog.get_logger(__name__)


@attrs.frozen
class SharedProcessLimits:
    """Bounds of the process that callers share."""

    probe_seconds_max: float = 20.0  # for its first answer; installers such as npx and uvx come before that
    idle_seconds_max: float = 1800.0  # without a call; then it is ended
    lived_seconds_min: float = 10.0  # one that ends sooner is started again only after a pause
    backoff_seconds_max: float = 30.0
    # A cancelled call may say something until it has noticed.
    last_words_seconds: float = 5.0


class StatelessStdio:
    """Implements `transport.upstreams.stateless.StatelessUpstream`. `run` must be running."""

    def __init__(
        self,
        connector: StdioConnector,
        *,
        limits: SharedProcessLimits = SharedProcessLimits(),
        era_limits: EraLimits = EraLimits(),
    ) -> None:
        self.era = EraKnowledge(connector.command[0], self._ask_era, era_limits)
        self.starts = 0
        self._connector = connector
        self._limits = limits
        self._nursery: trio.Nursery | None = None
        self._starting = trio.Lock()
        self._process: _SharedProcess | None = None
        self._failures = 0  # in a row
        self._not_before = 0.0  # trio's clock: no start until then
        self._why_not = ""

    def __repr__(self) -> str:
        return f"<StatelessStdio {self._connector.command[0]!r}, {self._process}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the process until cancelled.

        Cancellation: it is ended; calls in flight end with `OUTCOME_UNKNOWN`.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await trio.sleep(self._limits.idle_seconds_max / 4)
                    process = self._process
                    if process is not None and process.idle_seconds > self._limits.idle_seconds_max:
                        self._let_go(process, "nobody has used it for a while")
            finally:
                self._nursery = None
                if self._process is not None:
                    self._let_go(self._process, "the gateway is stopping")

    async def send(self, request: ModernRequest) -> StatelessCall:
        """Send a request, and start the process if there is none. See `StatelessUpstream`.

        One whose `Mcp-Param-*` headers and body differ is answered here: the process is told no headers.
        """
        process = self._process or await self._start()
        difference = await process.tool_headers.difference(request)
        if not difference:
            return process.send(request)
        call, refusal = StatelessCall(), modern.mismatched(request, difference)
        call.finish(Answer(refusal, modern.status_of(refusal)))
        return call

    async def _start(self) -> _SharedProcess:
        async with self._starting:
            if self._process is not None:
                return self._process
            nursery = self._nursery
            if nursery is None:
                raise ServerUnavailable("the gateway is not running")
            now = trio.current_time()
            if now < self._not_before:
                raise ServerUnavailable(f"{self._why_not}; it is started again in {self._not_before - now:.0f} s")
            process = _SharedProcess(nursery, self._limits, self._gone, self._connector.command[0])
            self.starts += 1
            try:
                process.link = await self._connector.open_fresh(process)
            except ConnectFailed as error:
                self._pause(str(error))
                raise ServerUnavailable(str(error)) from None
            if process.lost_because:
                raise ServerUnavailable(process.lost_because)
            self._process = process
            return process

    def _gone(self, process: _SharedProcess, detail: str) -> None:
        if self._process is process:
            self._process = None
        if process.lived_seconds < self._limits.lived_seconds_min:
            self._pause(detail)
        else:
            self._failures = 0

    def _pause(self, why: str) -> None:
        """Double the pause with each failure in a row."""
        self._failures += 1
        ceiling = min(self._limits.backoff_seconds_max, 0.5 * 2.0 ** min(self._failures, 16))
        self._not_before = trio.current_time() + ceiling * random.uniform(0.5, 1.0)
        self._why_not = why

    def _let_go(self, process: _SharedProcess, why: str) -> None:
        if self._process is process:
            self._process = None
        process.end(why)

    async def _ask_era(self) -> Verdict:
        """Ask a process by its first message: some servers take the whole connection's era from that."""
        try:
            process = self._process or await self._start()
        except ServerUnavailable as error:
            raise EraUnknown(str(error)) from None
        call = process.send(modern.discover(1, _CLIENT))
        end = await answer_within(call, self._limits.probe_seconds_max)
        if isinstance(end, Answer) and judge(end.message) is Era.MODERN:
            return Verdict(Era.MODERN, sure=True)
        self._let_go(process, "it does not speak the revision without sessions")
        return Verdict(Era.HANDSHAKE, sure=not isinstance(end, NoAnswer))


_CLIENT = dict(zip(("name", "version"), default_user_agent().split("/"), strict=True))


@attrs.define
class _Entry:
    """A request on the wire."""

    call: StatelessCall
    id: RequestId
    listens: bool
    is_ours: bool  # the gateway asks, for itself
    token: bytes | None  # the caller's progress token, as JSON


class _SharedProcess:
    """One process over its life: what its link says goes to the calls it is about. Implements `actors.link.Inbox`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        limits: SharedProcessLimits,
        gone: Callable[[_SharedProcess, str], None],
        name: str,
    ) -> None:
        """Args:
        name: for the log.
        """
        self.tool_headers = ToolHeaders(name, self._list_tools)
        self.link: StdioLink | None = None
        self.lost_because = ""
        self._nursery = nursery
        self._limits = limits
        self._gone = gone
        self._entries: dict[int, _Entry] = {}
        self._last_number = 0
        self._begun = self._used = trio.current_time()
        self._last_words_until = 0.0
        self._dropped = 0

    def __repr__(self) -> str:
        return f"{len(self._entries)} in flight"

    @property
    def lived_seconds(self) -> float:
        return trio.current_time() - self._begun

    @property
    def idle_seconds(self) -> float:
        return 0.0 if self._entries else trio.current_time() - self._used

    def send(self, request: ModernRequest, *, is_ours: bool = False) -> StatelessCall:
        """Put a request on the wire."""
        assert self.link is not None
        self._last_number += 1
        number = self._last_number
        raw, token = renaming.rename_request(request.message.raw, number)
        call = StatelessCall()
        call.bind(lambda: self._cancel(number))
        self._entries[number] = _Entry(call, request.id, request.listens, is_ours, token)
        try:
            self.link.send(Message(Kind.REQUEST, number, request.message.method, raw), number)
        except LinkLost as error:
            self._finish(number, NoAnswer(Failure.NOT_SENT, str(error)))
        return call

    async def _list_tools(self, cursor: str) -> Message:
        """Ask for a page of the tools. The caller bounds the wait."""
        end = await answer_within(self.send(modern.list_tools(1, _CLIENT, cursor), is_ours=True), math.inf)
        if not isinstance(end, Answer):
            raise ToolsUnknown("it did not answer" if end is None else end.detail)
        return end.message

    def end(self, why: str) -> None:
        """End the process."""
        self.lost_because = why
        if self.link is not None:
            self.link.close(end_session=True)
        self._finish_all(f"the server process was ended: {why}")

    def _cancel(self, number: int) -> None:
        entry = self._entries.pop(number, None)
        if entry is None or self.link is None:
            return
        self._used = trio.current_time()
        if not entry.listens:
            self._last_words_until = self._used + self._limits.last_words_seconds
        self.link.cancel(number, "the client has gone")
        self.link.forget(number)

    def _finish(self, number: int, end: Answer | NoAnswer) -> None:
        entry = self._entries.pop(number, None)
        if entry is not None:
            self._used = trio.current_time()
            entry.call.finish(end)

    def _finish_all(self, detail: str) -> None:
        for number in list(self._entries):
            self._finish(number, NoAnswer(Failure.OUTCOME_UNKNOWN, detail))

    # ---- Inbox ----

    def received(self, message: Message, *, about: RequestId | About, cursor: str = "") -> None:
        if message.kind is Kind.RESPONSE:
            self._take_answer(message)
        elif message.kind is Kind.REQUEST:
            self._refuse_request(message)
        elif message.method == "notifications/cancelled":
            self._take_cancelled(message)
        else:
            self._take_notification(message, about)

    def _take_answer(self, message: Message) -> None:
        entry = self._entries.get(message.id) if isinstance(message.id, int) else None
        if entry is None:
            return
        raw = renaming.restore_answer(message.raw, entry.id)
        answer = Message(Kind.RESPONSE, entry.id, "", raw, is_error=message.is_error)
        assert isinstance(message.id, int)
        self._finish(message.id, Answer(answer, modern.status_of(answer)))

    def _refuse_request(self, message: Message) -> None:
        """Requests to clients are forbidden in this era; one that got no answer might wait for ever."""
        assert self.link is not None
        reason = f"a server of {modern.REVISION} sends no requests"
        refusal = jsonrpc.error(message.id, jsonrpc.METHOD_NOT_FOUND, reason)
        try:
            self.link.send(refusal, 0)
        except LinkLost:
            self._drop("a request")

    def _take_cancelled(self, message: Message) -> None:
        """The server tears a subscription down (basic/patterns/cancellation); to a client that is a graceful end."""
        number = renaming.cancelled_by(message.raw)
        entry = self._entries.get(number) if number is not None else None
        if number is None or entry is None:
            self._drop("a cancellation of nothing")
        elif entry.listens:
            self._finish(number, Answer(modern.listening_ended(entry.id), 200))
        else:
            self._finish(number, NoAnswer(Failure.OUTCOME_UNKNOWN, "the server has cancelled the request"))

    def _take_notification(self, message: Message, about: RequestId | About) -> None:
        if message.method == CHANGED:
            self.tool_headers.forget()
        entry = self._entries.get(about) if isinstance(about, int) else None
        if entry is not None and entry.token is not None:
            entry.call.put(renaming.restore_progress(message.raw, entry.token))
            return
        number = renaming.subscription_of(message.raw)
        if number is not None:
            entry = self._entries.get(number)
            if entry is not None:
                entry.call.put(renaming.restore_subscription(message.raw, entry.id))
                return
        elif message.method != "notifications/progress":
            entry = self._only_call()
            if entry is not None:
                entry.call.put(message.raw)
                return
        self._drop(message.method)

    def _only_call(self) -> _Entry | None:
        if trio.current_time() < self._last_words_until:
            return None
        calls = [entry for entry in self._entries.values() if not (entry.listens or entry.is_ours)]
        return calls[0] if len(calls) == 1 else None

    def _drop(self, what: str) -> None:
        self._dropped += 1
        if is_power_of_two(self._dropped):
            _log.info("upstream_message_for_nobody", what=what[:100], count=self._dropped)

    def cursor_moved(self, about: RequestId | About, cursor: str) -> None:
        """Nothing to note: a process has no event ids."""

    def delivered(self, ticket: int) -> None:
        """Nothing to note: only refusals of requests are sent besides requests."""

    def refused(self, ticket: int, failure: Failure, detail: str) -> None:
        self._finish(ticket, NoAnswer(failure, detail))

    def lost(self, detail: str) -> None:
        if not self.lost_because:
            self.lost_because = detail
            self._finish_all(detail)
            self._gone(self, detail)

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        self._nursery.start_soon(self._run, run, args)

    async def _run(self, run: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        async def task() -> None:
            await run(*args)

        def crashed(error: Exception) -> None:
            self.lost(f"a task of the link crashed: {error!r}")

        await supervise(ChildSpec("link task", task, intensity=RestartIntensity(restarts=0), gave_up=crashed))
