"""The accept loop: one server for all clients of the gateway.

Every connection begins on the hot road (`http1.py`); at its first request that is not hot it goes, with the bytes
read so far, to hypercorn for the rest of its life. What any connection raises ends that connection and is reported.

At its cap of connections the server accepts and answers 503 at once, instead of leaving clients in the backlog:
a client that is told can go elsewhere or wait as asked, one that is not told sees a hang until its own timeout; a
load balancer takes the first for "full", the second for "dead". The answer costs no task and is not waited for.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import trio

from actors import jsonrpc
from transport.answer import answer_head
from transport.connections import Connections
from transport.exchange import RequestHead
from transport.handler import JSON_HEADERS, Handler, HttpLimits, Report, error_body, is_expected, log_failure
from transport.http1 import Connection
from transport.wire import SocketWire, StreamWire, Wire

if TYPE_CHECKING:
    from transport.hypercorn_road import HypercornRoad

BACKLOG = 4096  # connections that wait to be accepted; a storm of reconnecting clients overruns the usual 100
DESCRIPTORS_KEPT = 200  # for stores, upstreams and files, out of what the process may open
CONNECTIONS_MAX = 20_000
_ACCEPT_BATCH = 64  # accepted in one go before others have their turn
_ACCEPT_PAUSE_SECONDS = 0.1  # after the process ran out of descriptors; trio's own accept loop waits as long
_REFUSAL_SECONDS = 1.0
_REFUSAL_BYTES = 64 * 1024
_TLS_HANDSHAKE_SECONDS = 10.0
# accept(2): the process or the system is out of something ...
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
# ... or this client was gone again before we came to it.
_GONE_BEFORE = {
    *(errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EINTR, errno.EPERM),
}

_logger = logging.getLogger("outlast.http")


@attrs.frozen
class ServerStatistics:
    """What a server has done, and has open."""

    connections_open: int
    connections_accepted: int
    connections_refused: int  # answered 503 at the cap
    connections_failed: int  # ended by an exception nobody expected
    connections_handed_over: int  # gone to hypercorn
    accept_pauses: int  # times that descriptors ran out


def default_connections_max() -> int:
    """Tell how many connections this process can hold and still open its own files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, soft - DESCRIPTORS_KEPT))


