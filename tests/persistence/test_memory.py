"""The memory store keeps the contract of stores."""

from __future__ import annotations

import pytest

from tests.persistence.contract import *  # noqa: F403 - the suite of claims
from tests.persistence.lease_contract import *  # noqa: F403 - and of those about leases
from tests.persistence.places import MemoryPlace, Place


@pytest.fixture
def place() -> Place:
    return MemoryPlace()
