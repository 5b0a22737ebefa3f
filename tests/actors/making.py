"""States, and what decisions make of them, with as little said as a test needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import attrs

from actors import jsonrpc
from actors import messages as say
from actors.decide import decide
from actors.evolve import evolve
from actors.ids import SessionId
from actors.jsonrpc import RequestId
from actors.link import Established
from actors.state import Call, Handshake, Limits, LogState, SessionState, SetupChange
from actors.turn import Decision

NOW = 1_000_000.0
Thing = TypeVar("Thing")


def fresh_state(**fields: Any) -> SessionState:
    """A session that nobody has opened yet."""
    known: dict[str, Any] = {
        "session_id": SessionId("s" * 32),
        "server_id": "linear",
        "created_unix_s": NOW,
        "last_active_unix_s": NOW,
        "ttl_seconds": 3600.0,
        "log": LogState(epoch=7),
    }
    return SessionState(**{**known, **fields})


@attrs.define
class Session:
    """A session without a shell: commands go in, and what they come to is kept."""

    state: SessionState = attrs.field(factory=fresh_state)
    limits: Limits = Limits()
    now_unix_s: float = NOW
    tickets: int = 0
    last: Decision | None = None

    def take(self, command: say.Command) -> tuple[say.Effect, ...]:
        """Decide, check that the events lead to the state, and give the effects."""
        decision = decide(self.state, command, now_unix_s=self.now_unix_s, limits=self.limits)
        folded = self.state
        for event in decision.events:
            folded = evolve(folded, event, limits=self.limits)
        assert folded == decision.state
        assert decision.state.revision == self.state.revision + len(decision.events)
        self.state, self.last = decision.state, decision
        return decision.effects

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def request(
        self,
        id: RequestId,
        method: str = "echo",
        *,
        opens: bool = False,
        setup: SetupChange | None = None,
        on_standalone: bool = False,
    ) -> tuple[say.Effect, ...]:
        return self.take(
            say.SendRequest(self.ticket(), jsonrpc.request(id, method), method, setup, opens, on_standalone)
        )

    def notify(self, method: str = "notifications/x", *, cancels: RequestId | None = None) -> tuple[say.Effect, ...]:
        return self.take(say.SendNotification(self.ticket(), jsonrpc.notification(method), cancels))

    def answer(self, id: RequestId, value: object = "done") -> tuple[say.Effect, ...]:
        return self.take(say.Receive(jsonrpc.result(id, value), about=id))

    def pass_time(self, seconds: float) -> None:
        self.now_unix_s += seconds

    def overdue(self, id: RequestId) -> tuple[say.Effect, ...]:
        call = self.call(id)
        if call.sent and call.stream is None:  # told no sooner than the client's patience is over
            self.pass_time(max(0.0, call.sent_unix_s + self.limits.answer_json_within_seconds - self.now_unix_s))
        return self.take(say.Overdue(call.ticket))

    def stream(self, id: RequestId, method: str = "hold") -> tuple[say.Effect, ...]:
        """Send a request that is not answered soon, so that it becomes a stream."""
        self.request(id, method)
        self.pass_time(self.limits.answer_json_within_seconds)
        return self.overdue(id)

    def call(self, id: RequestId) -> Call:
        return self.state.calls[id]

    def events(self, kind: type[Thing]) -> list[Thing]:
        assert self.last is not None
        return [event for event in self.last.events if isinstance(event, kind)]

    def logged(self) -> list[jsonrpc.Message]:
        """What the last turn put on streams."""
        return [jsonrpc.parse(event.body) for event in self.events(say.MessageLogged)]


def opened(*, limits: Limits = Limits(), linked: bool = True, **fields: Any) -> Session:
    """A session that has its handshake, and a link."""
    session = Session(fresh_state(**fields), limits)
    session.take(say.SendRequest(session.ticket(), jsonrpc.request("open", "initialize"), opens=True))
    session.take(say.LinkUp(Established()))
    session.take(say.Receive(jsonrpc.result("open", {}), about="open", upstream_session_id="upstream-0"))
    if not linked:
        session.take(say.LinkDown("gone"))
    assert session.state.opened
    return session


HANDSHAKE = Handshake(jsonrpc.request("open", "initialize").raw, jsonrpc.result("open", {}).raw, "upstream-0")


def of(effects: Sequence[say.Effect], kind: type[Thing]) -> list[Thing]:
    """Give the effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def outcome(effects: Sequence[say.Effect]) -> say.Outcome:
    """Give the one outcome among the effects."""
    (reply,) = of(effects, say.Reply)
    return reply.outcome


def problem(effects: Sequence[say.Effect]) -> say.Problem:
    """Give what was wrong, of the one outcome."""
    told = outcome(effects)
    assert isinstance(told, say.NotDone), told
    return told.problem


def code(message: jsonrpc.Message) -> int:
    """Give the code of an error answer."""
    try:
        jsonrpc.result_of(message)
    except jsonrpc.RequestFailed as failed:
        return failed.code
    raise AssertionError(f"no error: {message.raw!r}")
