"""Requests beside MCP, to authorization servers: bounded in time and size, no redirects, no proxy.

They go over the pool of connections that carries everything else, so that a slow server holds up no thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs

from transport.upstreams.http_connection import UNAUTHORIZED
from transport.upstreams.http_pool import HttpPool, RequestFailed
from transport.upstreams.http_target import HttpTarget, default_user_agent, write_head

ANSWER_SECONDS_MAX = 5.0
ANSWER_BYTES_MAX = 64 * 1024  # metadata has a few kilobytes, an answer with a token one or two


@attrs.frozen
class Reply:
    """What came back."""

    status: int
    body: bytes = attrs.field(repr=False)  # it may hold a token
    challenge: str = ""  # its WWW-Authenticate


class SideRequests(Protocol):
    """How authorization servers are asked."""

    async def fetch(self, url: str) -> bytes:
        """Fetch a document.

        Raises:
          OSError: not there, not 200, too large.
          ValueError: not a URL that can be asked.
        """
        ...

    async def challenge(self, url: str) -> str:
        """Ask a server without credentials, and give its challenge; "": there is none. Raises: as `fetch`."""
        ...

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Post a form. Raises: as `fetch`, but any status is an answer.

        Cancellation: it may have been sent.
        """
        ...


@attrs.frozen
class PooledSideRequests:
    """Implements `SideRequests` over the pool."""

    pool: HttpPool

    async def fetch(self, url: str) -> bytes:
        reply = await self._ask("GET", url, {}, b"")
        if reply.status != 200:
            raise OSError(f"status {reply.status}")
        return reply.body

    async def challenge(self, url: str) -> str:
        reply = await self._ask("GET", url, {}, b"")
        return reply.challenge if reply.status == UNAUTHORIZED else ""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        form = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
        return await self._ask("POST", url, {**headers, **form}, body)

    async def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        target = HttpTarget.parse(url)
        own = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": default_user_agent()}
        request = write_head(method, target, tuple({**own, **headers}.items())) + b"\r\n" + body
        try:
            head, answer = await self.pool.fetch(
                target.origin, request, seconds=ANSWER_SECONDS_MAX, body_bytes_max=ANSWER_BYTES_MAX
            )
        except RequestFailed as failed:
            raise OSError(failed.detail) from None
        return Reply(head.status, answer, head.text(b"www-authenticate"))
