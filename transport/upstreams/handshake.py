"""Opening a session with an MCP upstream again: what was agreed, whether it still holds, and the exchange itself.

Rests on the `Link` contract alone, so every transport re-opens in the same way. While that goes on, a `Rehearsal`
stands in for the session's inbox: our own answers end here, and what the upstream says beside them is kept
for the session.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import msgspec
import structlog
import trio

from actors import jsonrpc
from actors.jsonrpc import Kind, Message, RequestId
from actors.link import About, ConnectFailed, ConnectRejected, Established, Failure, Inbox, Link, LinkLost
from actors.reading import reader
from actors.sharing import shared
from actors.state import Handshake, SessionState

INITIALIZE = "initialize"
INITIALIZED = "notifications/initialized"
_LISTS = ("tools", "prompts", "resources")
_KEPT_MAX = 256  # messages an upstream may send during a re-opening; more are dropped and counted

_log = structlog.get_logger(__name__)


# ---- pure ----------------------------------------------------------------------------------------


@attrs.frozen
class Terms:
    """What an initialize result agreed on."""

    protocol_version: str
    capabilities: Mapping[str, Any]


class InvalidTerms(ValueError):
    """This is no initialize result."""


class _InitializeResult(msgspec.Struct):
    protocolVersion: str  # the protocol's name
    capabilities: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    result: _InitializeResult


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


class _ErrorAnswer(msgspec.Struct):
    error: _Error


_decode_answer = reader(_Answer)
_decode_error = reader(_ErrorAnswer)
_decode_fields = reader(dict[str, msgspec.Raw])
_decode_batch = reader(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def read_terms(raw: bytes) -> Terms:
    """Read what the raw answer to an initialize request agreed on.

    Raises:
      InvalidTerms
    """
    try:
        result = _decode_answer(raw).result
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTerms(str(error)) from None
    # Links keep it as long as they live: one string for each revision, not one for each session.
    return Terms(sys.intern(result.protocolVersion), result.capabilities)


def lacks(before: Terms, now: Terms) -> str:
    """Name what the new terms offer less than the former ones; "" if nothing.

    Another protocol version is always less: the client was told the former one and goes on speaking it.
    """
    if before.protocol_version != now.protocol_version:
        return f"protocol version {now.protocol_version}, it was {before.protocol_version}"
    return _missing(before.capabilities, now.capabilities, "")


def _missing(before: Mapping[str, Any], now: Mapping[str, Any], path: str) -> str:
    for name, value in before.items():
        if value is False or value is None:  # it was not offered before either
            continue
        if name not in now or now[name] is False or now[name] is None:
            return f"no capability {path}{name}"
        if isinstance(value, dict) and isinstance(now[name], dict):
            deeper = _missing(value, now[name], f"{path}{name}.")
            if deeper:
                return deeper
    return ""


def list_announcements(terms: Terms) -> tuple[Message, ...]:
    """Tell the client to read again every list that a re-initialized upstream can announce changes of."""
    messages = []
    for name in _LISTS:
        capability = terms.capabilities.get(name)
        if isinstance(capability, dict) and capability.get("listChanged") is True:
            messages.append(jsonrpc.notification(f"notifications/{name}/list_changed"))
    return tuple(messages)


def cancelled(request_id: RequestId, reason: str) -> Message:
    """Make the notification that withdraws a request."""
    return jsonrpc.notification("notifications/cancelled", {"requestId": request_id, "reason": reason})


def with_id(raw: bytes, id: RequestId) -> bytes:
    """Write a message with another id; every other field keeps its bytes and its place.

    Raises:
      msgspec.DecodeError: not a JSON object.
    """
    fields = _decode_fields(raw)
    fields["id"] = msgspec.Raw(_encode(id))
    return _encode(fields)


def split_batch(raw: bytes) -> list[bytes]:
    """Give the messages of what may be a batch (which receivers MUST support in 2025-03-26), bytes as they came."""
    if raw.lstrip()[:1] != b"[":
        return [raw]
    try:
        return [bytes(each) for each in _decode_batch(raw)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return [raw]  # not JSON: whoever parses it says so


def describe_error(message: Message) -> str:
    """Say what an error answer says, short enough for a log line."""
    try:
        error = _decode_error(message.raw).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "an error without code and message"
    return f"{error.message[:300]} ({error.code})"


def own_id(purpose: str) -> str:
    """Draw an id for a request of our own, which no client's id equals."""
    return f"outlast-{purpose}-{secrets.token_hex(8)}"


# ---- the exchange --------------------------------------------------------------------------------


