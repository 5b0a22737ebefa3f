"""Carrier: what takes the requests of links to an upstream and brings the answers back.

The pool of connections is one (`http_pool.py`); the other puts an access token into each request on its way there
(`authorized_pool.py`). A link does not know which it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from actors.ids import Principal
from transport.upstreams.http_connection import Job
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_target import Origin


class Carrier(Protocol):
    """Carries jobs to origins and their answers back."""

    def observe(self, origin: Origin, failed: Callable[[str], None]) -> None:
        """Have each failed attempt to connect to an origin told, with the reason."""
        ...

    def submit(self, origin: Origin, job: Job) -> None:
        """Send a job's request now, or as soon as that is possible. May call `job.failed` before it returns."""
        ...

    async def fetch(self, origin: Origin, request: bytes, *, seconds: float) -> tuple[ResponseHead, bytes]:
        """Make a request and wait for its answer; of an event stream, for its head alone.

        Raises:
          RequestFailed

        Cancellation: the request may have been sent.
        """
        ...

    async def prepare(self) -> None:
        """Have at hand what requests need besides a connection.

        Raises:
          RequestFailed: it cannot be had.

        Cancellation: safe.
        """
        ...

    def on_behalf_of(self, principal: Principal) -> Carrier:
        """Give what carries the requests of a principal's sessions."""
        ...

    def for_request(self) -> Carrier:
        """Give what carries a request without a session, from the task that serves it."""
        ...

    def tokens_shown(self) -> Iterable[str]:
        """Give the tokens that an upstream may have been shown lately."""
        ...
