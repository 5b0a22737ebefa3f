"""The other side, scripted: links that answer, hold, refuse, are lost, and a journal of all that was sent.

One `FakeUpstream` stands behind all links of a test, as a server stands behind the links of its sessions; it
outlives a restarted runtime, so its journal shows what was run twice. Waiting is in trio's time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import trio

from actors import jsonrpc
from actors.jsonrpc import Kind, Message, RequestId
from actors.link import About, ConnectFailed, ConnectRejected, Established, Failure, Inbox, LinkLost
from actors.state import SessionState

HANDSHAKE = "initialize"


@attrs.frozen
class Sent:
    """One message that reached the other side."""

    session_id: str
    link: int  # which link it came over, from 0
    message: Message


class FakeUpstream:
    """What sessions talk to. Requests of methods without an answer here are held until the test answers them."""

    def __init__(self) -> None:
        self.journal: list[Sent] = []
        self.links: list[FakeLink] = []
        self.connects: list[SessionState] = []  # each attempt to open a link, as the session was then
        self.known: set[str] = set()  # upstream session ids that can be resumed
        self.answers: dict[str, Callable[[Message], Message]] = {HANDSHAKE: _welcome, "echo": _echo}
        self.failures: dict[str, list[Failure]] = defaultdict(list)  # by method: the next ones are refused so
        self.down = ""  # why nothing can be connected now
        self.down_servers: set[str] = set()
        self.rejects: tuple[str, str] | None = None  # reason and detail
        self.connect_seconds = 0.0
        self.on_connect: Callable[[SessionState], None] | None = None
        self.confirms = True  # notifications and answers are delivered at once
        self.resumable = True
        self.announcements: tuple[Message, ...] = ()
        self.listening: trio.Event | None = None  # set when it can be heard; None: at once
        self.loses_on_send: set[str] = set()  # the link is gone when a message of this method is sent
        self.starts_lost = False  # links are lost as soon as they are open

    async def connect(self, session: SessionState, inbox: Inbox) -> FakeLink:
        """Implements `actors.link.Connect`."""
        self.connects.append(session)
        if self.on_connect is not None:
            self.on_connect(session)
        await trio.sleep(self.connect_seconds)
        if self.down or session.server_id in self.down_servers:
            raise ConnectFailed(self.down or f"{session.server_id} is down")
        if self.rejects is not None:
            raise ConnectRejected(*self.rejects)
        link = FakeLink(self, session.session_id, len(self.links), inbox, self._established(session))
        self.links.append(link)
        if self.starts_lost:
            inbox.start_soon(link.lose_soon)
        return link

    def _established(self, session: SessionState) -> Established:
        handshake = session.handshake
        if handshake is None:
            return Established(resumed=session.opened)
        if handshake.upstream_session_id in self.known and not session.begin_anew:
            return Established(upstream_session_id=handshake.upstream_session_id, resumed=True)
        return Established(upstream_session_id=self.new_session(), announcements=self.announcements)

    def new_session(self) -> str:
        """Remember one more session, and give its name."""
        name = f"upstream-{len(self.known)}"
        self.known.add(name)
        return name

    def forget(self) -> None:
        """Be restarted: no session is known any more. Names are not used again."""
        self.known = {f"forgotten {name}" for name in self.known}

    def sent(self, method: str) -> list[Message]:
        """Give the messages of this method that reached the other side, in order."""
        return [sent.message for sent in self.journal if sent.message.method == method]

    @property
    def methods(self) -> list[str]:
        """Give the methods of all that reached the other side, in order."""
        return [sent.message.method for sent in self.journal]

    @property
    def link(self) -> FakeLink:
        """Give the newest link."""
        return self.links[-1]


class FakeLink:
    """Implements `actors.link.Link`."""

    def __init__(
        self, upstream: FakeUpstream, session_id: str, number: int, inbox: Inbox, established: Established
    ) -> None:
        self._upstream = upstream
        self._session_id = session_id
        self.number = number
        self.inbox = inbox
        self.established = established
        self.resumable = upstream.resumable
        self.tickets: dict[RequestId, int] = {}
        self.unconfirmed: list[int] = []  # tickets of notifications and answers
        self.cancelled: list[tuple[RequestId, str]] = []
        self.listens = 0
        self.closed: bool | None = None  # with `end_session` of the close
        self.is_lost = False

    def send(self, message: Message, ticket: int) -> None:
        if message.method in self._upstream.loses_on_send:
            self.is_lost = True
        if self.is_lost:
            raise LinkLost("the fake link is gone")
        failures = self._upstream.failures[message.method]
        if failures:
            failure = failures.pop(0)
            if failure is not Failure.NOT_SENT:
                self._journal(message)
            self.inbox.refused(ticket, failure, f"as scripted: {failure.value}")
            return
        self._journal(message)
        if message.kind is Kind.REQUEST:
            assert message.id is not None
            self.tickets[message.id] = ticket
            self._answer_scripted(message)
        elif self._upstream.confirms:
            self.inbox.delivered(ticket)
        else:
            self.unconfirmed.append(ticket)

    def _journal(self, message: Message) -> None:
        self._upstream.journal.append(Sent(self._session_id, self.number, message))

    def _answer_scripted(self, message: Message) -> None:
        if message.method == HANDSHAKE:
            self.established = Established(upstream_session_id=self._upstream.new_session())
        answer = self._upstream.answers.get(message.method)
        if answer is not None:
            self.inbox.received(answer(message), about=message.id if message.id is not None else About.NOTHING)

    def cancel(self, request_id: RequestId, reason: str) -> None:
        self.cancelled.append((request_id, reason))

    def listen(self) -> trio.Event | None:
        self.listens += 1
        return self._upstream.listening

    def close(self, *, end_session: bool) -> None:
        if self.closed is None:
            self.closed = end_session
        if self._upstream.listening is not None:
            self._upstream.listening.set()

    # ---- for the test: what the other side does ----

    def answer(self, request_id: RequestId, value: object = "done") -> None:
        """Answer a held request."""
        self.inbox.received(jsonrpc.result(request_id, value), about=request_id)

    def fail(self, request_id: RequestId, code: int = -32000, reason: str = "no") -> None:
        """Answer a held request with an error."""
        self.inbox.received(jsonrpc.error(request_id, code, reason), about=request_id)

    def say(
        self, method: str, params: object = None, *, about: RequestId | About = About.NOTHING, cursor: str = ""
    ) -> None:
        """Send a notification."""
        self.inbox.received(jsonrpc.notification(method, params), about=about, cursor=cursor)

    def ask(self, request_id: RequestId, method: str = "sampling", *, about: RequestId | About = About.NOTHING) -> None:
        """Send a request."""
        self.inbox.received(jsonrpc.request(request_id, method), about=about)

    def refuse(self, request_id: RequestId, failure: Failure) -> None:
        """Say that a held request will get no answer."""
        self.inbox.refused(self.tickets[request_id], failure, f"refused: {failure.value}")

    def lose(self, detail: str = "the connection broke") -> None:
        """Be gone."""
        self.is_lost = True
        self.inbox.lost(detail)

    async def lose_soon(self) -> None:
        """Be gone, as a task of the link would find out."""
        await trio.lowlevel.checkpoint()
        self.lose("lost at once")


def _welcome(message: Message) -> Message:
    assert message.id is not None
    return jsonrpc.result(message.id, {"protocolVersion": "2025-11-25"})


class _Params(msgspec.Struct):
    params: Any = None


def _echo(message: Message) -> Message:
    assert message.id is not None
    return jsonrpc.result(message.id, msgspec.json.decode(message.raw, type=_Params).params)
