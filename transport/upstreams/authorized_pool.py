"""The pool, with an access token put into each request on its way.

Links write their requests without one: a token may run out between two of them. So it is put in when a request leaves,
and a request for which there is none waits, in order and in bounds, until there is. What the upstream answers with 401
did not run: it is asked once more with another token, and then that is the answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import structlog

from actors.ids import Principal
from actors.link import Failure
from transport.upstreams.access_tokens import Authorization, TokenRefused, TokenSource, TokenUnavailable
from transport.upstreams.http_connection import UNAUTHORIZED, Job
from transport.upstreams.http_pool import HttpPool, RequestFailed
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_target import Origin

WAITING_MAX = 1024  # requests without a token, of one session or of all that share one; more: NOT_SENT

_log = structlog.get_logger(__name__)


class AuthorizedPool:
    """Implements `Carrier`."""

    __slots__ = ("_authorization", "_pool", "_source", "_waiting")

    def __init__(self, pool: HttpPool, authorization: Authorization, source: TokenSource | None = None) -> None:
        """
        Args:
          source: of the tokens; None: that of a request without a session.
        """
        self._pool = pool
        self._authorization = authorization
        self._source = source if source is not None else authorization.of_request()
        self._waiting: list[tuple[Origin, Job]] = []

    def __repr__(self) -> str:
        return f"<AuthorizedPool, {len(self._waiting)} wait for a token>"

    def observe(self, origin: Origin, failed: Callable[[str], None]) -> None:
        self._pool.observe(origin, failed)

    def on_behalf_of(self, principal: Principal) -> AuthorizedPool:
        return self._with(self._authorization.of(principal))

    def for_request(self) -> AuthorizedPool:
        return self._with(self._authorization.of_request())

    def _with(self, source: TokenSource) -> AuthorizedPool:
        return self if source is self._source else AuthorizedPool(self._pool, self._authorization, source)

    def tokens_shown(self) -> Iterable[str]:
        return self._source.shown()

    def submit(self, origin: Origin, job: Job) -> None:
        token = "" if self._waiting else self._source.current()
        if token:
            self._send(origin, job, token, again=True)
        else:
            self._queue(origin, job)

    async def prepare(self) -> None:
        await self._obtain()

    async def fetch(self, origin: Origin, request: bytes, *, seconds: float) -> tuple[ResponseHead, bytes]:
        token = await self._obtain()
        head, body = await self._pool.fetch(origin, _authorized(request, token), seconds=seconds)
        if head.status != UNAUTHORIZED or not self._source.replace(token):
            return head, body
        token = await self._obtain()
        return await self._pool.fetch(origin, _authorized(request, token), seconds=seconds)

    async def _obtain(self) -> str:
        try:
            return await self._source.obtain()
        except (TokenRefused, TokenUnavailable) as error:
            raise RequestFailed(Failure.NOT_SENT, str(error)) from None

    # ---- jobs ----

    def _send(self, origin: Origin, job: Job, token: str, *, again: bool) -> None:
        request = job.request
        job.request = _authorized(request, token)
        job.unauthorized = functools.partial(self._again, origin, job, request, token) if again else None
        self._pool.submit(origin, job)

    def _again(self, origin: Origin, job: Job, request: bytes, token: str) -> bool:
        """Take a job over that was answered with 401, unless another token is of no use."""
        if not self._source.replace(token):
            return False
        job.request = request
        self._queue(origin, job)
        return True

    def _queue(self, origin: Origin, job: Job) -> None:
        if len(self._waiting) >= WAITING_MAX:
            job.failed(Failure.NOT_SENT, f"{len(self._waiting)} requests already wait for a token")
            return
        self._waiting.append((origin, job))
        if len(self._waiting) == 1 and not self._pool.start_soon(self._send_waiting):
            self._waiting.clear()
            job.failed(Failure.NOT_SENT, "the gateway is not running")

    async def _send_waiting(self) -> None:
        """Send what waits, in order, once there is a token; or say why there is none."""
        failure: tuple[Failure, str] = (Failure.NOT_SENT, "the gateway is stopping")
        token = ""
        try:
            token = await self._source.obtain()
        except TokenUnavailable as error:
            failure = (Failure.NOT_SENT, str(error))
        except TokenRefused as error:
            failure = (Failure.REFUSED, str(error))
        finally:
            waiting, self._waiting = self._waiting, []
            for origin, job in waiting:
                self._settle(origin, job, token, failure)

    def _settle(self, origin: Origin, job: Job, token: str, failure: tuple[Failure, str]) -> None:
        if job.abandoned:
            return
        try:
            if token:
                self._send(origin, job, token, again=job.unauthorized is None)
            else:
                job.failed(*failure)
        except Exception:  # noqa: BLE001 - supervision: as for answers, one listener's fault is its own
            _log.exception("upstream_refusal_not_handled")


def _authorized(request: bytes, token: str) -> bytes:
    """Put the header behind the request line."""
    line, _, rest = request.partition(b"\r\n")
    return b"%b\r\nAuthorization: Bearer %b\r\n%b" % (line, token.encode("ascii"), rest)
