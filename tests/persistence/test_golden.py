"""Records of every released schema are decoded for ever. How they are made: `make_golden.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from actors.snapshots import from_snapshot, to_snapshot
from persistence.codec import Codec
from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.schema import SCHEMA_VERSION
from persistence.store import SnapshotCorrupt
from tests.persistence.make_golden import ENTRY, FIELDS, GOLDEN, HEADER, from_json, make
from tests.persistence.sealed_codecs import NEW_KEY, OLD_KEY, codec

VERSIONS = sorted(GOLDEN.iterdir())
READER = codec(NEW_KEY, OLD_KEY)  # as an installation reads, years and a key later


def _expected(folder: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return expected


def _records(kind: str) -> list[Any]:
    return [
        pytest.param(folder, name, id=f"{folder.name}/{name}")
        for folder in VERSIONS
        for name in _expected(folder)[kind]
    ]


def test_each_version_of_the_schema_has_golden_records() -> None:
    assert [folder.name for folder in VERSIONS] == [f"v{version}" for version in range(1, SCHEMA_VERSION + 1)]
    for folder in VERSIONS:
        expected = _expected(folder)
        named = {*expected["snapshots"], *expected["entries"], "expected.json"}
        assert {path.name for path in folder.iterdir()} == named
        assert len(expected["snapshots"]) == len(expected["entries"]) == 4


@pytest.mark.parametrize(("folder", "name"), _records("snapshots"))
def test_a_golden_snapshot_opens(folder: Path, name: str) -> None:
    expected = _expected(folder)
    header = SnapshotHeader(**expected["header"])
    opened = READER.open_snapshot(header, (folder / name).read_bytes())
    assert opened == Snapshot(header, from_json(expected["fields"]))


@pytest.mark.parametrize(("folder", "name"), _records("snapshots"))
def test_a_golden_snapshot_is_a_session_and_keeps_all_it_holds(folder: Path, name: str) -> None:
    header = SnapshotHeader(**_expected(folder)["header"])
    opened = READER.open_snapshot(header, (folder / name).read_bytes())
    state = from_snapshot(opened)
    assert state.principal.subject == "ada"
    kept = to_snapshot(state).fields  # newer fields may stand beside these
    assert {name: kept[name] for name in opened.fields} == opened.fields


@pytest.mark.parametrize(("folder", "name"), _records("entries"))
def test_a_golden_entry_opens(folder: Path, name: str) -> None:
    expected = LogEntry(**{**_expected(folder)["entry"], "body": from_json(_expected(folder)["entry"]["body"])})
    sealed = attrs.evolve(expected, body=(folder / name).read_bytes())
    assert READER.open_entry(sealed) == expected


@pytest.mark.parametrize(("folder", "name"), _records("snapshots"))
def test_a_changed_golden_record_would_be_noticed(folder: Path, name: str) -> None:
    record = (folder / name).read_bytes()
    header = SnapshotHeader(**_expected(folder)["header"])
    with pytest.raises(SnapshotCorrupt):
        READER.open_snapshot(header, record[:-1] + bytes([record[-1] ^ 1]))


def test_a_plain_golden_record_is_what_is_written_today() -> None:
    folder = GOLDEN / f"v{SCHEMA_VERSION}"
    assert Codec().seal_snapshot(Snapshot(HEADER, FIELDS)) == (folder / "plain.snapshot").read_bytes()
    assert Codec().seal_entry(ENTRY) == (folder / "plain.entry").read_bytes()


def test_what_was_released_is_never_written_again() -> None:
    with pytest.raises(FileExistsError):
        make(GOLDEN / f"v{SCHEMA_VERSION}")


def test_newly_made_golden_records_open(tmp_path: Path) -> None:
    make(tmp_path / "made")
    for name in _expected(tmp_path / "made")["snapshots"]:
        test_a_golden_snapshot_opens(tmp_path / "made", name)
