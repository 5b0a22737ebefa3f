"""Tally: how many there are of each name. Kept by adding and taking away, never by counting anew.

Pure. A name that has none is not remembered: whoever comes and goes leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping


class Tally:
    """Counts by name."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Tally({self.total} of {len(self._counts)} names)"

    def __len__(self) -> int:
        """How many names have any."""
        return len(self._counts)

    def of(self, name: str) -> int:
        """How many there are of this name."""
        return self._counts.get(name, 0)

    @property
    def total(self) -> int:
        """How many there are of all names together."""
        return sum(self._counts.values())

    def counts(self) -> Mapping[str, int]:
        """Give all counts, as they are now."""
        return dict(self._counts)

    def add(self, name: str) -> None:
        """There is one more of this name."""
        self._counts[name] = self._counts.get(name, 0) + 1

    def remove(self, name: str) -> None:
        """There is one less of this name, which must have had one."""
        count = self._counts[name] - 1
        if count:
            self._counts[name] = count
        else:
            del self._counts[name]
