"""Simulated upstreams: the servers behind the sessions, which outlive every process of ours, and have bad
days of their own.

A server keeps sessions and runs calls; it journals each run under the call's key, so that a call that ran
twice shows. Three kinds are simulated, as the real transports differ: one that keeps sessions and can replay
a call's stream after a cursor (Streamable HTTP with an event store), one that keeps sessions but loses what
was said to a lost link, and one whose session is its process, which ends with the link (stdio) and does not
tell what a message is about.

What takes time is done by tasks of the server's; a link only passes on, and says nothing any more once it is
closed or the process that it belongs to is dead.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import trio

from actors import jsonrpc
from actors.jsonrpc import Kind, Message, RequestId
from actors.link import About, ConnectFailed, ConnectRejected, Established, Failure, Inbox, Link, LinkLost
from actors.state import Call, SessionState

ASK_PATIENCE_SECONDS = 20.0  # how long a server's call waits for the client's answer
IDLE_SECONDS_MEAN = 40.0  # between two things that a server says unasked in one session


class LinkBug(Exception):
    """A link that is simply wrong: the actor that used it crashes."""


@attrs.frozen
class ServerKind:
    """What a server can and cannot do."""

    resumable: bool  # it keeps a session whose link was closed
    cursors: bool  # it replays a call's stream after a cursor


KEEPS_AND_REPLAYS = ServerKind(resumable=True, cursors=True)
KEEPS = ServerKind(resumable=True, cursors=False)
PROCESS = ServerKind(resumable=False, cursors=False)


@attrs.frozen
class Mishaps:
    """How often single things go wrong, as shares."""

    connect_fails: float = 0.05
    connect_hangs: float = 0.01
    not_sent: float = 0.02
    outcome_unknown: float = 0.02
    refused: float = 0.01
    link_breaks: float = 0.01
    link_bug: float = 0.0


NO_MISHAPS = Mishaps(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@attrs.define
class Journal:
    """What servers really did."""

    runs: Counter[str] = attrs.field(factory=Counter)  # by call key
    said: dict[str, list[str]] = attrs.field(factory=dict)  # unasked, by our session id, in order
    answers: Counter[str] = attrs.field(factory=Counter)  # of clients to servers' requests, by request key
    complaints: list[str] = attrs.field(factory=list)
    ended: int = 0  # sessions, without a link


@attrs.define(eq=False)
class Job:
    """A call that runs."""

    call_id: RequestId
    key: str
    said: list[Message] = attrs.field(factory=list)  # to this call's stream, in order; its cursor is the count so far
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    def cursor(self, count: int) -> str:
        return f"{self.call_id}:{count}"


@attrs.define(eq=False)
class ServerSession:
    """One session on the server's side."""

    id: str
    ours: str  # our session's id: whose it is
    alive: bool = True
    link: SimLink | None = None
    jobs: dict[RequestId, Job] = attrs.field(factory=dict)  # those that are over, too: their streams can be replayed
    listened: bool = False
    said: list[Message] = attrs.field(factory=list)  # unasked
    asks: list[tuple[str, trio.Event]] = attrs.field(factory=list)  # requests to the client, numbered from 1 as ids


