"""The jobs of a Streamable HTTP link: which of the link's methods hears of which answer.

A job is made per message, so it holds only what that message needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog
import trio

from actors.jsonrpc import Message, RequestId
from actors.link import Failure
from transport.upstreams.http_answers import may_pass
from transport.upstreams.http_connection import Job, Lane
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_streams import EventStream

_log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who hears of a link's jobs."""

    def call_answered(self, call: CallJob, head: ResponseHead, body: bytes) -> None: ...

    def call_failed(self, call: CallJob, failure: Failure, detail: str) -> None: ...

    def call_streams(self, call: CallJob, head: ResponseHead) -> None: ...

    def stream_data(self, job: CallJob | GetJob, stream: EventStream, data: bytes) -> None: ...

    def call_stream_closed(self, call: CallJob, stream: EventStream, detail: str) -> None: ...

    def post_answered(self, post: PostJob, head: ResponseHead, body: bytes) -> None: ...

    def post_failed(self, post: PostJob, failure: Failure, detail: str) -> None: ...


class CallJob(Job):
    """A request of the client."""

    __slots__ = ("_listener", "head", "opening", "request_id", "stream", "ticket")

    def __init__(
        self,
        listener: Listener,
        request: bytes,
        request_id: RequestId,
        ticket: int,
        *,
        opening: Message | None,
        silence_seconds_max: float,
        body_bytes_max: int,
    ) -> None:
        super().__init__(request, silence_seconds_max=silence_seconds_max, body_bytes_max=body_bytes_max)
        self._listener = listener
        self.request_id = request_id
        self.ticket = ticket
        self.opening = opening  # the handshake, if it is that
        self.head: ResponseHead | None = None
        self.stream: EventStream | None = None

    @property
    def opens(self) -> bool:
        """Whether it is the handshake."""
        return self.opening is not None

    @property
    def is_settled(self) -> bool:
        """Its answer was on its stream, which has not ended yet."""
        return self.stream is not None and self.stream.settled

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self._listener.call_answered(self, head, body)

    def failed(self, failure: Failure, detail: str) -> None:
        self._listener.call_failed(self, failure, detail)

    def stream_opened(self, head: ResponseHead) -> None:
        self.head = head
        self.stream = EventStream(self.request_id, ticket=self.ticket)
        self._listener.call_streams(self, head)

    def stream_data(self, data: bytes) -> None:
        assert self.stream is not None
        self._listener.stream_data(self, self.stream, data)

    def stream_closed(self, detail: str) -> None:
        assert self.stream is not None
        self._listener.call_stream_closed(self, self.stream, detail)


class PostJob(Job):
    """A notification or an answer of the client."""

    __slots__ = ("_listener", "ticket")

    def __init__(self, listener: Listener, request: bytes, ticket: int, *, silence_seconds_max: float) -> None:
        super().__init__(request, silence_seconds_max=silence_seconds_max, lane=Lane.URGENT)
        self._listener = listener
        self.ticket = ticket

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self._listener.post_answered(self, head, body)

    def stream_opened(self, head: ResponseHead) -> None:
        """Taken as delivered: nothing that could follow on this stream would answer anything."""
        self._listener.post_answered(self, head, b"")
        self.abandon()

    def failed(self, failure: Failure, detail: str) -> None:
        self._listener.post_failed(self, failure, detail)


class GetJob(Job):
    """A stream asked for by GET: the upstream's own, or the rest of a call's."""

    __slots__ = ("_headed", "_listener", "body", "detail", "ended", "head", "rival", "stream")

    def __init__(
        self,
        listener: Listener,
        request: bytes,
        stream: EventStream,
        *,
        silence_seconds_max: float,
        headed: Callable[[], None] | None = None,
    ) -> None:
        """Args:
        headed: called when the upstream gives this stream.
        """
        super().__init__(request, silence_seconds_max=silence_seconds_max, lane=Lane.STANDING)
        self._listener = listener
        self._headed = headed
        self.stream = stream
        self.rival: GetJob | None = None  # another GET for the same: given up once this one has brought something
        self.ended = trio.Event()
        self.head: ResponseHead | None = None
        self.body = b""  # of what is not a stream
        self.detail = ""

    @property
    def opened(self) -> bool:
        """The upstream gave a stream."""
        return self.head is not None and self.head.is_event_stream

    @property
    def refusal(self) -> ResponseHead | None:
        """The upstream gave something else, and would do so again."""
        return None if self.head is None or self.opened or may_pass(self.head.status) else self.head

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self.head, self.body = head, body
        self.ended.set()

    def failed(self, failure: Failure, detail: str) -> None:
        self.detail = detail
        self.ended.set()

    def stream_opened(self, head: ResponseHead) -> None:
        self.head = head
        self.stream.reconnected()
        if self._headed is not None:
            self._headed()

    def stream_data(self, data: bytes) -> None:
        events_before = self.stream.events
        self._listener.stream_data(self, self.stream, data)
        if self.rival is not None and self.stream.events > events_before:
            self.rival.abandon()

    def stream_closed(self, detail: str) -> None:
        self.detail = detail
        self.ended.set()

    def abandon(self) -> None:
        super().abandon()
        self.ended.set()


class QuietJob(Job):
    """A request nobody waits for: a cancellation, the end of a session."""

    __slots__ = ("_purpose",)

    def __init__(self, request: bytes, purpose: str, *, silence_seconds_max: float) -> None:
        super().__init__(request, silence_seconds_max=silence_seconds_max, lane=Lane.URGENT)
        self._purpose = purpose

    def answered(self, head: ResponseHead, body: bytes) -> None:
        if head.status >= 400 and head.status not in (404, 405):  # gone already, or not offered
            _log.info("upstream_declined", purpose=self._purpose, status=head.status)

    def stream_opened(self, head: ResponseHead) -> None:
        self.abandon()

    def failed(self, failure: Failure, detail: str) -> None:
        _log.info("upstream_not_told", purpose=self._purpose, detail=detail)
