"""One keep-alive connection to an origin, and the job it carries.

The connection's task sleeps in one place, until something can be read. A job's request is written by whoever
brings it, in the same instant. Whether a lost request was ever seen cannot be known once the kernel has taken its
bytes: so a connection is looked at for a close before it is used again (then the job goes elsewhere, unsent), and after
the write a loss is `OUTCOME_UNKNOWN`. The usual client's silent second try on a fresh connection would run a
tools/call twice.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
import trio

from actors.link import Failure
from transport.upstreams.http_response import ResponseHead, ResponseInvalid, ResponseReader
from transport.upstreams.http_wire import PlainWire

BODY_BYTES_MAX = 16 * 1024 * 1024
UNAUTHORIZED = 401

_log = structlog.get_logger(__name__)


class Lane(enum.Enum):
    """Which bound a job counts against."""

    CALL = "call"
    URGENT = "urgent"  # what may set calls free: answers to the upstream's questions, cancellations, endings
    STANDING = "standing"  # a stream that stays open; it gets a connection of its own


class Job(abc.ABC):
    """One request to be made, and who hears of its answer.

    Exactly one of these is called, once: `answered`; `failed`; or `stream_opened`, which is followed by
    `stream_data` any number of times and by `stream_closed`. All are sync. Nothing is called after `abandon`.
    """

    __slots__ = (
        "abandoned",
        "body_bytes_max",
        "connection",
        "held",
        "lane",
        "request",
        "silence_seconds_max",
        "since",
        "unauthorized",
    )

    def __init__(
        self,
        request: bytes,
        *,
        silence_seconds_max: float,
        lane: Lane = Lane.CALL,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        """Args:
        request: head and body, as they go over the wire.
        silence_seconds_max: without a byte from the other side for so long, it fails.
        body_bytes_max: a larger body fails it; an event stream has no such bound.
        """
        self.request = request
        self.silence_seconds_max = silence_seconds_max
        self.lane = lane
        self.body_bytes_max = body_bytes_max
        self.connection: Connection | None = None
        self.abandoned = False
        self.held: trio.Event | None = None  # nothing more is read until this is set: a way to slow the other side
        self.since = 0.0  # trio's clock: when it was queued
        # Asked when it is answered with 401: True takes it over, for another try with another token.
        self.unauthorized: Callable[[], bool] | None = None

    def abandon(self) -> None:
        """Give the job up: its connection is closed, nothing is called any more."""
        self.abandoned = True
        if self.connection is not None:
            self.connection.close("given up")

    def let_finish(self, seconds: float) -> None:
        """Give up on the answer, but let it come: a connection whose answer completes can be used again."""
        self.abandoned = True
        self.hurry(seconds)

    def hurry(self, seconds: float) -> None:
        """From now on, `seconds` without a byte are enough to fail it."""
        silent = 0.0 if self.connection is None else self.connection.silent_seconds(trio.current_time())
        self.silence_seconds_max = min(self.silence_seconds_max, silent + seconds)

    @abc.abstractmethod
    def answered(self, head: ResponseHead, body: bytes) -> None:
        """Take the whole answer."""

    @abc.abstractmethod
    def failed(self, failure: Failure, detail: str) -> None:
        """Take note that there will be no answer."""

    def stream_opened(self, head: ResponseHead) -> None:  # noqa: B027 - most jobs expect no stream
        """Take note that the answer is an event stream."""

    def stream_data(self, data: bytes) -> None:  # noqa: B027
        """Take some bytes of the stream."""

    def stream_closed(self, detail: str) -> None:  # noqa: B027
        """Take note that the stream has ended, or broke."""


class Home(Protocol):
    """What a connection belongs to."""

    def free(self, connection: Connection) -> None:
        """Take the connection back, its job being done."""
        ...

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task beside the connection's own."""
        ...


