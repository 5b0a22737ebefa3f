"""A store that may degrade keeps the contract of stores, while the one behind it answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.persistence.behind import DegradingPlace
from tests.persistence.contract import *  # noqa: F403 - the suite of claims
from tests.persistence.places import FaultyPlace, MemoryPlace, Place, SqlitePlace


@pytest.fixture(params=["memory", "sqlite", "faulty"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    behind: dict[str, Place] = {"memory": MemoryPlace(), "sqlite": SqlitePlace(tmp_path), "faulty": FaultyPlace()}
    return DegradingPlace(behind[request.param])
