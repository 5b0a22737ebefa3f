"""Export: all sessions of a store into one JSON document, as they stream by.

Reads only; a store of one owner (SQLite) must not be in use by a gateway. Without `with_secrets` the document is for
looking at: nobody can go on with its sessions (`actors/portable_redaction.py` says what is left out, and why), and
`outlast import` refuses it. What cannot be read is left out and counted, since the rest of a damaged store is worth
having most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs
import trio

from actors.portable_redaction import redact
from actors.portable_schema import encode_session
from actors.portable_session import kept_history, kept_streams, to_portable
from actors.store_use import check_sessions
from outlast.files import BlockWriter
from persistence.codec import Codec
from persistence.document import SECRETS_INCLUDED, SECRETS_REDACTED, SESSION_BYTES_MAX, DocumentWriter
from persistence.opening import open_store
from persistence.portable import SessionRecords, TooLarge, read_entries
from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.store import SnapshotCorrupt, SnapshotTooNew, Store, StoreError, StoreInvalid

_PAGE_SESSIONS = 1000
# Read at a time: a store's thread then finds the next job when it has done one, in place of waiting for the loop.
_READ_AHEAD = 32


@attrs.frozen
class Exported:
    """What an export came to."""

    sessions: int
    entries: int  # kept events
    left_out: tuple[str, ...]  # sessions that could not be read: the beginning of the id, and why


def nothing(_done: int, _total: int) -> None:
    """Tell nobody how far it has come."""


async def export_sessions(
    store: str | Store,
    file: BinaryIO,
    *,
    with_secrets: bool = False,
    codec: Codec | None = None,
    progress: Callable[[int, int], None] = nothing,
) -> Exported:
    """Write all sessions of a store as one JSON document.

    Memory: one session with its log at a time, and some small ones beside it.

    Args:
      store: a store URL, or an open store, which stays open. It is not claimed.
      codec: how the store named by a URL seals its records: its keys.
      file: where to, a binary file; it stays open, and is flushed by who opened it.
      with_secrets: what makes it possible to go on with the sessions elsewhere; keep such a document as you would keep
        passwords.
      progress: told the sessions done and all there are, now and then.

    Raises:
      StoreInvalid, StoreInUse, StoreUnavailable, StoreUrlInvalid
      OSError: of the file.

    Cancellation: ends at once; the document is incomplete then, and is refused by an import.
    """
    if not isinstance(store, str):
        return await _Export(store, BlockWriter(file), with_secrets, progress).run()
    check_there(store)
    opened = await open_store(store, codec=codec)
    try:
        return await _Export(opened, BlockWriter(file), with_secrets, progress).run()
    finally:
        with trio.CancelScope(shield=True):  # bounded by the device: closing writes what the store has in its log
            await opened.aclose()


def sqlite_path(url: str) -> Path | None:
    """Give the file of a SQLite store; None: the URL is another store's."""
    return Path(url.removeprefix("sqlite:")) if url.startswith("sqlite:") else None


def check_there(url: str) -> None:
    """Refuse a file that is not there: opening it would make an empty store, and nobody wants to read that.

    Raises:
      StoreInvalid
    """
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise StoreInvalid(f"{path}: there is no such file; name the store with --store")


class _Export:
    """One export, under way."""

    def __init__(
        self, store: Store, output: BlockWriter, with_secrets: bool, progress: Callable[[int, int], None]
    ) -> None:
        self._store = store
        self._output = output
        self._with_secrets = with_secrets
        self._tell = progress
        self._document = DocumentWriter()
        self._sessions = 0
        self._entries = 0
        self._left_out: list[str] = []

    async def run(self) -> Exported:
        await check_sessions(self._store)
        secrets = SECRETS_INCLUDED if self._with_secrets else SECRETS_REDACTED
        total = await self._count()
        await self._output.write(self._document.head(exported_unix_s=time.time(), secrets=secrets))
        after: int | None = 0
        while after is not None:
            headers, after = await self._store.scan(after=after, limit=_PAGE_SESSIONS)
            for start in range(0, len(headers), _READ_AHEAD):
                await self._write_sessions(headers[start : start + _READ_AHEAD])
                self._tell(self._sessions + len(self._left_out), total)
        await self._output.write(self._document.tail(left_out=len(self._left_out)))
        await self._output.flush()
        return Exported(self._sessions, self._entries, tuple(self._left_out))

    async def _count(self) -> int:
        total, after = 0, 0
        while after is not None:
            headers, following = await self._store.scan(after=after)
            total += len(headers)
            if following is None:
                break
            after = following
        return total

    async def _write_sessions(self, headers: Sequence[SnapshotHeader]) -> None:
        snapshots: dict[str, Snapshot] = {}
        failures: list[StoreError] = []
        async with trio.open_nursery() as nursery:
            for header in headers:
                nursery.start_soon(self._load, header.session_id, snapshots, failures)
        if failures:
            raise failures[0]  # not in a group: all of them say the same
        for header in headers:  # logs one after the other: they are the large part
            snapshot = snapshots.pop(header.session_id, None)
            if snapshot is not None:
                await self._write_session(snapshot)

    async def _load(self, session_id: str, snapshots: dict[str, Snapshot], failures: list[StoreError]) -> None:
        try:
            snapshot = await self._store.load(session_id)
        except (SnapshotCorrupt, SnapshotTooNew) as error:
            self._leave_out(session_id, error)
        except StoreError as error:
            failures.append(error)
        else:
            if snapshot is not None:  # else it has ended since
                snapshots[session_id] = snapshot

    async def _write_session(self, snapshot: Snapshot) -> None:
        session_id = snapshot.header.session_id
        try:
            records = await self._records(snapshot)
            text = self._text(records)
        except (SnapshotCorrupt, SnapshotTooNew, TooLarge) as error:
            self._leave_out(session_id, error)
            return
        await self._output.write(self._document.element(text, entries=records.events))
        self._sessions += 1
        self._entries += records.events

    async def _records(self, snapshot: Snapshot) -> SessionRecords:
        session_id = snapshot.header.session_id
        entries: list[LogEntry] = []
        for streams, last_sequence in (kept_streams(snapshot), kept_history(snapshot)):
            entries += await read_entries(self._store, session_id, streams, through_sequence=last_sequence)
        return SessionRecords(snapshot, entries)

    def _text(self, records: SessionRecords) -> bytes:
        session = to_portable(records.snapshot, records.entries)
        text: bytes = encode_session(session if self._with_secrets else redact(session))
        if len(text) > SESSION_BYTES_MAX:
            raise TooLarge(f"its text is longer than {SESSION_BYTES_MAX} bytes")
        return text

    def _leave_out(self, session_id: str, error: Exception) -> None:
        # The store's words name the session; a whole id is a secret, and a line on a terminal is not kept as one.
        shown = f"{session_id[:6]}…"
        self._left_out.append(f"session {shown}: {str(error).replace(session_id, shown)}")
