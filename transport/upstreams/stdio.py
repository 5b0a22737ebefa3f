"""A session's link to an MCP server that is a child process: one process per session, one message per line.

A process keeps its session in memory, so a new process is always re-initialized. Lines go out at once while the pipe
takes them; what it does not take waits in a bounded outbox. What the process prints besides messages is tolerated
and counted: many servers print a banner. If it was meant for an answer, its call ends (`unreadable.py`).
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Mapping

import attrs
import structlog
import trio

from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId, parse
from actors.link import ConnectFailed, Established, Failure, Inbox, LinkLost
from actors.state import SessionState
from transport.upstreams.child_process import ChildProcess, start_child
from transport.upstreams.handshake import Rehearsal, cancelled, reinitialize, split_batch
from transport.upstreams.in_flight import InFlight
from transport.upstreams.lines import LineSplitter, as_line
from transport.upstreams.thinning import is_power_of_two
from transport.upstreams.unreadable import describe_unreadable, log_unreadable

_OURS = ("OUTLAST_", "SESSION_")  # this gateway's settings, its encryption key among them
_OURS_TOO = frozenset(("REDIS_URL", "REDIS_SENTINEL_PASSWORD"))
_ADOPTION_SECONDS_MAX = 1.0  # a task that was asked for starts at the loop's next turn

_log = structlog.get_logger(__name__)


@attrs.frozen
class StdioLimits:
    """Bounds of one child process."""

    line_bytes_max: int = 16 * 1024 * 1024  # of a message, either way; longer ones are dropped
    outbox_lines_max: int = 1024  # lines that the process does not read; more: NOT_SENT
    outbox_bytes_max: int = 32 * 1024 * 1024
    error_line_bytes_max: int = 8 * 1024
    error_lines_max: int = 50  # of its stderr, logged within `error_lines_seconds`; the others are counted
    error_lines_seconds: float = 10.0
    last_words_seconds: float = 1.0  # what has exited may have left output in the pipe, or a child that holds it open
    close_seconds: float = 2.0  # after end of file on its stdin, as the MCP SDKs wait
    terminate_seconds: float = 2.0
    reopen_seconds_max: float = 30.0


@attrs.frozen
class StdioStatistics:
    """What a link did not pass on."""

    noise: int  # lines that are no messages
    overlong: int  # lines over the bound
    stray: int  # answers to nothing that was asked
    error_lines_dropped: int


def child_environment(own: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Give a child this process' environment without the gateway's own settings and secrets, and what is set for it."""
    inherited = {name: value for name, value in own.items() if not name.startswith(_OURS) and name not in _OURS_TOO}
    return inherited | dict(extra)


def _as_tuple(command: Iterable[str]) -> tuple[str, ...]:
    return tuple(command)


@attrs.frozen
class StdioConnector:
    """Implements `actors.link.Connect` by starting a process for each session.

    Args:
      command: from the operator's settings only. Its arguments are not shown: they may hold secrets.
      environment: set for the process besides what it inherits; not shown either.
    """

    command: tuple[str, ...] = attrs.field(
        converter=_as_tuple, validator=attrs.validators.min_len(1), repr=lambda command: repr(command[0])
    )
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    directory: str | None = None
    limits: StdioLimits = StdioLimits()

    async def __call__(self, session: SessionState, inbox: Inbox) -> StdioLink:
        """Start a process, and re-initialize it if the session has a handshake. See `actors.link.Connect`.

        Raises:
          ConnectFailed, ConnectRejected

        Cancellation: the process is ended.
        """
        handshake = session.handshake
        if handshake is None:
            return await self.open_fresh(inbox)
        rehearsal = Rehearsal(inbox)
        link = await self.open_fresh(rehearsal)
        try:
            established = await reinitialize(
                session, handshake, link, rehearsal, answer_seconds_max=self.limits.reopen_seconds_max
            )
        except BaseException:  # cancelled, too
            link.close(end_session=True)
            raise
        link.hand_over(inbox, established)
        rehearsal.hand_over_soon()
        return link

    async def open_fresh(self, inbox: Inbox) -> StdioLink:
        """Start a process that has no session to resume.

        Raises:
          ConnectFailed

        Cancellation: the process is ended.
        """
        link = StdioLink(await self._start(), inbox, self.limits, self.command[0])
        inbox.start_soon(link.run)
        await link.see_running()
        return link

    async def _start(self) -> ChildProcess:
        try:
            return await start_child(
                self.command,
                environment=child_environment(os.environ, self.environment),
                directory=self.directory,
            )
        except OSError as error:
            raise ConnectFailed(f"cannot start {self.command[0]!r}: {error.strerror or error}") from None


