"""Sessions to be moved: one with something in every field, and any that a random life leaves behind."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from actors import messages as say
from actors.call_history import CallRecord, HistoryState, page_body
from actors.ids import STANDALONE_STREAM, Principal, SessionId
from actors.portable_session import Defaults
from actors.snapshots import to_snapshot
from actors.state import Ask, Call, Handshake, LogState, Metrics, SessionState, SetupChange, Stream
from persistence.portable import SessionRecords
from persistence.records import HISTORY_STREAM, LogEntry
from tests.actors.making import NOW, Session, fresh_state, opened
from tests.actors.test_evolve import LIMITS

DEFAULTS = Defaults(NOW, 1800.0, lambda: 4711)
MARK = "s3cr3t"  # stands in every place that can hold a secret
FULL_ID = SessionId(f"{MARK}-session-id-0123456789abcdef")


def full_state() -> SessionState:
    """A session with something of its own in every field that is kept."""
    handshake = Handshake(
        f'{{"params": {{"token": "{MARK}"}}}}'.encode(), f'{{"result": "{MARK}"}}'.encode(), f"{MARK}-upstream", True
    )
    call = Call(
        -1, "call-9", "tools/call", "search", None, 990.5, SetupChange(f"set {MARK}", True), sent=True, stream=2
    )
    call = replace(call, cancelled_unix_s=991.25, upstream_cursor=f"{MARK}-cursor")
    return fresh_state(
        session_id=FULL_ID,
        revision=17,
        server_id="wiki",
        principal=Principal("https://issuer.example", "client", "subject"),
        created_unix_s=1234567890.125,
        last_active_unix_s=1234567999.3,
        ttl_seconds=777.5,
        opened=True,
        failure="auth_gone",
        failure_detail=f"the token {MARK} has expired",
        failed_unix_s=1234567995.7,
        client_transport="sse",
        upstream_transport="streamable-http",
        handshake=handshake,
        setup={f"resources/subscribe https://host/{MARK}": f'{{"uri": "{MARK}"}}'.encode(), "b": b"\xff\x00" * 9},
        streams={
            0: Stream(0, None, 3, former_epochs=((5, 1), (6, 2))),
            2: Stream(2, "call-9", 2),
            1: Stream(1, 7, 1, ended=True, former_epochs=((6, 0),)),
        },
        next_stream=4,
        log=LogState(99, 14, 10),
        calls={"call-9": call},
        asks={5: Ask(5, "five", "sampling/createMessage", 2, withdrawn=True)},
        standalone_cursor=f"{MARK}-own-cursor",
        shown_offset=1,
        listening=True,
        metrics=Metrics(10, 5, 1),
        values={"apiKey": MARK, "note": f"Authorization: Bearer {MARK}", "pairs": {1: [1.0, b"\x00" * 9]}, "step": 3},
        context={"userId": "user123", "permissions": ["read"], "url": f"https://me:{MARK}@host/x"},
        metadata={"userAgent": "agent/1.0", "tags": ["urgent"], "seen": f"session {FULL_ID}", f"k{FULL_ID}": 1},
    )


def full_records() -> SessionRecords:
    """All that is kept of it: events of two streams."""
    rows = [(11, 0, 1, f'{{"log": "{MARK}"}}'.encode()), (12, 2, 1, b"\xfe" * 9), (13, 0, 2, "{ }é".encode())]
    entries = tuple(LogEntry(FULL_ID, *row[:3], 1234567998.0 + row[0], row[3]) for row in rows)
    history = HistoryState(68, 60, ((64, 900), (67, 300)))
    return SessionRecords(to_snapshot(full_state(), history), (*entries, *history_pages()))


def history_pages() -> tuple[LogEntry, ...]:
    """Two pages of calls: one of them trimmed in part, one with all that can be recorded of a call."""
    calls = [CallRecord(f"tool {n}", 1234567000.25 + n, 0.125) for n in range(60, 65)]
    telling = CallRecord("search", 1234567990.5, 1.75, "error", -32603, f'{{"q": "{MARK}"}}', f'"{MARK} é"')
    others = [CallRecord("slow", 1234567991.0, 9.5, outcome) for outcome in ("timeout", "interrupted")]
    pages = ((64, calls), (67, [telling, *others]))
    return tuple(
        LogEntry(FULL_ID, HISTORY_STREAM + last, HISTORY_STREAM, last, 1234567995.0, page_body(records))
        for last, records in pages
    )


def lived(begins_open: bool, steps: list[tuple[Callable[[int], say.Command], float]]) -> SessionRecords:
    """Give what is kept of a session after a life of these steps."""
    session = opened(limits=LIMITS) if begins_open else Session(limits=LIMITS)
    entries: list[LogEntry] = []
    for make, seconds in steps:
        session.pass_time(seconds)
        session.take(make(session.ticket()))
        entries += [
            LogEntry(session.state.session_id, event.sequence, event.stream, event.offset, event.at_unix_s, event.body)
            for event in session.events(say.MessageLogged)
        ]
    own = session.state.streams.get(STANDALONE_STREAM)  # the steps note what never was; a shell does not
    shown_offset = min(session.state.shown_offset, own.last_offset if own is not None else 0)
    state = replace(session.state, shown_offset=shown_offset)
    kept = [e for e in entries if e.sequence > state.log.trimmed_through and e.stream in state.streams]
    return SessionRecords(to_snapshot(state), tuple(kept))
