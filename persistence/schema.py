"""The schema of records' fields: its version, and the way up from every older one.

The version counts changes after which an older program would misread a record, or a newer one an older record. A field
that is added, and has a default where it is missing, is no such change. To make one: raise `SCHEMA_VERSION`, add the
upcaster from the version before, and keep a golden record of the new version (`tests/persistence/make_golden.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from persistence.shown import shown_id
from persistence.store import SnapshotTooNew

Fields = dict[str, Any]
Upcaster = Callable[[Fields], Fields]

SCHEMA_VERSION = 1
# From version v to v + 1: pure functions, kept for as long as records of version v may exist anywhere.
UPCASTERS: Mapping[int, Upcaster] = {}


def upcast(fields: Fields, version: int, wanted: int, upcasters: Mapping[int, Upcaster], session_id: str) -> Fields:
    """Bring fields up from one version to another, step by step.

    Raises:
      SnapshotTooNew: no upcaster, or a failing one: whatever it stumbles over, the record is to survive it, untouched.
    """
    try:
        for step in range(version, wanted):
            fields = upcasters[step](fields)
    except Exception as error:  # see Raises
        # Only what kind of error: its text may repeat what the record holds, and this one is shown to clients.
        kind = type(error).__name__
        raise SnapshotTooNew(
            f"session {shown_id(session_id)}…: cannot be brought up from version {version} ({kind})"
        ) from error
    return fields