async def open_listeners(host: str | None, port: int, *, write_seconds: float = 10.0) -> list[socket.socket]:
    """Open listening sockets for every address that `host` has.

    Args:
      host: name or address; None for all interfaces.
      port: 0 takes any free one, the same for all addresses.
      write_seconds: what is sent and not acknowledged for so long ends a connection (TCP_USER_TIMEOUT), which
        also finds clients that are gone without a word.

    Returns:
      sockets that the caller is responsible for closing (`serve_http` takes that over).

    Raises:
      OSError: address in use, not ours, not known.
    """
    flags = socket.AI_PASSIVE
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if port == 0 and listeners:
                address = (address[0], listeners[0].getsockname()[1], *address[2:])
            listeners.append(_listen(socket.socket(family, kind, protocol), address, write_seconds))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(listener: socket.socket, address: tuple[Any, ...], write_seconds: float) -> socket.socket:
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by what is accepted
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_seconds * 1000))
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class HttpServer:
    """Accepts connections and serves them; made by `serve_http`."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        handler: Handler,
        *,
        asgi_app: Any = None,
        is_hot: Callable[[RequestHead], bool] = lambda head: True,
        hot: bool = True,
        limits: HttpLimits | None = None,
        connections_max: int | None = None,
        tls: ssl.SSLContext | None = None,
        report: Report = log_failure,
    ) -> None:
        if asgi_app is None and not hot:
            raise ValueError("without the hot road, an ASGI app is needed")
        self.limits = limits if limits is not None else HttpLimits()
        self.connections_max = connections_max if connections_max is not None else default_connections_max()
        self._listeners = tuple(listeners)
        self._addresses = tuple(listener.getsockname()[:2] for listener in listeners)
        self._asgi_app = asgi_app
        self._hot = hot
        self._tls = tls
        self._report = report
        self._connections = Connections(
            handler, self.limits, is_hot=is_hot if asgi_app is not None else lambda head: True, report=report
        )
        self._road: HypercornRoad | None = None
        self._accept_scope = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._open = self._accepted = self._refused = self._failed = self._handed_over = self._pauses = 0

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every listening socket, with the real port where 0 was asked for."""
        return self._addresses

    def statistics(self) -> ServerStatistics:
        """Count what was done."""
        return ServerStatistics(
            self._open, self._accepted, self._refused, self._failed, self._handed_over, self._pauses
        )

    def renew_tls(self, tls: ssl.SSLContext) -> None:
        """Speak TLS with this context on connections that come from now on; those that are there keep theirs."""
        if self._tls is None:
            raise ValueError("this server does not speak TLS")
        self._tls = tls

    def stop(self) -> None:
        """Accept no more; connections finish their current answer, with `Connection: close`, and close.

        `run` returns when the last one is gone. Streamed answers go on until their handlers end them.
        """
        self._accept_scope.cancel()
        self._connections.stop()
        if self._road is not None and self._nursery is not None:
            self._nursery.start_soon(self._road.stop)

    def abort(self) -> None:
        """Close everything now; `run` returns as soon as the handlers let it."""
        self._scope.cancel()
        if self._road is not None:
            self._road.break_off()

    async def run(self, *, task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` and the end of the last connection, or `abort`; then the listeners are closed.

        Cancellation: everything is closed.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as background:
                    background.start_soon(self._connections.sweep_forever)
                    async with trio.open_nursery() as self._nursery:
                        self._nursery.start_soon(self._accept_all)
                        task_status.started(self)
                    background.cancel_scope.cancel()
        finally:
            self._nursery = None

    async def _accept_all(self) -> None:
        try:
            with self._accept_scope:
                async with trio.open_nursery() as nursery:
                    for listener in self._listeners:
                        nursery.start_soon(self._accept_forever, listener)
        finally:
            for listener in self._listeners:
                listener.close()

    async def _accept_forever(self, listener: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                for _ in range(_ACCEPT_BATCH):
                    self._admit(*listener.accept())
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                if error.errno in _GONE_BEFORE:
                    continue
                if error.errno not in _EXHAUSTED:
                    raise
                # Connections in service go on; the new ones wait in the backlog until some of those end.
                self._pauses += 1
                _logger.error("cannot accept connections: %s", error)
                await trio.sleep(_ACCEPT_PAUSE_SECONDS)

    def _admit(self, client: socket.socket, address: Any) -> None:
        client.setblocking(False)
        if self._open >= self.connections_max or self._nursery is None:
            self._refused += 1
            self._refuse(client)
            return
        with suppress(OSError):  # not all stream sockets are TCP
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = str(address[0]) if isinstance(address, tuple) else "local"
        self._open += 1
        self._accepted += 1
        self._nursery.start_soon(self._serve_isolated, client, peer)

    def _refuse(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.send(_full_answer())
            client.shutdown(socket.SHUT_WR)
            client.recv(4096)  # a socket closed with bytes unread resets, and the reset may overtake the answer

    async def _serve_isolated(self, client: socket.socket, peer: str) -> None:
        """Serve one connection; nothing it raises gets further, except cancellation and what ends the process."""
        try:
            await self._serve(client, peer)
        except Exception as error:  # noqa: BLE001 - isolation: one connection never ends another
            self._note_failure(error)
        except BaseExceptionGroup as group:
            failures, others = group.split(Exception)
            if failures is not None:
                self._note_failure(failures)
            if others is not None:
                raise others from None
        finally:
            self._open -= 1
            client.close()

    def _note_failure(self, error: BaseException) -> None:
        if not is_expected(error):
            self._failed += 1
            self._report(None, error)

    async def _serve(self, client: socket.socket, peer: str) -> None:
        received: bytes | None = b""
        if self._tls is not None:
            stream = await _shake_hands(client, self._tls)
            if stream is None:
                return
            if self._hot:
                received = await self._serve_hot(StreamWire(stream), peer, "https")
            if received is not None:
                await self._hand_over(stream, received)
            return
        if self._hot:
            received = await self._serve_hot(SocketWire(client), peer, "http")
        if received is not None:
            await self._hand_over(_trio_stream(client), received)

    async def _serve_hot(self, wire: Wire, peer: str, scheme: str) -> bytes | None:
        """Serve on the hot road; gives bytes if the connection is to be handed over, and is closed otherwise."""
        received = None
        try:
            received = await Connection(wire, self._connections, peer=peer, scheme=scheme).run()
        finally:
            if received is None:
                await wire.aclose()
        return received

    async def _hand_over(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], received: bytes) -> None:
        if self._road is None:
            # Here and not above: importing hypercorn costs a tenth of a second, which a start does not wait for.
            from transport.hypercorn_road import HypercornRoad

            self._road = HypercornRoad(self._asgi_app, self.limits)
            if self._connections.stopping:
                await self._road.stop()
        self._handed_over += 1
        await self._road.serve(stream, received)


async def serve_http(
    listeners: Sequence[socket.socket],
    handler: Handler,
    *,
    asgi_app: Any = None,
    is_hot: Callable[[RequestHead], bool] = lambda head: True,
    hot: bool = True,
    limits: HttpLimits | None = None,
    connections_max: int | None = None,
    tls: ssl.SSLContext | None = None,
    report: Report = log_failure,
    task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP on these listeners, until `HttpServer.stop` or `abort` is called on what is started.

    Args:
      listeners: from `open_listeners`; takes responsibility for closing them.
      handler: answers the hot requests.
      asgi_app: answers the others, under hypercorn; None if all are hot.
      is_hot: looks at a request's head only. Once it says no, the connection stays with hypercorn for good.
      hot: False turns the hot road off: everything goes to the app.
      connections_max: open at once; beyond it clients are answered 503. None: as many as descriptors allow.
      tls: speak TLS with this context (HTTP/1.1 only).
      report: takes what handlers and connections raise unexpectedly.
      task_status: is given the running `HttpServer`.

    Cancellation: everything is closed.
    """
    server = HttpServer(
        listeners,
        handler,
        asgi_app=asgi_app,
        is_hot=is_hot,
        hot=hot,
        limits=limits,
        connections_max=connections_max,
        tls=tls,
        report=report,
    )
    await server.run(task_status=task_status)


async def _shake_hands(client: socket.socket, tls: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream] | None:
    """Begin TLS; None if the client does not manage to, in time."""
    stream = trio.SSLStream(_trio_stream(client), tls, server_side=True, https_compatible=True)
    try:
        with trio.fail_after(_TLS_HANDSHAKE_SECONDS):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        if getattr(error.__cause__, "reason", "") == "HTTP_REQUEST":  # OpenSSL's word for it
            await _answer_in_clear(stream.transport_stream)
        await trio.aclose_forcefully(stream)
        return None
    return stream


async def _answer_in_clear(stream: trio.SocketStream) -> None:
    """Tell a client that speaks HTTP where TLS is spoken what is wrong, as Go and nginx do: no data is worth less."""
    body = error_body("this port speaks HTTPS: write https:// in the URL")
    with suppress(trio.BrokenResourceError), trio.move_on_after(_REFUSAL_SECONDS):
        await stream.send_all(answer_head(400, JSON_HEADERS, closes=True, body_length=len(body)) + body)
        await stream.send_eof()
        await stream.receive_some(_REFUSAL_BYTES)  # closed with bytes unread, the reset may overtake the answer


def _trio_stream(client: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(client))


def _full_answer() -> bytes:
    body = error_body("the server has as many connections as it can hold", jsonrpc.OVERLOADED)
    headers = (*JSON_HEADERS, (b"retry-after", b"5"))
    return answer_head(503, headers, closes=True, body_length=len(body)) + body
