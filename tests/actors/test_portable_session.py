"""A session's line of the document: nothing is lost on the way there and back; what is hand-written is understood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from actors import messages as say
from actors.call_history import HistoryState
from actors.portable_checks import Misfit
from actors.portable_schema import encode_session
from actors.portable_session import in_place_of, in_place_of_unreadable, kept_streams, read_portable, to_portable
from actors.portable_session import to_records as to_records_with
from actors.snapshots import from_snapshot, history_of, to_snapshot
from actors.state import LogState, Metrics, SessionState, Stream
from persistence.portable import SessionRecords
from persistence.records import HISTORY_STREAM
from tests.actors.making import NOW
from tests.actors.portable_making import DEFAULTS, full_records, full_state, lived
from tests.actors.test_evolve import steps

# As the first design documents have it.
DOCUMENTED: dict[str, Any] = {
    "id": "session-uuid",
    "serverId": "linear",
    "createdAt": 1234567890,
    "lastActivity": 1234567899,
    "isInitialized": True,
    "clientTransportType": "sse",
    "transportCapabilities": {"clientTransport": "sse", "upstreamTransport": "streamable-http"},
    "metrics": {"requests": 10, "toolCalls": 5, "errors": 0},
    "config": {"serverId": "linear", "url": "https://mcp.linear.app/sse", "headers": {"X-Team": "a"}},
}
ORCHESTRATED: dict[str, Any] = {
    "id": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "context": {"userId": "user123", "aiProvider": "google-ai", "permissions": ["read-data", "analyze"]},
    "toolHistory": [{"tool": "database-query", "result": 1}],
    "state": {"dataFetched": True, "userData": {"a": 1}},
    "metadata": {"userAgent": "NeuroLink-CLI/1.0", "tags": ["analysis", "urgent"]},
    "createdAt": 1764633600000,
    "lastActivity": 1764633660500,
    "expiresAt": 1764640860500,
}


def text_of(records: SessionRecords) -> bytes:
    text: bytes = encode_session(to_portable(records.snapshot, records.entries))
    return text


def to_records(session: Any) -> SessionRecords:
    text = session if isinstance(session, bytes) else msgspec.json.encode(session)
    return to_records_with(read_portable(text), DEFAULTS)


def state_of(session: Any) -> SessionState:
    return from_snapshot(to_records(session).snapshot)


@given(st.booleans(), steps)
@settings(max_examples=150, deadline=None)
def test_any_life_goes_there_and_back(
    begins_open: bool, life: list[tuple[Callable[[int], say.Command], float]]
) -> None:
    records = lived(begins_open, life)
    text = text_of(records)

    assert b"\n" not in text, "one session, one line"
    assert to_records(text) == records


@given(
    st.floats(0, 1e10),
    st.floats(0, 1e10),
    st.one_of(st.floats(0, 1e10), st.just(float("inf"))),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=20),
    st.text(max_size=5),
)
def test_numbers_bytes_and_texts_are_exact(
    created: float, active: float, ttl: float, failed: float, raw: bytes, text: str
) -> None:
    state = replace(
        full_state(),
        created_unix_s=created,
        last_active_unix_s=active,
        ttl_seconds=ttl,
        failed_unix_s=failed,
        setup={text: raw},
        values={text: raw},
        server_id=text,
    )
    full = full_records()
    records = SessionRecords(to_snapshot(state, history_of(full.snapshot)), full.entries)
    assert to_records(text_of(records)) == records


def test_every_kept_field_has_its_place_in_the_document() -> None:
    """Goal: a field that is added to the record and forgotten here is noticed.

    Method: a session whose every field differs from what a session gets that says nothing goes there and back.
    """
    records = full_records()
    nothing = to_records({"id": "x"}).snapshot
    same = [key for key, value in records.snapshot.fields.items() if value == nothing.fields.get(key)]

    # "opened" has two values only, and a session that says nothing has one of them: lives have the other.
    assert same == ["opened"], "give these a value of their own in full_state"
    assert to_records(text_of(records)) == records


def test_readable_json_stays_readable() -> None:
    line = msgspec.json.decode(text_of(full_records()))

    assert (line["id"], line["serverId"], line["createdAt"]) == (full_state().session_id, "wiki", 1234567890.125)
    assert line["metrics"] == {"requests": 10, "toolCalls": 5, "errors": 1}
    assert line["transportCapabilities"] == {"clientTransport": "sse", "upstreamTransport": "streamable-http"}
    assert line["isInitialized"] is False
    assert line["log"]["entries"][2]["message"] == "{ }é"
    assert line["log"]["entries"][1]["message"] == {"$base64": "/v7+/v7+/v7+"}


def test_the_documented_session_is_understood() -> None:
    state = state_of(DOCUMENTED)

    assert (state.session_id, state.server_id, state.revision) == ("session-uuid", "linear", 1)
    assert (state.created_unix_s, state.last_active_unix_s, state.ttl_seconds) == (1234567890, 1234567899, 1800)
    assert (state.client_transport, state.upstream_transport) == ("sse", "streamable-http")
    assert state.metrics == Metrics(10, 5, 0)
    assert state.streams == {0: Stream(0, None)}
    assert state.log == LogState(4711)
    # It has no handshake, so nobody could open it upstream again: its client is told so when it comes.
    assert (state.opened, state.initialized, state.failure) == (True, False, "no_handshake")


def test_a_session_of_values_needs_no_handshake_and_counts_milliseconds() -> None:
    state = state_of(ORCHESTRATED)

    assert (state.opened, state.initialized, state.client_transport) == (True, True, "embedded")
    assert state.values == {"dataFetched": True, "userData": {"a": 1}}
    assert state.context["aiProvider"] == "google-ai"
    assert state.metadata["tags"] == ["analysis", "urgent"]
    assert (state.created_unix_s, state.last_active_unix_s) == (1764633600.0, 1764633660.5)
    assert state.ttl_seconds == 7200.0


def test_an_id_alone_is_a_session() -> None:
    state = state_of({"id": "x"})

    assert (state.created_unix_s, state.last_active_unix_s, state.initialized) == (NOW, NOW, True)
    assert (state.values, state.metrics) == ({}, Metrics())


def test_a_session_that_was_not_initialized_is_not() -> None:
    state = state_of({**DOCUMENTED, "isInitialized": False})
    assert (state.initialized, state.failure) == (False, "uninitialized")


BAD: list[tuple[Any, str]] = [
    ({**DOCUMENTED, "metrics": {"requests": "x"}}, 'metrics.requests: expected an integer, got "x"'),
    ({**DOCUMENTED, "metrics": {"requests": -1}}, "metrics.requests: expected an integer of at least 0, got -1"),
    ({**DOCUMENTED, "metrics": {"requests": 1.5}}, "metrics.requests: expected an integer, got 1.5"),
    ({**DOCUMENTED, "metrics": {"requests": 2**63}}, f"expected an integer of at most {2**63 - 1}, got {2**63}"),
    ({**DOCUMENTED, "metrics": {"toolcalls": 1}}, "metrics.toolcalls: there is no such field"),
    ({**DOCUMENTED, "metrics": [1]}, "metrics: expected an object, got [1]"),
    ({**DOCUMENTED, "isInitialised": True}, "isInitialised: there is no such field"),
    ({**DOCUMENTED, "isInitialized": "yes"}, 'isInitialized: expected true or false, got "yes"'),
    ({**DOCUMENTED, "createdAt": "2025-01-01"}, 'createdAt: expected a number, got "2025-01-01"'),
    ({**DOCUMENTED, "createdAt": -1}, "createdAt: expected a number of at least 0, got -1"),
    ({"serverId": "linear"}, "id: is missing"),
    ({**DOCUMENTED, "id": 7}, "id: expected a text"),
    ({**DOCUMENTED, "id": ""}, "id: expected visible ASCII characters"),
    ({**DOCUMENTED, "id": "two words"}, "id: expected visible ASCII characters"),
    ({**DOCUMENTED, "id": "é"}, "id: expected visible ASCII characters"),
    ({**DOCUMENTED, "id": "x" * 1025}, "id: expected a text of at most 1024 characters"),
    ({"id": "x", "clientTransportType": "sse"}, "serverId: is missing"),
    ({**DOCUMENTED, "config": {"serverId": "b"}}, "config.serverId: is another one than serverId"),
    ({**DOCUMENTED, "clientTransportType": "ws"}, "transportCapabilities.clientTransport: is another one"),
    ({**ORCHESTRATED, "values": {}}, "state: is another name of values"),
    ({**ORCHESTRATED, "state": [1]}, "state: expected an object"),
    ({**ORCHESTRATED, "state": {"a": 2**64}}, "state: only builtins that msgpack can pack"),
    ({**ORCHESTRATED, "metadata": {"a": {"$base64": "?"}}}, 'metadata: "$base64" cannot be read'),
    ({**DOCUMENTED, "failure": {"reason": "x"}}, "isInitialized: is true, but there is a failure"),
    ({**DOCUMENTED, "opened": False}, "isInitialized: is true, but opened is false"),
    ({**DOCUMENTED, "failure": {}}, "failure.reason: is missing"),
    ({**DOCUMENTED, "handshake": {"request": "{}"}}, "handshake.result: is missing"),
    ({**DOCUMENTED, "handshake": {"request": 1, "result": ""}}, "handshake.request: expected a text or an object"),
    ({**DOCUMENTED, "handshake": {"request": {"$base64": "?"}, "result": ""}}, "handshake.request.$base64: this is no"),
    ({**DOCUMENTED, "streams": [{"id": 0}, {"id": 0}]}, "streams[1].id: is there twice"),
    ({**DOCUMENTED, "streams": [{"id": 0}, {"id": 3}]}, "streams[1].id: is not below nextStream, 1"),
    ({**DOCUMENTED, "streams": [{"id": "0"}]}, 'streams[0].id: expected an integer, got "0"'),
    ({**DOCUMENTED, "calls": [{"id": 1, "method": "m", "stream": 2}]}, "calls[0].stream: there is no stream 2"),
    (
        {**DOCUMENTED, "asks": [{"clientId": 1, "upstreamId": 1, "method": "m", "stream": 2}]},
        "asks[0].stream: there is no stream 2",
    ),
    (
        {**DOCUMENTED, "setup": [{"key": "a", "message": ""}, {"key": "a", "message": ""}]},
        "setup[1].key: is there twice",
    ),
    ({**DOCUMENTED, "shownOffset": 1}, "shownOffset: is not below nextOffset of stream 0"),
    ({**DOCUMENTED, "log": {"trimmedThrough": 1}}, "log.trimmedThrough: is not below nextSequence, 1"),
    ({**DOCUMENTED, "log": {"epoch": -1}}, "log.epoch: expected an integer of at least 0, got -1"),
    (b'{"id": "x"', "not valid JSON"),
    (b'{"id": "\xff"}', "not valid JSON"),
    (b"7", "expected an object"),
    (b'{"id": "x", "values": ' + b"[" * 9000 + b"]" * 9000 + b"}", "is nested too deeply"),
    (b'{"id": "x", "createdAt": 1e999}', "createdAt: number out of range"),
]


@pytest.mark.parametrize(("session", "words"), BAD, ids=[words for _, words in BAD])
def test_what_is_wrong_is_refused_with_its_path(session: Any, words: str) -> None:
    with pytest.raises(Misfit) as misfit:
        to_records(session)
    assert words in str(misfit.value)


def entry(sequence: int, offset: int, stream: int = 0, **more: Any) -> dict[str, Any]:
    return {"sequence": sequence, "stream": stream, "offset": offset, "at": 1.0, "message": "{}", **more}


def page(last: int, **more: Any) -> dict[str, Any]:
    return {"last": last, "at": 1.0, "calls": [{"tool": "search", "startedAt": 1.0, "seconds": 0.5}]} | more


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry(1, 1), entry(2, 2, 1)], "log.entries[1].stream: there is no stream 1"),
        ([entry(1, 1), entry(1, 2)], "log.entries[1].sequence: is not between 1 and nextSequence, 9"),
        ([entry(9, 1)], "log.entries[0].sequence: is not between 0 and nextSequence, 9"),
        ([entry(1, 1), entry(2, 3)], "log.entries[1].offset: does not follow"),
        ([entry(1, 5)], "log.entries[0].offset: does not follow"),
        ([entry(1, 1, message={"$base64": "?"})], "log.entries[0].message.$base64: this is no base64"),
        ([entry(1, 1, message=None)], "log.entries[0].message: expected"),
        ([entry(0, 1)], "log.entries[0].sequence: expected an integer of at least 1"),
    ],
)
def test_a_log_with_which_no_stream_could_be_replayed_is_refused(entries: list[Any], words: str) -> None:
    session = {"id": "x", "streams": [{"id": 0, "nextOffset": 5}], "log": {"nextSequence": 9, "entries": entries}}
    with pytest.raises(Misfit) as misfit:
        to_records(session)
    assert words in str(misfit.value)


def test_refusals_repeat_no_secret() -> None:
    secrets = [{**DOCUMENTED, "id": 777777}, {**DOCUMENTED, "values": [777777]}, {**DOCUMENTED, "principal": 777777}]
    for session in secrets:
        with pytest.raises(Misfit) as misfit:
            to_records(session)
        assert "777777" not in str(misfit.value)


def test_what_takes_a_place_wins_over_what_has_it() -> None:
    records, former = full_records(), replace(full_state(), revision=3, log=LogState(99, 6, 1))
    placed = in_place_of(records, to_snapshot(former))
    state, before = from_snapshot(placed.snapshot), full_state()

    assert placed.trim_through == 5
    assert [e.sequence for e in placed.entries[:3]] == [16, 17, 18]
    assert [(e.stream, e.offset, e.body) for e in placed.entries] == [
        (e.stream, e.offset, e.body) for e in records.entries
    ]
    assert state == replace(before, log=LogState(99, 19, 15))


@pytest.mark.parametrize(
    "further", [{"revision": 18}, {"log": LogState(99, 15, 10)}], ids=["by its revision", "by its log"]
)
def test_no_old_event_id_is_good_where_the_former_session_had_gone_further(further: dict[str, Any]) -> None:
    former = replace(full_state(), **further)
    state = from_snapshot(in_place_of(full_records(), to_snapshot(former)).snapshot)

    assert state.revision > former.revision
    assert state.log.epoch == 100


def test_an_unreadable_session_can_be_replaced() -> None:
    placed = in_place_of_unreadable(full_records(), 55)
    state = from_snapshot(placed.snapshot)

    assert (state.revision, state.log.epoch) == (56, 100)
    assert placed.entries[0].sequence > placed.trim_through > 10**9


def test_history_goes_on_behind_that_of_the_session_whose_place_it_takes() -> None:
    former = to_snapshot(full_state(), HistoryState(101, 20, ((100, 5000),)))
    placed = in_place_of(full_records(), former)

    assert history_of(placed.snapshot) == HistoryState(168, 160, ((164, 900), (167, 300)))
    assert [e.offset for e in placed.entries[3:]] == [164, 167]
    assert [e.sequence - HISTORY_STREAM for e in placed.entries[3:]] == [164, 167]
    assert placed.history_trim_through == HISTORY_STREAM + 100


def test_session_without_a_history_takes_the_place_of_one_that_has_some() -> None:
    former = to_snapshot(full_state(), HistoryState(101, 20, ((100, 5000),)))
    placed = in_place_of(to_records({"id": full_state().session_id, "serverId": "wiki"}), former)

    assert history_of(placed.snapshot) == HistoryState(101, 100)
    assert placed.history_trim_through == HISTORY_STREAM + 100


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ({"nextNumber": 2, "pages": [page(2)]}, "history.pages[0].last: leaves no room"),
        ({"nextNumber": 9, "pages": [page(1), page(1)]}, "history.pages[1].last: leaves no room"),
        ({"nextNumber": 9, "pages": [page(3, calls=[])]}, "history.pages[0].calls: a page has at least one call"),
        ({"nextNumber": 3, "trimmedThrough": 3}, "history.trimmedThrough: is not below nextNumber, 3"),
        ({"pages": [page(1, calls=[{"tool": 7}])]}, "history.pages[0].calls[0].tool: expected a text"),
    ],
)
def test_history_that_contradicts_itself_is_refused(history: dict[str, Any], words: str) -> None:
    with pytest.raises(Misfit) as misfit:
        to_records({"id": "x", "history": history})
    assert words in str(misfit.value)


def test_streams_with_events_are_those_that_are_read() -> None:
    assert kept_streams(full_records().snapshot) == ([0, 2], 13)
