"""Around a server's ASGI app: tells the event store which session is meant, and opens sessions again after a restart.

The SDK keeps its sessions in a dict: after a restart each is unknown (404), and its kept events are of no use to
anyone. So the id that a client gets is one of ours, and the SDK's own stays inside. A request whose id has no session
of the SDK's behind it, but is kept in the store, opens one: with the handshake that the client once sent, said again
in its place. The client goes on under its id, and resumes its streams.

- What a server remembers of a session beside that (log level, subscriptions, values of its own) is gone: the SDK has
  nowhere to keep it. Requests that ran at the end of the process end with an error in their streams.
- A session id is told when the session is durable; its end, too, and when no request finds it any more.
- Last-Event-ID is looked at here: another session's or a made-up one gets 400, one that fell off the log 410. The SDK
  would answer 200 and nothing.
- When an event could not be kept, the SDK delivers nothing more in that session. Its connections are ended, and the
  next request opens it anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import attrs

from actors.event_log import CursorLost
from actors.ids import SESSION_ID_RANDOM_BYTES, InvalidEventId, mint_session_id
from actors.registry import SessionNotFound

if TYPE_CHECKING:
    from outlast.event_store import DurableEventStore, SessionEvents

log = logging.getLogger("outlast.event_scope")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Owner = Callable[[Scope], str]

STANDING_STREAM = "_GET_stream"  # the SDK's name for the stream that belongs to no request
ADOPTION_ID = "outlast-adoption"  # the request id of a handshake that is said again; its stream is not kept
HANDSHAKE_BYTES_MAX = 64 * 1024  # a session that is opened with more is served, and does not outlast the process
ADOPTION_SECONDS = 10.0
LIVE_SESSIONS_MAX = 10_000  # the SDK's own bound; which of its sessions it has let go of shows at their next use only
RETRY_SECONDS = 2  # told to clients while the store is away

SESSION_HEADER = b"mcp-session-id"
# Of the request that makes us open a session again, what does not belong to the requests that we make for it.
_NOT_REPEATED = (SESSION_HEADER, b"last-event-id", b"mcp-protocol-version", b"content-length", b"transfer-encoding")
_NOT_REPEATED_BODY = (b"content-type", b"content-encoding", b"accept", b"expect")

_STATUSES = {InvalidEventId: 400, CursorLost: 410, SessionNotFound: 404}

CURRENT: ContextVar[object] = ContextVar("outlast_session_events", default=None)


def authorization_digest(scope: Scope) -> str:
    """Tell who asks by the Authorization header; everybody without one is the same."""
    return hashlib.blake2b(_header(scope, b"authorization") or b"", digest_size=16).hexdigest()


@attrs.define(eq=False)
class _Live:
    """A session that the SDK has."""

    events: SessionEvents
    inner_id: bytes  # the SDK's id for it
    owner: str
    requests: set[anyio.CancelScope] = attrs.field(factory=set)
    standing: anyio.CancelScope | None = None  # the GET that carries the session's own stream


class ScopedApp:
    """An ASGI app around another. Made by `DurableEventStore.scoped`."""

    def __init__(self, app: App, store: DurableEventStore, owner: Owner) -> None:
        self._app = app
        self._store = store
        self._owner = owner
        self._live: dict[str, _Live] = {}  # least recently used first
        self._adopting: dict[str, anyio.Lock] = {}  # while somebody opens that session again

    def __repr__(self) -> str:
        return f"<ScopedApp of {len(self._live)} live sessions>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._app(scope, self._opening(receive), self._closing(send))
            return
        session_id = _header(scope, SESSION_HEADER) if scope["type"] == "http" else None
        if scope["type"] != "http" or (session_id is None and scope["method"] != "POST"):
            await self._app(scope, receive, send)
        elif session_id is None:
            await _Opening(self._app, self._store, self._owner(scope), self._live).serve(scope, receive, send)
        else:
            await self._serve_session(session_id.decode("latin-1"), scope, receive, send)

    def _opening(self, receive: Receive) -> Receive:
        async def opening() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup" and not self._store.is_open:
                await self._store.open()
            return message

        return opening

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._store.aclose()
            await send(message)

        return closing

    async def _serve_session(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        live = self._live.pop(session_id, None)
        if live is not None:
            self._live[session_id] = live  # the most recently used now
        try:
            live = live or await self._adopt(session_id, scope)
            standing = live is not None and await self._is_standing(session_id, live, scope)
        except (InvalidEventId, CursorLost, SessionNotFound) as refusal:
            await answer.refuse(_STATUSES[type(refusal)], str(refusal))
            return
        except Exception:  # isolation: whatever the store has, this request is told that it may try again
            log.exception("a session could not be opened again")
            await answer.refuse(503, "the session cannot be opened now", retry_seconds=RETRY_SECONDS)
            return
        if live is None:
            await answer.refuse(404, "Session not found")
        else:
            await self._serve_live(session_id, live, scope, receive, answer, standing=standing)

    async def _is_standing(self, session_id: str, live: _Live, scope: Scope) -> bool:
        """Say whether this request will carry the session's own stream; refuse cursors that cannot be replayed."""
        if scope["method"] != "GET":
            return False
        cursor = _header(scope, b"last-event-id")
        if cursor is None:
            live.events.take_over(STANDING_STREAM)
            return True
        return await self._store.stream_of(session_id, cursor.decode("latin-1")) == STANDING_STREAM

    async def _serve_live(
        self, session_id: str, live: _Live, scope: Scope, receive: Receive, answer: _Answer, *, standing: bool
    ) -> None:
        answer.inner_id, answer.session_id = live.inner_id, session_id
        inner = {**scope, "headers": [*_without(scope, SESSION_HEADER), (SESSION_HEADER, live.inner_id)]}
        resumes = _header(scope, b"last-event-id") is not None
        with anyio.CancelScope() as cancel:
            live.requests.add(cancel)
            if standing:
                # Newest wins. The one before is dead, or soon to be: no message may go to both.
                if resumes and live.standing is not None:
                    live.standing.cancel()
                live.standing = cancel
            say = self._ending(session_id, live, cancel, answer) if scope["method"] == "DELETE" else answer.send
            try:
                await self._under(live.events, inner, receive, say)
            finally:
                live.requests.discard(cancel)
                if live.standing is cancel:
                    live.standing = None
        if cancel.cancelled_caught:
            await answer.finish()
        self._after(session_id, live, scope, answer.status)

    def _ending(self, session_id: str, live: _Live, own: anyio.CancelScope, answer: _Answer) -> Send:
        """Hold the answer to a DELETE until the session's end is durable.

        Told before, it would not be so: the client's next request would find the session in the store and open it
        anew, and so would any request after a kill.
        """
        failed = False

        async def say(message: Message) -> None:
            nonlocal failed
            if message["type"] == "http.response.start" and message["status"] < 300:
                live.requests.discard(own)  # the others end with the session; this one has its answer to give
                try:
                    await self._store.forget(session_id)
                except Exception:  # isolation: as for a session that cannot be opened again
                    log.exception("the end of a session could not be kept")
                    failed = True
                    await answer.refuse(503, "the session cannot be ended now", retry_seconds=RETRY_SECONDS)
                _let_go(self._live, session_id, live)
            if not failed:
                await answer.send(message)

        return say

    def _after(self, session_id: str, live: _Live, scope: Scope, status: int) -> None:
        if status == 404 and self._owner(scope) == live.owner:
            # The SDK has let it go (idle, crashed). Somebody else's 404 says nothing of the session.
            _let_go(self._live, session_id, live)

    async def _adopt(self, session_id: str, scope: Scope) -> _Live | None:
        """Open a session of the SDK's for one that is kept; one request does it, others of the session wait."""
        lock = self._adopting.setdefault(session_id, anyio.Lock())
        try:
            async with lock:
                if session_id in self._live:
                    return self._live[session_id]
                owner = self._owner(scope)
                found = await self._store.adopt(session_id, owner=owner)
                if found is None or not found[1]:
                    return None
                events, handshake = found
                with anyio.fail_after(ADOPTION_SECONDS):
                    inner_id = await self._say_handshake(events, handshake, scope)
                if inner_id is None:
                    return None
                live = _Live(events, inner_id, owner)
                _remember(self._live, session_id, live)
                events.on_failed = lambda: _let_go(self._live, session_id, live)
                return live
        finally:
            if not lock.statistics().tasks_waiting:
                self._adopting.pop(session_id, None)

    async def _say_handshake(self, events: SessionEvents, handshake: bytes, scope: Scope) -> bytes | None:
        """Initialize a session of the SDK's as its client once did; give the SDK's id, or None if it refused."""
        initialize = json.dumps({**json.loads(handshake), "id": ADOPTION_ID}).encode()
        status, inner_id = await self._post(events, scope, initialize, None)
        if status >= 400 or inner_id is None:
            return None
        initialized = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        status, _ = await self._post(events, scope, initialized, inner_id)
        return inner_id if status < 400 else None

    async def _post(
        self, events: SessionEvents, scope: Scope, body: bytes, inner_id: bytes | None
    ) -> tuple[int, bytes | None]:
        """Make a POST of our own, as from whoever made `scope`'s request; give status and session id."""
        headers = _without(scope, *_NOT_REPEATED, *_NOT_REPEATED_BODY)
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"accept", b"application/json, text/event-stream")]
        headers += [(SESSION_HEADER, inner_id)] if inner_id is not None else []
        bodies = iter([body])

        async def receive() -> Message:
            for one in bodies:
                return {"type": "http.request", "body": one, "more_body": False}
            await anyio.sleep_forever()  # nobody disconnects; whoever waits for that is cancelled with the answer
            raise AssertionError

        async def ignore(_: Message) -> None:
            await anyio.lowlevel.checkpoint()

        answer = _Answer(ignore)
        await self._under(events, {**scope, "method": "POST", "headers": headers}, receive, answer.send)
        return answer.status, answer.told_id

    async def _under(self, events: SessionEvents, scope: Scope, receive: Receive, send: Send) -> None:
        token = CURRENT.set(events)
        try:
            await self._app(scope, receive, send)
        finally:
            CURRENT.reset(token)


