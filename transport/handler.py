"""Handler: what answers an exchange; the bounds every server puts around it; what is said when it fails.

Both servers (`http1.py` and `asgi.py`) call the same handlers with the same limits and turn the same failures into
the same answers; so these are written once, here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import attrs

from actors import jsonrpc
from transport.exchange import BodyTooLarge, BodyTooSlow, ClientGone, Exchange, RequestHead

Handler = Callable[[Exchange], Awaitable[None]]
# Takes what a handler or a connection raised unexpectedly; the head is None when no request was being answered.
Report = Callable[[RequestHead | None, BaseException], None]

JSON_HEADERS = ((b"content-type", b"application/json"),)

_logger = logging.getLogger("outlast.http")


@attrs.frozen
class HttpLimits:
    """What one connection and one request may take; the answer when it is more is named with each."""

    head_bytes_max: int = 32 * 1024  # request line and headers; 431 (nginx: 4 x 8 KiB, h11: 16 KiB, Node: 16 KiB)
    target_bytes_max: int = 8 * 1024  # 414
    headers_max: int = 100  # 431
    body_bytes_max: int = 4 * 1024 * 1024  # 413; the limit of the MCP SDKs
    # Of a WebSocket's client; 1009.
    message_bytes_max: int = attrs.field(default=attrs.Factory(lambda self: self.body_bytes_max, takes_self=True))
    drain_bytes_max: int = 64 * 1024  # rest of a body nobody read: up to this is read away, more closes
    pipelined_bytes_max: int = 64 * 1024  # sent ahead of an unfinished answer; more: the connection is dropped
    head_seconds: float = 10.0  # from the first byte of a head to its last; 408
    body_seconds: float = 30.0  # for the whole body; 408
    idle_seconds: float = 75.0  # between requests (nginx's keepalive_timeout); closed without a word
    write_seconds: float = 10.0  # to take the next 16 KiB of an answer; dropped
    linger_seconds: float = 2.0  # to read a refusal while still sending, or to answer a close; then reset
    ping_seconds: float = 25.0  # of silence of a WebSocket's client, then a ping (proxies wait a minute); and ...
    pong_seconds: float = 15.0  # ... to say anything at all to that; taken for gone


class BadRequest(Exception):
    """The client's bytes cannot be served: answered with `status`, then the connection is closed.

    Handlers see it from `Exchange.body()` when the body's framing is broken; letting it escape is right.
    """

    def __init__(self, status: int, reason: str, code: int = jsonrpc.INVALID_REQUEST) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        self.code = code

    @property
    def body(self) -> bytes:
        return error_body(self.reason, self.code)


def error_body(reason: str, code: int = jsonrpc.INVALID_REQUEST) -> bytes:
    """Make the body of a refusal: a JSON-RPC error that answers no request in particular."""
    return jsonrpc.error(None, code, reason).raw


def failure_answer(error: BaseException) -> tuple[int, bytes] | None:
    """Tell how to answer what a handler let escape.

    Returns:
      status and JSON body; None if there is nobody to answer.
    """
    cause = _single_cause(error)
    match cause:
        case ClientGone():
            return None
        case BodyTooLarge():
            return 413, error_body(str(cause) or "the request body is larger than allowed")
        case BodyTooSlow():
            return 408, error_body(str(cause) or "the request body did not arrive in time")
        case BadRequest():
            return cause.status, cause.body
    return 500, error_body("internal error", jsonrpc.INTERNAL_ERROR)


def is_expected(error: BaseException) -> bool:
    """Tell whether this is the client's doing, so nothing that an operator would want in the log."""
    return isinstance(_single_cause(error), ClientGone | BodyTooLarge | BodyTooSlow | BadRequest)


def log_failure(head: RequestHead | None, error: BaseException) -> None:
    """Write an unexpected failure to the log `outlast.http`: the default `Report`.

    Only method and path are written of the request: headers and query carry credentials.
    """
    what = f"{head.method} {head.path!r}" if head is not None else "a connection"
    _logger.error("serving %s failed", what, exc_info=(type(error), error, error.__traceback__))


def _single_cause(error: BaseException) -> BaseException:
    """Look through groups: a handler with a nursery wraps the one thing that happened, sometimes several times.

    Where several things happened, an unexpected one counts first, then a refusal, then a client that is gone.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_single_cause(inner) for inner in error.exceptions]
    return min(causes, key=_rank)


def _rank(cause: BaseException) -> int:
    if isinstance(cause, ClientGone):
        return 2
    return 1 if isinstance(cause, BodyTooLarge | BodyTooSlow | BadRequest) else 0
