"""Commands that write to a store do not take it from a gateway that serves from it, unless they are told to.

Method: a runtime on a real Valkey server; `main` in a thread beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from outlast import open_runtime
from outlast.cli import main
from outlast.rekey import count_by_key
from outlast.settings import Settings
from outlast.sources import load_settings
from persistence.envelope import CLEAR
from persistence.key_ring import new_key
from persistence.store import FenceLost
from tests.persistence.redis_servers import RedisServer, running


@pytest.fixture
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    with running(server):
        yield server


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """A document with one session."""
    path, url = tmp_path / "document.json", f"sqlite:{tmp_path}/old.db"

    async def make() -> None:
        async with open_runtime(url) as runtime:
            await runtime.create()

    trio.run(make)
    assert main(["export", "--store", url, "--with-secrets", "--output", str(path)]) == 0
    return path


def beside_a_runtime(url: str, work: Callable[[], None]) -> bool:
    """Do something in a thread while a runtime serves from the store; say whether the runtime lost the store."""

    async def run() -> None:
        async with open_runtime(url) as runtime:
            session = await runtime.create()
            await trio.to_thread.run_sync(work)
            async with session.update() as values:
                values["still"] = "here"

    lost = False
    try:
        trio.run(run)
    except* FenceLost:
        lost = True
    return lost


def commands(server: RedisServer, document: Path) -> list[list[str]]:
    return [["import", str(document), "--store", server.url], ["rekey", "--store", server.url]]


@pytest.mark.parametrize("which", [0, 1], ids=["import", "rekey"])
def test_a_store_in_use_is_refused_and_the_gateway_goes_on(
    which: int, server: RedisServer, document: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands(server, document)[which]
    capsys.readouterr()

    def work() -> None:
        monkeypatch.setenv("SESSION_ENCRYPTION_KEY", new_key())
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "in use by" in said
        assert "--take-over" in said

    assert not beside_a_runtime(server.url, work)
    assert main(command) == 0, "the runtime has left"


@pytest.mark.parametrize("which", [0, 1], ids=["import", "rekey"])
def test_told_to_it_is_taken_over_and_the_gateway_ends(
    which: int, server: RedisServer, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*commands(server, document)[which], "--take-over"]

    def work() -> None:
        monkeypatch.setenv("SESSION_ENCRYPTION_KEY", new_key())
        assert main(command) == 0

    assert beside_a_runtime(server.url, work)


def test_counting_by_key_takes_nothing_from_anybody(server: RedisServer) -> None:
    settings: Settings = load_settings(config=None, environment={}, flags={"store": server.url})

    def work() -> None:
        [clear] = trio.run(count_by_key, settings)
        assert (clear.key_id, clear.snapshots) == (CLEAR, 1)

    assert not beside_a_runtime(server.url, work)
