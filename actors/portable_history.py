"""A session's call history in the portable document, and back. Pages stay pages: a moved history is trimmed as before.

Lossless: a page that was written and read again has the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors import portable_schema as schema
from actors.call_history import CallRecord, HistoryState, page_body, records_of
from actors.portable_checks import Misfit
from persistence.records import HISTORY_STREAM, LogEntry


def to_portable_history(history: HistoryState | None, entries: Iterable[LogEntry]) -> schema.PortableHistory | None:
    """Give the portable form of a history; None if there is none.

    Args:
      history: where it stands.
      entries: of the session's logs; those of other streams are left alone.

    Raises:
      SnapshotCorrupt: a page cannot be read.
    """
    if history is None:
        return None
    pages = tuple(_page_of(entry) for entry in entries if entry.stream == HISTORY_STREAM)
    return schema.PortableHistory(history.next_number, history.trimmed_through, pages, history.segments)


def to_history(session: schema.PortableSession) -> tuple[HistoryState | None, Sequence[LogEntry]]:
    """Give where a portable session's history stands, and its pages.

    Raises:
      Misfit: it contradicts itself.
    """
    said = session.history
    if said is None:
        return None, ()
    _check(said)
    entries = tuple(
        LogEntry(session.id, HISTORY_STREAM + page.last, HISTORY_STREAM, page.last, page.at, page_body(_records(page)))
        for page in said.pages
    )
    return HistoryState(said.next_number, said.trimmed_through, said.segments), entries


def _page_of(entry: LogEntry) -> schema.PortableHistoryPage:
    calls = tuple(
        schema.PortableHistoryCall(
            record.tool,
            record.started_at,
            record.seconds,
            record.outcome,
            record.code,
            record.arguments,
            record.result,
        )
        for record in records_of([entry])
    )
    return schema.PortableHistoryPage(entry.offset, entry.at_unix_s, calls)


def _records(page: schema.PortableHistoryPage) -> list[CallRecord]:
    return [
        CallRecord(call.tool, call.started_at, call.seconds, call.outcome, call.code, call.arguments, call.result)
        for call in page.calls
    ]


def _check(said: schema.PortableHistory) -> None:
    if said.trimmed_through >= said.next_number:
        raise Misfit("history.trimmedThrough", f"is not below nextNumber, {said.next_number}")
    former_last = 0
    for index, page in enumerate(said.pages):
        path = f"history.pages[{index}]"
        if not former_last + len(page.calls) <= page.last < said.next_number:
            raise Misfit(
                f"{path}.last", f"leaves no room for its calls behind {former_last}, or is not below nextNumber"
            )
        if not page.calls:
            raise Misfit(f"{path}.calls", "a page has at least one call")
        former_last = page.last
