"""The notes of changes are well named, and become the history's next section, once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import outlast

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_history", ROOT / "changes/make_history.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_history = _load()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "changes").mkdir()
    (tmp_path / "outlast").mkdir()
    (tmp_path / "outlast/__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# History\n\nWhat changed.\n\n## 0.1.0 (2026-01-01)\n\n- All.\n")
    (tmp_path / "changes/README.md").write_text("# About\n")
    (tmp_path / "changes/sockets.feature.md").write_text("Sockets, as in\n[the page](../docs/page.md).\n")
    (tmp_path / "changes/old-flag.removal.md").write_text("Use `--new`.\n")
    return tmp_path


def test_the_notes_of_this_tree_make_a_section() -> None:
    notes = make_history.notes_in(ROOT / "changes")
    assert make_history.version_of((ROOT / "outlast/__init__.py").read_text()) == outlast.__version__
    if notes:  # right after a release there are none
        assert make_history.section_of(notes, "9.9.9", "2026-11-22").startswith("## 9.9.9 (2026-11-22)\n")


def test_a_release_turns_notes_into_the_newest_section(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tree / "CHANGELOG.md").read_text()
    assert make_history.main(["--draft"], tree) == 0
    draft = capsys.readouterr().out
    assert (tree / "CHANGELOG.md").read_text() == before
    assert draft.endswith("### New\n\n- Sockets, as in\n  [the page](docs/page.md).\n")
    assert draft.index("Use `--new`") < draft.index("Sockets")

    assert make_history.main([], tree) == 0
    assert (tree / "CHANGELOG.md").read_text() == before.replace("## 0.1.0", f"{draft}\n## 0.1.0")
    assert [path.name for path in (tree / "changes").iterdir()] == ["README.md"]


def test_what_cannot_be_a_section_is_refused_and_changes_nothing(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "CHANGELOG.md").write_text("# History\n\n## 0.2.0 (2026-01-01)\n\n- All.\n")
    assert make_history.main([], tree) == 2
    assert "0.2.0 is in CHANGELOG.md already" in capsys.readouterr().err
    (tree / "changes/Sockets.news.md").write_text("x")
    assert make_history.main([], tree) == 2
    assert "Sockets.news.md" in capsys.readouterr().err
    (tree / "changes/Sockets.news.md").unlink()
    (tree / "changes/sockets.feature.md").write_text("\n")
    assert make_history.main([], tree) == 2
    assert "says nothing" in capsys.readouterr().err
    for note in (tree / "changes").glob("*.*.md"):
        note.unlink()
    assert make_history.main([], tree) == 2
    assert "there are no notes" in capsys.readouterr().err
    assert make_history.main(["--publish"], tree) == 2
