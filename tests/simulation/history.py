"""Histories: what clients were told, and what they know of what they asked. Written by clients, read by the
checkers.
"""

from __future__ import annotations

import enum

import attrs


class Ending(enum.Enum):
    """How a call ended, as its client saw it."""

    OPEN = "never ended"
    RESULT = "a result"
    ERROR = "an error of the upstream's own"
    NOT_RUN = "refused: nothing was run"
    UNKNOWN = "told that the outcome is unknown"
    REFUSED = "refused by the upstream"
    WITHDRAWN = "withdrawn"
    BROKEN = "the process died before anything of it could be resumed"
    GONE = "the session was gone"


class Fate(enum.Enum):
    """What became of something that should be kept."""

    KEPT = "acknowledged"
    NOT_DONE = "told that it was not done"
    UNKNOWN = "no answer"


class Absence(enum.Enum):
    """Why a session may be gone."""

    NONE = "it may not"
    MAYBE_ENDED = "its end was asked for, and the answer was lost"
    ENDED = "its end was acknowledged"


@attrs.frozen
class Shown:
    """One event as it was shown to a client."""

    id: str
    stream: int
    offset: int
    body: bytes


@attrs.define
class Heard:
    """One stream as its client heard it, over all its connections."""

    stream: int
    events: list[Shown] = attrs.field(factory=list)
    gaps: set[int] = attrs.field(factory=set)  # before these events (by index) a loss was announced
    ended: bool = False
    denied: str = ""  # why the rest could not be had

    @property
    def cursor(self) -> str | None:
        """What the client sends as Last-Event-ID; None: it has none, or was told that it is of no use."""
        if not self.events or len(self.events) in self.gaps:
            return None
        return self.events[-1].id

    @property
    def offset(self) -> int:
        return self.events[-1].offset if self.events else 0


@attrs.define
class CallHistory:
    """One request of a client."""

    key: str  # names it in the upstream's journal
    request_id: int
    progress: int = 0  # how many progress messages were asked for
    ending: Ending = Ending.OPEN
    detail: str = ""
    answers: int = 0
    cancelled: bool = False
    heard: Heard | None = None


@attrs.define
class SessionHistory:
    """One session that was acknowledged to a client."""

    name: str
    session_id: str
    server_id: str
    ttl_seconds: float
    updates: dict[str, Fate] = attrs.field(factory=dict)
    emits: dict[str, Fate] = attrs.field(factory=dict)
    calls: dict[str, CallHistory] = attrs.field(factory=dict)
    own: Heard = attrs.field(factory=lambda: Heard(0))
    absence: Absence = Absence.NONE
    denied: str = ""  # what its client was told when it was told that the session is gone
    last_active_seconds: float = 0.0  # when its client last had an answer, on trio's clock
    complaints: list[str] = attrs.field(factory=list)  # what the client itself noticed

    def streams(self) -> list[Heard]:
        """All streams that were read."""
        return [self.own, *[call.heard for call in self.calls.values() if call.heard is not None]]
