"""Import: the sessions of a document into a store, after all of it was found right.

Two passes. The first reads the whole document, checks every field, and looks whether its ids are free: whatever is
wrong ends the import with the path of the field, and nothing was written. The second writes. Each session is written
whole or not at all; if the store fails in the middle, those written before are there, and `replace` goes over them
again.

What stays in memory of a session is its id (some 150 bytes: duplicates must be found).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import BinaryIO

import attrs
import trio
from msgspec import UNSET

from actors.portable_checks import Misfit
from actors.portable_schema import PortableSession
from actors.portable_session import Defaults, in_place_of, in_place_of_unreadable, read_portable, to_records
from actors.store_use import check_sessions
from outlast.exporting import nothing
from outlast.files import read_blocks
from persistence.codec import Codec
from persistence.document import (
    FORMAT,
    SECRETS_REDACTED,
    VERSION,
    DocumentInvalid,
    DocumentReader,
    Element,
    Member,
    element_path,
)
from persistence.opening import open_store
from persistence.portable import Intake, SessionRecords
from persistence.presence import refuse_if_held
from persistence.store import SnapshotCorrupt, SnapshotTooNew, Store, StoreError

TTL_SECONDS = 24 * 3600.0  # as the gateway's own default


@attrs.frozen
class Imported:
    """What an import came to."""

    sessions: int
    entries: int  # kept events
    replaced: int
    expired: int  # in the store, but the next gateway to serve it removes them
    ended: int  # not in the store: it remembers that they have ended, and an ended id never comes back
    ignored: tuple[str, ...]  # fields that were there and have no place in a session, each once


async def import_sessions(
    store: str | Store,
    file: BinaryIO,
    *,
    replace: bool = False,
    take_over: bool = False,
    ttl_seconds: float = TTL_SECONDS,
    codec: Codec | None = None,
    progress: Callable[[int, int], None] = nothing,
) -> Imported:
    """Write the sessions of a document into a store.

    Args:
      store: a store URL, or an open store, which stays open. It is claimed: a runtime on it ends.
      file: the document, a binary file that can be read twice; it stays open.
      replace: put sessions in the place of those that have their ids; else such a document is refused.
      take_over: take the store from an owner that is at work on it, too; else it is refused.
      ttl_seconds: the time to live of sessions that do not say theirs.
      codec: how the store named by a URL seals its records: its keys.
      progress: told the bytes read and all there are to read, now and then.

    Raises:
      DocumentInvalid: it was refused as a whole; nothing was written.
      StoreUrlInvalid, StoreInvalid, StoreInUse: nothing was written; in use by whom, the message says.
      FenceLost, StoreFull, StoreUnavailable, StoreBroken: in the middle; what was written before is there.
      OSError: of the file.

    Cancellation: between two commits; what was written is there.
    """
    defaults = Defaults(time.time(), ttl_seconds, lambda: int.from_bytes(secrets.token_bytes(4), "big"))
    importing = _Import(file, replace, defaults, progress, take_over=take_over)
    await importing.check()  # before the store is opened: a wrong document does not make one
    if not isinstance(store, str):
        return await importing.write(store)
    opened = await open_store(store, codec=codec)
    try:
        return await importing.write(opened)
    finally:
        with trio.CancelScope(shield=True):  # bounded by the device: closing writes what the store has in its log
            await opened.aclose()


@attrs.define
class _Tally:
    """Counts of the first pass."""

    entries: int = 0
    expired: int = 0
    ignored: dict[str, None] = attrs.field(factory=dict)  # in the order in which they came
    counts: object = None  # as the document has them


class _Import:
    """One import, under way."""

    def __init__(
        self,
        file: BinaryIO,
        replace: bool,
        defaults: Defaults,
        progress: Callable[[int, int], None],
        *,
        take_over: bool,
    ) -> None:
        self._file = file
        self._replace = replace
        self._take_over = take_over
        self._defaults = defaults
        self._tell = progress
        self._indexes: dict[str, int] = {}  # of each id
        self._former: dict[str, int] = {}  # the revision of each that is to be replaced
        self._tally = _Tally()
        self._begins = file.tell()
        self._bytes = file.seek(0, os.SEEK_END) - self._begins

    async def check(self) -> None:
        """Read all of it, and keep its ids."""
        async with aclosing(self._parts(passes_before=0)) as parts:
            async for part in parts:
                if isinstance(part, Member):
                    _check_member(part)
                    if part.name == "counts":
                        self._tally.counts = part.value
                else:
                    self._check_session(part)
        _check_counts(self._tally.counts, len(self._indexes), self._tally.entries)

    async def write(self, store: Store) -> Imported:
        """Look whether the ids are free, and write."""
        await check_sessions(store)
        if not self._take_over:
            await refuse_if_held(store)
        await self._find_former(store)
        intake = Intake(store, await store.claim(f"import:{os.uname().nodename}:{os.getpid()}"))
        try:
            async with aclosing(self._parts(passes_before=1)) as parts:
                async for part in parts:
                    if isinstance(part, Element):
                        await intake.add(await self._to_write(part, store))
            await intake.flush()
        except (StoreError, DocumentInvalid) as error:
            error.add_note(
                f"{intake.written} sessions were written before, and perhaps some more: go over them with --replace"
            )
            raise
        ended = len(self._indexes) - await self._count_there(store)
        tally = self._tally
        written = intake.written - ended
        return Imported(written, tally.entries, len(self._former), tally.expired, ended, tuple(tally.ignored))

    async def _parts(self, *, passes_before: int) -> AsyncGenerator[Member | Element, None]:
        self._file.seek(self._begins)
        reader = DocumentReader()
        done = self._bytes * passes_before
        async with aclosing(read_blocks(self._file)) as blocks:
            async for block in blocks:
                for part in reader.feed(block):
                    yield part
                done += len(block)
                self._tell(done, 2 * self._bytes)
        reader.finish()

    def _check_session(self, element: Element) -> None:
        session, records = _read(element, self._defaults)
        if self._indexes.setdefault(session.id, element.index) != element.index:
            problem = f"is that of {element_path(self._indexes[session.id])}, too"
            raise DocumentInvalid(f"{element_path(element.index)}.id", problem)
        tally = self._tally
        tally.entries += records.events
        tally.expired += records.snapshot.header.expires_unix_s <= self._defaults.now_unix_s
        for name, said in (
            ("config.url", session.config.url),
            ("config.headers", session.config.headers),
            ("toolHistory", None if session.tool_history is UNSET else session.tool_history),
        ):
            if said:
                tally.ignored[name] = None

    async def _find_former(self, store: Store) -> None:
        after: int | None = 0
        while after is not None:
            headers, after = await store.scan(after=after)
            for header in headers:
                if header.session_id in self._indexes:
                    self._former[header.session_id] = header.revision
        if not self._former:
            return
        if not self._replace:
            first = min(self._indexes[session_id] for session_id in self._former)
            others = f", and {len(self._former) - 1} others" if len(self._former) > 1 else ""
            problem = f"the store has a session of this id already{others}; --replace puts the document's in its place"
            raise DocumentInvalid(f"{element_path(first)}.id", problem)
        for session_id in self._former:
            try:
                await store.load(session_id)
            except SnapshotCorrupt:
                continue  # what is to be replaced need not be readable
            except SnapshotTooNew:
                path = f"{element_path(self._indexes[session_id])}.id"
                raise DocumentInvalid(path, "the store's session of this id was written by a newer version") from None

    async def _to_write(self, element: Element, store: Store) -> SessionRecords:
        session, records = _read(element, self._defaults)
        if self._indexes.get(session.id) != element.index:
            raise DocumentInvalid(element_path(element.index), "the file was changed while it was read")
        if session.id not in self._former:
            return records
        try:
            former = await store.load(session.id)
        except SnapshotCorrupt:
            return in_place_of_unreadable(records, self._former[session.id])
        return records if former is None else in_place_of(records, former)

    async def _count_there(self, store: Store) -> int:
        """Count which of the document's sessions the store shows."""
        found, after = 0, 0
        while True:
            headers, following = await store.scan(after=after)
            found += sum(header.session_id in self._indexes for header in headers)
            if following is None:
                return found
            after = following


