"""keygen and rekey: keys are made, and changed, from the command line.

Method: `main` in this process on a SQLite file that holds sessions and log entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from outlast.cli import main
from persistence.codec import Codec
from persistence.key_ring import Key, new_key
from persistence.opening import open_store
from persistence.records import Batch
from tests.persistence.making import entry, snapshot
from tests.persistence.sealed_codecs import codec

SESSIONS = 30


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that was begun without a key."""
    path = tmp_path / "outlast.db"
    write(path, Codec())
    return path


def write(path: Path, codec: Codec, *, first: int = 0) -> None:
    async def run() -> None:
        store = await open_store(f"sqlite:{path}", codec=codec)
        fence = await store.claim("test")
        snapshots = [snapshot(f"session {n}") for n in range(first, first + SESSIONS)]
        await store.commit(Batch(fence, tuple(snapshots), tuple(entry(one.header.session_id) for one in snapshots)))
        await store.aclose()

    trio.run(run)


def all_open(path: Path, codec: Codec, sessions: int = SESSIONS) -> bool:
    async def run() -> bool:
        store = await open_store(f"sqlite:{path}", codec=codec)
        for n in range(sessions):
            assert await store.load(f"session {n}") == snapshot(f"session {n}")
            assert await store.read_log(f"session {n}", stream=0, after=0, limit=9) == [entry(f"session {n}")]
        await store.aclose()
        return True

    return trio.run(run)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    """Give the exit code, the lines on stdout, and all of stderr."""
    code = main(arguments)
    written = capsys.readouterr()
    return code, written.out.splitlines(), written.err


def use(monkeypatch: pytest.MonkeyPatch, keys: Sequence[str]) -> None:
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY", ",".join(keys))


def test_keygen_prints_a_key_and_nothing_else_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, [text], about = run(capsys, "keygen")
    assert code == 0
    assert f"{Key.read(text).id:08x}" in about
    assert text not in about
    assert run(capsys, "keygen")[1] != [text]


def test_rekey_encrypts_what_was_in_clear(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = new_key()
    use(monkeypatch, [text])
    name = f"key {Key.read(text).id:08x} (newest)"
    assert run(capsys, "rekey", "--store", f"sqlite:{store}", "--count")[:2] == (
        0,
        ["in clear: 30 sessions, 30 log entries"],
    )
    assert b"message 1" in store.read_bytes()
    code, lines, _ = run(capsys, "rekey", "--store", f"sqlite:{store}")
    assert (code, lines) == (0, [f"{name}: 30 sessions, 30 log entries"])
    assert all_open(store, codec(Key.read(text)))
    assert b"message 1" not in store.read_bytes()


def test_a_key_is_changed_and_the_old_one_can_be_taken_out(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_key(), new_key()
    use(monkeypatch, [old])
    run(capsys, "rekey", "--store", f"sqlite:{store}")
    use(monkeypatch, [new, old])
    write(store, codec(Key.read(new), Key.read(old)), first=SESSIONS)
    _, lines, _ = run(capsys, "rekey", "--store", f"sqlite:{store}", "--count")
    assert sorted(lines) == sorted(
        [
            f"key {Key.read(old).id:08x}: 30 sessions, 30 log entries",
            f"key {Key.read(new).id:08x} (newest): 30 sessions, 30 log entries",
        ]
    )
    code, lines, _ = run(capsys, "rekey", "--store", f"sqlite:{store}")
    assert code == 0
    assert lines == [
        f"key {Key.read(new).id:08x} (newest): 60 sessions, 60 log entries",
        f"key {Key.read(old).id:08x}: no record needs it; it can be taken out of SESSION_ENCRYPTION_KEY",
    ]
    assert all_open(store, codec(Key.read(new)), 2 * SESSIONS)


def test_records_whose_key_is_missing_are_left_and_counted(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, last = new_key(), new_key()
    write(store, codec(Key.read(lost)), first=SESSIONS)
    write(store, codec(Key.read(last), Key.read(lost)), first=2 * SESSIONS)
    use(monkeypatch, [last])
    code, lines, error = run(capsys, "rekey", "--store", f"sqlite:{store}")
    assert code == 1
    assert f"key {Key.read(lost).id:08x} (missing: these sessions are unavailable, and kept): 30 sessions" in str(lines)
    assert f"{2 * SESSIONS} records could not be rewritten" in error
    assert all_open(store, codec(Key.read(last), Key.read(lost)), 3 * SESSIONS)


def test_rekey_without_a_key_a_store_or_the_right_key_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, error = run(capsys, "rekey", "--store", f"sqlite:{store}")
    assert (code, "outlast keygen" in error) == (2, True)

    text = new_key()
    use(monkeypatch, [text])
    code, _, error = run(capsys, "rekey", "--store", f"sqlite:{tmp_path}/other/outlast.db")
    assert (code, "there is none" in error) == (2, True)
    assert not (tmp_path / "other").exists()
    assert run(capsys, "rekey", "--store", "memory:")[0] == 2

    write(store, codec(Key.read(new_key())))
    before = store.read_bytes()
    code, _, error = run(capsys, "rekey", "--store", f"sqlite:{store}")
    assert (code, "not touched" in error, text in error) == (2, True, False)
    assert store.read_bytes() == before


def test_rekey_beside_a_running_gateway_is_refused(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, [new_key()])

    async def while_open() -> None:
        running = await open_store(f"sqlite:{store}")
        try:
            code, _, error = await trio.to_thread.run_sync(run, capsys, "rekey", "--store", f"sqlite:{store}")
            assert (code, "open already" in error) == (2, True)
        finally:
            await running.aclose()

    trio.run(while_open)


def test_rekey_can_be_cut_short_and_goes_on(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = new_key(), new_key()
    use(monkeypatch, [old])
    run(capsys, "rekey", "--store", f"sqlite:{store}")
    use(monkeypatch, [new, old])

    def cut(done: int, total: int) -> None:
        raise KeyboardInterrupt

    from outlast import rekey
    from outlast.sources import load_settings

    settings = load_settings(environment={"SESSION_ENCRYPTION_KEY": f"{new},{old}"}, flags={"store": f"sqlite:{store}"})
    with pytest.raises(KeyboardInterrupt):
        trio.run(lambda: rekey.rekey(settings, tell=cut))
    assert all_open(store, codec(Key.read(new), Key.read(old)))
    code, lines, _ = run(capsys, "rekey", "--store", f"sqlite:{store}")
    assert (code, lines[0]) == (0, f"key {Key.read(new).id:08x} (newest): 30 sessions, 30 log entries")
