"""`outlast export` and `outlast import`: exit codes, one line for each thing that is wrong, files that are whole."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from outlast.cli import main
from persistence import sqlite_file
from persistence.opening import open_store
from persistence.records import Batch, Tombstone
from tests.outlast.moving_stores import EVENTS, contents, filled, records
from tests.persistence.sqlite_tools import file_size_limit

SESSIONS = 5


@pytest.fixture
def store(place: Path) -> str:
    """A SQLite store with some sessions, where the command line looks for one."""
    (place / "data").mkdir()
    trio.run(_fill, "sqlite:data/outlast.db")
    return "sqlite:data/outlast.db"


async def _fill(url: str) -> None:
    store = await open_store(url)
    await filled(store, map(records, range(SESSIONS)))  # type: ignore[arg-type]
    await store.aclose()


def ids_of(url: str) -> set[str]:
    async def read() -> set[str]:
        store = await open_store(url)
        try:
            return set(await contents(store))  # type: ignore[arg-type]
        finally:
            await store.aclose()

    return trio.run(read)


def lines(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    """Run a command that ends with this code, and give its lines on stderr."""
    assert main(arguments) == code
    written = capsys.readouterr()
    assert written.out == ""
    return written.err.splitlines()


def test_a_store_moves_by_two_commands(store: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (exported,) = lines(capsys, "export", "--with-secrets", "--output", "out.json")
    assert exported.startswith(f"outlast: exported {SESSIONS} sessions with {SESSIONS * EVENTS} events (with secrets")
    assert stat.S_IMODE((place / "out.json").stat().st_mode) == 0o600
    line, expired = lines(capsys, "import", "out.json", "--store", "sqlite:other.db")
    assert line == f"outlast: imported {SESSIONS} sessions with {SESSIONS * EVENTS} events"
    assert expired == f"outlast: {SESSIONS} of them have expired: the next gateway to serve the store removes them"
    assert ids_of("sqlite:other.db") == ids_of(store)
    (refused,) = lines(capsys, "import", "out.json", "--store", "sqlite:other.db", code=2)
    assert refused.startswith("outlast: out.json: sessions[0].id: the store has a session of this id already")
    line, _ = lines(capsys, "import", "out.json", "--store", "sqlite:other.db", "--replace")
    assert line.endswith(f"{SESSIONS * EVENTS} events, {SESSIONS} of them in place of others")


def test_an_export_to_stdout_is_the_document_alone_and_redacted(store: str) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-W", "error", "-m", "outlast", "export", "--store", store]
    ran = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": root}, check=True, timeout=60)

    whole = json.loads(ran.stdout)
    assert whole["secrets"] == "redacted"
    assert len(whole["sessions"]) == SESSIONS
    assert b"session-000" not in ran.stdout
    assert (
        ran.stderr
        == (
            f"outlast: exported {SESSIONS} sessions with {SESSIONS * EVENTS} events"
            " (secrets redacted: to be looked at)\n"
        ).encode()
    )


def test_a_reader_that_leaves_is_one_line(store: str) -> None:
    root = str(Path(__file__).parents[2])
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-W", "error", "-m", "outlast", "export", "--store", store]
    ran = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}, check=False, timeout=60
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (2, b"outlast: whoever read the export has stopped; it is incomplete\n")


def test_a_document_that_is_wrong_is_refused_with_the_path(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "in.json").write_text(json.dumps([{"id": "a"}, {"id": "b", "metrics": {"requests": "x"}}]))

    assert lines(capsys, "import", "in.json", code=2) == [
        'outlast: in.json: sessions[1].metrics.requests: expected an integer, got "x"'
    ]
    assert os.listdir(place) == ["in.json"]


def test_a_document_can_be_checked_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "in.json").write_text('[{"id": "a", "serverId": "s", "config": {"headers": {"k": "v"}}}]')

    first, second, third = lines(capsys, "import", "in.json", "--store", "memory:")
    assert first == "outlast: imported 1 sessions with 0 events"
    assert "memory: and has ended" in second
    assert third.startswith("outlast: not imported: config.headers")


def test_no_redacted_document_is_imported(store: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(capsys, "export", "--output", "out.json")
    (line,) = lines(capsys, "import", "out.json", "--store", "sqlite:other.db", code=2)
    assert line.endswith("export again with --with-secrets")
    assert not (place / "other.db").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--store", "sqlite:none.db"], "none.db: there is no such file"),
        (["export", "--store", "nonsense"], "--store"),
        (["export", "--config", "none.toml"], "none.toml"),
        (["export", "--output", "no/such/place.json"], "No such file or directory"),
        (["export", "--output", "data/outlast.db"], "this is the store itself"),
        (["export", "--output", "data/outlast.db-wal"], "this is the store itself"),
        (["import", "none.json"], "none.json"),
        (["import", "data"], "is a directory"),
        (["import"], "FILE"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    arguments: list[str], words: str, store: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = lines(capsys, *arguments, code=2)
    assert line.startswith("outlast: ")
    assert words in line
    assert os.listdir(place) == ["data"]
    assert len(ids_of(store)) == SESSIONS


def test_a_pipe_cannot_be_imported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    try:
        (line,) = lines(capsys, "import", f"/dev/fd/{reading}", "--store", "memory:", code=2)
    finally:
        os.close(reading)
        os.close(writing)
    assert "it is read twice" in line


def test_a_store_in_use_is_refused(store: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "in.json").write_text('[{"id": "a"}]')
    held = sqlite_file.hold(place / "data/outlast.db")
    try:
        for arguments in (["export", "--output", "out.json"], ["import", "in.json"]):
            (line,) = lines(capsys, *arguments, code=2)
            assert "in use" in line or "open" in line
    finally:
        held.release()
    assert sorted(os.listdir(place)) == ["data", "in.json"]


def test_an_output_without_room_leaves_nothing(store: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with file_size_limit(100):
        (line,) = lines(capsys, "export", "--output", "out.json", code=2)
    assert line == "outlast: --output out.json: File too large"
    assert os.listdir(place) == ["data"]


def test_a_session_that_cannot_be_read_makes_an_export_incomplete(
    store: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect("data/outlast.db") as connection:
        connection.execute("UPDATE session SET record = CAST(x'00' || record AS BLOB) WHERE rid = 2")
    connection.close()
    exported, left_out = lines(capsys, "export", "--output", "out.json", code=1)

    assert exported.startswith(f"outlast: exported {SESSIONS - 1} sessions")
    assert left_out.startswith("outlast: left out: session sessio…: session sessio…: not a record")


def test_ids_that_have_ended_make_an_import_incomplete(
    store: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def end_one() -> None:
        other = await open_store("sqlite:other.db")
        ended = Tombstone(records(1).snapshot.header.session_id, "client", 1.0)
        await other.commit(Batch(await other.claim("test"), tombstones=(ended,)))
        await other.aclose()

    trio.run(end_one)
    lines(capsys, "export", "--with-secrets", "--output", "out.json")
    told = lines(capsys, "import", "out.json", "--store", "sqlite:other.db", code=1)
    assert told[0].startswith(f"outlast: imported {SESSIONS - 1} sessions")
    assert told[-1].startswith("outlast: not imported: 1 sessions that had ended in this store")


def test_the_store_may_be_named_by_the_environment_and_the_file(
    store: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "outlast.toml").write_text('[outlast]\nstore = "sqlite:none.db"\n')
    assert "none.db" in lines(capsys, "export", "--config", "outlast.toml", code=2)[0]
    monkeypatch.setenv("SESSION_STORE", "sqlite:nowhere.db")
    assert "nowhere.db" in lines(capsys, "export", "--config", "outlast.toml", code=2)[0]
    assert "exported" in lines(capsys, "export", "--store", store, "--output", "x.json")[0]


def test_help_says_what_is_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    for command, word in (("export", "--with-secrets"), ("import", "--replace")):
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert word in text
        assert "Exit codes" in text
        assert "SESSION_STORE" in text
