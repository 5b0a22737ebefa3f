"""A request that is being served, as logs tell of it.

Made once for each request, so it holds what costs nothing to have; everything else is worked out when a line is
written. It lets go of the head at the request's end: contexts that inherited it may live for days, and a head carries
credentials.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Mapping

import trio

from persistence.shown import shown_id
from transport.exchange import RequestHead

# Taken over from a proxy in front, so that its lines and ours can be joined; anything else is no id, and may be long
# or meant to mislead whoever reads the log.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,63}")
_RUN = secrets.token_hex(3)  # of this process: numbers begin anew with each
_numbers = itertools.count(1)


class ServedRequest:
    """Implements `actors.log_context.Served`."""

    __slots__ = ("_number", "begun_seconds", "head", "server", "task")

    def __init__(self, head: RequestHead, server: str) -> None:
        """
        Args:
          server: the server that is asked for; "" for none in particular.
        """
        self.head: RequestHead | None = head  # None: it is over
        self.server = server
        self.task = trio.lowlevel.current_task()
        self.begun_seconds = time.perf_counter()
        self._number = next(_numbers)

    def end(self) -> None:
        """Forget what was asked: the request is over."""
        self.head = None

    def log_fields(self) -> Mapping[str, str]:
        """Name the request, its session and its server; nothing once it is over."""
        head = self.head
        if head is None:
            return {}
        fields = {"request": self._id(head)}
        session_id = head.headers.get("mcp-session-id", "")
        if session_id:
            fields["session"] = shown_id(session_id)
        if self.server:
            fields["server"] = self.server
        return fields

    def _id(self, head: RequestHead) -> str:
        given = head.headers.get("x-request-id", "")
        return given if _REQUEST_ID.fullmatch(given) else f"{_RUN}-{self._number:x}"
