"""Places: where a store under test is, a SQLite file or a Redis server by its URL."""

from __future__ import annotations

from pathlib import Path

from persistence.opening import open_store
from persistence.sqlite import SqliteStore
from persistence.store import Store

Place = Path | str  # a file, or a store URL


def place_of(text: str) -> Place:
    """Read what a command line says."""
    return text if "://" in text else Path(text)


async def open_place(place: Place) -> Store:
    """Open the store that is there."""
    return await (SqliteStore.open(place) if isinstance(place, Path) else open_store(place))