class SimServer:
    """One server."""

    def __init__(
        self,
        name: str,
        kind: ServerKind,
        nursery: trio.Nursery,
        journal: Journal,
        chance: random.Random,
        *,
        mishaps: Mishaps,
        resends: bool = False,
    ) -> None:
        """
        Args:
          resends: a negative control: its links send again what is unanswered when they are opened.
        """
        self.name = name
        self.kind = kind
        self.journal = journal
        self.mishaps = mishaps
        self.down_until = 0.0
        self.silent = False  # says nothing unasked
        self.rejected: set[str] = set()  # our sessions whose credentials are gone
        self.nursery = nursery
        self.chance = chance
        self.resends = resends
        self.sessions: dict[str, ServerSession] = {}
        self._of_ours: dict[str, ServerSession] = {}  # the newest, by our session id
        self._numbers = 0

    def happens(self, share: float) -> bool:
        return self.chance.random() < share

    # ---- a bad day ----

    def die(self, down_seconds: float) -> None:
        """End the server's process: sessions and calls are gone, links break, nobody can connect for a while."""
        self.down_until = trio.current_time() + down_seconds
        for session in list(self.sessions.values()):
            self.forget(session, "the server's process died")

    def forget(self, session: ServerSession, why: str, *, tell: bool = True) -> None:
        """Lose a session; its client notices when it uses it next, unless the link breaks with it."""
        session.alive = False
        self.sessions.pop(session.id, None)
        for job in list(session.jobs.values()):
            job.scope.cancel()
        if tell and session.link is not None:
            session.link.lose(why)

    def calm(self) -> None:
        """Let nothing go wrong any more, and say nothing unasked."""
        self.down_until = 0.0
        self.silent = True
        self.mishaps = NO_MISHAPS

    def miss_links(self) -> None:
        """Take note that the processes at the other end of some links are dead."""
        for session in list(self.sessions.values()):
            link = session.link
            if link is not None and link.is_dead():
                session.link = None
                if not self.kind.resumable:
                    self.forget(session, "its parent died", tell=False)

    # ---- connecting ----

    async def connect(self, state: SessionState, inbox: Inbox, is_dead: Callable[[], bool]) -> Link:
        """Open a link for a session of ours; see `actors.link.Connect`."""
        await self._be_reached(state)
        former = self._former(state)
        session = former if former is not None else self._new_session(state)
        if session.link is not None:
            session.link.lose("another link took the session over")
        link = SimLink(self, session, inbox, is_dead, Established(session.id, former is not None))
        session.link = link
        if former is not None:
            link.catch_up(state)
        if self.resends:
            link.resend(state)
        return link

    async def end_session(self, state: SessionState, is_dead: Callable[[], bool]) -> bool:
        """Forget a session that has no link; see `actors.upstream_ending`."""
        await self._be_reached(state)
        former = self._former(state)
        if former is not None and not is_dead():
            self.forget(former, "ended")
            self.journal.ended += 1
        return former is not None

    async def _be_reached(self, state: SessionState) -> None:
        await trio.sleep(self.chance.random() * 0.2)
        if state.session_id in self.rejected:
            raise ConnectRejected("auth_gone", "the credentials are no longer accepted")
        if trio.current_time() < self.down_until or self.happens(self.mishaps.connect_fails):
            raise ConnectFailed("connection refused")
        if self.happens(self.mishaps.connect_hangs):
            await trio.sleep(3600)

    def _former(self, state: SessionState) -> ServerSession | None:
        if not self.kind.resumable:
            return None
        if state.handshake is None:  # an embedded session's link knows whose it is by our id
            session = self._of_ours.get(state.session_id)
        else:
            session = self.sessions.get(state.handshake.upstream_session_id)
        if session is not None and session.ours != state.session_id:
            self.journal.complaints.append(f"session {state.session_id[:6]} resumed the session of another")
        return session if session is not None and session.alive else None

    def _new_session(self, state: SessionState) -> ServerSession:
        self._numbers += 1
        session = ServerSession(f"{self.name}-{self._numbers}", state.session_id)
        self.sessions[session.id] = self._of_ours[state.session_id] = session
        return session

    # ---- what a server does ----

    async def run_call(self, session: ServerSession, message: Message) -> None:
        """Run a call: journal it, say what it says on the way, answer."""
        assert message.id is not None
        params = _params(message)
        job = Job(message.id, params.get("key", ""))
        session.jobs[message.id] = job
        if job.key:
            self.journal.runs[job.key] += 1
        with job.scope:
            await self._work(session, job, params)

    async def _work(self, session: ServerSession, job: Job, params: dict[str, Any]) -> None:
        steps = int(params.get("progress", 0))
        seconds = float(params.get("seconds", 0.0)) / (steps + 1)
        if self.kind.cursors and params.get("seconds", 0.0) > 0.2:
            self._prime(session, job)
        for step in range(1, steps + 1):
            await trio.sleep(seconds)
            self._say(session, job, jsonrpc.notification("notifications/progress", {"key": job.key, "step": step}))
        if params.get("ask"):
            await self._ask(session, job)
        await trio.sleep(seconds)
        assert isinstance(job.call_id, int | str)
        if params.get("fails"):
            self._say(session, job, jsonrpc.error(job.call_id, -32050, "as asked"))
        elif not params.get("silent"):
            self._say(session, job, jsonrpc.result(job.call_id, {"key": job.key}))
        else:
            await trio.sleep(3600)

    def _prime(self, session: ServerSession, job: Job) -> None:
        if session.link is not None:
            session.link.hear_cursor(job.call_id, job.cursor(0))

    def _say(self, session: ServerSession, job: Job, message: Message) -> None:
        job.said.append(message)
        if session.link is not None:
            session.link.hear_about(job, len(job.said), message)

    async def _ask(self, session: ServerSession, job: Job) -> None:
        # Ids are counted from one in each session, so those of different incarnations collide, as real servers' do.
        request_id = len(session.asks) + 1
        key = f"{session.id}/ask{request_id}"
        answered = trio.Event()
        session.asks.append((key, answered))
        self._say(session, job, jsonrpc.request(request_id, "sampling/createMessage", {"key": key}))
        with trio.move_on_after(ASK_PATIENCE_SECONDS):
            await answered.wait()

    def take_answer(self, session: ServerSession, message: Message) -> None:
        """Take a client's answer to a request of ours."""
        request_id, answer = message.id, jsonrpc.result_of(message)
        if not isinstance(request_id, int) or not 0 < request_id <= len(session.asks):
            self.journal.complaints.append(f"{session.id} got an answer to what it never asked: {message.raw!r}")
            return
        key, answered = session.asks[request_id - 1]
        self.journal.answers[key] += 1
        if answer != {"key": key}:
            self.journal.complaints.append(f"{session.id} asked {key} and was answered {answer}")
        answered.set()

    async def chatter(self) -> None:
        """Say things unasked in some session, for ever."""
        spoken = 0
        while True:
            await trio.sleep(self.chance.expovariate(1.0) * IDLE_SECONDS_MEAN / max(1, len(self.sessions)))
            if not self.sessions or self.silent:
                continue
            session = self.chance.choice(list(self.sessions.values()))
            if not session.listened or (session.link is None and not self.kind.cursors):
                continue
            spoken += 1
            key = f"{self.name}/said{spoken}"
            self.journal.said.setdefault(session.ours, []).append(key)
            session.said.append(jsonrpc.notification("notifications/message", {"key": key}))
            if session.link is not None:
                session.link.hear_unasked(len(session.said))


