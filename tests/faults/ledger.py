"""The ledger: a file in which a workload notes each fact when, and only when, it was told that it is durable.

One write(2) a line, appended: what was noted stays noted when the process is killed. It must not lie on the disk whose
power is cut. A last line that was cut short was not told to anybody.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.facts import Fact


class Ledger:
    """The side that notes."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def note(self, fact: Fact) -> None:
        """Tell the world of a fact."""
        os.write(self._descriptor, f"{fact.session_id} {fact.revision} {fact.author}\n".encode())

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def read_ledger(path: Path) -> list[Fact]:
    """Give what was noted, in order."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    lines = text.split("\n")[:-1]
    return [Fact(session_id, int(revision), author) for session_id, revision, author in map(str.split, lines)]