def _read(element: Element, defaults: Defaults) -> tuple[PortableSession, SessionRecords]:
    try:
        session = read_portable(element.text)
        return session, to_records(session, defaults)
    except Misfit as misfit:
        path = element_path(element.index)
        raise DocumentInvalid(f"{path}.{misfit.path}" if misfit.path else path, misfit.problem) from None


def _check_member(member: Member) -> None:
    """Check what the document says of itself. What is not known is left alone: it is about the whole, not a session."""
    match member:
        case Member("format", value) if value != FORMAT:
            raise DocumentInvalid("format", f'expected "{FORMAT}": is it the right file?')
        case Member("version", value) if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DocumentInvalid("version", "expected an integer of at least 1")
        case Member("version", value) if value > VERSION:
            raise DocumentInvalid("version", f"is {value}: a newer version wrote it, this one knows {VERSION}")
        case Member("secrets", value) if value == SECRETS_REDACTED:
            problem = "the document was exported without secrets, so nobody could go on with its sessions; export"
            raise DocumentInvalid("secrets", f"{problem} again with --with-secrets")


def _check_counts(counts: object, sessions: int, entries: int) -> None:
    if counts is None:
        return
    if not isinstance(counts, dict):
        raise DocumentInvalid("counts", "expected an object")
    for name, found in (("sessions", sessions), ("entries", entries)):
        if counts.get(name, found) != found:
            raise DocumentInvalid(f"counts.{name}", f"there are {found}: the document was changed, or cut short")
