"""Makes the notes of this folder a section of CHANGELOG.md: at each release, once.

    python changes/make_history.py --draft    print the section; nothing is changed
    python changes/make_history.py            write it on top of the others, and delete the notes

The version is that of `outlast/__init__.py`, the date today's (UTC). A note whose name is wrong, an empty one, and a
version that has its section already are refused, and nothing is changed then.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

KINDS = {  # in the order in which they are told
    "removal": "Changes that need something done",
    "feature": "New",
    "bugfix": "Mended",
    "performance": "The same, for less",
}
_NAME = re.compile(rf"[a-z0-9]+(?:-[a-z0-9]+)*\.({'|'.join(KINDS)})\.md")
_SECTION = re.compile(r"^## ", re.MULTILINE)
_LINK_UP = "](../"  # as notes write links; the history lies one folder higher


class Refused(Exception):
    """There can be no section; says why."""


def notes_in(folder: Path) -> list[Path]:
    """Give the notes of a folder, by name.

    Raises:
      Refused: a file that is none, or says nothing.
    """
    notes = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    for note in notes:
        if _NAME.fullmatch(note.name) is None:
            raise Refused(
                f"{note.name}: a note is called WHAT.KIND.md, in small letters, KIND one of {', '.join(KINDS)}"
            )
        if not note.read_text().strip():
            raise Refused(f"{note.name}: says nothing")
    return notes


def section_of(notes: Iterable[Path], version: str, date: str) -> str:
    """Give the section of a release.

    Raises:
      Refused: there are no notes.
    """
    texts: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for note in notes:
        texts[note.name.split(".")[1]].append(_as_entry(note.read_text()))
    if not any(texts.values()):
        raise Refused("there are no notes: nothing has changed for users since the last release")
    parts = [f"### {title}\n\n{''.join(texts[kind])}" for kind, title in KINDS.items() if texts[kind]]
    return "\n".join([f"## {version} ({date})\n", *parts])


def _as_entry(text: str) -> str:
    lines = text.strip().replace(_LINK_UP, "](").splitlines()
    return "\n".join([f"- {lines[0]}", *(f"  {line}" if line else "" for line in lines[1:])]) + "\n"


def with_section(history: str, section: str) -> str:
    """Give the history with a section in front of the others.

    Raises:
      Refused: this version has one.
    """
    heading = section.splitlines()[0].partition(" (")[0]
    if f"{heading} (" in history:
        raise Refused(
            f"{heading.removeprefix('## ')} is in CHANGELOG.md already: raise __version__ in outlast/__init__.py"
        )
    first = _SECTION.search(history)
    at = first.start() if first is not None else len(history)
    return f"{history[:at].rstrip()}\n\n{section}\n{history[at:]}".rstrip() + "\n"


def version_of(source: str) -> str:
    """Read the version out of `outlast/__init__.py` without importing it."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise Refused("outlast/__init__.py has no __version__")


def main(arguments: list[str], root: Path) -> int:
    """Print the section, or write it; give the exit code."""
    if arguments not in ([], ["--draft"]):
        print("usage: make_history.py [--draft]", file=sys.stderr)
        return 2
    history = root / "CHANGELOG.md"
    try:
        notes = notes_in(root / "changes")
        version = version_of((root / "outlast/__init__.py").read_text())
        section = section_of(notes, version, f"{datetime.now(UTC):%Y-%m-%d}")
        whole = with_section(history.read_text(), section)
    except Refused as refused:
        print(f"make_history: {refused}", file=sys.stderr)
        return 2
    if arguments:
        print(section, end="")
        return 0
    history.write_text(whole)
    for note in notes:
        note.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parents[1]))
