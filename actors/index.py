"""The index: the header of every session that exists, and how many there are of each kind.

Counts are kept with each change, not made by looking at all sessions: a hundred thousand of them are counted every few
seconds by whoever watches the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from actors.ids import SessionId
from persistence.records import SnapshotHeader


class SessionIndex:
    """Headers by session id, as last known."""

    __slots__ = ("_failures", "_headers")

    def __init__(self) -> None:
        self._headers: dict[SessionId, SnapshotHeader] = {}
        self._failures: dict[str, int] = {}  # reason -> sessions; one without sessions is not in it

    def __len__(self) -> int:
        return len(self._headers)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self._headers

    def __iter__(self) -> Iterator[SnapshotHeader]:
        """Give every header, in no order. Do not wait while iterating."""
        return iter(self._headers.values())

    @property
    def uninitialized(self) -> int:
        """How many sessions are uninitialized."""
        return sum(self._failures.values())

    def by_reason(self) -> Mapping[str, int]:
        """How many sessions are uninitialized, by reason."""
        return dict(self._failures)

    def get(self, session_id: SessionId) -> SnapshotHeader | None:
        return self._headers.get(session_id)

    def put(self, header: SnapshotHeader) -> None:
        """Add a session, or replace what is known of it."""
        session_id = SessionId(header.session_id)
        before = self._headers.get(session_id)
        self._headers[session_id] = header
        if before is not None and before.failure:
            self._count(before.failure, -1)
        if header.failure:
            self._count(header.failure, 1)

    def put_all(self, headers: Iterable[SnapshotHeader]) -> None:
        for header in headers:
            self.put(header)

    def put_if_new(self, header: SnapshotHeader) -> None:
        """Add a session, unless something is known of it already."""
        if header.session_id not in self._headers:
            self.put(header)

    def pop(self, session_id: SessionId) -> SnapshotHeader | None:
        """Take a session out; None if it is not in."""
        header = self._headers.pop(session_id, None)
        if header is not None and header.failure:
            self._count(header.failure, -1)
        return header

    def _count(self, reason: str, by: int) -> None:
        count = self._failures.get(reason, 0) + by
        if count:
            self._failures[reason] = count
        else:
            del self._failures[reason]
