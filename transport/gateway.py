"""The gateway: which path is served by whom; what is asked before anything else; what happens when it stops.

One handler for every request, whichever server carries it: `http1.py` on the hot road, hypercorn through `asgi.py`
elsewhere.

    /servers/{name}/mcp     Streamable HTTP, of sessions and (2026-07-28) without
    /servers/{name}/sse     HTTP+SSE of 2024-11-05, with /servers/{name}/messages
    /servers/{name}/ws      WebSocket
    /mcp  /sse  /messages  /ws   the same, when one server is configured
    /healthz  /readyz       for load balancers and supervisors
    /.well-known/oauth-protected-resource...   how to get a token, where tokens are asked for
    whatever else           operations (`operation.py`), most of them for operators only (`operators.py`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType

import msgspec

from actors import jsonrpc
from actors.ids import ANONYMOUS, Principal
from actors.log_context import serving
from actors.runtime import Runtime
from transport import guard
from transport.access_log import AccessLog
from transport.authentication import Authentication, Identity
from transport.clients.both_eras import BothEras
from transport.clients.legacy_sse import MESSAGES_PATH, STREAM_PATH, LegacySse
from transport.clients.socket_conversation import WebSocketOptions
from transport.clients.sse_front import LegacySseOptions
from transport.clients.stateless import Stateless, StatelessOptions
from transport.clients.streamable_http import StreamableHttp, StreamableHttpOptions
from transport.clients.websocket import WebSocketFace
from transport.exchange import Exchange, Headers, RequestHead
from transport.face import Face
from transport.handler import JSON_HEADERS, error_body
from transport.operation import Operation
from transport.operators import Operators
from transport.quota import Quota
from transport.served import ServedRequest
from transport.socket_exchange import SocketExchange
from transport.subjects import LiveSubjects
from transport.told_socket import ToldSocket
from transport.upstreams.breaker import Breaker
from transport.upstreams.stateless import StatelessUpstream

_to_json = msgspec.json.Encoder().encode


class Gateway:
    """Answers exchanges. Call it as a handler."""

    def __init__(
        self,
        runtime: Runtime,
        servers: Mapping[str, str],
        policy: guard.Policy,
        *,
        options: StreamableHttpOptions = StreamableHttpOptions(),
        sse_options: LegacySseOptions = LegacySseOptions(),
        socket_options: WebSocketOptions = WebSocketOptions(),
        stateless: Mapping[str, StatelessUpstream] = MappingProxyType({}),
        stateless_options: StatelessOptions = StatelessOptions(),
        operations: Sequence[Operation] = (),
        operators: Operators = Operators(),
        breakers: Mapping[str, Breaker] | None = None,
        authentication: Authentication | None = None,
        access_log: AccessLog | None = None,
        subjects: LiveSubjects | None = None,
        quota: Quota | None = None,
    ) -> None:
        """
        Args:
          runtime: where the sessions live.
          servers: name -> upstream transport of each server behind the gateway.
          policy: whom the guard lets in.
          stateless: by name, the servers that are also asked without sessions (2026-07-28).
          operations: what is served beside MCP; of two that serve a path, the first answers.
          operators: who may use those that are for operators only.
          breakers: by name, of the servers that have one.
          authentication: tells clients apart; None: all are the same, anonymous principal.
          access_log: told of each request that was answered; None: nobody is.
          subjects: told of the tokens that are presented, for servers whose own are got for these; None: nobody is.
          quota: how much each of them may use; None: the default.
        """
        self._runtime = runtime
        self._policy = policy
        self._operations = tuple(operations)
        self._operators = operators
        self._authentication = authentication
        self._access_log = access_log
        self._subjects = subjects
        self._quota = quota or Quota()
        self._draining = False
        self._faces: dict[str, Face] = {}
        self._sockets: dict[str, WebSocketFace] = {}
        self._server_of: dict[str, str] = {}  # by path, for logs
        self._stateless: list[Stateless] = []
        for name, transport in servers.items():
            breaker = (breakers or {}).get(name)
            face: Face = StreamableHttp(runtime, name, upstream_transport=transport, options=options, breaker=breaker)
            if name in stateless:
                face = BothEras(face, self._without_sessions(name, stateless[name], stateless_options))
            legacy = LegacySse(runtime, name, upstream_transport=transport, options=sse_options, breaker=breaker)
            sockets = WebSocketFace(
                runtime, name, upstream_transport=transport, options=socket_options, breaker=breaker
            )
            for prefix in (f"/servers/{name}/", "/") if len(servers) == 1 else (f"/servers/{name}/",):
                self._add_paths(name, prefix, face, legacy, sockets)

    def _without_sessions(self, name: str, upstream: StatelessUpstream, options: StatelessOptions) -> Stateless:
        own_tools, usage = self._runtime.own_tools, self._runtime.usage_of(name)
        self._stateless.append(Stateless(upstream, options, server_id=name, own_tools=own_tools, usage=usage))
        return self._stateless[-1]

    def _add_paths(self, name: str, prefix: str, face: Face, legacy: LegacySse, socket_face: WebSocketFace) -> None:
        """Serve a server at the paths that begin so."""
        faces = {f"{prefix}mcp": face, prefix + STREAM_PATH: legacy, prefix + MESSAGES_PATH: legacy}
        self._faces |= faces
        self._sockets[f"{prefix}ws"] = socket_face
        self._server_of |= dict.fromkeys((*faces, f"{prefix}ws"), name)

    def is_hot(self, head: RequestHead) -> bool:
        """Whether a request belongs on the hot road: MCP does; everything else goes to hypercorn."""
        return head.path in self._faces

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        head = exchange.head
        served = ServedRequest(head, self._server_of.get(head.path, ""))
        serving(served)
        try:
            await self._answer(exchange)
        except BaseException as error:  # told of, and raised again; its own line, if any, still names the request
            if self._access_log is not None:
                self._access_log.note(served, exchange, error)
            raise
        if self._access_log is not None:
            self._access_log.note(served, exchange)
        served.end()

    async def _answer(self, exchange: Exchange) -> None:
        head = exchange.head
        refusal = guard.guard(head, self._policy)
        if refusal is not None:
            await exchange.respond(refusal.status, refusal.headers, refusal.body)
            return
        extra: Headers = ()
        if "origin" in head.headers:
            if guard.is_preflight(head):
                await exchange.respond(204, guard.preflight_headers(head, self._policy), b"")
                return
            extra = guard.cors_headers(head, self._policy)
        face = self._faces.get(head.path)
        if face is None:
            await self._operate(exchange, extra)
        elif self._authentication is None:
            await face.handle(exchange, ANONYMOUS, extra)
        else:
            await self._authenticated(exchange, face, self._authentication, extra)

    async def _authenticated(
        self, exchange: Exchange, face: Face, authentication: Authentication, extra: Headers
    ) -> None:
        identity = await self._admit(exchange.head, authentication)
        if not isinstance(identity, Identity):
            await exchange.respond(identity.status, (*identity.headers, *extra), identity.body)
            return
        principal, deadline = identity.principal, authentication.deadline(identity)
        try:
            if self._subjects is None:
                await face.handle(exchange, principal, extra, deadline)
            else:
                with self._presented(self._subjects, exchange.head, principal, deadline):
                    await face.handle(exchange, principal, extra, deadline)
        finally:
            self._quota.leave(identity.principal)

    def _presented(
        self, subjects: LiveSubjects, head: RequestHead, principal: Principal, deadline: float
    ) -> AbstractContextManager[None]:
        """Note the token of a request, where the server behind is asked with one that is got for it."""
        if self._server_of[head.path] not in subjects.servers:
            return nullcontext()
        return subjects.present(principal, head, deadline)

    async def _admit(self, head: RequestHead, authentication: Authentication) -> Identity | guard.Rejection:
        """Say who asks, and count it until it leaves the quota; or what to answer."""
        identity = authentication.remembered(head) or await authentication.identify(head)
        if not isinstance(identity, Identity):
            return identity
        return self._quota.enter(identity.principal) or identity

    async def serve_socket(self, socket: SocketExchange) -> None:
        """Serve one WebSocket connection; who may come is decided before it is accepted.

        Raises:
          SocketGone: the client went away.
        """
        served = ServedRequest(socket.head, self._server_of.get(socket.head.path, ""))
        serving(served)
        try:
            if self._access_log is None:
                await self._answer_socket(socket)
            else:
                await self._answer_told(ToldSocket(socket, served, self._access_log))
        finally:
            served.end()

    async def _answer_told(self, socket: ToldSocket) -> None:
        try:
            await self._answer_socket(socket)
        except BaseException as error:  # told of, and raised again
            socket.tell_end(error)
            raise
        socket.tell_end()

    async def _answer_socket(self, socket: SocketExchange) -> None:
        head = socket.head
        refusal = guard.guard(head, self._policy)
        if refusal is not None:
            await socket.refuse(refusal.status, refusal.headers, refusal.body)
            return
        face = self._sockets.get(head.path)
        if face is None:
            known = ", ".join(sorted(self._sockets))
            reason = f"no WebSocket is served at this path; they are at {known}"
            await socket.refuse(404, JSON_HEADERS, error_body(reason, jsonrpc.METHOD_NOT_FOUND))
        elif self._authentication is None:
            await face.serve(socket, ANONYMOUS)
        else:
            await self._socket_of_somebody(socket, face, self._authentication)

    async def _socket_of_somebody(
        self, socket: SocketExchange, face: WebSocketFace, authentication: Authentication
    ) -> None:
        identity = await self._admit(socket.head, authentication)
        if not isinstance(identity, Identity):
            await socket.refuse(identity.status, identity.headers, identity.body)
            return
        principal, deadline = identity.principal, authentication.deadline(identity)
        try:
            if self._subjects is None:
                await face.serve(socket, principal, deadline)
            else:
                with self._presented(self._subjects, socket.head, principal, deadline):
                    await face.serve(socket, principal, deadline)
        finally:
            self._quota.leave(identity.principal)

    async def _operate(self, exchange: Exchange, extra: Headers) -> None:
        head = exchange.head
        if self._authentication is not None and self._authentication.resource.is_metadata(head.path):
            await self._tell_metadata(exchange, self._authentication, extra)
            return
        operation = next((one for one in self._operations if one.serves(head.path)), None)
        if operation is None:
            await self._probe(exchange, extra)
            return
        is_operator = self._operators.admits(head)
        if operation.operators_only and not is_operator:
            refusal = self._operators.refusal(head)
            await exchange.respond(refusal.status, (*refusal.headers, *extra), refusal.body)
        else:
            await operation.operate(exchange, is_operator, extra)

    async def _tell_metadata(self, exchange: Exchange, authentication: Authentication, extra: Headers) -> None:
        document = authentication.resource.metadata(exchange.head, [*self._faces, *self._sockets])
        if document is None:
            body = error_body("there is no MCP endpoint at this path", jsonrpc.METHOD_NOT_FOUND)
            await exchange.respond(404, (*JSON_HEADERS, *extra), body)
        else:
            open_to_all = () if extra else ((b"access-control-allow-origin", b"*"),)
            await exchange.respond(200, (*JSON_HEADERS, *open_to_all, *extra), document)

    async def _probe(self, exchange: Exchange, extra: Headers) -> None:
        head = exchange.head
        if head.path in self._sockets:
            headers = (*JSON_HEADERS, (b"upgrade", b"websocket"), *extra)
            await exchange.respond(426, headers, error_body("only WebSocket is spoken at this path"))
        elif head.path not in ("/healthz", "/readyz"):
            known = ", ".join(sorted((*self._faces, *self._sockets)))
            body = error_body(f"there is nothing at this path; MCP is served at {known}", jsonrpc.METHOD_NOT_FOUND)
            await exchange.respond(404, (*JSON_HEADERS, *extra), body)
        elif head.method not in ("GET", "HEAD"):
            await exchange.respond(405, (*JSON_HEADERS, (b"allow", b"GET, HEAD"), *extra), error_body("use GET"))
        elif head.path == "/healthz":
            await exchange.respond(200, (*JSON_HEADERS, *extra), _to_json({"status": "alive"}))
        else:
            await self._ready(exchange, extra)

    async def _ready(self, exchange: Exchange, extra: Headers) -> None:
        reason = self.not_ready_reason()
        status: dict[str, object] = {"status": "ready"} if not reason else {"status": "not ready", "reason": reason}
        degraded = self._runtime.degraded
        if degraded is not None:  # ready all the same: that is what the operator chose
            status["degraded"] = {"since_unix_s": degraded.since_unix_s, "facts_not_durable": degraded.facts}
        await exchange.respond(503 if reason else 200, (*JSON_HEADERS, *extra), _to_json(status))

    def not_ready_reason(self) -> str:
        """Say why clients should not be sent here now; "" if they may be."""
        if self._draining:
            return "draining"
        if self._runtime.writer.statistics().outage_seconds:
            return "the store does not answer"
        return ""

    def drain(self) -> None:
        """Be ready no more, take no new sessions, and have clients that only listen reconnect elsewhere, or later."""
        self._draining = True
        self._runtime.registry.drain()
        for face in set(self._faces.values()):
            face.end_standalone_streams()
        for socket_face in set(self._sockets.values()):
            socket_face.drain()

    async def wait_quiet(self) -> None:
        """Wait until no request that belongs to no session is in flight. Cancellation: safe."""
        for face in self._stateless:
            await face.wait_quiet()

    def cut(self) -> None:
        """Answer what `wait_quiet` was waiting for by errors."""
        for face in self._stateless:
            face.cut()
