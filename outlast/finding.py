"""Finding: one thing that was looked at, how it is, and what to do about it.

Health reports and the doctor are lists of these; what is worst among them is the state of the whole, and the exit code
that says it to a probe.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence

import attrs


class State(enum.IntEnum):
    """How something is; its number is the exit code."""

    HEALTHY = 0
    DEGRADED = 1  # it works, and somebody should act
    DOWN = 2

    def __str__(self) -> str:
        return self.name.lower()


@attrs.frozen
class Finding:
    """What was found of one thing."""

    about: str  # what was looked at, in two or three words
    state: State
    said: str  # what was found, in a sentence
    advice: str = ""  # what to do; "" where nothing is to be done


def worst(findings: Iterable[Finding]) -> State:
    """Give the state of the whole; of nothing: healthy."""
    return max((finding.state for finding in findings), default=State.HEALTHY)


def lines_of(findings: Sequence[Finding]) -> Iterator[str]:
    """Write findings for people: one line each, and the advice under it."""
    width = max((len(finding.about) for finding in findings), default=0)
    marks = {State.HEALTHY: "ok  ", State.DEGRADED: "WARN", State.DOWN: "FAIL"}
    for finding in findings:
        yield f"{marks[finding.state]}  {finding.about:<{width}}  {finding.said}"
        if finding.advice:
            yield f"{' ' * (width + 8)}-> {finding.advice}"


def as_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Write findings for programs."""
    return {
        "status": str(worst(findings)),
        "findings": [
            {"about": finding.about, "status": str(finding.state), "said": finding.said, "advice": finding.advice}
            for finding in findings
        ],
    }
