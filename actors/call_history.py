"""A session's call history: which tools were called, when, for how long, and how that ended. For people to look up.

An audit, not a promise: a record is noted when its call has ended, waits in memory, and is kept with the session's next
commit, or after about a second. No reply waits for it. What had not been kept is lost by a crash, and by a session that
goes back to what is durable. An entry of the log for each call would be dear (a row costs the store 24 microseconds, a
relayed call 170 in all), so what was noted since the last commit becomes one entry, a *page*.

A call in flight is on record once a crash has ended it, if the session's record tells of it: if it had become a stream.
Others are in no snapshot, even where there was one meanwhile (`snapshots.py`): a call that was answered after that, and
whose own record was still soft, would be recorded as lost though its client has the answer.

Bounded by itself in calls and in bytes, in memory and in the store: pages are a log of their own, and push out no event
(`persistence/records.py`). The oldest page goes whole once all of it is beyond the bounds. What is noted beyond them
before it could be kept is dropped, oldest first: it would be trimmed by the same commit.

Arguments and results are not recorded unless `Limits.call_history_contents` says so: they may hold any secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import msgspec
from msgspec.structs import replace

from actors.jsonrpc import Message
from actors.log_bounds import within_bounds
from actors.messages import CallEnded
from actors.reading import reader
from actors.state import Call, Limits
from persistence.records import HISTORY_STREAM, LogEntry, Trim
from persistence.store import SnapshotCorrupt

PAGE_CALLS_MAX = 64  # a page goes whole, so the store keeps at most so many calls too many
TOOL_CHARACTERS_MAX = 256  # a name is for people to read


class CallRecord(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """One call that has ended. A name that was ever written stays; a new field gets a default."""

    tool: str
    started_at: float  # wall clock, Unix time in seconds
    seconds: float  # until its answer was there, or was given up
    outcome: str = "ok"  # as `messages.Ending`; a text, for what later versions may have to say
    code: int = 0  # of the JSON-RPC error that its client was told; 0: none
    arguments: str | None = None  # as JSON, cut off where they were too long; None: not recorded
    result: str | None = None  # the result, or the error, in the same way
    number: int = 0  # which call of the session's history; not stored, since pages count


@attrs.frozen
class CallPage:
    """Some calls of a session, newest first."""

    calls: tuple[CallRecord, ...]
    before: int | None  # ask for calls before this one to go on; None: there are no more


@attrs.frozen
class HistoryState:
    """Where a session's history stands: kept in its snapshot, but no part of what the session is."""

    next_number: int = 1  # of the first call that is on no page yet
    trimmed_through: int = 0
    segments: tuple[tuple[int, int], ...] = ()  # (last number, bytes) of pages kept, oldest first: log_bounds.py


