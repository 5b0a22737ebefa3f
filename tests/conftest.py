"""What all tests share: asserts in the modules that tests lean on explain themselves as those of test files do.

Registered here, before any test file is imported: some of these modules serve several folders.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.persistence.contract",
    "tests.persistence.lease_contract",
    "tests.persistence.faulty",
    "tests.e2e.peers.peers_bed",
)
