"""The SQLite store keeps the contract of stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.persistence.contract import *  # noqa: F403 - the suite of claims
from tests.persistence.places import Place, SqlitePlace


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return SqlitePlace(tmp_path)
