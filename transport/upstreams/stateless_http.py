"""Requests of 2026-07-28 to an MCP server over Streamable HTTP: each is one POST, and nothing is left of it afterwards.

The body goes out byte for byte with the client's own id: every request has a connection to itself while it lasts, so
ids of different clients never meet. Giving a request up closes its connection, which is how this revision cancels
(basic/transports/streamable-http, Cancellation). Nothing is resumed and nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
import trio

from actors.jsonrpc import InvalidMessage, Kind, Message, misanswered_id, parse
from actors.link import Failure
from transport import modern
from transport.modern import ModernRequest
from transport.sse import EventTooLarge, Parser
from transport.upstreams.breaker import Breaker
from transport.upstreams.carrier import Carrier
from transport.upstreams.concealment import Concealment
from transport.upstreams.credentials import REFUSALS
from transport.upstreams.era import Era, EraKnowledge, EraLimits, EraUnknown, Verdict, judge
from transport.upstreams.handshake import own_id
from transport.upstreams.http_answers import answer_to, describe, error_answer, failure_of
from transport.upstreams.http_connection import Job, Lane
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_pool import RequestFailed
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_target import POST_HEADERS, HttpTarget, check_headers, default_user_agent, write_head
from transport.upstreams.stateless import Answer, NoAnswer, StatelessCall, answer_within
from transport.upstreams.thinning import is_power_of_two
from transport.upstreams.unreadable import describe_unreadable, is_torn_answer

_ENDING_SECONDS = 5.0  # an answered stream may take so long to end by itself; then its connection is of no more use

_log = structlog.get_logger(__name__)


class StatelessHttp:
    """Implements `transport.upstreams.stateless.StatelessUpstream`."""

    def __init__(
        self,
        pool: Carrier,
        target: HttpTarget,
        headers: Mapping[str, str] | None = None,
        *,
        limits: HttpLimits = HttpLimits(),
        era_limits: EraLimits = EraLimits(),
        breaker: Breaker | None = None,
    ) -> None:
        """Args:
        pool: carries the requests; it must be running.
        headers: sent with every request, e.g. the gateway's own credentials; never shown.
        breaker: is told whether the upstream lets us in, and nothing else.
        """
        check_headers(headers or {})
        self.era = EraKnowledge(str(target.origin), self._ask_era, era_limits)
        self.strange = 0  # messages that were not passed on, since they are none, or requests, or answer nothing
        self.breaker = breaker or Breaker()
        self._pool = pool
        self._target = target
        self._shown = target.shown(headers or {}, pool.tokens_shown)
        self._headers = headers or {}
        self._limits = limits
        every = dict(headers or {})
        if not any(name.lower() == "user-agent" for name in every):
            every["User-Agent"] = default_user_agent()
        self._head = write_head("POST", target, (*every.items(), *_OWN_HEADERS))

    def __repr__(self) -> str:
        return f"<StatelessHttp to {self._target.origin}>"

    async def send(self, request: ModernRequest) -> StatelessCall:
        """Send a request. See `StatelessUpstream`."""
        call = StatelessCall()
        pool = self._pool.for_request()
        job = _CallJob(self, call, request, self._write(request), self._limits, self._concealment_over(pool))
        call.bind(job.let_go, job.go_on)
        pool.submit(self._target.origin, job)
        return call

    def _concealment_over(self, pool: Carrier) -> Concealment:
        """Give what hides what the server is shown by what carries a request."""
        shown = self._shown if pool is self._pool else self._target.shown(self._headers, pool.tokens_shown)
        return shown.concealment

    def note_strange(self, what: str) -> None:
        """Count a message that can not be passed on."""
        self.strange += 1
        if is_power_of_two(self.strange):
            _log.warning("upstream_message_strange", upstream=str(self._target.origin), what=what, count=self.strange)

    def _write(self, request: ModernRequest) -> bytes:
        mirrored = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
        body = request.message.raw
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, mirrored.encode("ascii"), len(body), body)

    async def _ask_era(self) -> Verdict:
        try:
            await self._pool.for_request().prepare()
        except RequestFailed as failed:  # which says nothing of the server
            raise EraUnknown(failed.detail) from None
        request = modern.discover(own_id("discover"), _CLIENT)
        end = await answer_within(await self.send(request), self._limits.probe_seconds_max)
        if end is None:
            return Verdict(Era.HANDSHAKE, sure=False)
        if isinstance(end, Answer):
            era = judge(end.message)
            return Verdict(era, sure=era is Era.MODERN or end.status < 500)
        if end.failure is Failure.NOT_SENT or end.status in REFUSALS:
            raise EraUnknown(end.detail)
        return Verdict(Era.HANDSHAKE, sure=end.failure in _SURE and end.status < 500)


_CLIENT = dict(zip(("name", "version"), default_user_agent().split("/"), strict=True))
_OWN_HEADERS = (*POST_HEADERS, ("MCP-Protocol-Version", modern.REVISION))


class _CallJob(Job):
    """A request on its connection."""

    __slots__ = (
        "_call",
        "_concealment",
        "_held_bytes",
        "_id",
        "_over",
        "_parser",
        "_torn_seconds",
        "_unreadable",
        "_upstream",
    )

    def __init__(
        self,
        upstream: StatelessHttp,
        call: StatelessCall,
        request: ModernRequest,
        raw: bytes,
        limits: HttpLimits,
        concealment: Concealment,
    ) -> None:
        super().__init__(
            raw,
            silence_seconds_max=limits.listen_silence_seconds_max
            if request.listens
            else limits.call_silence_seconds_max,
            lane=Lane.STANDING if request.listens else Lane.CALL,
            body_bytes_max=limits.body_bytes_max,
        )
        self._upstream = upstream
        self._call = call
        self._concealment = concealment
        self._held_bytes = limits.held_bytes
        self._id = request.id
        self._parser = Parser()
        self._over = False  # the server has said its last word
        self._torn_seconds = limits.torn_seconds_max
        self._unreadable = ""  # why the newest message on its stream is none

    # ---- from who asked ----

    def let_go(self) -> None:
        """Nobody waits any more: cancel, unless there is nothing left to cancel."""
        self.go_on()
        if self._over:
            self.let_finish(_ENDING_SECONDS)
        else:
            self.abandon()

    def go_on(self) -> None:
        """There is room again."""
        if self.held is not None:
            self.held.set()
            self.held = None

    # ---- from the connection ----

    def answered(self, head: ResponseHead, body: bytes) -> None:
        if head.is_encoded:
            self._end(NoAnswer(Failure.REFUSED, "the answer is compressed, which nobody asked for"))
        elif 200 <= head.status < 300:
            self._upstream.breaker.credentials_accepted()
            self._end(self._read_document(head, body))
        else:
            self._end(self._read_refusal(head, body))

    def _read_document(self, head: ResponseHead, body: bytes) -> Answer | NoAnswer:
        if not body.strip():
            self._upstream.era.forget()
            return NoAnswer(Failure.REFUSED, f"HTTP {head.status} without an answer to a request")
        why = "it answers something else"
        try:
            answer = answer_to(self._id, parse(body))
        except InvalidMessage as invalid:
            answer, why = None, invalid.reason
        if answer is None:
            self._upstream.era.forget()
            self._upstream.note_strange(why)
            return NoAnswer(Failure.UNREADABLE, describe_unreadable(why, body, self._concealment))
        return Answer(answer, head.status)

    def _read_refusal(self, head: ResponseHead, body: bytes) -> Answer | NoAnswer:
        """Pass on an error, with its status; our own credentials are no concern of a client's."""
        if head.status == 401:  # 403 may be about this request alone
            self._upstream.breaker.credentials_refused(describe(head, body, self._concealment))
        error = None if head.status in REFUSALS else error_answer(self._id, body)
        if head.status in _DOUBTFUL and (error is None or modern.error_code(error) not in _MODERN_REFUSALS):
            self._upstream.era.forget()
        if error is not None:
            return Answer(error, head.status)
        return NoAnswer(failure_of(head.status), describe(head, body, self._concealment), head.status)

    def stream_opened(self, head: ResponseHead) -> None:
        self._upstream.breaker.credentials_accepted()
        if head.is_encoded:
            self.abandon()
            self._end(NoAnswer(Failure.OUTCOME_UNKNOWN, "the stream is compressed, which nobody asked for"))

    def stream_data(self, data: bytes) -> None:
        try:
            for event in self._parser.feed(data):
                if event.data and not self._over:
                    self._take(event.data)
        except EventTooLarge as error:
            self.abandon()
            self._end(NoAnswer(Failure.REFUSED, str(error)))
        if self._call.waiting_bytes > self._held_bytes and self._call.end is None and self.held is None:
            self.held = trio.Event()

    def _take(self, raw: bytes) -> None:
        try:
            message = parse(raw)
        except InvalidMessage as invalid:
            self._upstream.note_strange(invalid.reason)
            self._unreadable = invalid.reason
            if misanswered_id(raw) == self._id:
                self._end(NoAnswer(Failure.UNREADABLE, describe_unreadable(invalid.reason)))
                self.hurry(_ENDING_SECONDS)
            elif is_torn_answer(raw):
                self.hurry(self._torn_seconds)
            return
        self._unreadable = ""
        if message.kind is Kind.NOTIFICATION:
            self._call.put(raw)
            return
        answer: Message | None = answer_to(self._id, message)
        if answer is None:  # a request, which this era forbids and nobody could answer, or an answer to nothing
            self._upstream.note_strange(f"a {message.kind.value}")
            return
        self._end(Answer(answer, modern.status_of(answer)))
        self.hurry(_ENDING_SECONDS)

    def stream_closed(self, detail: str) -> None:
        if self._unreadable:
            self._end(NoAnswer(Failure.UNREADABLE, describe_unreadable(self._unreadable)))
        else:
            self._end(NoAnswer(Failure.OUTCOME_UNKNOWN, f"{detail}, and the answer was not on it"))

    def failed(self, failure: Failure, detail: str) -> None:
        self._end(NoAnswer(failure, detail))

    def _end(self, end: Answer | NoAnswer) -> None:
        self._over = True
        self._call.finish(end)


_SURE = (Failure.REFUSED, Failure.UNREADABLE)  # the server has said something, and it is not of this era
_DOUBTFUL = (400, 404, 405, 406, 415)  # what servers of the handshake era refuse requests of this one with
# What a server of this era refuses requests with; any other refusal may come from one that does not speak it any more.
_MODERN_REFUSALS = modern.ERA_CODES | {-32601, -32602}
