"""The history checker: what clients were told, against what is said and was done afterwards.

Clients record all they are told (`History`); when the killing is over, the truth is collected anew from the
gateway and from the upstream's journal (`Evidence`); `violations` compares contents, not counts. It is pure, so
it can be shown to fail (`test_history.py`), and knows nothing of how the gateway works.

What a client may rely on: a session id that it was given stays good; an event that it was sent is replayed the
same; a call runs at most once, and ends in one answer, an error that says so, or a connection that broke
before anything of it could be resumed.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise

import attrs

from tests.e2e.server_sent_events import Frame

OWN_STREAM = "own"  # the key of the session's own stream (GET), which belongs to no call


class Ending(enum.Enum):
    """How a call ended, as its client saw it."""

    OPEN = "never ended"
    RESULT = "result"
    ERROR = "JSON-RPC error"
    REFUSED = "refused before it was accepted"
    DENIED = "told that its session or its event id does not exist"
    BROKEN = "connection broke before anything could be resumed"


@attrs.define
class CallHistory:
    """One call: what was asked under which key, what came of it, and all events of its stream in order."""

    tool: str
    ending: Ending = Ending.OPEN
    text: str = ""  # what a result said
    answers: int = 0  # how many answers the client was given
    heard: list[Frame] = attrs.field(factory=list)


@attrs.define
class SessionHistory:
    """One session that a client was given: its calls by key, and what came on its own stream."""

    url: str = ""  # where it was opened
    denied: bool = False  # it, or its own stream, was said not to exist
    calls: dict[str, CallHistory] = attrs.field(factory=dict)
    own_stream: list[Frame] = attrs.field(factory=list)

    def streams(self) -> Iterator[tuple[str, list[Frame]]]:
        """All streams of which at least one event was heard, with what was heard."""
        yield from ((key, call.heard) for key, call in self.calls.items() if call.heard)
        if self.own_stream:
            yield OWN_STREAM, self.own_stream


@attrs.define
class History:
    """All that clients were told, by session id."""

    sessions: dict[str, SessionHistory] = attrs.field(factory=dict)


@attrs.frozen
class Evidence:
    """What is found when all is over."""

    answering: frozenset[str]  # sessions that still answer
    replays: Mapping[tuple[str, str], list[Frame]]  # (session, stream) -> what follows the first event heard
    executions: Mapping[str, int]  # how often each call ran at the upstream, by key


def violations(history: History, evidence: Evidence) -> list[str]:
    """Name every broken promise; an empty list is a history that keeps them all."""
    found: list[str] = []
    for session_id, session in history.sessions.items():
        name = f"session {session_id[:8]}"
        if session_id not in evidence.answering:
            found.append(f"{name} was given to a client and does not answer")
        if session.denied:
            found.append(f"{name} was given to a client, which was then told that it does not exist")
        found += (f"{name}: {text}" for text in _broken_ids(session))
        found += (f"{name}: {text}" for text in _backward_counter(session))
        for key, call in session.calls.items():
            found += (f"{name}, {call.tool} {key}: {text}" for text in _broken_call(call, evidence.executions[key]))
        for key, heard in session.streams():
            replay = evidence.replays.get((session_id, key), [])
            found += (f"{name}, stream of {key}: {text}" for text in _broken_replay(heard, replay))
    return found


def _broken_ids(session: SessionHistory) -> Iterator[str]:
    contents: dict[str, tuple[str, Frame]] = {}
    for key, frames in session.streams():
        for frame in frames:
            stream, known = contents.setdefault(frame.id, (key, frame))
            if (stream, known) != (key, frame):
                yield f"event id {frame.id} names {known.data!r} and {frame.data!r}"
        ids = Counter(frame.id for frame in frames)
        yield from (f"event {event_id} was sent {times} times" for event_id, times in ids.items() if times > 1)


def _backward_counter(session: SessionHistory) -> Iterator[str]:
    counted = [
        int(call.text) for call in session.calls.values() if call.tool == "counter" and call.ending is Ending.RESULT
    ]
    for earlier, later in pairwise(counted):
        if later <= earlier:
            yield f"the upstream counted {earlier}, then {later}: its session was lost or mixed up"


def _broken_call(call: CallHistory, executions: int) -> Iterator[str]:
    if call.ending in (Ending.OPEN, Ending.DENIED):
        yield call.ending.value
    if call.answers > 1:
        yield f"was answered {call.answers} times"
    if executions > 1:
        yield f"ran {executions} times"
    if call.ending is Ending.RESULT and executions == 0:
        yield "has a result though it never ran"
    if call.ending is Ending.REFUSED and executions:
        yield "was refused and ran nevertheless"


def _broken_replay(heard: list[Frame], replay: list[Frame]) -> Iterator[str]:
    """The replay begins after the first event that was heard: what else was heard must be its beginning."""
    for position, frame in enumerate(heard[1:]):
        if position >= len(replay):
            yield f"event {frame.id} was sent and is not replayed: {frame.data!r}"
        elif replay[position] != frame:
            yield f"event {frame.id} was sent as {frame.data!r} and is replayed as {replay[position]!r}"
