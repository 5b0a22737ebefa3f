"""The access log: a line for each request that was answered, or only for those that the gateway failed; for a WebSocket
one when it is opened, and one when it is closed (`told_socket.py`).

A gateway answers thousands of requests a second, and proxies in front of it write their own lines; so by default only
answers of 500 and above are told of: those are ours to mend, and a proxy's line does not say why. Client's mistakes
(4xx) are in the metrics. Of the request only what carries no credential is written: never a header, never the query.
"""

from __future__ import annotations

import time
from typing import Literal, TypeAlias

import structlog

from transport.exchange import Exchange, RequestHead
from transport.handler import failure_answer
from transport.served import ServedRequest
from transport.socket_exchange import INTERNAL_ERROR, TRY_AGAIN_LATER

Told: TypeAlias = Literal["errors", "all"]

log = structlog.get_logger("outlast.access")

_FAILED = 500  # statuses from here on are the gateway's, or its upstream's
_FAILED_CODES = frozenset((INTERNAL_ERROR, TRY_AGAIN_LATER))  # and so are these; a restart (1012) is as it should be


class AccessLog:
    """Tells of requests when they are over."""

    def __init__(self, told: Told) -> None:
        self._least = _FAILED if told == "errors" else 0

    def note(self, served: ServedRequest, exchange: Exchange, error: BaseException | None = None) -> None:
        """Tell of a request, if it is one to tell of.

        Args:
          error: what escaped from its handler, and is still to be answered.
        """
        status = exchange.status
        if not status and error is not None:
            answer = failure_answer(error) if isinstance(error, Exception) else None
            status = 0 if answer is None else answer[0]  # 0: the client has gone, or the server stops
        self.note_answered(exchange.head, status, round(time.perf_counter() - served.begun_seconds, 4))

    def note_answered(self, head: RequestHead, status: int, seconds: float) -> None:
        """Tell of a request that was answered with this status, if it is one to tell of."""
        if status >= self._least:
            log.log(
                _level(status),
                "request answered",
                status=status,
                method=head.method,
                path=head.path,
                peer=head.peer,
                seconds=seconds,
            )

    def note_opened(self, head: RequestHead, session: str) -> None:
        """Tell of a WebSocket that was accepted, where all is told of.

        Args:
          session: as it may be shown.
        """
        if not self._least:
            log.info("websocket opened", path=head.path, peer=head.peer, session=session)

    def note_closed(self, head: RequestHead, code: int, seconds: float, **figures: str | int) -> None:
        """Tell of a WebSocket that has ended, if it is one to tell of.

        Args:
          code: RFC 6455, 7.4.
          figures: what else is known of it.
        """
        failed = code in _FAILED_CODES
        if failed or not self._least:
            level = _level(_FAILED if failed else 0)
            log.log(level, "websocket closed", path=head.path, peer=head.peer, code=code, seconds=seconds, **figures)


def _level(status: int) -> int:
    """Give `logging`'s number: an answer that failed is a warning; what failed has its own line, with the reason."""
    return 30 if status >= _FAILED else 20
