"""Listing sessions: which of them, in which order, from where on. Pure.

The index holds little of each session, so that a hundred thousand fit in memory. What it holds can be asked of all of
them at once (`Filter.admits`); the rest (`Filter.needs_record`) only of sessions whose record was read, one by one.

A place in the list is the sort key and the reference of the last session seen: it stays good when that session ends,
and needs nothing remembered. Sessions that are used meanwhile move in the list, as in any list that is sorted by use.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable, Sequence
from enum import Enum

import attrs

from actors.from_operator import TAGS
from actors.ids import SHORT_CHARACTERS, Principal, reference_of
from actors.state import SessionState
from persistence.records import SnapshotHeader

PLACE_PATTERN = "^[0-9a-f]{16}-[0-9a-f]{24}$"
_DOUBLE = struct.Struct(">d")


class Order(Enum):
    """What the list is sorted by: what the index knows."""

    LAST_ACTIVE = "last_active"
    LAST_ACTIVE_NEWEST = "-last_active"
    EXPIRES = "expires"
    EXPIRES_LATEST = "-expires"
    REVISION = "revision"
    REVISION_HIGHEST = "-revision"

    @property
    def descending(self) -> bool:
        return self.value.startswith("-")

    def key_of(self, header: SnapshotHeader) -> float:
        """Give what a session is sorted by."""
        match self:
            case Order.LAST_ACTIVE | Order.LAST_ACTIVE_NEWEST:
                return header.last_active_unix_s
            case Order.EXPIRES | Order.EXPIRES_LATEST:
                return header.expires_unix_s
            case _:
                return float(header.revision)


@attrs.frozen(order=True)
class Place:
    """A place in the list: behind this session."""

    key: float
    reference: str

    def write(self) -> str:
        """Give the place as text."""
        return f"{_DOUBLE.pack(self.key).hex()}-{self.reference}"

    @classmethod
    def read(cls, text: str) -> Place:
        """Read a place; the text matches `PLACE_PATTERN`."""
        key, _, reference = text.partition("-")
        return cls(_DOUBLE.unpack(bytes.fromhex(key))[0], reference)


@attrs.frozen(kw_only=True)
class Filter:
    """Which sessions; None: whichever. Bounds are inclusive, times are Unix time in seconds."""

    server_id: str | None = None
    initialized: bool | None = None
    reason: str | None = None  # why it is uninitialized
    principal: Principal | None = None
    last_active_from_unix_s: float | None = None
    last_active_until_unix_s: float | None = None
    text: str | None = None  # what the id's short form or the reference begins with
    # needs the record:
    subject: str | None = None
    tag: str | None = None
    created_from_unix_s: float | None = None
    created_until_unix_s: float | None = None

    @property
    def needs_record(self) -> bool:
        """Whether the index alone cannot tell."""
        wanted = (self.subject, self.tag, self.created_from_unix_s, self.created_until_unix_s)
        return any(one is not None for one in wanted)

    def admits(self, header: SnapshotHeader) -> bool:
        """Whether a session may be one of those, as far as the index knows."""
        if self.server_id is not None and header.server_id != self.server_id:
            return False
        if self.initialized is not None and self.initialized == bool(header.failure):
            return False
        if self.reason is not None and header.failure != self.reason:
            return False
        if self.principal is not None and header.owner != self.principal.digest:
            return False
        if not _within(header.last_active_unix_s, self.last_active_from_unix_s, self.last_active_until_unix_s):
            return False
        return self.text is None or _begins_with(header.session_id, self.text)

    def admits_record(self, state: SessionState) -> bool:
        """Whether a session is one of those, as far as its record tells and the index does not."""
        if self.subject is not None and state.principal.subject != self.subject:
            return False
        if self.tag is not None and self.tag not in tags_of(state):
            return False
        return _within(state.created_unix_s, self.created_from_unix_s, self.created_until_unix_s)


def tags_of(state: SessionState) -> list[str]:
    """Give a session's tags; what an application keeps under that name and is none is passed over."""
    tags = state.metadata.get(TAGS)
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def first_of(
    headers: Iterable[SnapshotHeader], order: Order, after: Place | None, known: Sequence[Found], count: int
) -> list[Found]:
    """Give the first sessions behind a place, of these and those known already.

    Args:
      headers: some sessions.
      known: the first of those looked at before, in order.
      count: at most so many.
    """
    worst = known[-1].place.key if len(known) >= count else None
    found = list(known)
    for header in headers:
        key = order.key_of(header)
        if after is not None and (key > after.key if order.descending else key < after.key):
            continue
        if worst is not None and (key < worst if order.descending else key > worst):
            continue
        place = Place(key, reference_of(header.session_id))  # a microsecond: for few of many
        if after is None or (place < after if order.descending else place > after):
            found.append(Found(place, header))
    choose = heapq.nlargest if order.descending else heapq.nsmallest
    return choose(count, found, key=_place_of)


@attrs.frozen
class Found:
    """A session of the list, and its place there."""

    place: Place
    header: SnapshotHeader


def _place_of(found: Found) -> Place:
    return found.place


def _within(value: float, lowest: float | None, highest: float | None) -> bool:
    return (lowest is None or value >= lowest) and (highest is None or value <= highest)


def _begins_with(session_id: str, text: str) -> bool:
    """Compare no more of an id than is shown anyway: else it could be found out character by character."""
    if len(text) <= SHORT_CHARACTERS and session_id.startswith(text):
        return True
    return reference_of(session_id).startswith(text)
