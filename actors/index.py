"""The index: every session's header as last known, by id, and how many sessions each owner has.

The count is kept along with every change, so asking for it costs a look-up however many sessions there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from actors.ids import SessionId
from actors.tally import Tally
from persistence.records import SnapshotHeader


class SessionIndex:
    """Headers by session id."""

    __slots__ = ("_headers", "_owned")

    def __init__(self) -> None:
        self._headers: dict[SessionId, SnapshotHeader] = {}
        self._owned = Tally()

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

    def put(self, header: SnapshotHeader) -> None:
        """Add a session, or what is new of one."""
        session_id = SessionId(header.session_id)
        former = self._headers.get(session_id)
        if former is None:
            self._owned.add(header.owner)
        elif former.owner != header.owner:  # another store's copy of it: owners never change, records may
            self._owned.remove(former.owner)
            self._owned.add(header.owner)
        self._headers[session_id] = header

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
            self._owned.remove(header.owner)
        return header
