"""The index: every session's header as last known, by id, and how many there are of each owner and each failure.

Counts are kept along with every change, so asking for one costs a look-up however many sessions there are: a hundred
thousand of them are counted every few seconds by whoever watches the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from actors.ids import SessionId
from actors.tally import Tally
from persistence.records import SnapshotHeader


class SessionIndex:
    """Headers by session id."""

    __slots__ = ("_failed", "_headers", "_owned")

    def __init__(self) -> None:
        self._headers: dict[SessionId, SnapshotHeader] = {}
        self._owned = Tally()
        self._failed = Tally()  # by reason

    def __repr__(self) -> str:
        return f"SessionIndex({len(self)} sessions of {len(self._owned)} owners)"

    def __len__(self) -> int:
        return len(self._headers)

    def __contains__(self, session_id: SessionId) -> bool:
        return session_id in self._headers

    def __iter__(self) -> Iterator[SnapshotHeader]:
        """Give every header, in no order. Do not wait while iterating."""
        return iter(self._headers.values())

    def get(self, session_id: SessionId) -> SnapshotHeader | None:
        """Give a session's header; None: there is no such session."""
        return self._headers.get(session_id)

    def owned_by(self, owner: str) -> int:
        """How many sessions there are of an owner (a principal's digest)."""
        return self._owned.of(owner)

    @property
    def uninitialized(self) -> int:
        """How many sessions are uninitialized."""
        return self._failed.total

    def by_reason(self) -> Mapping[str, int]:
        """How many sessions are uninitialized, by reason."""
        return self._failed.counts()

    def put(self, header: SnapshotHeader) -> None:
        """Add a session, or what is new of one."""
        former = self._headers.get(SessionId(header.session_id))
        if former is not None:
            self._uncount(former)
        self._owned.add(header.owner)
        if header.failure:
            self._failed.add(header.failure)
        self._headers[SessionId(header.session_id)] = header

    def put_all(self, headers: Iterable[SnapshotHeader]) -> None:
        for header in headers:
            self.put(header)

    def put_if_new(self, header: SnapshotHeader) -> None:
        """Add a session, unless something is known of it already."""
        if header.session_id not in self._headers:
            self.put(header)

    def pop(self, session_id: SessionId) -> SnapshotHeader | None:
        """Take a session out; None: it was not there."""
        header = self._headers.pop(session_id, None)
        if header is not None:
            self._uncount(header)
        return header

    def _uncount(self, header: SnapshotHeader) -> None:
        self._owned.remove(header.owner)
        if header.failure:
            self._failed.remove(header.failure)
