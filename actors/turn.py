"""One turn of a session in the making: the state so far, the events that led there, the effects to do.

`decide` folds each event as it chooses, so that later choices of the same turn see the earlier ones. The decision
carries the state too; that it equals the fold of its events is a property the tests assert.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from actors import jsonrpc
from actors import messages as say
from actors.evolve import evolve
from actors.ids import STANDALONE_STREAM
from actors.jsonrpc import Message
from actors.state import Call, Limits, LinkPhase, SessionState


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What a command comes to."""

    state: SessionState
    events: tuple[say.Event, ...]
    effects: tuple[say.Effect, ...]


class Turn:
    """The draft of a decision."""

    __slots__ = ("effects", "events", "limits", "now_unix_s", "shared_stream", "state")

    def __init__(self, state: SessionState, now_unix_s: float, limits: Limits) -> None:
        self.state = state
        self.now_unix_s = now_unix_s
        self.limits = limits
        self.events: list[say.Event] = []
        self.effects: list[say.Effect] = []
        self.shared_stream: int | None = None  # of a batch that is being taken: more of its calls may yet come

    def decision(self) -> Decision:
        return Decision(self.state, tuple(self.events), tuple(self.effects))

    def happen(self, event: say.Event) -> None:
        """Record an event and fold it."""
        self.events.append(event)
        self.state = evolve(self.state, event, limits=self.limits)

    def do(self, effect: say.Effect) -> None:
        """Have the shell do something, once this turn's hard events are durable."""
        self.effects.append(effect)

    def reply(self, ticket: int, outcome: say.Outcome) -> None:
        self.effects.append(say.Reply(ticket, outcome))

    def not_done(self, ticket: int, problem: say.Problem, detail: str) -> None:
        self.effects.append(say.Reply(ticket, say.NotDone(problem, detail)))

    # ---- streams ----

    def log(self, stream_id: int, message: Message) -> None:
        """Append a message to a stream's log; its readers get it when it is durable."""
        stream = self.state.streams[stream_id]
        sequence = self.state.log.next_sequence
        self.happen(say.MessageLogged(stream_id, stream.next_offset, sequence, self.now_unix_s, message.raw))

    def open_stream(self, call: Call) -> Call:
        """Turn a call into a stream, and tell its client; promise the answer of one that the standalone stream gets."""
        assert call.stream is None
        if call.on_standalone:
            call = replace(call, stream=STANDALONE_STREAM)
            self.happen(say.CallPromised(call))
            self.reply(call.ticket, say.Streaming(STANDALONE_STREAM))
            return call
        stream_id = self.state.next_stream
        self.happen(say.StreamOpened(stream_id, call.request_id))
        call = replace(call, stream=stream_id)
        self.happen(say.CallChanged(call))
        self.reply(call.ticket, say.Streaming(stream_id))
        return call

    def open_shared_stream(self) -> int:
        """Open the stream of a batch, and hold it open until `release_shared_stream`."""
        stream_id = self.state.next_stream
        self.happen(say.StreamOpened(stream_id, None))
        self.shared_stream = stream_id
        return stream_id

    def release_shared_stream(self) -> None:
        """All of the batch was taken: its stream ends with the last of its calls, or now if there is none."""
        stream_id, self.shared_stream = self.shared_stream, None
        assert stream_id is not None
        if not any(call.stream == stream_id for call in self.state.calls.values()):
            self.happen(say.StreamEnded(stream_id))

    def _end_stream_of(self, call: Call, stream_id: int) -> None:
        """End the stream of a call that ends, unless it is the session's own, which ends with the session, or a batch's
        and others are still to be answered on it."""
        if stream_id in (STANDALONE_STREAM, self.shared_stream):
            return
        others = (other for other in self.state.calls.values() if other.request_id != call.request_id)
        if not any(other.stream == stream_id for other in others):
            self.happen(say.StreamEnded(stream_id))

    def log_standalone(self, message: Message) -> None:
        self.log(STANDALONE_STREAM, message)

    # ---- calls ----

    def call_by_ticket(self, ticket: int) -> Call | None:
        for call in self.state.calls.values():
            if call.ticket == ticket:
                return call
        return None

    def answer(self, call: Call, message: Message, *, ending: say.Ending | None = None) -> None:
        """Give a call its answer: on its stream if it has become one, else straight to whoever waits.

        Args:
          ending: how the call ended, where the answer is ours; None: as the other side's answer says.
        """
        stream_id = call.stream
        if stream_id is None:
            if not (call.on_standalone and self.state.opened):  # there is no stream before the session is open
                self._end(call, message, ending)
                self.reply(call.ticket, say.Answered(message))
                return
            stream_id = STANDALONE_STREAM
            self.reply(call.ticket, say.Streaming(stream_id))
        if not self.fits(message):
            reason = f"the answer has {len(message.raw)} bytes; a stream keeps {self.limits.event_bytes_max}"
            message = jsonrpc.error(call.request_id, jsonrpc.OVERLOADED, reason)
        self.log(stream_id, message)
        self._end_stream_of(call, stream_id)
        self._end(call, message, ending)

    def _end(self, call: Call, message: Message, ending: say.Ending | None) -> None:
        failed = message.is_error
        if not failed:
            self.happen(say.CallEnded(call.request_id, failed, self.now_unix_s, "ok", 0, message))
            return
        if ending is None:
            ending = "cancelled" if call.cancelled_unix_s else "error"
        code = jsonrpc.code_of(message)
        self.happen(say.CallEnded(call.request_id, failed, self.now_unix_s, ending, code, message))

    def fits(self, message: Message) -> bool:
        """Whether a message may become an event."""
        return len(message.raw) <= self.limits.event_bytes_max

    def fail(self, call: Call, code: int, reason: str) -> None:
        """Answer a call with an error of our own."""
        self.answer(call, jsonrpc.error(call.request_id, code, reason), ending=_ENDINGS.get(code, "error"))

    def end_unanswered(self, call: Call, outcome: say.Outcome) -> None:
        """End a call to which no JSON-RPC answer is given."""
        if call.stream is None:
            self.reply(call.ticket, outcome)
        else:
            self._end_stream_of(call, call.stream)
        if isinstance(outcome, say.Withdrawn):
            self.happen(say.CallEnded(call.request_id, False, self.now_unix_s, "cancelled"))
        elif call.sent:
            self.interrupted(call)
        else:
            code = jsonrpc.UPSTREAM_UNAVAILABLE
            self.happen(say.CallEnded(call.request_id, True, self.now_unix_s, "error", code))

    def interrupted(self, call: Call) -> None:
        """End a call whose outcome nobody knows, and that nobody waits for any more, or is told so otherwise."""
        code = jsonrpc.OUTCOME_UNKNOWN
        self.happen(say.CallEnded(call.request_id, True, self.now_unix_s, "interrupted", code))

    # ---- the link ----

    def ensure_link(self) -> None:
        """Open the link unless it is open or being opened."""
        if self.state.link is LinkPhase.DOWN:
            self.happen(say.LinkChanged(LinkPhase.CONNECTING, self.state.link_detail))
            self.do(say.OpenLink())

    def touch(self) -> None:
        """Note activity; once a second is often enough for an expiry that counts in minutes."""
        if self.now_unix_s - self.state.last_active_unix_s >= 1.0:
            self.happen(say.Touched(self.now_unix_s))


_ENDINGS: dict[int, say.Ending] = {
    jsonrpc.OUTCOME_UNKNOWN: "interrupted",
    jsonrpc.REQUEST_TIMED_OUT: "timeout",
}
