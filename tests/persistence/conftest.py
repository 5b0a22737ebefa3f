"""Asserts in the contract suite and in the fakes explain themselves as those of test files do."""

import pytest

pytest.register_assert_rewrite("tests.persistence.contract", "tests.persistence.faulty")
