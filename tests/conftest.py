"""What all tests share: asserts in the modules that tests lean on explain themselves as those of test files do, and no
property is refuted by the clock.

Registered here, before any test file is imported: some of these modules serve several folders.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite(
    "tests.persistence.contract",
    "tests.persistence.lease_contract",
    "tests.persistence.faulty",
    "tests.e2e.peers.peers_bed",
)

# Hypothesis' own deadline for an example is a timed assert: on a busy machine it fails what holds.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