class NoAnswer(Exception):
    """A message of ours got no answer. `failure` is None where time ran out or the link was lost."""

    def __init__(self, failure: Failure | None, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail


class _Waiter:
    __slots__ = ("answer", "done", "problem")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Message | None = None
        self.problem: NoAnswer | None = None


class Rehearsal:
    """An inbox for the time of re-opening. Tasks that the link asks for run in the session's own inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._by_ticket: dict[int, _Waiter] = {}
        self._by_id: dict[RequestId, _Waiter] = {}
        self._kept: list[Callable[[], None]] = []
        self._dropped = 0
        self.lost_because = ""

    async def ask(self, link: Link, request: Message, *, seconds: float) -> Message:
        """Send a request of ours and wait for its answer.

        Raises:
          NoAnswer
        """
        assert request.id is not None
        waiter = self._by_id[request.id] = _Waiter()
        try:
            answer = await self._exchange(link, request, waiter, seconds)
        finally:
            del self._by_id[request.id]
        assert answer is not None
        return answer

    async def tell(self, link: Link, message: Message, *, seconds: float) -> None:
        """Send a notification of ours and wait until the upstream has it.

        Raises:
          NoAnswer
        """
        await self._exchange(link, message, _Waiter(), seconds)

    def hand_over_soon(self) -> None:
        """Pass on to the session what came for it meanwhile: in a task of its own, so after it has its link."""
        self._inbox.start_soon(self._hand_over)

    async def _hand_over(self) -> None:
        kept, self._kept = self._kept, []
        for put in kept:
            put()
        if self._dropped:
            _log.warning("upstream_messages_dropped_while_reopening", count=self._dropped)
        if self.lost_because:
            self._inbox.lost(self.lost_because)

    async def _exchange(self, link: Link, message: Message, waiter: _Waiter, seconds: float) -> Message | None:
        ticket = -1 - len(self._by_ticket)  # the session's own are not negative
        self._by_ticket[ticket] = waiter
        try:
            link.send(message, ticket)
        except LinkLost as error:
            raise NoAnswer(None, self.lost_because or str(error)) from None
        with trio.move_on_after(seconds):
            await waiter.done.wait()
        if waiter.problem is not None:
            raise waiter.problem
        if not waiter.done.is_set():
            raise NoAnswer(None, f"no answer to {message.method} within {seconds:g} s")
        return waiter.answer

    # ---- Inbox ----

    def received(self, message: Message, *, about: RequestId | About, cursor: str = "") -> None:
        if message.kind is Kind.RESPONSE:
            waiter = self._by_id.get(message.id) if message.id is not None else None
            if waiter is not None:
                waiter.answer = message
                waiter.done.set()
            return  # an answer that nobody waits for any more
        if isinstance(about, str) and about in self._by_id:
            about = About.NOTHING  # it came on the stream of a request that the session does not know
        self._keep(lambda: self._inbox.received(message, about=about, cursor=cursor))

    def cursor_moved(self, about: RequestId | About, cursor: str) -> None:
        if about is About.NOTHING:
            self._keep(lambda: self._inbox.cursor_moved(about, cursor))

    def delivered(self, ticket: int) -> None:
        waiter = self._by_ticket.get(ticket)
        if waiter is not None:
            waiter.done.set()

    def refused(self, ticket: int, failure: Failure, detail: str) -> None:
        self._settle(self._by_ticket.get(ticket), NoAnswer(failure, detail))

    def lost(self, detail: str) -> None:
        self.lost_because = detail
        for waiter in self._by_ticket.values():
            self._settle(waiter, NoAnswer(None, detail))

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        self._inbox.start_soon(run, *args)

    def _settle(self, waiter: _Waiter | None, problem: NoAnswer) -> None:
        if waiter is not None and not waiter.done.is_set():
            waiter.problem = problem
            waiter.done.set()

    def _keep(self, put: Callable[[], None]) -> None:
        if len(self._kept) < _KEPT_MAX:
            self._kept.append(put)
        else:
            self._dropped += 1


async def reinitialize(
    session: SessionState, handshake: Handshake, link: Link, rehearsal: Rehearsal, *, answer_seconds_max: float
) -> Established:
    """Repeat a session's handshake on a fresh link and re-apply its set-up.

    Returns:
      What was found out, for the link to keep as its `established`.

    Raises:
      ConnectFailed, ConnectRejected

    Cancellation: the upstream may be left with a half-opened session; closing the link with `end_session` tells it.
    """
    try:
        answer = await rehearsal.ask(link, jsonrpc.parse(handshake.request), seconds=answer_seconds_max)
        now = _check(handshake, answer)
        if handshake.ready:
            await rehearsal.tell(link, jsonrpc.notification(INITIALIZED), seconds=answer_seconds_max)
            await _apply_setup(session, link, rehearsal, answer_seconds_max)
    except NoAnswer as error:
        raise ConnectFailed(f"re-initialization: {error.detail}") from None
    withdrawn = (cancelled(ask.client_id, "the server has forgotten this request") for ask in session.asks.values())
    return Established(
        upstream_session_id=link.established.upstream_session_id,
        resumed=False,
        handshake_result=shared(answer.raw),
        protocol_version=now.protocol_version,
        announcements=(*withdrawn, *(list_announcements(now) if handshake.ready else ())),
    )


def _check(handshake: Handshake, answer: Message) -> Terms:
    if answer.is_error:
        raise ConnectRejected("upstream_rejected", f"initialize was refused: {describe_error(answer)}")
    try:
        now = read_terms(answer.raw)
        before = read_terms(handshake.result)
    except InvalidTerms as error:
        raise ConnectRejected("upstream_rejected", f"not an initialize result: {error}") from None
    less = lacks(before, now)
    if less:
        raise ConnectRejected("upstream_rejected", f"offers less than before: {less}")
    return now


async def _apply_setup(session: SessionState, link: Link, rehearsal: Rehearsal, seconds: float) -> None:
    """Send the kept set-up messages again, in order. One that fails is logged: the session is worth more than it."""
    for key, raw in session.setup.items():
        message = jsonrpc.parse(raw)
        try:
            if message.kind is not Kind.REQUEST:
                await rehearsal.tell(link, message, seconds=seconds)
                continue
            request = jsonrpc.parse(with_id(raw, own_id("setup")))
            answer = await rehearsal.ask(link, request, seconds=seconds)
        except NoAnswer as error:
            if error.failure is Failure.SESSION_LOST or rehearsal.lost_because:
                raise
            _log.warning("upstream_setup_failed", key=key, detail=error.detail)
        else:
            if answer.is_error:
                _log.warning("upstream_setup_refused", key=key, detail=describe_error(answer))
