"""The checkers: what clients were told, against what is kept and what was done. Pure; contents are compared,
not counts.

They know the promises and nothing of how they are kept: a client's history, the contents of the disk, the
upstreams' journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import msgspec

from actors import jsonrpc
from actors.call_history import records_of
from actors.jsonrpc import Kind
from persistence.records import HISTORY_STREAM, LogEntry
from tests.simulation.history import Absence, CallHistory, Ending, Fate, Heard, SessionHistory
from tests.simulation.sim_upstream import Journal


@attrs.frozen
class Kept:
    """What the disk holds of one session."""

    fields: Mapping[str, Any]
    entries: Sequence[LogEntry]  # in order of their sequence
    archive: Mapping[tuple[int, int], LogEntry]  # all that ever were, by (stream, offset)


def check_kept(history: SessionHistory, kept: Kept | None, may_be_gone: str) -> Iterator[str]:
    """What was acknowledged is kept; what was shown is kept, or was trimmed by rule.

    Args:
      kept: what the disk holds now; None: nothing.
      may_be_gone: why the session may be gone; "": it may not.
    """
    if kept is None:
        if history.absence is Absence.NONE and not may_be_gone:
            yield "was acknowledged, and is not kept"
        return
    if history.absence is Absence.ENDED:
        yield "was ended, and is there again"
    yield from _check_values(history, kept.fields["values"])
    yield from _check_emits(history, kept)
    yield from _check_shown(history, kept)
    yield from _check_log(kept)
    yield from _check_call_history(kept)


def _check_values(history: SessionHistory, values: Mapping[str, Any]) -> Iterator[str]:
    for key, fate in history.updates.items():
        if fate is Fate.KEPT and key not in values:
            yield f"update {key} was acknowledged, and is not kept"
    updates = len(values) - ("count" in values)
    if values.get("count", 0) != updates:
        yield f"values hold {updates} updates and count {values.get('count', 0)}: one was mixed with another"


def _check_emits(history: SessionHistory, kept: Kept) -> Iterator[str]:
    times = Counter(_key(entry.body) for (stream, _), entry in kept.archive.items() if stream == 0)
    for key, fate in history.emits.items():
        if times[key] > 1:
            yield f"event {key} was emitted once, and is kept {times[key]} times"
        if fate is Fate.KEPT and not times[key]:
            yield f"event {key} was acknowledged, and is not kept"
        if fate is Fate.NOT_DONE and times[key]:
            yield f"event {key} was refused, and is kept nevertheless"


def _check_shown(history: SessionHistory, kept: Kept) -> Iterator[str]:
    trimmed_through = kept.fields["log"][2]
    there = {(entry.stream, entry.offset): entry.body for entry in kept.entries}
    for heard in history.streams():
        for shown in heard.events:
            place = (shown.stream, shown.offset)
            archived = kept.archive.get(place)
            if archived is None:
                yield f"event {shown.id} {place} was shown, and was never kept: {shown.body!r}"
            elif archived.sequence > trimmed_through and place not in there:
                yield f"event {shown.id} {place} was shown, and is not kept: {shown.body!r}"
            elif archived.body != shown.body:
                yield f"event {shown.id} {place} was shown as {shown.body!r}, and is kept as {archived.body!r}"


def _check_log(kept: Kept) -> Iterator[str]:
    """The log and the snapshot are of one commit: all that the snapshot counts is there, and nothing beyond."""
    next_sequence, trimmed_through = kept.fields["log"][1:3]
    entries = [entry for entry in kept.entries if entry.stream != HISTORY_STREAM]
    sequences = [entry.sequence for entry in entries]
    expected = list(range(trimmed_through + 1, next_sequence))
    if sequences != expected:
        yield f"the snapshot counts log entries {_span(expected)}, the log holds {_span(sequences)}"
    ends = {stream[0]: stream[2] for stream in kept.fields["streams"]}
    last: dict[int, int] = {}
    for entry in entries:
        if entry.offset != last.get(entry.stream, entry.offset - 1) + 1:
            yield f"stream {entry.stream} goes on from {last[entry.stream]} to {entry.offset}"
        last[entry.stream] = entry.offset
    for stream, offset in last.items():
        if stream in ends and ends[stream] != offset + 1:
            yield f"stream {stream} ends at {ends[stream] - 1} by the snapshot, at {offset} by the log"


def _check_call_history(kept: Kept) -> Iterator[str]:
    """Pages and the snapshot are of one commit, too; numbers may be missing (a full store), none is there twice."""
    next_number, trimmed_through, _ = kept.fields.get("history", (1, 0, ()))
    pages = [entry for entry in kept.entries if entry.stream == HISTORY_STREAM]
    numbers = [record.number for record in records_of(pages)]
    if sorted(set(numbers)) != numbers:
        yield f"calls of the history overlap: {numbers}"
    if numbers and numbers[-1] >= next_number:
        yield f"the snapshot counts calls below {next_number}, the history has {numbers[-1]}"
    if pages and pages[0].offset <= trimmed_through:
        yield f"calls were trimmed through {trimmed_through}, and a page through {pages[0].offset} is kept"


def _span(sequences: Sequence[int]) -> str:
    return f"{sequences[0]} to {sequences[-1]} ({len(sequences)})" if sequences else "none"


def check_heard(history: SessionHistory) -> Iterator[str]:
    """Each stream was heard from its start, in order, once each; what was lost was announced. Ids name one content."""
    contents: dict[str, tuple[int, int, bytes]] = {}
    for heard in history.streams():
        yield from _check_order(heard)
        for shown in heard.events:
            content = (shown.stream, shown.offset, shown.body)
            known = contents.setdefault(shown.id, content)
            if known != content:
                yield f"event id {shown.id} names {known} and {content}"


def _check_order(heard: Heard) -> Iterator[str]:
    before = 0
    for index, shown in enumerate(heard.events):
        if shown.offset <= before:
            yield f"stream {heard.stream}: after event {before} came event {shown.offset}"
        elif shown.offset != before + 1 and index not in heard.gaps:
            yield f"stream {heard.stream}: after event {before} came event {shown.offset}, and no loss was announced"
        before = shown.offset


def check_all_heard(history: SessionHistory, kept: Kept) -> Iterator[str]:
    """When all is quiet, each reader has its stream to the last event."""
    ends = {stream[0]: stream[2] - 1 for stream in kept.fields["streams"]}
    for heard in history.streams():
        last = ends.get(heard.stream)
        if last is not None and not heard.denied and heard.offset < last:
            yield f"stream {heard.stream} was heard to event {heard.offset}, and its last is {last}"


def check_calls(history: SessionHistory, journal: Journal) -> Iterator[str]:
    """Each call ran at most once, and ended as it was told to have ended."""
    for call in history.calls.values():
        runs = journal.runs[call.key]
        if runs > 1:
            yield f"call {call.key} ran {runs} times"
        if call.ending is Ending.OPEN:
            heard = "" if call.heard is None else f"; of stream {call.heard.stream} it heard {call.heard.offset} events"
            yield f"call {call.key} (request {call.request_id}) never ended{heard}"
        if call.ending is Ending.NOT_RUN and runs:
            yield f"call {call.key} was refused as not run ({call.detail}), and ran"
        if call.ending is Ending.RESULT:
            yield from _check_result(call, runs)


def _check_result(call: CallHistory, runs: int) -> Iterator[str]:
    if not runs:
        yield f"call {call.key} has a result, and never ran"
    answer = msgspec.json.decode(call.detail)
    if answer["id"] != call.request_id or answer["result"] != {"key": call.key}:
        yield f"call {call.key} was answered {call.detail}"


def check_relayed(history: SessionHistory, journal: Journal, *, complete: bool) -> Iterator[str]:
    """What upstreams said came in their order and once each; all of it, where they can replay.

    Args:
      complete: the upstream replays what was missed.
    """
    said = journal.said.get(history.session_id, [])
    place = {key: number for number, key in enumerate(said)}
    heard = [place[key] for shown in history.own.events if (key := _key(shown.body)) in place]
    if heard != sorted(set(heard)):
        yield f"what its upstream said unasked came as number {heard}"
    for call in history.calls.values():
        if call.heard is None:
            continue
        # Where a transport does not tell what a message is about, another call's may come on this stream.
        steps = [_step(shown.body) for shown in call.heard.events if _key(shown.body) == call.key]
        steps = [step for step in steps if step]
        if steps != sorted(set(steps)):
            yield f"progress of call {call.key} came as {steps}"
        if complete and not call.heard.denied and call.ending is Ending.RESULT and len(steps) != call.progress:
            yield f"progress of call {call.key} came as {steps}, and {call.progress} steps were made"


def check_answers(journal: Journal) -> Iterator[str]:
    """No question of a server was answered twice."""
    for key, times in journal.answers.items():
        if times > 1:
            yield f"question {key} was answered {times} times"


def _key(body: bytes) -> str:
    params = _params(body)
    return str(params.get("key", ""))


def _step(body: bytes) -> int:
    return int(_params(body).get("step", 0))


def _params(body: bytes) -> dict[str, Any]:
    message = jsonrpc.parse(body)
    if message.kind is Kind.RESPONSE:
        return {}
    params: dict[str, Any] = msgspec.json.decode(body).get("params", {})
    return params
