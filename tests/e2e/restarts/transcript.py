"""What one client was told in one case of the matrix, and the judge of it. Pure: nothing here runs anything.

The rules, for every fault at every step of every flow:

1. What was asked ends in exactly one way: an answer, a JSON-RPC error, or an HTTP error with a JSON-RPC body.
   A broken connection is an end only where the gateway was killed, before anything came of what was asked.
   No end within the deadline is silence, and a failure.
2. An answer is what the server gives without a gateway, with the same notifications before it.
3. What is asked after the fault is over is answered: a session goes on. Only where a server was lost, a session that
   listens may notice it while a request is on its way: that may end in doubt, and be asked again.
4. Nothing runs twice; what has a result ran; what was refused did not run; of what ran and has no result it is
   said that its outcome is unknown.
5. Event ids of a stream rise strictly; what was heard is replayed the same.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import attrs

from actors.ids import EventId
from actors.jsonrpc import OUTCOME_UNKNOWN


class Kind(enum.Enum):
    """How something that was asked can end."""

    ANSWER = "an answer"
    ERROR = "a JSON-RPC error"
    HTTP_ERROR = "an HTTP error with a JSON-RPC body"
    REFUSED = "503 with a JSON-RPC body"
    WITHDRAWN = "an end without an answer"
    BROKEN = "a broken connection"
    DENIED = "404: no such session"
    MALFORMED = "an HTTP answer that explains nothing"


@attrs.frozen
class Ending:
    """One end."""

    kind: Kind
    text: str = ""  # the answer, as it would be in every run; or what the error says
    code: int | None = None  # of an error


class Due(enum.Enum):
    """What is due to something that was asked, once the fault is over."""

    ANSWER = "the answer that the server gives without a gateway"
    END = "any end: what it is about may be gone with the fault"
    GONE = "404"


@attrs.define(eq=False)
class Asked:
    """One thing that was asked or told, and what came of it."""

    name: str  # the same name in every run of the flow
    key: str = ""  # under which the server counts executions; "": it does not
    due: Due = Due.ANSWER
    after: bool = False  # it was asked when the fault was over
    request_id: object = None  # None: it is no request
    listening: bool = False  # its session had its own stream open
    cancelled: bool = False  # its client withdrew it: no answer is an answer, too
    endings: list[Ending] = attrs.field(factory=list)
    heard: list[str] = attrs.field(factory=list)  # the messages on its stream that are no answer, as in every run
    events: list[EventId] = attrs.field(factory=list)  # of its stream, in the order in which they came
    unlike_replay: str = ""  # how a replay of its stream differed from what was heard

    @property
    def is_answered(self) -> bool:
        return any(ending.kind is Kind.ANSWER for ending in self.endings)

    @property
    def is_in_doubt(self) -> bool:
        return any(ending.code == OUTCOME_UNKNOWN for ending in self.endings)


@attrs.define
class Transcript:
    """One case: all that was asked, and what else was heard or missed."""

    asked: list[Asked] = attrs.field(factory=list)
    own_streams: list[list[EventId]] = attrs.field(factory=list)  # of each session that it opened, its own stream
    missing: list[str] = attrs.field(factory=list)  # what was awaited and did not come
    wrong: list[str] = attrs.field(factory=list)  # what came and should not have


@attrs.frozen
class Circumstances:
    """What happened around a case."""

    killed: bool  # the gateway, at once: its connections broke
    server_lost: bool  # the server ended, and what only it knew is gone
    resumable: bool  # the server lived on and keeps its streams: a call of which something was heard is answered


Reference = Mapping[str, Asked]  # what each thing ends in without a gateway and without a fault, by name


def violations(
    transcript: Transcript, reference: Reference, circumstances: Circumstances, executions: Mapping[str, int]
) -> list[str]:
    """Name every broken rule; an empty list is a case that keeps them all."""
    found = [f"silence: {text}" for text in transcript.missing] + list(transcript.wrong)
    for events in transcript.own_streams:
        found += (f"the session's own stream: {text}" for text in _disorder(events))
    for asked in transcript.asked:
        broken = [
            *_broken_end(asked, circumstances),
            *_unlike_direct(asked, reference.get(asked.name)),
            *_broken_runs(asked, executions.get(asked.key, 0)),
            *_disorder(asked.events),
            *([asked.unlike_replay] if asked.unlike_replay else []),
        ]
        found += (f"{asked.name}: {text}" for text in broken)
    return found


def _broken_end(asked: Asked, circumstances: Circumstances) -> Iterator[str]:
    if len(asked.endings) != 1:
        told = ", ".join(ending.kind.value for ending in asked.endings)
        yield f"ended {len(asked.endings)} times ({told})" if asked.endings else "silence: it never ended"
        return
    [ending] = asked.endings
    if ending.kind not in _allowed(asked, circumstances):
        yield f"ended in {ending.kind.value} ({ending.text})"


def _allowed(asked: Asked, circumstances: Circumstances) -> set[Kind]:
    if asked.due is Due.GONE:
        return {Kind.DENIED}
    if asked.after and asked.due is Due.ANSWER:
        caught = circumstances.server_lost and asked.listening and asked.is_in_doubt
        return {Kind.ANSWER, Kind.ERROR} if caught else {Kind.ANSWER}
    if circumstances.resumable and asked.heard and not asked.cancelled:  # something came: it can be asked for the rest
        return {Kind.ANSWER}
    allowed = {Kind.ANSWER, Kind.ERROR, Kind.HTTP_ERROR, Kind.REFUSED}
    if asked.due is Due.END:
        allowed.add(Kind.DENIED)
    if asked.cancelled:
        allowed.add(Kind.WITHDRAWN)
    if circumstances.killed and not asked.events and not asked.heard and not asked.after:
        allowed.add(Kind.BROKEN)
    return allowed


def _unlike_direct(asked: Asked, direct: Asked | None) -> Iterator[str]:
    if direct is None:
        yield "the reference run has nothing of this name"
        return
    if asked.cancelled or asked.due is not Due.ANSWER:
        return
    if asked.heard != direct.heard[: len(asked.heard)]:
        yield f"heard {asked.heard}, without a gateway {direct.heard}"
    if asked.is_answered:
        answers = [ending.text for ending in asked.endings if ending.kind is Kind.ANSWER]
        if answers[0] != direct.endings[0].text:
            yield f"was answered {answers[0]}, without a gateway {direct.endings[0].text}"
        if len(asked.heard) < len(direct.heard):
            yield f"heard only {asked.heard} before its answer, without a gateway {direct.heard}"


def _broken_runs(asked: Asked, runs: int) -> Iterator[str]:
    if not asked.key:
        return
    if runs > 1:
        yield f"ran {runs} times"
    if asked.is_answered and not runs:
        yield "has a result though it never ran"
    if runs and [ending.kind for ending in asked.endings] == [Kind.REFUSED]:
        yield "was refused (503: try again) though it ran"
    for ending in asked.endings:
        if runs and not asked.cancelled and ending.code not in (None, OUTCOME_UNKNOWN):
            yield f"ran, and is said to have failed: {ending.text}"


def _disorder(events: Sequence[EventId]) -> Iterator[str]:
    for earlier, later in pairwise(events):
        if later.stream != earlier.stream:
            yield f"event {later} is of another stream than {earlier}"
        elif (later.epoch, later.offset) <= (earlier.epoch, earlier.offset):
            yield f"event {later} came after {earlier}"