class Connection:
    """An open connection; carries at most one job at a time."""

    __slots__ = ("_closed_because", "_heard_at", "_home", "_reader", "_streaming", "_wire", "idle_limit_seconds", "job")

    def __init__(self, wire: PlainWire, home: Home) -> None:
        """Args:
        wire: the connection closes it.
        """
        self._wire = wire
        self._home = home
        self._reader = ResponseReader()
        self._streaming = False
        self._heard_at = trio.current_time()
        self._closed_because = ""
        self.idle_limit_seconds: float | None = None  # what the other side said of itself
        self.job: Job | None = None

    @property
    def closed(self) -> bool:
        return bool(self._closed_because)

    def silent_seconds(self, now: float) -> float:
        """How long ago something came, or the job began."""
        return now - self._heard_at

    def begin(self, job: Job) -> bool:
        """Send a job's request. False: the other side has closed meanwhile, and nothing was sent."""
        wire = self._wire
        if self._closed_because or not wire.still_open():
            self.close("closed by the other side while idle")
            return False
        try:
            flushed = wire.write(job.request)
        except OSError as error:
            self.close(str(error))
            return False
        self.job = job
        job.connection = self
        self._heard_at = trio.current_time()
        if not flushed:
            self._home.start_soon(self._drain)
        return True

    def close(self, because: str) -> None:
        """Close at once; the connection's task ends, and its job fails."""
        if not self._closed_because:
            self._closed_because = because
            self._wire.close()
            if self.job is not None and self.job.held is not None:
                self.job.held.set()

    async def serve(self) -> None:
        """Read answers until the connection ends.

        Cancellation: the connection is closed; its job fails.
        """
        try:
            while not self._closed_because and await self._read_some():
                pass
        finally:
            self.close("the gateway closed its connections")
            self._fail(Failure.OUTCOME_UNKNOWN, self._closed_because)

    async def _read_some(self) -> bool:
        if self.job is not None and self.job.held is not None:
            await self.job.held.wait()
            if self._closed_because:
                return False
        try:
            await self._wire.wait_readable()
            data = self._wire.read()
        except trio.ClosedResourceError:
            return False
        except OSError as error:
            self.close(f"the connection broke before the answer was complete: {error.strerror or error}")
            return False
        if data is None:
            return True
        if self.job is None:  # whatever it says, nobody asked: a close, or an answer to nothing
            self.close("closed by the other side while idle")
            return False
        self._heard_at = trio.current_time()
        if not data:
            self._end_of_input()
            return False
        return self._take(data)

    def _take(self, data: bytes) -> bool:
        """Parse what came and pass it on. False: the connection cannot go on."""
        reader = self._reader
        try:
            reader.feed(data)
        except ResponseInvalid as error:
            self.close(str(error))
            return False
        head = reader.head
        job = self.job
        if head is None or job is None:
            return True
        if self._streaming or head.is_event_stream:
            return self._take_stream(job, head)
        if reader.complete:
            return self._finish(job, head)
        if reader.body_bytes > job.body_bytes_max:
            self._fail(Failure.REFUSED, f"the answer is larger than {job.body_bytes_max} bytes")
            return False
        return True

    def _take_stream(self, job: Job, head: ResponseHead) -> bool:
        if not self._streaming:
            self._streaming = True
            self._tell(job, job.stream_opened, head)
        data = self._reader.take_body()
        if data:
            self._tell(job, job.stream_data, data)
        return self._finish(job, head) if self._reader.complete else not self._closed_because

    def _finish(self, job: Job, head: ResponseHead) -> bool:
        """Release the connection first, so that a waiting job's request leaves before this answer is looked at."""
        reader = self._reader
        body, streaming, reusable = reader.take_body(), self._streaming, reader.reusable
        self.job = job.connection = None
        self._streaming = False
        if reusable and self._wire.flushed and not self._closed_because and job.lane is not Lane.STANDING:
            reader.next_response()
            self.idle_limit_seconds = head.keep_alive_seconds
            self._home.free(self)
        else:
            reusable = False
        if streaming:
            self._tell(job, job.stream_closed, "the stream ended")
        elif head.status == UNAUTHORIZED and job.unauthorized is not None:
            self._tell(job, self._refuse_token, job, head, body)
        elif len(body) > job.body_bytes_max:
            self._tell(job, job.failed, Failure.REFUSED, f"the answer is larger than {job.body_bytes_max} bytes")
        else:
            self._tell(job, job.answered, head, body)
        return reusable

    def _refuse_token(self, job: Job, head: ResponseHead, body: bytes) -> None:
        if job.unauthorized is None or not job.unauthorized():
            job.answered(head, body[: job.body_bytes_max])

    def _end_of_input(self) -> None:
        job, head = self.job, self._reader.head
        if job is not None and head is not None and self._reader.end_of_input():
            self._finish(job, head)
        else:
            self.close("the other side closed the connection before the answer was complete")

    def _fail(self, failure: Failure, detail: str) -> None:
        job = self.job
        if job is None:
            return
        self.job = job.connection = None
        if self._streaming:
            self._tell(job, job.stream_closed, detail)
        else:
            self._tell(job, job.failed, failure, detail)

    def _tell(self, job: Job, listener: Callable[..., None], *args: Any) -> None:
        if job.abandoned:
            return
        try:
            listener(*args)
        except Exception:  # noqa: BLE001 - supervision: a fault in handling one answer must not take other answers along
            _log.exception("upstream_answer_not_handled")
            job.abandon()

    async def _drain(self) -> None:
        """Write the rest of a request that the kernel did not take at once.

        A failure here is left to the reader: an upstream that refuses a large body answers first, then closes.
        """
        try:
            await self._wire.drain()
        except (OSError, trio.ClosedResourceError):
            _log.debug("upstream_request_cut")
