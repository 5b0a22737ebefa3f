"""Listing the sessions of a store that no gateway uses: what its index tells, read only.

The list is that of a running gateway (`actors/listing.py`), in the same shape. What only records tell (subject, tags,
creation) is asked of a gateway, or looked up in an export.
"""

from __future__ import annotations

import math
import time
from typing import Any

import trio

from actors.ids import reference_of, short_form
from actors.listing import Filter, Found, Order, first_of
from outlast.at_rest import codec_of
from outlast.exporting import check_there
from outlast.settings import Settings
from persistence.opening import open_store
from persistence.records import SnapshotHeader


async def list_stored(settings: Settings, wanted: Filter, order: Order, limit: int) -> dict[str, Any]:
    """Give the first sessions of a store, as the administration would tell them.

    Args:
      settings: which store, under which keys. It is not claimed.
      wanted: which sessions; nothing that needs their records.
      limit: at most so many.

    Raises:
      StoreInvalid, StoreInUse, StoreUnavailable, StoreUrlInvalid

    Cancellation: safe.
    """
    assert not wanted.needs_record
    check_there(settings.store)
    store = await open_store(settings.store, codec=codec_of(settings))
    try:
        found: list[Found] = []
        after: int | None = 0
        while after is not None:
            headers, after = await store.scan(after=after)
            admitted = [header for header in headers if wanted.admits(header)]
            found = first_of(admitted, order, None, found, limit + 1)
    finally:
        with trio.CancelScope(shield=True):  # bounded by the device: closing writes what the store has in its log
            await store.aclose()
    more = found[limit - 1].place.write() if len(found) > limit else None
    return {"sessions": [_summary(one.header) for one in found[:limit]], "next": more}


def filter_of(given: dict[str, Any]) -> Filter | str:
    """Give the filter that the administration's parameters mean; a text: which of them needs records."""
    for name in ("subject", "tag", "createdFrom", "createdUntil", "records"):
        if name in given:
            return name
    now_unix_s = time.time()
    state = given.get("state")
    least, most = given.get("idleSecondsMin"), given.get("idleSecondsMax")
    return Filter(
        server_id=given.get("server"),
        initialized=None if state is None else state == "initialized",
        reason=given.get("reason"),
        last_active_from_unix_s=None if most is None else now_unix_s - most,
        last_active_until_unix_s=None if least is None else now_unix_s - least,
        text=given.get("text"),
    )


def _summary(header: SnapshotHeader) -> dict[str, Any]:
    return {
        "reference": reference_of(header.session_id),
        "id": short_form(header.session_id),
        "server": header.server_id,
        "state": "uninitialized" if header.failure else "initialized",
        "reason": header.failure,
        "revision": header.revision,
        "lastActive": header.last_active_unix_s,
        "expires": header.expires_unix_s if math.isfinite(header.expires_unix_s) else None,
        "resident": False,
        "record": None,
    }