class _Opening:
    """One POST without a session id: it may open a session."""

    def __init__(self, app: App, store: DurableEventStore, owner: str, live: dict[str, _Live]) -> None:
        self._app = app
        self._store = store
        self._owner = owner
        self._live = live
        self._body = bytearray()
        self._events = store.session(mint_session_id(secrets.token_bytes(SESSION_ID_RANDOM_BYTES)))
        self._cancel = anyio.CancelScope()
        self._begun = False  # it is durable: it stays, whatever becomes of this answer
        self._failed = False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)

        async def listen() -> Message:
            message = await receive()
            if message["type"] == "http.request" and len(self._body) <= HANDSHAKE_BYTES_MAX:
                self._body += message.get("body", b"")
            return message

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._begin(message, answer)
            if not self._failed:
                await answer.send(message)

        with self._cancel:
            token = CURRENT.set(self._events)
            try:
                await self._app(scope, listen, say)
            finally:
                CURRENT.reset(token)
                live = self._live.get(self._events.session_id)
                if live is not None:
                    live.requests.discard(self._cancel)
        if self._cancel.cancelled_caught:
            await answer.finish()
        if self._events.is_used and not self._begun:
            await self._store.forget(self._events.session_id)

    async def _begin(self, message: Message, answer: _Answer) -> None:
        """Make the session durable before its id is told."""
        inner_id = next((value for name, value in message["headers"] if name.lower() == SESSION_HEADER), None)
        if inner_id is None or message["status"] >= 400:
            return
        handshake = bytes(self._body) if len(self._body) <= HANDSHAKE_BYTES_MAX else b""
        try:
            await self._store.begin(self._events, owner=self._owner, handshake=handshake)
        except Exception:  # isolation: as for a session that cannot be opened again
            log.exception("a session could not be kept")
            self._failed = True
            await answer.refuse(503, "no session can be opened now", retry_seconds=RETRY_SECONDS)
            return
        session_id = self._events.session_id
        self._begun = True
        live = _Live(self._events, inner_id, self._owner, {self._cancel})
        _remember(self._live, session_id, live)
        self._events.on_failed = lambda: _let_go(self._live, session_id, live)
        answer.inner_id, answer.session_id = inner_id, session_id