class CallHistory:
    """The history of one session in memory: what is not on a page yet, and the pages that may be on their way."""

    __slots__ = (
        "_bytes_max",
        "_calls_max",
        "_dropped",
        "_given_back",
        "_limits",
        "_noted",
        "_noted_bytes",
        "_session_id",
        "_trim_line",
        "_under_way",
        "state",
    )

    def __init__(self, session_id: str, state: HistoryState, limits: Limits) -> None:
        self.state = state
        self._session_id = session_id
        self._limits = limits
        self._calls_max = limits.call_history_max
        self._bytes_max = limits.call_history_bytes_max
        self._dropped = 0  # of those noted since the last page
        self._noted: list[bytes] = []
        self._noted_bytes = 0
        self._trim_line = state.trimmed_through  # what the store was told last to trim
        self._given_back: tuple[LogEntry, ...] = ()
        self._under_way: tuple[LogEntry, ...] = ()  # one commit at a time: these are of the last

    def note(self, call: Call, ended: CallEnded) -> None:
        """Note a call that has ended."""
        encoded = _encode(_record(call, ended, self._limits))
        self._noted.append(encoded)
        self._noted_bytes += len(encoded)
        while len(self._noted) > self._calls_max or self._noted_bytes > self._bytes_max:
            self._noted_bytes -= len(self._noted.pop(0))
            self._dropped += 1

    def take_pages(self, at_unix_s: float) -> tuple[tuple[LogEntry, ...], Trim | None]:
        """Give what was noted since this was asked last, as log entries, and what of the log is to go.

        To be kept in the same commit as a snapshot with `state` as it is afterwards. What becomes of that is told to
        `note_outcome`.
        """
        noted, self._noted, self._noted_bytes = self._noted, [], 0
        if noted or self._dropped:
            self.state = attrs.evolve(self.state, next_number=self._next_number)
            self._dropped = 0
        starts = range(0, len(noted), PAGE_CALLS_MAX)
        fresh = [self._page(noted[start : start + PAGE_CALLS_MAX], at_unix_s) for start in starts]
        line = self.state.trimmed_through
        self._under_way = tuple([page for page in (*self._given_back, *fresh) if page.offset > line])
        self._given_back = ()
        if line <= self._trim_line:
            return self._under_way, None
        self._trim_line = line
        return self._under_way, Trim(self._session_id, HISTORY_STREAM + line)

    def note_outcome(self, kept: bool) -> None:
        """Note what became of the pages that were asked for last: what the store had no room for goes with the next."""
        under_way, self._under_way = self._under_way, ()
        if not kept:
            self._given_back = under_way
            self._trim_line = 0

    def _page(self, encoded: Sequence[bytes], at_unix_s: float) -> LogEntry:
        state, limits = self.state, self._limits
        body = b"[%s]" % b",".join(encoded)
        last = state.next_number + len(encoded) - 1
        trimmed_through, segments = within_bounds(
            state.segments,
            state.trimmed_through,
            last,
            len(body),
            count_max=limits.call_history_max,
            bytes_max=limits.call_history_bytes_max,
        )
        self.state = HistoryState(last + 1, trimmed_through, segments)
        return LogEntry(self._session_id, HISTORY_STREAM + last, HISTORY_STREAM, last, at_unix_s, body)

    @property
    def _next_number(self) -> int:
        """The number of the first of those noted that is on no page yet."""
        return self.state.next_number + self._dropped

    def place_of(self, before: int | None, limit: int) -> tuple[int, int]:
        """Give the number of the first call wanted, and that behind the last.

        Args:
          before: only calls before this one; None: from the newest on.
          limit: at most so many.
        """
        behind_newest = self._next_number + len(self._noted)
        end = behind_newest if before is None else max(1, min(before, behind_newest))
        return max(end - limit, self.state.trimmed_through + 1), end

    def reaches_before(self, number: int) -> bool:
        """Whether older calls than this one are kept."""
        return number > self.state.trimmed_through + 1

    def recent(self) -> list[CallRecord]:
        """Give the calls that the store may not have yet, oldest first."""
        records = list(records_of((*self._given_back, *self._under_way)))
        first = self._next_number
        return records + [replace(_decode(one), number=first + index) for index, one in enumerate(self._noted)]


def records_of(pages: Sequence[LogEntry]) -> Iterator[CallRecord]:
    """Give the calls on these pages, numbered.

    Raises:
      SnapshotCorrupt: this is no page.
    """
    for page in pages:
        try:
            records = _decode_page(page.body)
        except msgspec.DecodeError as error:
            raise SnapshotCorrupt(f"page {page.offset} of the call history: {error}") from error
        first = page.offset - len(records) + 1
        for index, record in enumerate(records):
            yield replace(record, number=first + index)


def page_body(records: Sequence[CallRecord]) -> bytes:
    """Give the body of a page with these calls."""
    return b"[%s]" % b",".join([_encode(replace(record, number=0)) for record in records])


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CallRecord).decode
_decode_page = msgspec.json.Decoder(list[CallRecord]).decode


def _record(call: Call, ended: CallEnded, limits: Limits) -> CallRecord:
    tool, seconds = call.label, ended.at_unix_s - call.started_unix_s
    if len(tool) > TOOL_CHARACTERS_MAX:
        tool = tool[:TOOL_CHARACTERS_MAX]
    if not limits.call_history_contents:
        return CallRecord(tool, call.started_unix_s, seconds, ended.ending, ended.code)
    size = limits.call_history_content_bytes_max
    arguments, result = _arguments(call.message, size), _result(ended.answer, size)
    return CallRecord(tool, call.started_unix_s, seconds, ended.ending, ended.code, arguments, result)


class _Params(msgspec.Struct, gc=False):
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Contents(msgspec.Struct, gc=False):
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_contents = reader(_Contents)
_decode_params = reader(_Params)


def _arguments(request: Message | None, bytes_max: int) -> str | None:
    """Give what a tool was called with: `params.arguments` where there is such a thing, else all parameters."""
    if request is None:  # sent by a former incarnation
        return None
    params = _decode_contents(request.raw).params
    try:
        arguments = _decode_params(params).arguments
    except msgspec.ValidationError:  # parameters in an array
        arguments = params
    return _cut(params if isinstance(arguments, msgspec.UnsetType) else arguments, bytes_max)


def _result(answer: Message | None, bytes_max: int) -> str | None:
    if answer is None:
        return None
    contents = _decode_contents(answer.raw)
    return _cut(contents.error if isinstance(contents.result, msgspec.UnsetType) else contents.result, bytes_max)


def _cut(raw: msgspec.Raw, bytes_max: int) -> str:
    content = bytes(raw)
    if len(content) <= bytes_max:
        return content.decode(errors="replace")  # raw JSON goes through unread: nobody has checked its texts
    return content[:bytes_max].decode(errors="replace") + "…"
