"""The SQLite store with everything compressed and encrypted keeps the promises of every store."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from persistence.codec import Codec
from persistence.sqlite import SqliteStore
from persistence.store import Store
from tests.persistence.contract import *  # noqa: F403 - the suite
from tests.persistence.places import SqlitePlace
from tests.persistence.sealed_codecs import CODECS

SEALED = CODECS["compressed and sealed"]


class SealedPlace(SqlitePlace):
    async def open(self, *, tombstones_max: int = 1000) -> Store:
        return await SqliteStore.open(self.path, codec=SEALED, tombstones_max=tombstones_max)

    def use_codec(self, store: Store, codec: Codec) -> None:
        super().use_codec(store, attrs.evolve(codec, compression=SEALED.compression, sealing=SEALED.sealing))


@pytest.fixture
def place(tmp_path: Path) -> SealedPlace:
    return SealedPlace(tmp_path)
