"""The SQLite store with everything compressed and encrypted keeps the promises of every store."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistence.sqlite import SqliteStore
from persistence.store import Store
from tests.persistence.contract import *  # noqa: F403 - the suite
from tests.persistence.places import SqlitePlace
from tests.persistence.sealed_codecs import CODECS


class SealedPlace(SqlitePlace):
    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return await SqliteStore.open(self.path, codec=CODECS["compressed and sealed"], tombstones_max=tombstones_max)


@pytest.fixture
def place(tmp_path: Path) -> SealedPlace:
    return SealedPlace(tmp_path)
