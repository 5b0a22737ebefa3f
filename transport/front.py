"""The front: what clients meet while the gateway behind it is not there yet.

The sockets are open before the store is: claiming it and reading the index take from milliseconds to as long as a store
does not answer, and asking servers for their tools (`outlast/tool_census.py`) may take seconds. A probe that got no
answer meanwhile would call the process dead and have it killed, over and over. So probes are answered from the first
moment (alive, not ready), and all others wait for the gateway, for a while that a restart usually stays below; then
they are told to come again.
"""

from __future__ import annotations

import time

import msgspec
import trio

from actors import jsonrpc
from actors.log_context import serving
from transport.access_log import AccessLog
from transport.exchange import Exchange, RequestHead
from transport.gateway import Gateway
from transport.handler import JSON_HEADERS, error_body
from transport.served import ServedRequest
from transport.socket_exchange import SocketExchange

STARTING = "starting: it is not ready for clients yet"
RETRY_AFTER = (b"retry-after", b"1")

_NOT_THERE = error_body(f"{STARTING}; try again in a moment", jsonrpc.UPSTREAM_UNAVAILABLE)
_to_json = msgspec.json.Encoder().encode


class Front:
    """A handler that stands in for a gateway, and passes everything on to it once it is there."""

    __slots__ = ("_access_log", "_gateway", "_open", "_wait_seconds")

    def __init__(self, *, wait_seconds: float = 5.0, access_log: AccessLog | None = None) -> None:
        """
        Args:
          wait_seconds: how long a request waits for the gateway before it is answered 503.
          access_log: told of each request that is answered here; None: nobody is.
        """
        self._access_log = access_log
        self._gateway: Gateway | None = None
        self._open = trio.Event()
        self._wait_seconds = wait_seconds

    def open(self, gateway: Gateway) -> None:
        """Let the gateway answer from now on, what has been waiting for it first."""
        self._gateway = gateway
        self._open.set()

    def is_hot(self, head: RequestHead) -> bool:
        """Whether a request belongs on the hot road; before it is known, what that road can carry does."""
        return "upgrade" not in head.headers if self._gateway is None else self._gateway.is_hot(head)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        gateway = self._gateway
        if gateway is None:
            gateway = await self._answer_or_wait(exchange)
        if gateway is not None:
            await gateway(exchange)

    async def _answer_or_wait(self, exchange: Exchange) -> Gateway | None:
        """Answer, and tell of it as the gateway does; or give the gateway, if that is to answer."""
        served = ServedRequest(exchange.head, "")
        serving(served)
        error: BaseException | None = None
        gateway = None
        try:
            if not await self._answered_without(exchange):
                gateway = await self._wait()
                if gateway is None:
                    await exchange.respond(503, (*JSON_HEADERS, RETRY_AFTER), _NOT_THERE)
        except BaseException as raised:  # told of, and raised again
            error = raised
            raise
        finally:
            if gateway is None and self._access_log is not None:
                self._access_log.note(served, exchange, error)
            served.end()
        return gateway

    async def serve_socket(self, socket: SocketExchange) -> None:
        """Serve one WebSocket connection, as the gateway does.

        Raises:
          SocketGone: the client went away.
        """
        gateway = self._gateway
        if gateway is None:
            served = ServedRequest(socket.head, "")
            serving(served)
            gateway = await self._wait()
            if gateway is None:
                await socket.refuse(503, (*JSON_HEADERS, RETRY_AFTER), _NOT_THERE)
                if self._access_log is not None:
                    seconds = round(time.perf_counter() - served.begun_seconds, 4)
                    self._access_log.note_answered(socket.head, 503, seconds)
            served.end()
        if gateway is not None:
            await gateway.serve_socket(socket)

    async def _answered_without(self, exchange: Exchange) -> bool:
        path = exchange.head.path
        if path == "/healthz":
            await exchange.respond(200, JSON_HEADERS, _to_json({"status": "alive"}))
        elif path == "/readyz":
            await exchange.respond(503, JSON_HEADERS, _to_json({"status": "not ready", "reason": STARTING}))
        elif path == "/health":
            body = {"status": "degraded", "ready": False, "reason": STARTING}
            await exchange.respond(503, (*JSON_HEADERS, RETRY_AFTER), _to_json(body))
        else:
            return False
        return True

    async def _wait(self) -> Gateway | None:
        with trio.move_on_after(self._wait_seconds):
            await self._open.wait()
        return self._gateway