class _Answer:
    """What goes back for one request: noted, and the SDK's session id replaced by ours."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.inner_id: bytes | None = None
        self.session_id = ""
        self.status = 0  # 0: nothing was said yet
        self.told_id: bytes | None = None  # the session id that the app itself named
        self._complete = False

    async def send(self, message: Message) -> None:
        """Pass on what the app says."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [(name.lower(), value) for name, value in message["headers"]]
            self.told_id = dict(headers).get(SESSION_HEADER)
            if self.told_id is not None and self.inner_id is not None:
                others = [(name, value) for name, value in headers if name != SESSION_HEADER]
                message = {**message, "headers": [*others, (SESSION_HEADER, self.session_id.encode("latin-1"))]}
        elif message["type"] == "http.response.body":
            self._complete = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, status: int, text: str, *, retry_seconds: int | None = None) -> None:
        """Answer in the app's place."""
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": text}}
        body = json.dumps(error).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if retry_seconds is not None:
            headers.append((b"retry-after", str(retry_seconds).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def finish(self) -> None:
        """End an answer that was called off; the client comes back, with its last event id if it has one."""
        if not self.status:
            await self.refuse(503, "the session is being opened again", retry_seconds=RETRY_SECONDS)
        elif not self._complete:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def _remember(live_sessions: dict[str, _Live], session_id: str, live: _Live) -> None:
    """Count a session of the SDK's in; beyond the bound the longest idle is let go, and opened anew if it is used."""
    live_sessions[session_id] = live
    if len(live_sessions) > LIVE_SESSIONS_MAX:
        idle = next((one for one, other in live_sessions.items() if not other.requests and other is not live), None)
        if idle is not None:
            live_sessions.pop(idle).events.close()


def _let_go(live_sessions: dict[str, _Live], session_id: str, live: _Live) -> None:
    """Forget a session of the SDK's; what is kept of it stays."""
    live.events.close()
    if live_sessions.get(session_id) is live:
        del live_sessions[session_id]
    for request in list(live.requests):
        request.cancel()


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _without(scope: Scope, *names: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, value) for key, value in scope["headers"] if key not in names]