class SimLink:
    """One link to a server. Implements `actors.link.Link`."""

    def __init__(
        self,
        server: SimServer,
        session: ServerSession,
        inbox: Inbox,
        is_dead: Callable[[], bool],
        established: Established,
    ) -> None:
        self.established = established
        self.resumable = server.kind.resumable
        self._server = server
        self._session = session
        self._inbox = inbox
        self.is_dead = is_dead
        self._open = True

    @property
    def _silent(self) -> bool:
        return not self._open or self.is_dead()

    # ---- what our session does with it ----

    def send(self, message: Message, ticket: int) -> None:
        server, mishaps = self._server, self._server.mishaps
        if self.is_dead():
            return  # a dead process sends nothing
        if not self._open:
            raise LinkLost("the link is gone")
        if server.happens(mishaps.link_bug):
            raise LinkBug("this link is simply wrong")
        if server.happens(mishaps.link_breaks):
            self.lose("connection reset")
            raise LinkLost("connection reset")
        server.nursery.start_soon(self._deliver, message, ticket)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        job = self._session.jobs.get(request_id)
        if job is not None and not self.is_dead():
            job.scope.cancel()

    def listen(self) -> None:
        self._session.listened = True

    def close(self, *, end_session: bool) -> None:
        if self.is_dead():
            return
        self._let_go()
        if end_session or not self.resumable:
            self._server.forget(self._session, "ended", tell=False)

    # ---- what becomes of a message ----

    async def _deliver(self, message: Message, ticket: int) -> None:
        server, mishaps = self._server, self._server.mishaps
        await trio.sleep(server.chance.random() * 0.02)
        fate = server.chance.random()
        if fate < mishaps.not_sent or not self._open:
            self._refuse(ticket, Failure.NOT_SENT)
        elif not self._session.alive:
            self._refuse(ticket, Failure.SESSION_LOST)
        elif fate < mishaps.not_sent + mishaps.outcome_unknown:
            if server.happens(0.5):
                self._accept(message, ticket)
            self._refuse(ticket, Failure.OUTCOME_UNKNOWN)
        elif fate < mishaps.not_sent + mishaps.outcome_unknown + mishaps.refused:
            self._refuse(ticket, Failure.REFUSED)
        else:
            self._accept(message, ticket)
            if message.kind is not Kind.REQUEST and not self._silent:
                self._inbox.delivered(ticket)

    def _refuse(self, ticket: int, failure: Failure) -> None:
        if not self._silent:
            self._inbox.refused(ticket, failure, failure.value)

    def _accept(self, message: Message, ticket: int) -> None:
        if message.kind is Kind.REQUEST:
            self._server.nursery.start_soon(self._server.run_call, self._session, message)
        elif message.kind is Kind.RESPONSE:
            self._server.take_answer(self._session, message)
        elif message.method == "notifications/cancelled" and self._server.happens(0.8):
            self.cancel(_params(message)["requestId"], "cancelled")

    # ---- what the server says ----

    def hear_about(self, job: Job, count: int, message: Message) -> None:
        if self._silent:
            return
        kind = self._server.kind
        about: RequestId | About = job.call_id if kind.resumable else About.UNKNOWN
        if message.kind is Kind.RESPONSE:
            about = job.call_id
        self._inbox.received(message, about=about, cursor=job.cursor(count) if kind.cursors else "")

    def hear_cursor(self, call_id: RequestId, cursor: str) -> None:
        if not self._silent:
            self._inbox.cursor_moved(call_id, cursor)

    def hear_unasked(self, count: int) -> None:
        if self._silent:
            return
        cursors = self._server.kind.cursors
        message = self._session.said[count - 1]
        self._inbox.received(message, about=About.NOTHING, cursor=str(count) if cursors else "")

    def catch_up(self, state: SessionState) -> None:
        """Say what was missed: after the cursors that our session has."""
        if not self._server.kind.cursors:
            return
        for call in state.calls.values():
            if call.upstream_cursor:
                self._catch_up_call(call)
        if state.standalone_cursor:
            for count in range(int(state.standalone_cursor) + 1, len(self._session.said) + 1):
                self.hear_unasked(count)

    def _catch_up_call(self, call: Call) -> None:
        job = self._session.jobs.get(call.request_id)
        if job is None or job.scope.cancel_called:  # nothing more will come
            if not self._silent:
                self._inbox.refused(call.ticket, Failure.OUTCOME_UNKNOWN, "its stream is gone")
            return
        after = int(call.upstream_cursor.rpartition(":")[2])
        for count in range(after + 1, len(job.said) + 1):
            self.hear_about(job, count, job.said[count - 1])

    def resend(self, state: SessionState) -> None:
        for call in state.calls.values():
            if call.message is not None and call.sent:
                self._server.nursery.start_soon(self._server.run_call, self._session, call.message)

    # ---- its end ----

    def lose(self, why: str) -> None:
        """Break."""
        if not self._open:
            return
        self._let_go()
        if not self.resumable and self._session.alive:
            self._server.forget(self._session, why, tell=False)
        if not self.is_dead():
            self._inbox.lost(why)

    def _let_go(self) -> None:
        self._open = False
        if self._session.link is self:
            self._session.link = None


def _params(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(message.raw)
    params = fields.get("params", {})
    assert isinstance(params, dict)
    return params