class _Line:
    """A line on its way to the process."""

    __slots__ = ("rest", "started", "ticket", "wants_receipt")

    def __init__(self, rest: memoryview, ticket: int | None, wants_receipt: bool, started: bool) -> None:
        self.rest = rest
        self.ticket = ticket
        self.wants_receipt = wants_receipt
        self.started = started


class StdioLink:
    """Implements `actors.link.Link`. `run` ends the process whatever happens."""

    def __init__(self, child: ChildProcess, inbox: Inbox, limits: StdioLimits, name: str) -> None:
        """Args:
        child: ended by `run`.
        name: for the log.
        """
        self.established = Established()
        self.resumable = False
        self._child = child
        self._inbox = inbox
        self._limits = limits
        self._log = _log.bind(command=name, pid=child.pid)
        self._scope = trio.CancelScope()
        self._running = trio.Event()
        self._gone = ""  # why nothing can be sent any more
        self._closed = False
        self._in_flight = InFlight()
        self._outbox: deque[_Line] = deque()
        self._outbox_bytes = 0
        self._outbox_filled = trio.Event()
        self._output_ended = trio.Event()
        self._lines = LineSplitter(limits.line_bytes_max)
        self._noise = 0
        self._stray = 0
        self._error_lines_dropped = 0

    def __repr__(self) -> str:
        return f"<StdioLink to {self._child}, {len(self._in_flight)} in flight>"

    def statistics(self) -> StdioStatistics:
        """Count what was not passed on."""
        return StdioStatistics(self._noise, self._lines.overlong, self._stray, self._error_lines_dropped)

    # ---- Link ----

    def send(self, message: Message, ticket: int) -> None:
        if self._gone:
            raise LinkLost(self._gone)
        if message.kind is Kind.REQUEST:
            self._in_flight.add(message, ticket)
        problem = self._write(as_line(message.raw), ticket, wants_receipt=message.kind is not Kind.REQUEST)
        if problem:
            if message.kind is Kind.REQUEST and message.id is not None:
                self._in_flight.forget(message.id)
            self._inbox.refused(ticket, Failure.NOT_SENT, problem)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        if not self._gone:
            self._write(as_line(cancelled(request_id, reason).raw), None, wants_receipt=False)

    def forget(self, request_id: RequestId) -> None:
        """Expect no answer to a request any more: a server need not answer what was cancelled."""
        self._in_flight.forget(request_id)

    def listen(self) -> None:
        """Nothing to ask for: the process speaks whenever it wants to."""

    def close(self, *, end_session: bool) -> None:
        self._closed = True
        self._gone = self._gone or "the link is closed"
        self._scope.cancel()

    # ---- for whoever opens the link ----

    def hand_over(self, inbox: Inbox, established: Established) -> None:
        """Belong to the session from now on; answers to questions of the opening are not expected any more."""
        self._inbox = inbox
        self.established = established
        self._in_flight.clear()

    async def see_running(self) -> None:
        """Make sure that `run` has taken the process over; else end it here.

        A session that is closed in this very instant starts no tasks any more, and nobody else knows of the process.

        Raises:
          ConnectFailed

        Cancellation: waits on, for a second at most.
        """
        with trio.move_on_after(_ADOPTION_SECONDS_MAX) as scope:
            scope.shield = True
            await self._running.wait()
        if not self._running.is_set():
            self.close(end_session=True)
            await self._end_child()
            raise ConnectFailed("the session was closed")

    async def run(self) -> None:
        """Read and write until the process ends or the link is closed, then see to it that the process is gone.

        Cancellation: the process is ended; that takes as long as `ChildProcess.end` does.
        """
        if self._closed:
            return
        self._running.set()
        exited = False
        try:
            with self._scope:
                exited = await self._talk()
        finally:
            self._gone = self._gone or "the process has ended"
            if not exited:
                self._report_lost("closed its output")
            await self._end_child()
        if exited:
            self._report_lost(_describe_exit(self._child.exit_code))

    async def _end_child(self) -> None:
        await self._child.end(
            close_seconds=self._limits.close_seconds, terminate_seconds=self._limits.terminate_seconds
        )

    async def _talk(self) -> bool:
        """Carry messages until the process has exited (True) or has closed its output (False)."""
        exited = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_outbox)
            nursery.start_soon(self._read_errors)
            nursery.start_soon(self._read_output)
            nursery.start_soon(self._watch_exit, exited)
            await self._output_ended.wait()
            with trio.move_on_after(self._limits.last_words_seconds):
                await exited.wait()
            nursery.cancel_scope.cancel()
        return exited.is_set()

    async def _watch_exit(self, exited: trio.Event) -> None:
        await self._child.wait_exited()
        self._child.kill_group()  # what it left behind would hold its output open
        exited.set()
        with trio.move_on_after(self._limits.last_words_seconds):
            await self._output_ended.wait()
        self._output_ended.set()

    def _report_lost(self, how: str) -> None:
        """Refuse what never reached the process; the session knows what to think of the rest."""
        if self._closed:
            return
        self._log.info("upstream_process_ended", how=how, **attrs.asdict(self.statistics()))
        for line in self._outbox:
            if line.ticket is not None:
                failure = Failure.OUTCOME_UNKNOWN if line.started else Failure.NOT_SENT
                self._inbox.refused(line.ticket, failure, f"the server process {how}")
        self._outbox.clear()
        self._closed = True
        self._inbox.lost(f"the server process {how}")

    # ---- writing ----

    def _write(self, line: bytes, ticket: int | None, *, wants_receipt: bool) -> str:
        """Send a line now, or put it into the outbox. Returns why neither was possible."""
        written = 0
        if not self._outbox:
            try:
                written = self._child.write_nowait(line)
            except OSError as error:
                return f"the server process does not read any more: {error.strerror}"
            if written == len(line):
                if wants_receipt and ticket is not None:
                    self._inbox.delivered(ticket)
                return ""
        elif (
            len(self._outbox) >= self._limits.outbox_lines_max
            or self._outbox_bytes + len(line) > self._limits.outbox_bytes_max
        ):
            return f"the server process does not read: {len(self._outbox)} messages wait already"
        self._outbox.append(_Line(memoryview(line)[written:], ticket, wants_receipt, written > 0))
        self._outbox_bytes += len(line) - written
        self._outbox_filled.set()
        return ""

    async def _write_outbox(self) -> None:
        """Write what waits. A process that never reads stops only this task, and the outbox is bounded."""
        while True:
            while not self._outbox:
                self._outbox_filled = trio.Event()
                await self._outbox_filled.wait()
            try:
                await self._child.wait_writable()
                self._write_first()
            except OSError:  # its exit is noticed by another task
                await trio.sleep_forever()

    def _write_first(self) -> None:
        line = self._outbox[0]
        written = self._child.write_nowait(line.rest)
        line.started = line.started or written > 0
        line.rest = line.rest[written:]
        self._outbox_bytes -= written
        if not line.rest:
            self._outbox.popleft()
            if line.wants_receipt and line.ticket is not None:
                self._inbox.delivered(line.ticket)

    # ---- reading ----

    async def _read_output(self) -> None:
        overlong = 0
        while data := await self._child.read_output():
            for line in self._lines.feed(data):
                self._take_line(line)
            if self._lines.overlong > overlong:
                overlong = self._lines.overlong
                if is_power_of_two(overlong):
                    self._log.warning("upstream_line_too_long", count=overlong, limit_bytes=self._limits.line_bytes_max)
        self._take_line(self._lines.rest())
        self._output_ended.set()

    def _take_line(self, line: bytes) -> None:
        line = line.strip()
        if not line or self._closed:
            return
        for raw in split_batch(line):
            try:
                self._take_message(parse(raw))
            except InvalidMessage as invalid:
                self._noise += 1
                log_unreadable(self._log, raw, invalid, self._noise, "upstream_noise")
                ticket = self._in_flight.misanswered(raw)
                if ticket is not None:
                    self._inbox.refused(ticket, Failure.UNREADABLE, describe_unreadable(invalid.reason))

    def _take_message(self, message: Message) -> None:
        if message.kind is Kind.RESPONSE:
            if message.id is None or message.id not in self._in_flight:
                self._stray += 1
                if is_power_of_two(self._stray):
                    self._log.warning("upstream_answer_stray", count=self._stray, id=str(message.id)[:100])
                return
            self._in_flight.forget(message.id)
            self._inbox.received(message, about=message.id)
        else:
            self._inbox.received(message, about=self._in_flight.about(message))

    async def _read_errors(self) -> None:
        """Log what it says on stderr; a pipe that nobody drains would stop the process."""
        lines = LineSplitter(self._limits.error_line_bytes_max)
        window_began, logged = trio.current_time(), 0
        while data := await self._child.read_errors():
            now = trio.current_time()
            if now - window_began > self._limits.error_lines_seconds:
                window_began, logged = now, 0
            for line in lines.feed(data):
                if logged < self._limits.error_lines_max:
                    logged += 1
                    self._log.info("upstream_stderr", line=line.decode("utf-8", "replace"))
                else:
                    self._error_lines_dropped += 1


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "hangs"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
