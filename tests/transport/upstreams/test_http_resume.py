"""Streams of calls that end before their answer: resumed by GET and Last-Event-ID, or given up by name.

All times are virtual. The upstream's `retry` is 1 s unless it says otherwise.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.link import Failure
from actors.state import Call
from tests.transport.upstreams.bed import ANSWER, CALL, TICKET, Bed, bed, handshake
from tests.transport.upstreams.recording_inbox import CursorMoved, Entry, Received, Refused
from tests.transport.upstreams.scripted_upstream import Caller, Script, SeenRequest
from tests.transport.upstreams.test_http_link import PROGRESS, after_handshake
from transport.upstreams.http_limits import HttpLimits


def resuming(on_get: Script, *, reset: bool = False, retry: int | None = None) -> Script:
    """A call's stream ends after an event with an id; this is what the GET gets."""

    async def then(request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await on_get(request, caller)
            return
        await caller.open_stream()
        await caller.event(b"", id="e1", retry=retry)
        if reset:
            await caller.reset()
        else:
            await caller.end_stream()

    return after_handshake(then)


async def the_answer(request: SeenRequest, caller: Caller) -> None:
    await caller.open_stream()
    await caller.event(PROGRESS.raw, id="e2")
    await caller.event(ANSWER.raw, id="e3")
    await caller.end_stream()


def gets(bench: Bed) -> list[SeenRequest]:
    return [request for request in bench.upstream.requests if request.method == "GET"]


async def last_of_call(bench: Bed) -> Entry:
    """Make a call and give the last thing said about it, which settles it."""
    link = await bench.open_session()
    link.send(CALL, TICKET)
    while not isinstance(entry := await bench.inbox.wait(), Refused):
        if entry == Received(ANSWER, about=1, cursor="e3"):
            break
    return entry


@pytest.mark.parametrize("reset", [False, True])
async def test_stream_that_ends_early_is_resumed_after_its_last_event(reset: bool, autojump_clock: MockClock) -> None:
    async with bed(resuming(the_answer, reset=reset)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert [await bench.inbox.wait() for _ in range(3)] == [
            CursorMoved(1, "e1"),
            Received(PROGRESS, about=1, cursor="e2"),
            Received(ANSWER, about=1, cursor="e3"),
        ]
        (get,) = gets(bench)
        assert get.headers["last-event-id"] == "e1"
        assert get.session_id == "up-1"
        await wait_all_tasks_blocked()
        assert len([request for request in bench.upstream.requests if request.body == CALL.raw]) == 1


@pytest.mark.parametrize(("retry", "seconds"), [(None, 1), (0, 0), (30_000, 30), (10_000_000, 60)])
async def test_upstreams_retry_is_honoured_within_a_bound(
    retry: int | None, seconds: float, autojump_clock: MockClock
) -> None:
    async with bed(resuming(the_answer, retry=retry), patience_seconds=100) as bench:
        began = trio.current_time()
        assert isinstance(await last_of_call(bench), Received)
        assert trio.current_time() - began == pytest.approx(seconds)


async def test_stream_without_an_event_id_cannot_be_resumed() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(PROGRESS.raw)
        await caller.end_stream()

    async with bed(after_handshake(then)) as bench:
        fate = await last_of_call(bench)
        assert isinstance(fate, Refused)
        assert fate.failure is Failure.OUTCOME_UNKNOWN
        assert gets(bench) == []


@pytest.mark.parametrize("status", [405, 400, 404])
async def test_refused_resumption_leaves_the_outcome_unknown(status: int, autojump_clock: MockClock) -> None:
    async def on_get(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(status, b"no")

    async with bed(resuming(on_get)) as bench:
        fate = await last_of_call(bench)
        assert isinstance(fate, Refused)
        assert fate.failure is Failure.OUTCOME_UNKNOWN
        assert str(status) in fate.detail
        assert len(gets(bench)) == 1


@pytest.mark.parametrize("status", [500, 503, 409])
async def test_failing_resumption_is_tried_a_bounded_number_of_times(status: int, autojump_clock: MockClock) -> None:
    async def on_get(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(status)

    async with bed(resuming(on_get), limits=HttpLimits(resume_tries_max=3), patience_seconds=200) as bench:
        fate = await last_of_call(bench)
        assert isinstance(fate, Refused)
        assert fate.failure is Failure.OUTCOME_UNKNOWN
        assert len(gets(bench)) == 4


async def test_passing_failure_does_not_end_the_resumption(autojump_clock: MockClock) -> None:
    async def on_get(request: SeenRequest, caller: Caller) -> None:
        if len(gets(bench)) < 4:
            await caller.answer(503)
        else:
            await the_answer(request, caller)

    async with bed(resuming(on_get), patience_seconds=100) as bench:
        assert isinstance(await last_of_call(bench), Received)


async def test_polled_stream_is_followed_while_it_moves(autojump_clock: MockClock) -> None:
    """A server may close after every event, for longer than silence would be borne."""

    async def on_get(request: SeenRequest, caller: Caller) -> None:
        number = len(gets(bench))
        if number == 400:
            await the_answer(request, caller)
            return
        await caller.open_stream()
        await caller.event(b"", id=f"p{number}")
        await caller.end_stream()

    async with bed(resuming(on_get), patience_seconds=2000) as bench:
        assert isinstance(await last_of_call(bench), Received)
        assert gets(bench)[-1].headers["last-event-id"] == "p399"


async def test_empty_streams_are_not_followed_for_ever(autojump_clock: MockClock) -> None:
    """What a python server gives for an event id that it does not know."""

    async def on_get(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.end_stream()

    async with bed(resuming(on_get), patience_seconds=1000) as bench:
        fate = await last_of_call(bench)
        assert isinstance(fate, Refused)
        assert "nothing new on it for" in fate.detail
        assert 300 <= len(gets(bench)) <= 303  # one a second for 300 s


# ---- calls that an earlier link had sent ----


def in_flight(ticket: int, id: int, cursor: str, *, sent: bool = True) -> Call:
    return Call(ticket, id, "tools/call", "", None, 0.0, sent=sent, upstream_cursor=cursor)


async def test_new_link_resumes_what_the_earlier_one_had_sent() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await the_answer(request, caller)
        else:
            await caller.answer(200, jsonrpc.result("whatever", {}).raw)

    calls = {1: in_flight(11, 1, "e1"), 2: in_flight(12, 2, ""), 3: in_flight(13, 3, "", sent=False)}
    async with bed(script) as bench:
        link = await bench.open_link(handshake=handshake(), calls=calls)
        assert bench.inbox.entries == []  # the session has no link yet
        assert link.established.resumed
        entries = [await bench.inbox.wait() for _ in range(3)]
        await wait_all_tasks_blocked()
        assert len(bench.inbox.entries) == 3
        assert Received(ANSWER, about=1, cursor="e3") in entries
        (lost,) = [entry for entry in entries if isinstance(entry, Refused)]
        assert (lost.ticket, lost.failure) == (12, Failure.OUTCOME_UNKNOWN)
        assert gets(bench)[0].headers["last-event-id"] == "e1"


async def test_refused_stream_of_an_earlier_link_leaves_the_outcome_unknown() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await caller.answer(405)
        else:
            await caller.answer(200, jsonrpc.result("whatever", {}).raw)

    async with bed(script) as bench:
        await bench.open_link(handshake=handshake(), calls={1: in_flight(11, 1, "e1")})
        lost = await bench.inbox.wait()
        assert isinstance(lost, Refused)
        assert (lost.ticket, lost.failure) == (11, Failure.OUTCOME_UNKNOWN)


async def test_listening_goes_on_after_the_kept_cursor() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await caller.open_stream()
            await caller.wait_closed_by_peer()
        else:
            await caller.answer(200, jsonrpc.result("whatever", {}).raw)

    async with bed(script) as bench:
        link = await bench.open_link(handshake=handshake(), standalone_cursor="g7\u00e9")
        link.listen()
        await wait_all_tasks_blocked()
        assert gets(bench)[0].raw_head.endswith("Last-Event-ID: g7\u00e9".encode())
