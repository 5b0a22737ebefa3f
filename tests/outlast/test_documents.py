"""The documents are true: their examples run, their links lead somewhere, what they name exists.

A block fenced as ``python run`` is a program of its own; one fenced as ``text printed`` behind it is what it prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import outlast

ROOT = Path(__file__).parents[2]
WITH_EXAMPLES = ("README.md", "docs/embedding.md", "docs/event-store.md")
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("changes/*.md")])
RUN_SECONDS_MAX = 60.0  # against a hang; each takes about half a second
FLOORS = ("outlast", "transport", "actors", "persistence")

_EXAMPLE = re.compile(r"^```python run\n(.*?)^```\n(?:```text printed\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST_NAME = re.compile(r"\btest_[a-z0-9_]+\b(?!\.py|/)")
_PATH = re.compile(r"\b(?:outlast|transport|actors|persistence|tests|bench)/[\w/]*\.py\b")


@attrs.frozen
class Example:
    """A program in a document."""

    place: str  # document:line, as it stands in tracebacks
    source: str
    printed: str | None  # what it prints; None: the document does not say


def examples_of(text: str, name: str) -> list[Example]:
    """Find the programs of a document, each at its own line."""
    found = []
    for match in _EXAMPLE.finditer(text):
        lines_before = text.count("\n", 0, match.start(1))
        found.append(Example(f"{name}:{lines_before + 1}", "\n" * lines_before + match[1], match[2]))
    return found


def run(example: Example, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a reader would: in a folder and a process of its own."""
    program = folder / f"{example.place.replace('/', '-')}.py"
    program.write_text(example.source)
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-W", "error", str(program)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False
    )


def broken_links(text: str, folder: Path) -> list[str]:
    """Find relative links to files that are not there, and to headings that the file does not have."""
    return [target for target in _LINK.findall(_FENCED.sub("", text)) if not _leads_somewhere(target, folder, text)]


def _leads_somewhere(target: str, folder: Path, text: str) -> bool:
    if "://" in target:
        return True
    path, _, heading = target.partition("#")
    file = folder / path
    if not file.exists():
        return False
    return not heading or heading in _headings(file.read_text() if path else text)


