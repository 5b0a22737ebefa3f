"""One session's events, as they are counted: streams, offsets, what is kept and what has to go. No waiting here.

The events themselves lie in the store. This is what a snapshot holds, and the arithmetic on it: pure but for being
changed in place (`outlast/event_journal.py` is the one that changes it, and it does so in one task at a time).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from actors.store_use import EVENT_STORE_SERVER_ID
from persistence.records import LogEntry, Snapshot, SnapshotHeader, Trim


@attrs.frozen(kw_only=True)
class EventLimits:
    """What is kept, at most. The oldest events of a session go first."""

    events_per_session_max: int = 1000
    bytes_per_session_max: int = 16 << 20
    event_bytes_max: int = 4 << 20  # the SDK's own bound of a request body
    sessions_max: int = 10_000  # the SDK's own bound of open sessions
    ttl_seconds: float = 24 * 3600.0  # from the last event or replay

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be greater than 0")


@attrs.define(eq=False)
class Stream:
    """One stream of a session, as the SDK names it."""

    name: str
    number: int  # never used again in this session, whatever the name
    generation: int  # which opening of the session began it: an earlier one's requests will not be answered
    offset: int = 0  # of its newest event
    ended: bool = False  # its request is answered
    kept: int = 0  # how many of its events are kept


class History:
    """What is known of a session's events.

    `sequence` counts events over all streams; `revision` rises with every change, and is what the store compares.
    """

    def __init__(self, session_id: str, epoch: int) -> None:
        self.session_id = session_id
        self.epoch = epoch
        self.revision = 0
        self.sequence = 0
        self.generation = 0
        self.owner = ""  # digest of who opened the session
        self.handshake = b""  # what the session was opened with
        self.last_active_unix_s = 0.0
        self.kept_bytes = 0
        self._last_stream = 0
        self._streams: dict[str, Stream] = {}
        self._numbers: dict[int, Stream] = {}
        self._kept: deque[tuple[int, int, int]] = deque()  # (sequence, stream number, bytes), oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def named(self, name: str) -> Stream | None:
        """Find a stream by the SDK's name for it."""
        return self._streams.get(name)

    def numbered(self, number: int) -> Stream | None:
        """Find a stream by its number; None once all its events have gone."""
        return self._numbers.get(number)

    def stream(self, name: str, *, standing: bool) -> Stream:
        """Give the stream that a new event of this name goes to; what it changes shows with `add` only.

        A request's stream that an earlier opening of the session began is not gone on with: its request will not be
        answered, and a client that counts its requests anew means another one. A `standing` stream goes on.
        """
        known = self._streams.get(name)
        if known is not None and (standing or known.generation == self.generation):
            return known
        return Stream(name, self._last_stream + 1, self.generation)

    def entry(self, stream: Stream, body: bytes, now_unix_s: float) -> LogEntry:
        """Make the next event of a stream; nothing is changed."""
        return LogEntry(self.session_id, self.sequence + 1, stream.number, stream.offset + 1, now_unix_s, body)

    def surplus(self, body_bytes: int, limits: EventLimits) -> Trim | None:
        """Say what has to go when an event of this size comes; nothing is changed."""
        events, size, through = len(self._kept) + 1, self.kept_bytes + body_bytes, 0
        for sequence, _, bytes_ in self._kept:
            if events <= limits.events_per_session_max and size <= limits.bytes_per_session_max:
                break
            events, size, through = events - 1, size - bytes_, sequence
        return Trim(self.session_id, through) if through else None

    def add(self, stream: Stream, entry: LogEntry, trim: Trim | None, *, ends: bool) -> None:
        """Count an event in, and out what goes for it."""
        assert entry.sequence == self.sequence + 1
        assert entry.offset == stream.offset + 1
        self._know(stream)
        self.sequence, stream.offset = entry.sequence, entry.offset
        stream.ended = stream.ended or ends
        self._keep(entry)
        self.last_active_unix_s = entry.at_unix_s
        if trim is not None:
            self._forget(trim.through_sequence)

    def snapshot(self, ttl_seconds: float) -> Snapshot:
        """Give the record of this state."""
        header = SnapshotHeader(
            self.session_id,
            self.revision,
            EVENT_STORE_SERVER_ID,
            self.owner,
            "",
            self.last_active_unix_s,
            self.last_active_unix_s + ttl_seconds,
        )
        streams = [[one.name, one.number, one.generation, one.offset, one.ended] for one in self._streams.values()]
        former = [one for one in self._numbers.values() if self._streams.get(one.name) is not one]
        fields: Mapping[str, Any] = {
            "epoch": self.epoch,
            "sequence": self.sequence,
            "generation": self.generation,
            "handshake": self.handshake,
            "last_stream": self._last_stream,
            # Former bearers of a name first: whoever reads this lets the later one have it.
            "streams": [[one.name, one.number, one.generation, one.offset, one.ended] for one in former] + streams,
        }
        return Snapshot(header, fields)

    @classmethod
    def of(cls, snapshot: Snapshot) -> History:
        """Read a record; the events that are kept are to be told by `learn`."""
        header, fields = snapshot.header, snapshot.fields
        history = cls(header.session_id, _integer(fields["epoch"]))
        history.revision, history.owner = header.revision, header.owner
        history.last_active_unix_s = header.last_active_unix_s
        history.sequence = _integer(fields["sequence"])
        history.generation = _integer(fields["generation"])
        handshake, streams = fields["handshake"], fields["streams"]
        assert isinstance(handshake, bytes)
        assert isinstance(streams, list)
        history.handshake = handshake
        for name, number, generation, offset, ended in streams:
            history._know(Stream(name, number, generation, offset, ended))
        history._last_stream = _integer(fields["last_stream"])
        return history

    def streams(self) -> list[Stream]:
        """Give all streams that have events."""
        return list(self._numbers.values())

    def learn(self, entries: Iterable[LogEntry]) -> None:
        """Count in what the store holds, in the order of their sequences."""
        for entry in entries:
            self._keep(entry)

    def _know(self, stream: Stream) -> None:
        self._streams[stream.name] = stream
        self._numbers[stream.number] = stream
        self._last_stream = max(self._last_stream, stream.number)

    def _keep(self, entry: LogEntry) -> None:
        self._kept.append((entry.sequence, entry.stream, len(entry.body)))
        self.kept_bytes += len(entry.body)
        self._numbers[entry.stream].kept += 1

    def _forget(self, through_sequence: int) -> None:
        while self._kept and self._kept[0][0] <= through_sequence:
            _, number, size = self._kept.popleft()
            self.kept_bytes -= size
            stream = self._numbers[number]
            stream.kept -= 1
            if not stream.kept:
                del self._numbers[number]
                if self._streams.get(stream.name) is stream:
                    del self._streams[stream.name]


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value
