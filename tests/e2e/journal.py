"""The journal: what really happened at the upstream, kept apart from everything that is under test.

Upstream servers append one line for each thing they see or do; tests read it to learn how often a tool ran,
whatever the gateway told its clients. The same directory holds the switches by which a test lets a held tool
call go on, so no scenario has to guess how long something takes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import attrs


@attrs.frozen
class Journal:
    """A directory that the upstream servers of one test write to, and the test reads."""

    directory: Path

    @property
    def _lines_path(self) -> Path:
        return self.directory / "journal.jsonl"

    def append(self, entry: Mapping[str, object]) -> None:
        """Add one entry. It survives the writer's crash, and lines of several processes never mix."""
        line = json.dumps({**entry, "process": os.getpid()}) + "\n"
        descriptor = os.open(self._lines_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())  # one write with O_APPEND is whole on a local file system
        finally:
            os.close(descriptor)

    def entries(self) -> list[dict[str, object]]:
        """Give all entries so far, oldest first."""
        if not self._lines_path.exists():
            return []
        return [json.loads(line) for line in self._lines_path.read_text().splitlines()]

    def executions(self) -> Counter[str]:
        """Count how often each tool call ran, by the unique key that its caller gave it."""
        return Counter(str(entry["ran"]) for entry in self.entries() if "ran" in entry)

    def has_run(self, key: str) -> bool:
        """Whether the tool call with this key has begun."""
        return self._has("ran", key)

    def has_reached(self, name: str) -> bool:
        """Whether a request that is held under `name` has come."""
        return self._has("reached", name)

    def has_said_all(self, key: str) -> bool:
        """Whether a tool that notes so has said all it has to say."""
        return self._has("said_all", key)

    def seen(self, method: str) -> int:
        """Count how often an upstream server was asked or told `method`."""
        return sum(1 for entry in self.entries() if entry.get("saw") == method)

    def processes(self) -> list[int]:
        """Give the process ids of the upstream servers that have started, in order."""
        return [int(str(entry["process"])) for entry in self.entries() if entry.get("started")]

    def release(self, name: str) -> None:
        """Let the tool calls go on that are held under `name`."""
        self._switch(name).touch()

    def is_released(self, name: str) -> bool:
        """Whether the tool calls held under `name` may go on."""
        return self._switch(name).exists()

    def _has(self, name: str, value: str) -> bool:
        """Looked for in the text: tests ask this a hundred times a second, and the journal grows long."""
        return self._lines_path.exists() and f'"{name}": "{value}"' in self._lines_path.read_text()

    def _switch(self, name: str) -> Path:
        return self.directory / f"released-{name}"
