"""A session's link to an MCP server over Streamable HTTP (2025-03-26 to 2025-11-25).

Every message is a POST of its own bytes; what comes back, as one JSON document or as an event stream, goes into the
session's inbox as it is. An idle link is a few objects: no task, no connection. Tasks are asked for only to resume
streams that ended early, and to listen.

A stream that ends before the answer is resumed by GET with `Last-Event-ID`, if the upstream gave an event id
(`http_following.py`). Nothing is ever posted twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import structlog
import trio

from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId, parse
from actors.link import About, Established, Failure, Inbox, LinkLost
from actors.state import NOTHING
from transport.sse import EventTooLarge
from transport.upstreams.breaker import Breaker
from transport.upstreams.carrier import Carrier
from transport.upstreams.credentials import REFUSALS
from transport.upstreams.handshake import INITIALIZE, InvalidTerms, cancelled, split_batch
from transport.upstreams.http_answers import (
    answer_to,
    describe,
    error_answer,
    failure_of,
    note_life,
    read_names,
    says_session_is_lost,
    session_is_lost,
    session_named,
)
from transport.upstreams.http_following import Asking, Following
from transport.upstreams.http_jobs import CallJob, GetJob, PostJob, QuietJob
from transport.upstreams.http_limits import HttpLimits, LinkStatistics
from transport.upstreams.http_misheard import Misheard
from transport.upstreams.http_parting import Parting, is_in_flight
from transport.upstreams.http_requests import UNNAMED, SessionRequests, name_headers
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_streams import EventStream
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.unreadable import describe_unreadable, log_unreadable

_ENDING_SECONDS = 5.0  # an answered stream, or an abandoned call, may take so long to end by itself

_log = structlog.get_logger(__name__)


class StreamableHttpLink:
    """Implements `actors.link.Link`."""

    __slots__ = (
        "_breaker",
        "_closed",
        "_held",
        "_inbox",
        "_jobs",
        "_limits",
        "_listening",
        "_malformed",
        "_names",
        "_parting",
        "_pool",
        "_requests",
        "_resuming",
        "_standalone_cursor",
        "_stray",
        "_target",
        "established",
        "opening_declined",
        "resumable",
        "unauthorized",
    )

    def __init__(
        self,
        pool: Carrier,
        target: HttpTarget,
        requests: SessionRequests,
        inbox: Inbox,
        limits: HttpLimits,
        breaker: Breaker,
        *,
        upstream_session_id: str = "",
        protocol_version: str = "",
        standalone_cursor: str = "",
    ) -> None:
        """Args: `requests` writes those of all sessions at this target."""
        self.established = Established(upstream_session_id=upstream_session_id)
        self.resumable = True
        self.unauthorized = ""  # what the upstream said when it refused our credentials
        self._pool = pool
        self._target = target
        self._requests = requests
        self._names = name_headers(upstream_session_id, protocol_version)
        self._inbox = inbox
        self._limits = limits
        self._breaker = breaker
        self._standalone_cursor = standalone_cursor
        self._listening: trio.Event | None = None  # set when the upstream's own stream has its head, or gets none
        self._resuming: Mapping[RequestId, trio.CancelScope] = NOTHING  # calls whose streams are followed
        self._parting: Parting | None = None
        # A list, as a mailbox's lanes are: an empty set takes 232 bytes, an empty list 72; and it is as short as a
        # session may have messages in flight.
        self._jobs: list[CallJob | PostJob | GetJob] = []
        self._held: list[CallJob | PostJob] | None = None  # what waits for the head of the upstream's own stream
        self._closed = False
        self._malformed = 0
        self._stray = 0
        # Asked when the handshake is declined, until it is accepted: True takes the answering over
        # (`http_fallback.py`).
        self.opening_declined: Callable[[CallJob, ResponseHead, bytes], bool] | None = None

    def __repr__(self) -> str:
        return f"<StreamableHttpLink to {self._target.origin}, {len(self._jobs)} in flight>"

    def statistics(self) -> LinkStatistics:
        """Count what was not passed on."""
        return LinkStatistics(self._malformed, self._stray)

    # ---- Link ----

    def send(self, message: Message, ticket: int) -> None:
        if self._closed:
            raise LinkLost("the link is closed")
        if not self._breaker.is_closed and self._breaker.blocked_seconds():
            self._inbox.refused(ticket, Failure.NOT_SENT, self._breaker.describe())
            return
        job: CallJob | PostJob
        if message.kind is Kind.REQUEST:
            assert message.id is not None
            opens = message.method == INITIALIZE  # which names no session
            job = CallJob(
                self,
                self._requests.post(UNNAMED if opens else self._names, message.raw),
                message.id,
                ticket,
                opening=message if opens else None,
                silence_seconds_max=self._limits.call_silence_seconds_max,
                body_bytes_max=self._limits.body_bytes_max,
            )
        else:
            silence = self._limits.post_seconds_max
            job = PostJob(self, self._requests.post(self._names, message.raw), ticket, silence_seconds_max=silence)
        self._jobs.append(job)
        if self._held is None:
            self._pool.submit(self._target.origin, job)
        else:  # bounded: a session has a bounded number of messages in flight
            self._held.append(job)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        if self._closed:
            return
        self._submit_quietly(self._requests.post(self._names, cancelled(request_id, reason).raw), "cancel a request")
        for job in self._jobs:
            if isinstance(job, CallJob) and job.request_id == request_id:
                job.hurry(self._limits.cancelled_seconds_max)
        if (scope := self._resuming.get(request_id)) is not None:
            scope.deadline = min(scope.deadline, trio.current_time() + self._limits.cancelled_seconds_max)

    def listen(self) -> trio.Event | None:
        if self._listening is None and not self._closed:
            self._listening = trio.Event()
            self._inbox.start_soon(self._listen)
            if self._held is not None:
                self._inbox.start_soon(self._release_in_time)
        return self._listening

    def close(self, *, end_session: bool) -> None:
        if self._closed:
            return
        self._closed = True
        for job in tuple(self._jobs):
            if end_session and isinstance(job, CallJob) and job.opens and job.connection is not None:
                job.hurry(_ENDING_SECONDS)  # what its answer names is yet to be ended
            elif isinstance(job, GetJob) or (isinstance(job, CallJob) and job.stream is not None):
                job.abandon()
            else:
                job.let_finish(_ENDING_SECONDS)
        self._jobs.clear()
        for scope in self._resuming.values():
            scope.cancel()
        self._held = None
        if self._listening is not None:
            self._listening.set()
        if end_session and self.established.upstream_session_id:
            self._submit_quietly(self._requests.delete(self._names), "end a session")

    # ---- for whoever opens the link ----

    def hand_over(self, inbox: Inbox, established: Established) -> None:
        """Belong to the session from now on: the opening is done, and what it may have left in flight is given up."""
        for job in tuple(self._jobs):
            job.let_finish(_ENDING_SECONDS)
        self._jobs.clear()
        self._inbox = inbox
        self.established = established

    def request_with_session(self, message: Message) -> bytes:
        """Write the POST of a message, as `send` would."""
        return self._requests.post(self._names, message.raw)

    def hold_until_listening(self) -> None:
        """Send nothing before the upstream's own stream has its head, or is refused, or a second is over.

        For a session that listened before: an upstream without an event store loses what it says earlier.
        """
        self._held = []

    async def resume_call(self, stream: EventStream) -> None:
        """Go on with the stream of a call that an earlier link had sent."""
        await self._resume(stream, wait_first=False)

    def _forget(self, job: CallJob | PostJob | GetJob) -> None:
        """It is in flight no more; twice is fine."""
        if job in self._jobs:
            self._jobs.remove(job)

    def _submit_quietly(self, request: bytes, purpose: str) -> None:
        job = QuietJob(request, purpose, silence_seconds_max=self._limits.post_seconds_max)
        self._pool.submit(self._target.origin, job)

    # ---- answers to calls ----

    def call_answered(self, call: CallJob, head: ResponseHead, body: bytes) -> None:
        self._forget(call)
        note_life(self._breaker, head, body, self._target.concealment)
        if self._closed:
            self._end_unwanted(head)
        elif head.is_encoded:
            self._refuse(call.ticket, Failure.REFUSED, "the answer is compressed, which nobody asked for")
        elif not 200 <= head.status < 300:
            if not self._is_taken_over(call, head, body):
                self.decline(call, head, body)
        elif not body.strip():
            self._refuse(call.ticket, Failure.REFUSED, f"HTTP {head.status} without an answer to a request")
        else:
            call.head = head
            self._read_document(call, head, body)

    def _end_unwanted(self, head: ResponseHead) -> None:
        """End the session that an answer opens after all: the link was closed before it came."""
        try:
            session_id = session_named(head)
        except InvalidTerms:  # nobody could name it
            return
        if session_id:
            request = self._requests.delete(name_headers(session_id, ""))
            self._submit_quietly(request, "end a session that was given up")

    def _read_document(self, call: CallJob, head: ResponseHead, body: bytes) -> None:
        stream = EventStream(call.request_id, ticket=call.ticket)
        self._take_messages(call, stream, body, "")
        if not stream.settled:
            detail = describe_unreadable(stream.unreadable, body, self._target.concealment)
            self._refuse(call.ticket, Failure.UNREADABLE, detail)

    def _is_taken_over(self, call: CallJob, head: ResponseHead, body: bytes) -> bool:
        return call.opens and self.opening_declined is not None and self.opening_declined(call, head, body)

    def decline(self, call: CallJob, head: ResponseHead, body: bytes) -> None:
        """Say that a call was answered with a status that is no success."""
        failure = self._failure_of(head, body, opens=call.opens)
        if failure is Failure.REFUSED and head.status not in REFUSALS:
            answer = error_answer(call.request_id, body)
            if answer is not None:
                self._inbox.received(answer, about=call.request_id)
                return
        self._refuse(call.ticket, failure, self._describe(head, body))

    def _describe(self, head: ResponseHead, body: bytes) -> str:
        return describe(head, body, self._target.concealment)

    def _failure_of(self, head: ResponseHead, body: bytes, *, opens: bool = False) -> Failure:
        if head.status in REFUSALS:
            self.unauthorized = self._describe(head, body)
            if opens or head.status == 401:  # 403 may be about this message alone: a scope that one tool wants
                self._breaker.credentials_refused(self.unauthorized)
        if self.established.upstream_session_id and not opens and session_is_lost(head.status, body):
            return Failure.SESSION_LOST
        return failure_of(head.status)

    def call_failed(self, call: CallJob, failure: Failure, detail: str) -> None:
        self._forget(call)
        self._refuse(call.ticket, failure, detail)

    def _refuse(self, ticket: int, failure: Failure, detail: str) -> None:
        if self._closed:
            return
        if failure is Failure.SESSION_LOST:
            self._part(forgotten=(ticket, detail))
        else:
            self._inbox.refused(ticket, failure, detail)

    # ---- streams ----

    def call_streams(self, call: CallJob, head: ResponseHead) -> None:
        note_life(self._breaker, head, b"", self._target.concealment)
        if self._closed:
            call.abandon()
            self._end_unwanted(head)
        elif head.is_encoded:
            self._forget(call)
            call.abandon()
            self._refuse(call.ticket, Failure.OUTCOME_UNKNOWN, "the stream is compressed, which nobody asked for")

    def stream_data(self, job: CallJob | GetJob, stream: EventStream, data: bytes) -> None:
        try:
            for text, cursor in stream.feed(data):
                if text:
                    self._take_messages(job if isinstance(job, CallJob) else None, stream, text, cursor)
                elif not self._closed and (cursor or stream.about is not About.NOTHING):  # without: a sign of life
                    self._inbox.cursor_moved(stream.about, cursor)
                if self._closed:
                    return
        except EventTooLarge as error:
            self._give_up(job, stream, Failure.REFUSED, str(error))
        if stream.settled:
            job.hurry(_ENDING_SECONDS)  # after the answer the stream SHOULD end
        elif stream.misheard is not None and stream.about is not About.NOTHING and stream.misheard.begins_watch():
            self._inbox.start_soon(self._doubt, stream.misheard, job, stream)

    def _give_up(self, job: CallJob | GetJob, stream: EventStream, failure: Failure, detail: str) -> None:
        job.abandon()
        self._forget(job)
        if stream.about is not About.NOTHING and not stream.settled:
            self._settle(stream, failure, detail)

    def _settle(self, stream: EventStream, failure: Failure, detail: str) -> None:
        stream.settled = True
        stream.heard()  # nothing is in doubt any more
        self._refuse(stream.ticket, failure, detail)

    def call_stream_closed(self, call: CallJob, stream: EventStream, detail: str) -> None:
        self._forget(call)
        if stream.settled or self._closed:
            return
        if stream.unreadable:
            self._settle(stream, Failure.UNREADABLE, describe_unreadable(stream.unreadable))
        elif stream.cursor and not call.opens:
            self._inbox.start_soon(self._resume, stream)
        else:
            self._settle(stream, Failure.OUTCOME_UNKNOWN, f"{detail}, and the answer was not on it")

    def _take_messages(self, call: CallJob | None, stream: EventStream, text: bytes, cursor: str) -> None:
        """Put the messages of one event, or of one JSON document, into the inbox."""
        for raw in split_batch(text):
            try:
                message = parse(raw)
            except InvalidMessage as error:
                self._malformed += 1
                log_unreadable(_log, raw, error, self._malformed, upstream=str(self._target.origin))
                if stream.mishear(raw, error.reason):
                    self._settle(stream, Failure.UNREADABLE, describe_unreadable(error.reason))
                continue
            stream.heard()
            if message.kind is not Kind.RESPONSE:
                self._inbox.received(message, about=stream.about, cursor=cursor)
            elif stream.settled or isinstance(stream.about, About):
                self._stray += 1
            else:
                self._take_answer(call, stream, message, cursor)

    async def _doubt(self, misheard: Misheard, job: CallJob | GetJob, stream: EventStream) -> None:
        """End a call behind half an answer, whichever connection its stream is on by then."""
        assert not isinstance(stream.about, About)
        seconds = self._limits.torn_seconds_max
        while await misheard.stays_torn(seconds):
            following = self._resuming.get(stream.about)
            if isinstance(job, CallJob) and job in self._jobs:
                self._give_up(job, stream, Failure.UNREADABLE, describe_unreadable(misheard.why))
            elif following is not None and self._is_open(stream.about):
                following.cancel()
                self._settle(stream, Failure.UNREADABLE, describe_unreadable(misheard.why))
            seconds = self._limits.look_again_seconds_max  # where nobody is there who could have said more

    def _is_open(self, about: RequestId) -> bool:
        return any(isinstance(job, GetJob) and job.stream.about == about and job.opened for job in self._jobs)

    def _take_answer(self, call: CallJob | None, stream: EventStream, message: Message, cursor: str) -> None:
        assert not isinstance(stream.about, About)
        answer = answer_to(stream.about, message)
        if answer is None:
            self._stray += 1
            return
        stream.settled = True
        problem = self._take_terms(call, answer) if call is not None and call.opens else ""
        if problem:
            self._refuse(stream.ticket, Failure.REFUSED, problem)
        elif not self._closed:
            self._inbox.received(answer, about=stream.about, cursor=cursor)

    def _take_terms(self, call: CallJob, answer: Message) -> str:
        """Keep what the handshake's answer says of this session; returns what is wrong with it."""
        if answer.is_error or call.head is None:
            return ""
        try:
            session_id, version = read_names(call.head, answer)
        except InvalidTerms as error:
            return str(error)
        self.established = Established(upstream_session_id=session_id, protocol_version=version)
        self._names = name_headers(session_id, version)
        self.opening_declined = None
        return ""

    # ---- notifications and answers of the client ----

    def post_answered(self, post: PostJob, head: ResponseHead, body: bytes) -> None:
        self._forget(post)
        note_life(self._breaker, head, body, self._target.concealment)
        if self._closed:
            return
        if 200 <= head.status < 300:
            self._inbox.delivered(post.ticket)
        else:
            self._refuse(post.ticket, self._failure_of(head, body), self._describe(head, body))

    def post_failed(self, post: PostJob, failure: Failure, detail: str) -> None:
        self._forget(post)
        self._refuse(post.ticket, failure, detail)

    # ---- GET: resuming and listening ----

    def _begin_get(
        self, stream: EventStream, *, silence_seconds_max: float, headed: Callable[[], None] | None = None
    ) -> GetJob:
        """Ask for a stream. It ends by itself, or is closed by the pool's sweeper, or by `_end_get`."""
        request = self._requests.get(self._names, stream.ask_behind)
        get = GetJob(self, request, stream, silence_seconds_max=silence_seconds_max, headed=headed)
        self._jobs.append(get)
        self._pool.submit(self._target.origin, get)
        return get

    def _end_get(self, get: GetJob) -> None:
        get.abandon()
        self._forget(get)

    async def _resume(self, stream: EventStream, wait_first: bool = True) -> None:
        """Ask for the rest of a call's stream until its answer was on it."""
        assert not isinstance(stream.about, About)
        begin = partial(self._begin_get, silence_seconds_max=self._limits.call_silence_seconds_max)
        following = Following(stream, Asking(begin, self._end_get, self._describe), self._limits, looks_max=math.inf)
        with trio.CancelScope() as scope:
            self._resuming = {**self._resuming, stream.about: scope}
            try:
                if wait_first:
                    await trio.sleep(stream.retry_seconds(self._limits.retry_seconds_max))
                why = await following.until_settled()
            finally:
                # By the scope: its id may have been given to another call meanwhile.
                self._resuming = {about: one for about, one in self._resuming.items() if one is not scope} or NOTHING
            if why:
                self._settle_unheard(following.stream, why)
        following.stream.heard()  # nothing is in doubt any more, and its id may be given to another call

    def _settle_unheard(self, stream: EventStream, why: str) -> None:
        if stream.torn:
            self._settle(stream, Failure.UNREADABLE, describe_unreadable(stream.unreadable))
        else:
            self._settle(stream, Failure.OUTCOME_UNKNOWN, f"its stream could not be resumed: {why}")

    async def _listen(self) -> None:
        """Keep the upstream's own stream open for as long as the link lives; but take a no for a no.

        405 is the protocol's way to say that there is no such stream; servers without a GET route say 404. So only a
        body that speaks of the session counts as its loss: else a session would be re-opened over and over. That it
        does not let us in is none: that is set right on its side (`credentials.py`), and the session goes on.
        """
        limits = self._limits
        begin = partial(self._begin_get, silence_seconds_max=limits.listen_silence_seconds_max, headed=self._release)
        stream = EventStream(About.NOTHING, cursor=self._standalone_cursor)
        following = Following(
            stream, Asking(begin, self._end_get, self._describe), limits, looks_max=limits.listen_looks_max
        )
        told = False  # that there is none
        while True:
            get = await following.until_end()
            if self._closed:
                return
            refusal = get.refusal
            if refusal is not None and self.established.upstream_session_id and says_session_is_lost(get.body):
                self._part(stream_refused=self._describe(refusal, get.body))
                return
            self._release()
            if refusal is not None:
                if not told:
                    _log.info("upstream_offers_no_stream", upstream=str(self._target.origin), status=refusal.status)
                if refusal.status not in REFUSALS:
                    return
            told = refusal is not None
            await following.pause(get)

    async def _release_in_time(self) -> None:
        await trio.sleep(self._limits.listen_head_seconds_max)
        self._release()

    def _release(self) -> None:
        """The upstream's own stream is there, or will not be: say so, and send what was held for it."""
        if self._listening is not None:
            self._listening.set()
        if self._parting is not None:
            return
        held, self._held = self._held, None
        for job in held or ():
            if not job.abandoned:
                self._pool.submit(self._target.origin, job)

    # ---- the upstream has forgotten the session ----

    def _part(self, *, forgotten: tuple[int, str] | None = None, stream_refused: str = "") -> None:
        """Take note of the loss; tell of it when nothing is in flight any more, see `Parting`."""
        begins = self._parting is None
        self._parting = self._parting or Parting()
        self._parting.note(forgotten, stream_refused)
        self._held = self._held or []  # what comes from now on could only be refused as well
        if begins and self._is_in_flight():
            self._inbox.start_soon(self._part_in_time, self._parting)
        elif begins:
            self._leave(self._parting)

    async def _part_in_time(self, parting: Parting) -> None:
        await parting.wait(self._is_in_flight, seconds=self._limits.parting_seconds_max)
        self._leave(parting)

    def _leave(self, parting: Parting) -> None:
        if self._closed:
            return
        self._held = self._parting = None
        unsent = [job for job in self._jobs if not isinstance(job, GetJob) and job.connection is None]
        for job in unsent:
            self._forget(job)
        parting.say(self._inbox, unsent)
        if parting.stream_refused:
            self.close(end_session=False)

    def _is_in_flight(self) -> bool:
        return bool(self._resuming) or any(map(is_in_flight, self._jobs))
