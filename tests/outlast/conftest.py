"""What every test of the command line needs: an environment, a current directory and logs that end with the test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

_OTHERS = ("REDIS_URL", "REDIS_SENTINEL_PASSWORD", "MAX_EVENTS_PER_SESSION")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the settings of whoever runs the tests."""
    for variable in os.environ:
        if variable.startswith(("OUTLAST_", "SESSION_")) or variable in _OTHERS:
            monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Put back the process's logs, which commands set up for themselves."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # `force` closes what it takes away, and these are wanted again
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place