def _headings(text: str) -> set[str]:
    """Give the anchors of a document's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def missing_names(text: str, tests: set[str], root: Path) -> list[str]:
    """Find tests and source files that a document names and that do not exist."""
    named = {name for name in _TEST_NAME.findall(text) if name not in tests}
    return sorted(named | {path for path in _PATH.findall(text) if not (root / path).exists()})


def test_names(root: Path) -> set[str]:
    """Give the names of all tests, and of the files that hold them."""
    files = list((root / "tests").rglob("*.py"))
    return {file.stem for file in files} | {
        name for file in files for name in re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


test_names.__test__ = False  # type: ignore[attr-defined]  # it finds tests, it is none

EXAMPLES = [example for name in WITH_EXAMPLES for example in examples_of((ROOT / name).read_text(), name)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.place)
def test_examples_run_and_print_what_is_said(example: Example, tmp_path: Path) -> None:
    ran = run(example, tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    if example.printed is not None:
        assert example.printed == ran.stdout


def test_each_document_with_examples_has_some() -> None:
    assert {example.place.partition(":")[0] for example in EXAMPLES} == set(WITH_EXAMPLES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document.read_text(), document.parent) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_documents_name_exists(document: Path) -> None:
    assert missing_names(document.read_text(), test_names(ROOT), ROOT) == []


CHECKLIST_TITLE = "## What a session gateway must do\n"
CHECKLIST_ROWS = 63
_CHECKLIST_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def checklist_gaps(text: str, tests: set[str]) -> list[str]:
    """Find rows that are missing, twice there, out of order, or without a test where they do not say "not yet"."""
    _, _, section = text.rpartition(CHECKLIST_TITLE)  # a text without the title is all rows
    rows = [(int(match[1]), match[2], match[3]) for match in _CHECKLIST_ROW.finditer(section)]
    gaps = [] if [row[0] for row in rows] == list(range(1, CHECKLIST_ROWS + 1)) else ["rows are not 1 to 63, in order"]
    for number, claim, shown_by in rows:
        names = re.findall(r"`(\w+)`", shown_by)
        if (not names and "not yet" not in claim) or not tests.issuperset(names):
            gaps.append(f"row {number}: {shown_by}")
    return gaps


def test_each_requirement_of_the_protocol_has_its_row_and_its_tests() -> None:
    assert checklist_gaps((ROOT / "docs/protocol.md").read_text(), test_names(ROOT)) == []


def test_a_requirement_without_a_test_is_found() -> None:
    rows = [f"| {number} | it is so | `test_x` |" for number in range(1, CHECKLIST_ROWS + 1)]
    assert checklist_gaps("\n".join(rows), {"test_x"}) == []
    assert checklist_gaps("\n".join(rows[1:]), {"test_x"}) == ["rows are not 1 to 63, in order"]
    assert checklist_gaps("\n".join([*rows[:-1], "| 63 | it is so | – |"]), {"test_x"}) == ["row 63: –"]
    assert checklist_gaps("\n".join([*rows[:-1], "| 63 | it is not yet so | – |"]), {"test_x"}) == []
    assert checklist_gaps("\n".join([*rows[:-1], "| 63 | so | `test_y` |"]), {"test_x"}) == ["row 63: `test_y`"]


def test_architecture_names_every_file() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    files = [path.relative_to(ROOT) for floor in FLOORS for path in (ROOT / floor).rglob("*.py")]
    unnamed = [str(path) for path in files if path.name != "__init__.py" and f"`{path}`" not in text]
    assert unnamed == [], "give each a row in docs/architecture.md: the noun that it is about"


def make_configuration(folder: Path, *arguments: str) -> int:
    """Run the generator that lies beside a document; give its exit code."""
    command = [sys.executable, str(folder / "make_configuration.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, timeout=RUN_SECONDS_MAX, check=False).returncode


def test_configuration_is_what_the_settings_say() -> None:
    assert make_configuration(ROOT / "docs", "--check") == 0, "run python docs/make_configuration.py"


def test_configuration_that_says_something_else_is_found(tmp_path: Path) -> None:
    (tmp_path / "make_configuration.py").write_text((ROOT / "docs/make_configuration.py").read_text())
    document = (ROOT / "docs/configuration.md").read_text()
    (tmp_path / "configuration.md").write_text(document.replace("| `86400` |", "| `3600` |"))
    assert make_configuration(tmp_path, "--check") == 1
    assert make_configuration(tmp_path) == 0
    assert (tmp_path / "configuration.md").read_text() == document


def names_of_errors(text: str) -> list[str]:
    """Give the exceptions of the table under the heading Errors."""
    _, _, section = text.partition("\n## Errors\n")
    table = [line.split("|")[1] for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return [name for cell in table for name in re.findall(r"`(\w+)`", cell)]


def test_who_embeds_the_runtime_finds_every_error_in_outlast_itself() -> None:
    errors = names_of_errors((ROOT / "docs/embedding.md").read_text())
    assert "SessionNotFound" in errors
    assert [name for name in errors if name not in outlast.__all__] == []
    for name in errors:
        assert issubclass(getattr(outlast, name), Exception)


def test_an_error_that_is_to_be_found_elsewhere_is_noticed() -> None:
    table = "\n## Errors\n\n| exception | who |\n|---|---|\n| `Draining`, `NotThere` | x |\n"
    assert [name for name in names_of_errors(table) if name not in outlast.__all__] == ["NotThere"]


def test_wrong_links_and_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A title, `coded`\n")
    good = "[a](there.md) [b](there.md#a-title-coded) [c](https://example.com/none)\n"
    assert broken_links(good, tmp_path) == []
    assert broken_links("[a](gone.md) [b](there.md#no-such)", tmp_path) == ["gone.md", "there.md#no-such"]
    assert missing_names("`test_x` in `tests/gone.py`, `test_y`", {"test_y"}, tmp_path) == ["test_x", "tests/gone.py"]


def test_an_example_that_fails_or_prints_something_else_is_found(tmp_path: Path) -> None:
    block = "# T\n\n```python run\n{}\n```\n```text printed\n2\n```\n"
    (wrong,) = examples_of(block.format("print(1)"), "invented.md")
    assert (wrong.place, wrong.printed) == ("invented.md:4", "2\n")
    assert run(wrong, tmp_path).stdout == "1\n"
    (failing,) = examples_of(block.format("1 / 0"), "invented.md")
    ran = run(failing, tmp_path)
    assert ran.returncode == 1
    assert "line 4" in ran.stderr  # as in the document
