"""A WebSocket connection of which the access log tells: when it is accepted, and how it ended.

Stands in front of the connection that a server gives, passes everything on, and counts. A connection can last for days,
so it has two lines: one when it begins, in a log that tells of all, and one at its end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from persistence.shown import shown_id
from transport.access_log import AccessLog
from transport.clients.socket_frames import InvalidResume, read_resume
from transport.exchange import Headers, RequestHead
from transport.mcp import SESSION_HEADER
from transport.served import ServedRequest
from transport.socket_exchange import INTERNAL_ERROR, NORMAL, SocketExchange, SocketGone

_CLIENT, _GATEWAY = "client", "gateway"


class ToldSocket:
    """Implements `transport.socket_exchange.SocketExchange`."""

    __slots__ = (
        "_access_log",
        "_by",
        "_bytes_received",
        "_bytes_sent",
        "_code",
        "_received",
        "_sent",
        "_served",
        "_session",
        "_socket",
        "_status",
    )

    def __init__(self, socket: SocketExchange, served: ServedRequest, access_log: AccessLog) -> None:
        """
        Args:
          socket: the connection itself.
          served: the request that is to be upgraded.
        """
        self._socket = socket
        self._served = served
        self._access_log = access_log
        self._status = 0  # of the answer to the upgrade; 101: accepted
        self._code: int | None = None  # of the end; None: it has not ended
        self._by = _GATEWAY
        self._session = ""  # as it may be shown
        self._received = self._sent = self._bytes_received = self._bytes_sent = 0

    @property
    def head(self) -> RequestHead:
        return self._socket.head

    @property
    def subprotocols(self) -> Sequence[str]:
        return self._socket.subprotocols

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self._status = status
        await self._socket.refuse(status, headers, body)

    async def accept(self, subprotocol: str, headers: Headers = ()) -> None:
        await self._socket.accept(subprotocol, headers)
        self._status = 101
        self._session = _session_of(self._socket.head, headers)
        self._access_log.note_opened(self._socket.head, self._session)

    async def receive(self) -> str | bytes:
        try:
            message = await self._socket.receive()
        except SocketGone as gone:
            self._end(gone.code, _CLIENT)
            raise
        self._received += 1
        self._bytes_received += _size_of(message)
        return message

    async def send(self, text: str) -> None:
        try:
            await self._socket.send(text)
        except SocketGone as gone:
            self._end(gone.code, _CLIENT)
            raise
        self._sent += 1
        self._bytes_sent += _size_of(text)

    async def close(self, code: int, reason: str) -> None:
        self._end(code, _GATEWAY)
        await self._socket.close(code, reason)

    def tell_end(self, error: BaseException | None = None) -> None:
        """Tell that it is over, as its handler is.

        Args:
          error: what escaped from the handler, and is still to be answered.
        """
        seconds = round(time.perf_counter() - self._served.begun_seconds, 4)
        failed = isinstance(error, Exception) and not isinstance(error, SocketGone)
        head = self._socket.head
        if self._status != 101:
            status = self._status or (500 if failed else 0)  # 0: the client has gone, or the server stops
            self._access_log.note_answered(head, status, seconds)
            return
        self._end(INTERNAL_ERROR if failed else NORMAL, _GATEWAY)
        assert self._code is not None
        self._access_log.note_closed(
            head,
            self._code,
            seconds,
            by=self._by,
            session=self._session,
            messages_received=self._received,
            messages_sent=self._sent,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
        )

    def _end(self, code: int, by: str) -> None:
        if self._code is None:  # what ended it comes first; what follows from that is no news
            self._code, self._by = code, by


def _session_of(head: RequestHead, headers: Headers) -> str:
    """Name the session of an accepted connection: the one that it is told of, or the one that it comes back to."""
    new = next((value.decode("latin-1") for name, value in headers if name.decode().lower() == SESSION_HEADER), "")
    with suppress(InvalidResume):
        resume = read_resume(head)
        new = new or (resume.session_id if resume is not None else "")
    return shown_id(new) if new else ""


def _size_of(message: str | bytes) -> int:
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode("utf-8", "replace"))
